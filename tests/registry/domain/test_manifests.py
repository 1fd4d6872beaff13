import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.digests import prefix_digests
from registry.domain.locks import Lock
from registry.domain.manifests import HeadConfig, Manifest, head_problems, parse_manifest
from registry.domain.task_specs import TagScheme, TaskType
from registry.errors import InvalidInput

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    depth = draw(st.integers(0, 4))
    chain = prefix_digests({}, draw(st.lists(digests, min_size=depth, max_size=depth)))
    tasks: dict[str, Any] = {}
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        frozen = draw(st.integers(0, depth))
        labels = draw(st.lists(text, max_size=3))
        tasks[name] = {
            "version": draw(st.integers(1, 99)),
            "type": "classification" if labels else "regression",
            "input_form": draw(st.sampled_from(["single", "pair"])),
            "labels": labels,
            "tag_scheme": None,
            "frozen_depth": frozen,
            "task_layers": draw(st.integers(1, 3)),
            "prefix_digest": chain[frozen],
            "spec_digest": draw(digests),
            "head": {"type": "classification" if labels else "regression", "outputs": len(labels) or 1},
            "module": draw(digests),
            "golden": draw(digests),
        }
    trunk = {
        "backbone": draw(names),
        "model_type": "bert",
        "config": {"layer_norm_eps": draw(st.floats(0, 1)), "_name_or_path": draw(text)},
        "layer_count": depth + draw(st.integers(1, 3)),
        "max_length": draw(st.integers(3, 512)),
        "prefix_digests": chain,
        "tokenizer": draw(digests),
        "embeddings": draw(digests),
        "layers": draw(st.lists(digests, min_size=depth, max_size=depth)),
    }
    return Manifest.model_validate({"trunk": trunk, "tasks": tasks})


@given(manifests())
def test_a_manifest_survives_a_round_trip(manifest: Manifest) -> None:
    written = manifest.to_bytes()
    read = parse_manifest(written, "manifest")
    assert read == manifest
    assert read.to_bytes() == written
    assert read.digest() == hashlib.sha256(written).hexdigest()


@given(manifests(), st.randoms())
def test_the_digest_does_not_depend_on_the_order_in_which_tasks_were_selected(manifest: Manifest, random: Any) -> None:
    content = manifest.model_dump(mode="json")
    order = list(content["tasks"])
    random.shuffle(order)
    content["tasks"] = {task: content["tasks"][task] for task in order}
    assert Manifest.model_validate(content).digest() == manifest.digest()


@given(manifests())
def test_layers_lock_and_blobs_are_counted_from_the_branches(manifest: Manifest) -> None:
    branches = manifest.tasks.values()
    assert manifest.layers_in_use == len(manifest.trunk.layers) + sum(b.task_layers for b in branches)
    assert manifest.layers_if_separate == manifest.trunk.layer_count * len(manifest.tasks)
    assert manifest.lock == Lock(
        backbone=manifest.trunk.backbone, tasks={name: b.version for name, b in manifest.tasks.items()}
    )
    listed = {manifest.trunk.tokenizer, manifest.trunk.embeddings, *manifest.trunk.layers}
    assert manifest.blobs == listed | {b.module for b in branches} | {b.golden for b in branches}


@pytest.fixture
def content() -> dict[str, Any]:
    chain = prefix_digests({}, ["1" * 64, "2" * 64])
    branch = {
        "version": 3,
        "type": "classification",
        "input_form": "pair",
        "labels": ["no", "yes"],
        "tag_scheme": None,
        "frozen_depth": 2,
        "task_layers": 1,
        "prefix_digest": chain[2],
        "spec_digest": "a" * 64,
        "head": {"type": "classification", "outputs": 2},
        "module": "b" * 64,
        "golden": "c" * 64,
    }
    trunk = {
        "backbone": "minilm",
        "model_type": "bert",
        "config": {},
        "layer_count": 6,
        "max_length": 128,
        "prefix_digests": chain,
        "tokenizer": "d" * 64,
        "embeddings": "e" * 64,
        "layers": ["1" * 64, "2" * 64],
    }
    return {"format": 1, "trunk": trunk, "tasks": {"rte": branch}}


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput, match=r"^release r1") as refused:
        parse_manifest(json.dumps(content).encode(), "release r1")
    return str(refused.value)


def test_the_content_that_the_refused_ones_spoil_is_a_manifest(content: dict[str, Any]) -> None:
    assert parse_manifest(json.dumps(content).encode(), "release r1").trunk.depth == 2


def test_a_branch_of_another_prefix_is_refused(content: dict[str, Any]) -> None:
    content["tasks"]["rte"]["frozen_depth"] = 1
    assert "tasks.rte: is bound to another P(1)" in refusal(content)


def test_a_branch_that_leaves_above_the_trunk_is_refused(content: dict[str, Any]) -> None:
    content["tasks"]["rte"]["frozen_depth"] = 3
    assert "tasks.rte: leaves after layer 3 of 2" in refusal(content)


def test_a_trunk_whose_prefixes_are_not_those_of_its_layers_is_refused(content: dict[str, Any]) -> None:
    content["trunk"]["prefix_digests"] = content["trunk"]["prefix_digests"][:2]
    assert "trunk: has 2 prefix digests for P(0)..P(2)" in refusal(content)


def test_other_problems_are_listed_together(content: dict[str, Any]) -> None:
    content["tasks"]["rte"]["task_layers"] = 0
    content["trunk"]["max_length"] = "long"
    content["built_at"] = "2026-05-01"
    said = refusal(content)
    assert "tasks.rte.task_layers" in said
    assert "trunk.max_length" in said
    assert "built_at" in said


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^release r1"):
        parse_manifest(data, "release r1")


def test_an_unknown_format_is_refused(content: dict[str, Any]) -> None:
    content["format"] = 2
    assert "format" in refusal(content)


@given(manifests())
def test_heads_without_the_later_fields_leave_the_digest_as_it_was(manifest: Manifest) -> None:
    content = json.loads(manifest.to_bytes())
    for branch in content["tasks"].values():
        assert set(branch["head"]) == {"type", "outputs", "pooling"}
        assert branch["head"]["pooling"] == "first"


def test_a_heads_later_fields_are_written_where_they_say_something() -> None:
    head = HeadConfig(type=TaskType.TOKEN_CLASSIFICATION, outputs=3, gather="mix", crf=True)
    content = {"type": "token_classification", "outputs": 3, "pooling": "first", "gather": "mix", "crf": True}
    assert head.model_dump(mode="json") == content
    assert HeadConfig.model_validate(content) == head


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "token_classification", "outputs": 3, "pooling": "mean"}, "first piece of every word; mean is for"),
        ({"type": "classification", "outputs": 3, "crf": True}, "a classification task has none"),
        ({"type": "token_classification", "outputs": 4, "crf": True}, "4 outputs cannot be those"),
    ],
)
def test_a_head_whose_parts_contradict_each_other_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HeadConfig.model_validate(fields)


def test_every_reason_why_a_task_cannot_have_a_head_is_told() -> None:
    tagging = TaskType.TOKEN_CLASSIFICATION
    assert head_problems(type=tagging, tag_scheme=TagScheme.BIO, pooling="first", crf=True) == []
    assert head_problems(type=TaskType.REGRESSION, tag_scheme=None, pooling="mean", crf=False) == []
    problems = head_problems(type=tagging, tag_scheme=TagScheme.PLAIN, pooling="mean", crf=True)
    assert [problem.split(":")[0] for problem in problems] == ["pooling", "crf"]
