import os
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from cli.settings import Settings
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
    assert embedded.artifact_root == embedded.home / "artifacts"
    assert make_url(embedded.database_url).database == str(embedded.registry_file)
    assert make_url(embedded.mlflow_uri).database == str(embedded.home / "mlflow.db")
    assert embedded.mlflow_artifact_location == (embedded.home / "mlflow-artifacts").as_uri()
    served = Settings.from_environment({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, tmp_path, actor="a")
    assert (served.mlflow_uri, served.mlflow_artifact_location) == ("http://mlflow:5000", None)


@pytest.mark.parametrize("name", ["with space", "what?", "50%3F", "#1", "für"])
def test_a_home_with_an_unusual_name_stays_itself_in_the_database_url(tmp_path: Path, name: str) -> None:
    settings = Settings.from_environment({}, tmp_path, home=tmp_path / name, actor="a")
    assert make_url(settings.database_url).database == str(tmp_path / name / "registry.db")
