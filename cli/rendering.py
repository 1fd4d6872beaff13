"""How answers look: JSON, tables, fields and sentences on stdout; errors, warnings and progress on stderr.

Colours and boxes are rich's, and only where the stream is a terminal.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from registry.domain.plain_data import Plain

Json: TypeAlias = Plain | Mapping[str, Any] | Sequence[Plain]


def stdout_console() -> Console:
    # Names and descriptions are users' text: nothing in them is markup, an emoji code or worth a highlight.
    return Console(highlight=False, markup=False, emoji=False)


def stderr_console() -> Console:
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Json) -> None:
    """One JSON document. Written as it is: rich would wrap it."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _plain(value: Json) -> Any:
    if isinstance(value, Plain):
        return value.model_dump(mode="json")
    return value if isinstance(value, Mapping) else [item.model_dump(mode="json") for item in value]


def print_line(text: str) -> None:
    """A sentence or a path: never broken by us, whatever the width."""
    stdout_console().print(Text(text), soft_wrap=True)


_ANY_WIDTH = 10**9

MOST_ROWS = 50
"""What a table shows where the caller set no limit."""


def print_rest(count: int, what: str) -> None:
    """After a table: how many rows it left out, if any; `what` they are, and what shows them."""
    if count:
        print_line(f"and {count:,} {what}")


def number_column(header: str) -> Column:
    return Column(header, justify="right", no_wrap=True)


def time_column(header: str) -> Column:
    return Column(header, no_wrap=True)


def print_table(columns: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal at most, long cells folded, never cut; elsewhere as wide as it needs to be."""
    headers = [Column(column, overflow="fold") if isinstance(column, str) else column for column in columns]
    table = Table(
        *headers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold"
    )
    for row in rows:
        table.add_row(*map(Text, row))
    _print_grid(table)


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """One object: a name and a value a line."""
    table = Table.grid(Column(style="bold"), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for name, value in fields:
        table.add_row(name, Text(value))
    _print_grid(table)


def _print_grid(table: Table) -> None:
    console = stdout_console()
    if console.is_terminal:
        console.print(table)
        return
    # Who reads this are programs and files: a name is one word, a row one line, and nothing pads its end.
    console.width = max(1, console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().split("\n")[:-1]))


def print_error(message: str) -> None:
    stderr_console().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_warning(message: str) -> None:
    stderr_console().print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=True)


def print_note(message: str) -> None:
    stderr_console().print(Text(message), soft_wrap=True)


def working(message: str) -> AbstractContextManager[object]:
    """A spinner on stderr while something takes its time; nothing where stderr is no terminal."""
    return stderr_console().status(Text(message))


def moment(at: datetime) -> str:
    """To the minute, in UTC: what a column headed "(UTC)" holds."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def short_digest(digest: str) -> str:
    """Twelve hexadecimal digits: enough to compare by eye."""
    return digest[:12]


def alias_list(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{alias} {number}" for alias, number in sorted(aliases.items()))


def table_cell(text: str) -> str:
    """A text in a Markdown table: on one line, its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")
