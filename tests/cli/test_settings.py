import os
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from cli.settings import Settings, doubts
from registry.errors import UsageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder three levels below one that holds a `.trunkline`."""
    (tmp_path / "work" / ".trunkline").mkdir(parents=True)
    inner = tmp_path / "work" / "a" / "b"
    inner.mkdir(parents=True)
    return inner


def test_a_flag_beats_the_environment_beats_the_folders_above_beat_the_default(project: Path, tmp_path: Path) -> None:
    environ = {"TRUNKLINE_HOME": "/srv/registry"}
    assert Settings.from_environment(environ, project, home=Path("/mnt/x"), actor="a").home == Path("/mnt/x")
    assert Settings.from_environment(environ, project, actor="a").home == Path("/srv/registry")
    assert Settings.from_environment({}, project, actor="a").home == tmp_path / "work" / ".trunkline"
    elsewhere = tmp_path / "elsewhere"
    assert Settings.from_environment({}, elsewhere, actor="a").home == elsewhere / ".trunkline"


def test_the_nearest_folder_above_is_found_first(project: Path) -> None:
    nearer = project.parent / ".trunkline"
    nearer.mkdir()
    assert Settings.from_environment({}, project, actor="a").home == nearer


def test_a_file_of_that_name_is_no_home(project: Path, tmp_path: Path) -> None:
    (project / ".trunkline").touch()
    assert Settings.from_environment({}, project, actor="a").home == tmp_path / "work" / ".trunkline"


@pytest.mark.parametrize("environ", [{"TRUNKLINE_HOME": "here"}, {}])
def test_a_relative_home_is_relative_to_the_working_folder(tmp_path: Path, environ: dict[str, str]) -> None:
    flag = None if environ else Path("here")
    assert Settings.from_environment(environ, tmp_path, home=flag, actor="a").home == tmp_path / "here"


def test_a_home_under_an_unknown_user_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such user"):
        Settings.from_environment({"TRUNKLINE_HOME": "~nobody-of-that-name/x"}, tmp_path, actor="a")


def test_the_actor_is_the_flag_or_the_environment_or_the_login_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "carol")
    environ = {"TRUNKLINE_ACTOR": "bob"}
    assert Settings.from_environment(environ, tmp_path, actor="ann").actor == "ann"
    assert Settings.from_environment(environ, tmp_path).actor == "bob"
    assert Settings.from_environment({"TRUNKLINE_ACTOR": ""}, tmp_path).actor == "carol"


def test_a_user_without_a_name_acts_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert Settings.from_environment({}, tmp_path).actor == "uid-4000000"


@pytest.mark.parametrize("actor", ["", "  ", "ann\nbob", "\x1b[31mann"])
def test_an_actor_that_would_garble_the_audit_trail_is_refused(tmp_path: Path, actor: str) -> None:
    with pytest.raises(UsageError, match="actor"):
        Settings.from_environment({}, tmp_path, actor=actor)


def test_everything_lies_in_the_home_unless_mlflow_has_a_server(tmp_path: Path) -> None:
    embedded = Settings.from_environment({}, tmp_path, actor="a")
    assert embedded.artifact_root == str(embedded.home / "artifacts")
    assert embedded.blob_cache == embedded.home / "cache" / "blobs"
    assert make_url(embedded.database_url).database == str(embedded.registry_file)
    assert make_url(embedded.mlflow_uri).database == str(embedded.home / "mlflow.db")
    assert embedded.mlflow_artifact_location == (embedded.home / "mlflow-artifacts").as_uri()
    served = Settings.from_environment({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, tmp_path, actor="a")
    assert (served.mlflow_uri, served.mlflow_artifact_location) == ("http://mlflow:5000", None)


@pytest.mark.parametrize("name", ["with space", "what?", "50%3F", "#1", "für"])
def test_a_home_with_an_unusual_name_stays_itself_in_the_database_url(tmp_path: Path, name: str) -> None:
    settings = Settings.from_environment({}, tmp_path, home=tmp_path / name, actor="a")
    assert make_url(settings.database_url).database == str(tmp_path / name / "registry.db")


@pytest.mark.parametrize("named", ["postgresql://ann:secret@server/registry", ""])
def test_a_shared_database_is_named_by_its_url_and_its_password_is_not_shown(tmp_path: Path, named: str) -> None:
    settings = Settings.from_environment({"TRUNKLINE_DATABASE_URL": named}, tmp_path, actor="a")
    own = make_url(settings.database_url).database == str(settings.registry_file)
    assert settings.database_url == named or (own and not named)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("named", "root"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("/srv/blobs", "/srv/blobs"),
        ("blobs", "{cwd}/blobs"),
        ("~/blobs", "{home}/blobs"),
        ("", "{cwd}/.trunkline/artifacts"),
    ],
)
def test_the_artifact_root_is_a_folder_or_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, root: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    settings = Settings.from_environment({"TRUNKLINE_ARTIFACT_ROOT": named}, tmp_path, actor="a")
    assert settings.artifact_root == root.format(cwd=tmp_path, home="/home/ann")


@pytest.mark.parametrize("named", ["s3:bucket", "s3:/bucket/prefix"])
def test_a_url_with_too_few_slashes_is_no_folder(tmp_path: Path, named: str) -> None:
    with pytest.raises(UsageError, match="TRUNKLINE_ARTIFACT_ROOT begins with s3: but not with s3://"):
        Settings.from_environment({"TRUNKLINE_ARTIFACT_ROOT": named}, tmp_path, actor="a")


@pytest.mark.parametrize(("named", "size"), [("", 20_000_000_000), ("0.5", 500_000_000), ("3", 3_000_000_000)])
def test_the_size_of_local_copies_is_counted_in_gigabytes(tmp_path: Path, named: str, size: int) -> None:
    settings = Settings.from_environment({"TRUNKLINE_BLOB_CACHE_GB": named}, tmp_path, actor="a")
    assert settings.blob_cache_bytes == size


@pytest.mark.parametrize(("named", "size"), [("", 50_000_000_000), ("0.5", 500_000_000), ("300", 300_000_000_000)])
def test_the_size_of_the_activation_cache_is_counted_in_gigabytes(tmp_path: Path, named: str, size: int) -> None:
    settings = Settings.from_environment({"TRUNKLINE_ACTIVATION_CACHE_GB": named}, tmp_path, actor="a")
    assert settings.activation_cache_bytes == size


@pytest.mark.parametrize("variable", ["TRUNKLINE_BLOB_CACHE_GB", "TRUNKLINE_ACTIVATION_CACHE_GB"])
@pytest.mark.parametrize("named", ["0", "-1", "much", "nan", "inf", "1GB"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, variable: str, named: str) -> None:
    with pytest.raises(UsageError, match=f"{variable}={named}: must be a number of gigabytes above 0"):
        Settings.from_environment({variable: named}, tmp_path, actor="a")


def test_unknown_variables_of_ours_are_doubted_with_a_near_one_and_without_their_values() -> None:
    environ = {
        "TRUNKLINE_DATBASE_URL": "postgresql://ann:secret@server/registry",
        "TRUNKLINE_COLOUR": "red",
        "TRUNKLINE_HOME": "/srv/registry",
        "TRUNKLINE_DB_PASSWORD": "secret",
        "PATH": "/bin",
    }
    assert doubts(environ) == [
        "unknown and ignored in the environment: TRUNKLINE_COLOUR, "
        "TRUNKLINE_DATBASE_URL (did you mean TRUNKLINE_DATABASE_URL?)"
    ]


@pytest.mark.parametrize(
    ("root", "database", "doubted"),
    [
        ("s3://bucket/prefix", "", True),
        ("s3://bucket/prefix", "postgresql://server/registry", False),
        ("/srv/blobs", "", False),
        ("", "postgresql://server/registry", False),
    ],
)
def test_a_bucket_beside_a_database_on_this_machine_is_doubted(root: str, database: str, doubted: bool) -> None:
    found = doubts({"TRUNKLINE_ARTIFACT_ROOT": root, "TRUNKLINE_DATABASE_URL": database})
    assert [doubt.startswith("TRUNKLINE_ARTIFACT_ROOT is a bucket") for doubt in found] == [True] * doubted
