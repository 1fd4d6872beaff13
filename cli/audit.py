"""`trunkline audit`: who changed what, and when."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cli.application import AsJson, Context, example
from cli.rendering import moment, print_json, print_line, print_table, time_column
from registry.domain.records import AuditEvent
from registry.services import audit

_LONGEST_VALUE, _SHOWN = 40, 12

app = typer.Typer(no_args_is_help=True, help="The audit trail: who changed what, and when.")


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
