"""`trunkline audit`: who changed what, and when, and whether that can be trusted."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.application import AsJson, Context, example
from cli.rendering import moment, print_json, print_line, print_table, time_column
from registry.artifacts.atomic_file import write_atomically
from registry.domain.audit_chain import ChainReport, parse_head
from registry.domain.records import AuditEvent
from registry.services import audit

_LONGEST_VALUE, _SHOWN, _MOST_BREAKS = 40, 12, 20

app = typer.Typer(
    no_args_is_help=True, help="The audit trail: who changed what, and when; chained, so that it can be trusted."
)


@app.command(
    "list", epilog=example("trunkline audit list --limit 5", 'trunkline audit list --object "alias rte@champion"')
)
def list_(
    ctx: typer.Context,
    object_: Annotated[
        str | None,
        typer.Option("--object", metavar="OBJECT", help='Only of one object, such as "task rte" or "version rte/3".'),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List changes, the latest first."""
    context: Context = ctx.obj
    with context.database.read() as session:
        events = audit.list_events(session, object=object_, limit=limit)
    if as_json:
        print_json(events)
    elif not events:
        print_line("no change yet" if object_ is None else f"no change of {object_!r}; objects read like 'task rte'")
    else:
        rows = [(moment(e.occurred_at), e.actor, e.action, e.object, _change(e)) for e in events]
        print_table([time_column("time (UTC)"), "actor", "action", "object", "change"], rows)


def _change(event: AuditEvent) -> str:
    """The fields whose values an event changed; of a new object the short ones, as `--json` has the rest."""
    before, after = event.before or {}, event.after or {}
    changed = [field for field in {**before, **after} if before.get(field) != after.get(field)]
    if event.before is None:
        changed = [field for field in changed if not isinstance(after[field], Mapping) and _is_short(after[field])]
    return ", ".join(f"{field}: {_step(before, after, field)}" for field in changed)


def _step(before: Mapping[str, Any], after: Mapping[str, Any], field: str) -> str:
    values = [_shortened(side[field]) for side in (before, after) if side.get(field) is not None]
    if field in before and after.get(field) is None:
        values.append("none")
    return " → ".join(values)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_short(value: Any) -> bool:
    return len(_text(value)) <= _LONGEST_VALUE


def _shortened(value: Any) -> str:
    return _text(value) if _is_short(value) else f"{_text(value)[:_SHOWN]}…"


@app.command(epilog=example("trunkline audit verify", f"trunkline audit verify --expect 12:{'5e' * 32}"))
def verify(
    ctx: typer.Context,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER:HASH", help="A head that was printed earlier: the chain must still go through it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the chain of all events: whatever was changed, added, removed or moved is found.

    That the latest events were cut off, or the whole chain made anew, shows only against a head that was kept
    elsewhere: keep the one that this command prints.
    """
    context: Context = ctx.obj
    expected = None if expect is None else parse_head(expect)
    with context.database.read() as session:
        report = audit.chain_report(session, expect=expected)
    if as_json:
        breaks = [found.model_dump() for found in report.breaks]
        print_json({"events": report.events, "head": str(report.head), "breaks": breaks})
    else:
        _print_report(report)
    if report.breaks:
        raise typer.Exit(1)


def _print_report(report: ChainReport) -> None:
    for found in report.breaks[:_MOST_BREAKS]:
        print_line(str(found))
    if len(report.breaks) > _MOST_BREAKS:
        print_line(f"and more: --json shows {len(report.breaks)}")
    print_line(f"{report.events:,} events: " + ("the chain is BROKEN" if report.breaks else "the chain is whole"))
    print_line(f"head: {report.head}")


@app.command(
    epilog=example("trunkline audit export > audit.jsonl", "trunkline audit export --from 4001 --output new.jsonl")
)
def export(
    ctx: typer.Context,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write, instead of the standard output.")
    ] = None,
    first: Annotated[int, typer.Option("--from", min=1, metavar="NUMBER", help="The first event to export.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write events as JSON Lines, oldest first, with all that is needed to recompute the chain.

    docs/digests.md says how. With --output the file is there whole or not at all; --json then describes it.
    """
    context: Context = ctx.obj
    with context.database.read() as session, closing(audit.export_events(session, first=first)) as lines:
        if output is None:
            _write_out(lines)
            return
        count = _write_file(context.cwd / output, lines)
    if as_json:
        print_json({"file": str(output), "events": count})
    else:
        print_line(f"wrote {output}: {count:,} events")


def _write_out(lines: Iterator[bytes]) -> None:
    # As bytes: the encoding of a terminal must not change what is exported.
    try:
        for line in lines:
            sys.stdout.buffer.write(line)
    except BrokenPipeError:
        return  # the reader has seen enough


def _write_file(path: Path, lines: Iterator[bytes]) -> int:
    count = 0

    def counted() -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            yield line
            count += 1

    write_atomically(path, counted())
    return count
