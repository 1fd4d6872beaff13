import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.application import Context
from cli.main import main
from registry import errors


class _Registry:
    """In the place of the database: raises what it was given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def read(self) -> Any:
        raise self.error

    def close(self) -> None:
        pass


@pytest.fixture
def failing(trunkline: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command in which the given error arises."""

    def run(error: BaseException, *options: str) -> Any:
        monkeypatch.setattr(Context, "database", _Registry(error))
        return trunkline(*options, "team", "list")

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StorageError("the disk is full"), 1),
        (errors.InvalidInput("rte.yaml", ["labels: none"]), 1),
        (errors.NotFound("there is no task"), 1),
        (errors.ArtifactDamaged("blob 12ab"), 1),
        (errors.SchemaError("newer than this program"), 1),
        (errors.UsageError("give one of them"), 2),
        (errors.GateFailed("parity of rte"), 3),
        (errors.NotAllowed("task rte is retired"), 4),
        (errors.AlreadyExists("team nlu"), 5),
        (errors.LostRace("champion moved"), 5),
    ],
)
def test_every_expected_error_is_one_line_and_its_exit_code(
    failing: Callable[..., Any], error: errors.TrunklineError, code: int
) -> None:
    answer = failing(error)
    assert answer.code == code
    assert answer.problem == str(error)


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(failing: Callable[..., Any]) -> None:
    answer = failing(KeyError("layers"))
    assert answer.code == 1
    assert answer.problem == "unexpected KeyError: 'layers'; `trunkline --traceback …` shows where"


@pytest.mark.parametrize("error", [KeyError("layers"), errors.NotFound("there is no task")])
def test_traceback_shows_where_an_error_arose(failing: Callable[..., Any], error: Exception) -> None:
    answer = failing(error, "--traceback")
    first, second, *rest = answer.err.splitlines()
    assert first.startswith("error: ")
    assert "--traceback" not in first
    assert second == "Traceback (most recent call last):"
    assert any("in read" in line for line in rest)


def test_an_interruption_ends_with_130(failing: Callable[..., Any]) -> None:
    answer = failing(KeyboardInterrupt())
    assert (answer.code, answer.out) == (130, "")
    assert _is_one_line_about_interruption(answer.err)


@pytest.mark.parametrize("package", ["typer", "rich", "sqlalchemy", "pydantic", "cli.boundary"])
def test_an_interruption_while_the_program_starts_is_one_line_too(package: str) -> None:
    script = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {package!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from cli.main import main\n"
        "sys.exit(main(['--help']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert _is_one_line_about_interruption(done.stderr)


def _is_one_line_about_interruption(said: str) -> bool:
    return said.startswith("interrupted: what was finished is kept") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tema", "list"), "No such command 'tema'. Did you mean 'team'?; see `trunkline --help`"),
        (("team", "list", "--bogus"), "No such option: --bogus; see `trunkline team list --help`"),
        (("team", "create"), "Missing argument 'name'; see `trunkline team create --help`"),
        (
            ("team", "list", "--home", "x"),
            "--home is a global option: global options go before the command, `trunkline --home FOLDER team list`",
        ),
        (
            ("task", "show", "rte", "--actor=ann"),
            "--actor is a global option: global options go before the command, `trunkline --actor NAME task show`",
        ),
        (
            ("gc", "--traceback"),
            "--traceback is a global option: global options go before the command, `trunkline --traceback gc`",
        ),
        (("release", "list", "--version"), "Option '--version' requires an argument"),
        (("--home",), "Option '--home' requires an argument"),
        (("team", "create", "\udcff"), "argument '\\udcff' is not valid UTF-8"),
    ],
)
def test_arguments_that_cannot_be_read_are_one_line(trunkline: Any, arguments: tuple[str, ...], message: str) -> None:
    answer = trunkline(*arguments)
    assert answer.code == 2
    assert answer.problem == message


@pytest.mark.parametrize("arguments", [(), ("team",), ("task",)])
def test_without_a_command_the_help_is_shown(trunkline: Any, arguments: tuple[str, ...]) -> None:
    answer = trunkline(*arguments)
    assert (answer.code, answer.err) == (2, "")
    assert f"Usage: {' '.join(('trunkline', *arguments))}" in answer.out


def test_the_version_is_that_of_the_installed_distribution(trunkline: Any) -> None:
    from importlib.metadata import version

    assert trunkline.done("--version") == f"trunkline {version('trunkline')}\n"


def test_the_first_use_of_a_home_is_said(tmp_path: Path, trunkline: Any) -> None:
    home = tmp_path / "new"
    answer = trunkline("--home", home, "team", "create", "nlu", "--json")
    assert answer.err == f"created a new registry in {home}\n"
    assert answer.json["name"] == "nlu"
    assert trunkline("--home", home, "team", "list").err == ""
    assert trunkline("team", "list", "--json").json == []


def test_a_home_that_cannot_be_made_is_an_error(tmp_path: Path, trunkline: Any) -> None:
    (tmp_path / "file").touch()
    answer = trunkline("--home", tmp_path / "file", "team", "list")
    assert answer.code == 1
    assert str(tmp_path / "file") in answer.problem


def test_help_asks_nothing_of_the_surroundings(trunkline: Any) -> None:
    trunkline.environ = {"TRUNKLINE_ACTOR": "two\nlines", "TRUNKLINE_HOME": "/proc/nowhere"}
    assert trunkline("task", "promote", "--help").code == 0
    assert trunkline("team", "list").code == 2


def test_a_mistyped_variable_is_warned_of_once_and_the_answer_is_unharmed(trunkline: Any) -> None:
    trunkline.environ["TRUNKLINE_HOMR"] = "/srv/registry"
    answer = trunkline("team", "list", "--json")
    assert (answer.code, answer.json) == (0, [])
    assert answer.err == (
        "warning: unknown and ignored in the environment: TRUNKLINE_HOMR (did you mean TRUNKLINE_HOME?)\n"
    )
    assert trunkline("--help").err == ""


def test_a_working_folder_that_is_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["team", "list"]) == 1
    assert capsys.readouterr().err == "error: the working folder does not exist any more; change to another one\n"
    os.chdir(tmp_path)


@pytest.mark.parametrize("command", [("--help",), ("task", "list", "--help"), ("task", "register", "-h")])
def test_help_gives_no_type_to_a_switch(trunkline: Any, command: tuple[str, ...]) -> None:
    told = trunkline.done(*command)
    assert "--help" in told
    assert "-h" in told
    assert "<bool>" not in told
