"""The `trunkline` command in a process of its own, as it was installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).parent / "trunkline"
HEAVY = {"torch", "transformers", "tokenizers", "numpy", "sklearn", "scipy", "mlflow", "alembic", "boto3", "psycopg"}


@pytest.fixture
def environment(tmp_path: Path, empty_registry: Path) -> dict[str, str]:
    home = tmp_path / "home"
    shutil.copytree(empty_registry, home)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "LC_ALL")}
    return {**kept, "TRUNKLINE_HOME": str(home), "TRUNKLINE_ACTOR": "ann"}


def run(
    arguments: list[str], environment: dict[str, str], cwd: Path, program: Path | str = COMMAND
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_folder_named_like_one_of_ours_does_not_shadow_it(environment: dict[str, str], tmp_path: Path) -> None:
    for package in ("cli", "registry", "typer"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('shadowed')")
    created = run(["team", "create", "nlu"], environment, tmp_path)
    assert (created.returncode, created.stdout, created.stderr) == (0, "created team nlu\n", "")


def test_a_new_home_is_made_on_first_use_and_errors_have_their_codes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    del environment["TRUNKLINE_HOME"]
    first = run(["team", "create", "nlu", "--json"], environment, tmp_path)
    assert first.returncode == 0
    assert json.loads(first.stdout)["name"] == "nlu"
    assert first.stderr == f"created a new registry in {tmp_path / '.trunkline'}\n"
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    taken = run(["team", "create", "nlu"], environment, inner)
    assert (taken.returncode, taken.stdout) == (5, "")
    assert taken.stderr.startswith("error: team nlu already exists")


def test_registry_commands_import_nothing_heavy(environment: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import json, sys; from cli.main import main\n"
        "codes = [main(line.split()) for line in sys.argv[1].splitlines()]\n"
        "print(json.dumps([codes, sorted({name.partition('.')[0] for name in sys.modules})]), file=sys.stderr)\n"
    )
    (tmp_path / "rte.yaml").write_text(
        "{task: rte, type: regression, metric: pearson, data: {train: rte.jsonl, dev: dev.jsonl}}"
    )
    (tmp_path / "dev.jsonl").write_text('{"text": "c", "label": 1}\n')
    (tmp_path / "rte.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 2}\n')
    commands = [
        "team create nlu",
        "team list",
        "task register rte.yaml --team nlu",
        "task update rte.yaml",
        "task list",
        "task show rte --json",
        "task versions rte",
        "task history rte",
        "task retire rte --reason over",
        "task revive rte",
        "task promote rte/1 --alias champion",
        "task rollback rte --alias champion",
        "backbone pin mini nowhere",
        "backbone list",
        "backbone show mini",
        "audit list",
        "release list",
        "--help",
    ]
    done = run(["-P", "-c", script, "\n".join(commands)], environment, tmp_path, program=sys.executable)
    codes, imported = json.loads(done.stderr.splitlines()[-1])
    assert dict(zip(commands, codes, strict=True)) == dict.fromkeys(commands, 0) | {
        "task promote rte/1 --alias champion": 1,
        "task rollback rte --alias champion": 1,
        "backbone pin mini nowhere": 1,
        "backbone show mini": 1,
    }
    assert "sqlalchemy" in imported
    assert HEAVY & set(imported) == set()


def test_a_reader_that_has_gone_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    for arguments in ("audit list", "audit list --json", "--help"):
        done = run(["-c", f"'{COMMAND}' {arguments} | true; echo ${{PIPESTATUS[0]}}"], environment, tmp_path, "bash")
        assert done.stderr == ""
        assert done.stdout in ("0\n", "1\n")


def test_colours_appear_on_terminals_only(environment: dict[str, str], tmp_path: Path) -> None:
    run(["team", "create", "nlu"], environment, tmp_path)
    assert "\x1b[" not in run(["team", "list"], environment, tmp_path).stdout
    assert "\x1b[" in _in_terminal(["team", "list"], environment, tmp_path)


def _in_terminal(arguments: list[str], environment: dict[str, str], cwd: Path) -> str:
    import pty

    master, terminal = pty.openpty()
    subprocess.run([COMMAND, *arguments], env={**environment, "TERM": "xterm"}, cwd=cwd, stdout=terminal, check=True)
    os.close(terminal)
    output = os.read(master, 65536).decode()
    os.close(master)
    return output
