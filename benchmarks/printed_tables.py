"""What benchmarks print: tables for the terminal or as Markdown on stdout, a line of progress on stderr."""

import sys
import time

from rich.console import Console
from rich.table import Table

_WIDTH = 200


def show(table: Table | None, *, markdown: bool) -> None:
    if table is None:
        return
    if not markdown:
        Console(width=_WIDTH).print(table)
        return
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    print(f"\n{table.title}:\n")
    print("| " + " | ".join(str(column.header) for column in table.columns) + " |")
    print("|" + " --- |" * len(columns))
    for cells in zip(*columns, strict=True):
        print("| " + " | ".join(cells) + " |")
    if table.caption:
        print(f"\n{table.caption}")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def number_list(text: str) -> tuple[int, ...]:
    """ "4-6,9" -> (4, 5, 6, 9)."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))
