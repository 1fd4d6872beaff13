import re
from typing import Any

import pytest
from typer.core import TyperArgument, TyperGroup, TyperOption

from cli.command_tree import Command, root_command, walk

COMMANDS = dict(walk(root_command()))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, TyperGroup)}


def parameters(command: Command) -> list[TyperArgument | TyperOption]:
    return [one for one in command.params if isinstance(one, TyperArgument | TyperOption)]


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_help_for_itself_and_for_every_parameter(path: str) -> None:
    assert LEAVES[path].help
    assert [one.name for one in parameters(LEAVES[path]) if not one.help] == []


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_an_example_of_itself(path: str) -> None:
    examples = re.findall(r"^\$ (.+)$", LEAVES[path].epilog or "", flags=re.MULTILINE)
    assert examples
    commands = [line.rpartition("| ")[2] for line in examples]
    assert all(command.startswith(f"{path} ") or command == path for command in commands)


@pytest.mark.parametrize("path", [path for path in LEAVES if not path.startswith("trunkline trial ")])
def test_every_command_can_answer_in_json(path: str) -> None:
    """Those that run trials are for programs: they speak nothing else."""
    assert "--json" in [name for one in parameters(LEAVES[path]) for name in one.opts]


@pytest.mark.parametrize("path", COMMANDS)
def test_the_help_on_the_screen_holds_every_word_of_it(trunkline: Any, path: str) -> None:
    answer = trunkline(*path.split()[1:], "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "\x1b" not in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    shown = re.sub(r"[\s│]+", "", answer.out)
    command = COMMANDS[path]
    texts = [command.help, command.epilog, *(one.help for one in parameters(command) if not one.hidden)]
    for text in texts:
        assert re.sub(r"\s+", "", text or "") in shown
