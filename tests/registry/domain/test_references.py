import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.references import (
    AliasReference,
    VersionReference,
    check_alias,
    check_name,
    parse_reference,
)
from registry.errors import UsageError

names = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
aliases = names.filter(lambda name: name != "latest" and not (name[0] == "v" and name[1:].isdigit()))


@given(names, st.integers(1, 999_999_999))
def test_a_version_reference_is_read_as_it_is_written(task: str, number: int) -> None:
    reference = VersionReference(task=task, number=number)
    assert parse_reference(str(reference)) == reference


@given(names, aliases)
def test_an_alias_reference_is_read_as_it_is_written(task: str, alias: str) -> None:
    reference = AliasReference(task=task, alias=alias)
    assert parse_reference(str(reference)) == reference


@given(st.text())
def test_any_text_is_either_a_reference_that_writes_itself_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UsageError:
        return
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rte",
        "rte/",
        "rte/0",
        "rte/03",
        "rte/-1",
        "rte/1.5",
        "rte/1000000000",
        "rte/٣",
        "/3",
        "@champion",
        "rte@",
        "rte@a@b",
        "rte/3@champion",
        "a/b/3",
        "../rte/3",
        "RTE/3",
        "rté/3",
        "rte/3\n",
        " rte/3",
        "rte@Champion",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


@pytest.mark.parametrize("alias", ["latest", "v1", "v20"])
def test_aliases_that_read_like_versions_are_refused(alias: str) -> None:
    with pytest.raises(UsageError, match="cannot be an alias"):
        check_alias(alias)
    with pytest.raises(UsageError, match="cannot be an alias"):
        parse_reference(f"rte@{alias}")


@pytest.mark.parametrize("alias", ["v", "vv1", "v1a", "latest2"])
def test_aliases_that_only_resemble_them_are_taken(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize("name", ["", "3d", "_a", "a/b", "..", "a.b", "a b", "a\x00", "a\n", "a" * 64, "Ä"])
def test_a_name_that_could_be_a_path_or_be_misread_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"team: .* is not a name: a lower-case letter"):
        check_name("team", name)


def test_the_longest_name_has_63_characters() -> None:
    assert check_name("task", "a" * 63) == "a" * 63
