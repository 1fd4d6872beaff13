"""Writes docs/cli.md from the commands: `make docs`."""

import sys

from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.models import Context as ParserContext

from cli.command_tree import Command, root_command, walk

_PREFACE = """# The `trunkline` command

Written from the commands by `make docs`; a test compares the two. Every command answers `--help` with the same words.

## For every command

Global options stand before the command's name: `trunkline --home /srv/trunkline task list`.

- The registry's folder: `--home`, else `TRUNKLINE_HOME`, else the nearest `.trunkline` folder going up from the working
  folder, else `.trunkline` there. A registry is begun by `team create`, `backbone pin`, `channel create`, `restore` and
  `db upgrade`; every other command wants one that is there.
- Who the audit trail names: `--actor`, else `TRUNKLINE_ACTOR`, else the login name.
- Where training runs are tracked: `MLFLOW_TRACKING_URI`, else a database of its own in the registry's folder.
- Answers go to stdout, with `--json` as one JSON document; warnings, errors and progress go to stderr. Colours and bars
  appear on a terminal only.
- Times are UTC, shown to the minute; JSON has them whole.

| exit code | |
| --- | --- |
| 0 | done |
| 1 | error: something could not be read, found or stored |
| 2 | usage: the arguments are wrong, or cannot be used together |
| 3 | a release did not pass a gate |
| 4 | not allowed in the object's state, such as a retired task |
| 5 | conflict: the name is taken, or `--expect` found another version |
| 130 | interrupted |
"""


def reference() -> str:
    """The whole document."""
    root = root_command()
    sections = [_section(path, command) for path, command in walk(root)]
    return "\n".join([_PREFACE, *sections])


def _section(path: str, command: Command) -> str:
    level = "##" if path.count(" ") < 2 else "###"
    parts = [f"{level} `{path}`", _prose(command.help or "")]
    if not isinstance(command, TyperGroup) or path.count(" ") == 0:
        usage = " ".join([path, *command.collect_usage_pieces(ParserContext(command, info_name=path))])
        parts.append(_code(usage))
        parts.append(_parameters(command))
    if command.epilog:
        parts.append(_example(command.epilog))
    return "\n\n".join(part for part in parts if part) + "\n"


def _prose(text: str) -> str:
    text = text.replace("<", "\\<")  # else Markdown takes `r<number>` for HTML
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _parameters(command: Command) -> str:
    context = ParserContext(command)
    lines = []
    for parameter in command.params:
        if isinstance(parameter, TyperArgument | TyperOption) and (record := parameter.get_help_record(context)):
            name, text = record
            if isinstance(parameter, TyperArgument):  # whose record names it twice, once as its own type
                name = " ".join(parameter.get_usage_pieces(context))
            lines.append(f"- `{name}`: {_prose(text)}")
    return "\n".join(lines)


def _example(epilog: str) -> str:
    heading, commands, *rest = epilog.split("\n\n", 2)
    return "\n\n".join([heading, _code(commands), *(_code(text) for text in rest)])


if __name__ == "__main__":
    sys.stdout.write(reference())
