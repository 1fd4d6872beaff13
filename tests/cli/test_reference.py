from pathlib import Path

from cli.command_tree import root_command, walk
from cli.reference import reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_document_is_what_the_commands_say() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_command_has_a_section() -> None:
    headings = [line.lstrip("# ") for line in reference().splitlines() if line.startswith(("## ", "### "))]
    assert [heading for heading in headings if heading.startswith("`")] == [
        f"`{path}`" for path, _ in walk(root_command())
    ]
