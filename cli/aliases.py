"""`trunkline task promote|rollback|history`: which version an alias names, now and before."""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import typer
from sqlalchemy.orm import Session

from cli.application import AsJson, Context, example
from cli.moments import parse_moment
from cli.rendering import moment, number_column, print_json, print_line, print_table, print_warning, time_column
from cli.tasks import TaskName, outdated_aliases
from registry.domain.records import AliasMove, PastTask
from registry.domain.references import VersionReference, check_alias, parse_reference
from registry.errors import UsageError
from registry.services import aliases, tasks, versions

app = typer.Typer()

AliasOption = Annotated[str, typer.Option(help="The alias to move, such as champion.")]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASK/NUMBER|none",
        help="Move only if the alias names this version now, or none if it does not exist yet; else end with code 5.",
    ),
]


@app.command(
    epilog=example(
        "trunkline task promote rte/3 --alias champion --expect rte/2",
        "trunkline task promote rte@candidate --alias champion",
    )
)
def promote(
    ctx: typer.Context,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="TASK/NUMBER, or TASK@ALIAS for what that alias names.")
    ],
    alias: AliasOption,
    expect: ExpectOption = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias name a version."""
    context: Context = ctx.obj
    named = parse_reference(version)
    expected = _expected(expect)
    with context.database.write() as session:
        reference = versions.get_version(session, named).reference
        before = tasks.get_task(session, named.task).aliases.get(alias)
        move = aliases.promote(session, reference, alias, expect=expected, actor=context.actor, at=context.now())
        outdated, scores = _outdated(session, move), _scores(session, move, before)
    _print_move(move, before, scores, as_json)
    for doubt in (outdated, scores.doubt):
        if doubt:
            print_warning(doubt)


@app.command(epilog=example("trunkline task rollback rte --alias champion --expect rte/3"))
def rollback(
    ctx: typer.Context, task: TaskName, alias: AliasOption, expect: ExpectOption = None, as_json: AsJson = False
) -> None:
    """Move an alias back to the version that it named before the last promotion; again, to the one before that."""
    context: Context = ctx.obj
    expected = _expected(expect)
    with context.database.write() as session:
        before = tasks.get_task(session, task).aliases.get(alias)
        move = aliases.rollback(session, task, alias, expect=expected, actor=context.actor, at=context.now())
        outdated, scores = _outdated(session, move), _scores(session, move, before)
    _print_move(move, before, scores, as_json)
    if outdated:
        print_warning(outdated)


def _outdated(session: Session, move: AliasMove) -> str:
    """A warning when the alias names a version of an outdated definition now, else nothing."""
    task = tasks.get_task(session, move.task)
    revision = outdated_aliases(session, task).get(move.alias)
    if revision is None:
        return ""
    return (
        f"{task.name}/{move.to_version} answers as revision {revision} defined task {task.name}, which has another "
        f"type, input form or labels than revision {task.spec_revision}, now in force"
    )


class _Scores(NamedTuple):
    """Of the version that an alias names now and of the one that it named before."""

    metric: str
    """The task's."""
    score: float | None = None
    score_before: float | None = None
    """None where it was scored by another metric or on other dev data too."""
    shown: str = ""
    """Such as "accuracy 0.6900 → 0.7180"."""
    doubt: str = ""
    """Why the move may be a slip, where the scores say so."""


def _scores(session: Session, move: AliasMove, before: int | None) -> _Scores:
    metric = tasks.get_task(session, move.task).spec.metric.value
    now = versions.get_version(session, VersionReference(task=move.task, number=move.to_version))
    score = now.metrics.get(metric)
    if score is None:
        return _Scores(metric)
    doubt = f"{now.reference} has {metric} {score:.4f}: no better than answers at random" if score <= 0 else ""
    if before is None:
        return _Scores(metric, score, None, f"{metric} {score:.4f}", doubt)
    old = versions.get_version(session, VersionReference(task=move.task, number=before))
    specs = [tasks.get_spec(session, move.task, one.spec_revision) for one in (old, now)]
    if metric not in old.metrics or specs[0].positive_label != specs[1].positive_label:
        return _Scores(metric, score, None, f"{metric} {score:.4f}, which {old.reference} was not scored by", doubt)
    if old.dev_digest != now.dev_digest:
        return _Scores(metric, score, None, f"{metric} {score:.4f}, not on the dev data of {old.reference}", doubt)
    score_before = old.metrics[metric]
    if score < score_before and not doubt:
        doubt = f"{now.reference} has {metric} {score:.4f}, less than {old.reference} on the same dev data"
    return _Scores(metric, score, score_before, f"{metric} {score_before:.4f} → {score:.4f}", doubt)


def _expected(text: str | None) -> VersionReference | Literal["none"] | None:
    """What `--expect` says; None when it was not given."""
    if text is None:
        return None
    if text == "none":
        return "none"
    reference = parse_reference(text)
    if not isinstance(reference, VersionReference):
        raise UsageError(f"--expect {text}: write the version that you have seen there ({reference.task}/2), or none")
    return reference


def _print_move(move: AliasMove, before: int | None, scores: _Scores, as_json: bool) -> None:
    if as_json:
        told = {"metric": scores.metric, "score": scores.score, "score_before": scores.score_before}
        print_json({**move.model_dump(mode="json"), **told})
    elif before == move.to_version:
        print_line(f"{move.task}@{move.alias} is {move.task}/{move.to_version} already")
    else:
        origin = "new" if before is None else f"{move.task}/{before}"
        shown = f" ({scores.shown})" if scores.shown else ""
        print_line(f"{move.task}@{move.alias}: {origin} → {move.task}/{move.to_version}{shown}")


@app.command(
    epilog=example("trunkline task history rte", "trunkline task history rte --alias champion --at 2026-05-01T12:00")
)
def history(
    ctx: typer.Context,
    task: TaskName,
    alias: Annotated[str | None, typer.Option(help="Only of this alias.")] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment,
            metavar="TIME",
            help="Instead, what the task was then: a date (its first moment) or a date and time, "
            "UTC unless it has an offset.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a task's aliases moved, or what the task was at a time: state, spec revision, aliases."""
    context: Context = ctx.obj
    if alias is not None:
        check_alias(alias)
    if at is None:
        _print_moves(context, task, alias, as_json)
    else:
        _print_task_at(context, task, alias, at, as_json)


def _print_moves(context: Context, task: str, alias: str | None, as_json: bool) -> None:
    with context.database.read() as session:
        moves = aliases.history(session, task, alias=alias)
    if as_json:
        print_json(moves)
    elif not moves:
        print_line(f"task {task} has no alias yet" if alias is None else f"{task}@{alias} has never moved")
    else:
        rows = [
            (
                moment(m.moved_at),
                m.alias,
                m.kind,
                "" if m.from_version is None else str(m.from_version),
                str(m.to_version),
                m.actor,
            )
            for m in moves
        ]
        print_table(
            [time_column("time (UTC)"), "alias", "move", number_column("from"), number_column("to"), "actor"], rows
        )


def _print_task_at(context: Context, task: str, alias: str | None, at: datetime, as_json: bool) -> None:
    with context.database.read() as session:
        past = tasks.task_at(session, task, at)
    named = {name: number for name, number in past.aliases.items() if alias in (None, name)}
    if as_json:
        print_json({**past.model_dump(mode="json"), "at": at.isoformat(), "aliases": named})
    elif past.state is None:
        print_line(f"at {moment(at)} UTC there was no task {task} yet")
    else:
        print_line(f"at {moment(at)} UTC task {task} was {_described(past)}")
        if named:
            print_table(["alias", "version"], [(name, f"{task}/{number}") for name, number in sorted(named.items())])
        else:
            print_line("no alias named a version" if alias is None else f"{task}@{alias} named no version")


def _described(past: PastTask) -> str:
    state = "active" if past.retirement is None else f"retired ({past.retirement.reason})"
    versions = "1 version" if past.version_count == 1 else f"{past.version_count} versions"
    return f"{state}, with spec revision {past.spec_revision} and {versions}"
