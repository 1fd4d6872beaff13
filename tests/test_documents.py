"""What the documents tell a reader to type exists, and so do the files they name."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command_tree import root_command

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines() -> list[str]:
    blocks = [
        block
        for path in DOCUMENTS
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    ]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [code for path in DOCUMENTS for code in re.findall(r"`(trunkline [a-z][^`]*)`", path.read_text())]
    return [line.strip() for line in [*lines, *inline] if line.strip().startswith("trunkline ")]


@pytest.mark.parametrize("line", sorted(set(shell_lines())))
def test_a_command_in_the_documents_is_one_of_ours_with_its_options(line):
    arguments = shlex.split(line, comments=True)[1:]
    command, context = root_command(), None
    while hasattr(command, "commands") and arguments:
        context = command.make_context(command.name, [], parent=context, resilient_parsing=True)
        _, found, arguments = command.resolve_command(context, arguments)  # which ends the test if there is no such
        assert found is not None, line
        command = found
    redirected = arguments.index(">") if ">" in arguments else len(arguments)
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for argument in arguments[:redirected]:
        if argument.startswith("--"):
            assert argument in options | {"--help"}, f"{line}: the command has no option {argument}"


def test_enough_commands_are_found_to_make_the_check_worth_it():
    assert len(shell_lines()) > 20


def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for path in DOCUMENTS for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_every_file_in_the_documents_exists():
    names = {
        name
        for path in DOCUMENTS
        if path.name != "cli.md"
        for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|yml|toml))`", path.read_text())
    }
    assert names
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.slow
def test_the_benchmark_runs_and_reports_ratios():
    small = ["--json", "--tasks", "2", "--rounds", "1", "--batches", "1"]
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "benchmarks" / "merged_vs_separate.py", *small],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout[done.stdout.index("{") :])
    (result,) = report["results"]
    assert (result["layer_count"], result["separate_layers"]) == (4 + 3, 12)
    assert result["time_ratio"] > 0
