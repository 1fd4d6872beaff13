"""`trunkline task`: define tasks, see them, retire them."""

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Column
from sqlalchemy.orm import Session

from cli.application import AsJson, Context, IdempotencyKey, Limit, example, rows_wanted
from cli.moments import parse_day
from cli.rendering import (
    alias_list,
    moment,
    number_column,
    print_fields,
    print_json,
    print_line,
    print_rest,
    print_table,
    print_warning,
    short_digest,
    time_column,
)
from cli.task_data import CheckData, look_at_data, warn_of_data
from cli.yaml_files import read_yaml
from registry.domain.records import Retirement, Task, TaskSearch, TaskState, Version, VersionKind
from registry.domain.references import VersionReference, check_alias
from registry.domain.scores import best_first
from registry.domain.task_specs import Columns, Metric, TaskSpec, TaskType, parse_task_spec, validation_problems
from registry.errors import UsageError
from registry.services import channels, releases, tasks, versions
from registry.services.idempotency import answer_once, is_answered

app = typer.Typer(no_args_is_help=True, help="Tasks: define them, see them, promote their versions, retire them.")

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")]
SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="The task's definition in YAML.")]

_TASK_YAML = """A task.yaml; the paths are relative to it:

task: rte
type: classification        # or regression, token_classification
input_form: pair            # or single, the default
labels:                     # their order is the order of the outputs
  - entailment
  - not_entailment
metric: accuracy            # or another one, see below
data:
  train: rte/train.jsonl.gz
  dev: rte/dev.jsonl.gz

Metrics are accuracy, f1, f1_macro and matthews; of a regression pearson and spearman; of token classification accuracy,
entity_f1 and f1_macro. Optional: description, tag_scheme (bio or plain; token classification needs one), positive_label
(metric f1 needs it), and columns (text, text_pair, label, tokens, tags) where a file names them otherwise."""

_MOST_LABELS = 20
_MOST_RELEASES = 10


@app.command(epilog=example("trunkline task register rte.yaml --team nlu", then=_TASK_YAML))
def register(
    ctx: typer.Context,
    file: SpecFile,
    team: Annotated[str, typer.Option(help="The team that owns the task.")],
    data: CheckData = True,
    idempotency_key: IdempotencyKey = None,
    as_json: AsJson = False,
) -> None:
    """Register a new task from its definition; the data files that it names are read first."""
    context: Context = ctx.obj
    spec = read_spec(context.cwd / file)
    with context.database.read() as session:
        answered = is_answered(session, idempotency_key)
        if idempotency_key is None:  # else the name may be taken by the same request, a moment ago
            tasks.refuse_unless_free(session, spec.task, team=team)
    files = look_at_data(spec, read=data and not answered)
    actor, at = context.actor, context.now()
    with context.database.write() as session:
        task = answer_once(
            session,
            idempotency_key,
            lambda: tasks.register_task(session, spec, team=team, actor=actor, at=at),
            answer=Task,
            action="task.register",
            request={"team": team, "definition": spec.model_dump(mode="json")},
            actor=actor,
            at=at,
        )
    warn_of_data(spec, files)
    if as_json:
        print_json(task)
    else:
        rows = f"; {', '.join(files.rows)}" if files.rows else ""
        print_line(f"registered task {task.name} of team {task.team}, spec revision {task.spec_revision}{rows}")


@app.command(epilog=example("trunkline task update rte.yaml"))
def update(ctx: typer.Context, file: SpecFile, data: CheckData = True, as_json: AsJson = False) -> None:
    """Give a task a new definition: a further spec revision. Versions keep the revision that they were trained for.

    The data files that it names are read first, where the definition is new.
    """
    context: Context = ctx.obj
    spec = read_spec(context.cwd / file)
    with context.database.read() as session:
        known = tasks.get_task(session, spec.task).spec == spec
    files = look_at_data(spec, read=data and not known)
    with context.database.write() as session:
        before = tasks.get_task(session, spec.task)
        task = tasks.update_task(session, spec, actor=context.actor, at=context.now())
        outdated = outdated_aliases(session, task)
    warn_of_data(spec, files)
    if as_json:
        print_json(task)
    elif task.spec_revision == before.spec_revision:
        print_line(f"task {task.name} is unchanged, spec revision {task.spec_revision}")
    else:
        changed = [name for name in TaskSpec.model_fields if getattr(before.spec, name) != getattr(task.spec, name)]
        print_line(f"updated task {task.name} to spec revision {task.spec_revision}: {', '.join(changed)} changed")
    if outdated:
        answers = [f"{name} {task.aliases[name]} answers as revision {number}" for name, number in outdated.items()]
        print_warning(
            f"task {task.name}: {', '.join(answers)} defined it; "
            f"train and promote a version for revision {task.spec_revision}"
        )


def outdated_aliases(session: Session, task: Task) -> dict[str, int]:
    """Alias -> the spec revision of its version, where that asks for other answers than the revision in force."""
    named = versions.get_versions(
        session, [VersionReference(task=task.name, number=number) for number in task.aliases.values()]
    )
    revisions = {alias: version.spec_revision for alias, version in zip(task.aliases, named, strict=True)}
    specs = {number: tasks.get_spec(session, task.name, number) for number in set(revisions.values())}
    return {alias: n for alias, n in revisions.items() if specs[n].interface != task.spec.interface}


def read_spec(path: Path) -> TaskSpec:
    """The definition in a file, its data paths made absolute."""
    return parse_task_spec(_with_absolute_paths(read_yaml(path), path.parent), str(path))


def _with_absolute_paths(content: object, folder: Path) -> object:
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        return content  # for the validation to refuse
    files = {
        split: os.path.normpath(folder / path) if isinstance(path, str) and path else path
        for split, path in content["data"].items()
    }
    return content | {"data": files}


@app.command(
    "list",
    epilog=example(
        "trunkline task list",
        "trunkline task list --team nlu --state active",
        "trunkline task list --search 'flight intent' --alias champion",
    ),
)
def list_(
    ctx: typer.Context,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Only those with every one of these words in name, description or labels, in any case.",
        ),
    ] = None,
    team: Annotated[str | None, typer.Option(help="Only of this team.")] = None,
    state: Annotated[TaskState | None, typer.Option(help="Only in this state.")] = None,
    task_type: Annotated[TaskType | None, typer.Option("--type", help="Only of this type.")] = None,
    alias: Annotated[str | None, typer.Option(help="Only those that have this alias.")] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks with their aliases, by name."""
    context: Context = ctx.obj
    wanted = TaskSearch(
        words=tuple((search or "").split()),
        team=team,
        state=state,
        type=task_type,
        alias=None if alias is None else check_alias(alias),
    )
    with context.database.read() as session:
        found = tasks.find_tasks(session, wanted, limit=rows_wanted(limit, as_json=as_json))
        there = found.found or tasks.find_tasks(session, TaskSearch(), limit=0).found
    if as_json:
        print_json(found.tasks)
    elif not there:
        print_line("no task yet; register one: trunkline task register FILE --team TEAM")
    elif not found.tasks:
        print_line("the one task that there is does not match" if there == 1 else f"none of {there:,} tasks matches")
    else:
        print_table(
            ["task", "team", "type", number_column("versions"), "aliases", "state"],
            [(t.name, t.team, t.spec.type, str(t.version_count), alias_list(t.aliases), t.state) for t in found.tasks],
        )
        print_rest(found.found - len(found.tasks), "more; use --search or --limit")


@app.command(epilog=example("trunkline task show rte"))
def show(ctx: typer.Context, task: TaskName, as_json: AsJson = False) -> None:
    """Show one task: its definition, its aliases, its state."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = tasks.get_task(session, task)
    if as_json:
        print_json(found)
    else:
        print_fields([*_state_fields(found), *_spec_fields(found.spec)])


def _state_fields(task: Task) -> list[tuple[str, str]]:
    fields = [("task", task.name), ("team", task.team), ("state", task.state)]
    if task.retirement is not None and task.retired_at is not None:
        fields += [("retired (UTC)", moment(task.retired_at)), ("reason", task.retirement.reason)]
        fields += [("sunset on", str(task.retirement.sunset_on))] if task.retirement.sunset_on else []
        fields += [("superseded by", task.retirement.superseded_by)] if task.retirement.superseded_by else []
    return [
        *fields,
        ("created (UTC)", moment(task.created_at)),
        ("versions", str(task.version_count)),
        ("aliases", alias_list(task.aliases) or "none"),
        ("spec revision", str(task.spec_revision)),
    ]


def _spec_fields(spec: TaskSpec) -> list[tuple[str, str]]:
    shown, hidden = spec.labels[:_MOST_LABELS], spec.labels[_MOST_LABELS:]
    labels = ", ".join(shown) + (f" and {len(hidden)} more (--json shows all)" if hidden else "")
    columns = {name: column for name, column in spec.columns if column != Columns.model_fields[name].default}
    optional: list[tuple[str, Any]] = [
        ("description", spec.description),
        ("labels", f"{len(spec.labels)}: {labels}" if labels else ""),
        ("tag scheme", spec.tag_scheme),
        ("positive label", spec.positive_label),
        ("columns", ", ".join(f"{name} is {column!r}" for name, column in columns.items())),
    ]
    return [
        ("type", spec.type),
        ("input form", spec.input_form),
        ("metric", spec.metric),
        *((name, value) for name, value in optional if value),
        ("train data", spec.data.train),
        ("dev data", spec.data.dev),
    ]


@app.command(
    "versions",
    epilog=example(
        "trunkline task versions rte",
        "trunkline task versions rte --best",
        "trunkline task versions rte --kind student",
    ),
)
def list_versions(
    ctx: typer.Context,
    task: TaskName,
    kind: Annotated[VersionKind | None, typer.Option(help="Only teachers, or only students.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Only those trained on this backbone.")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The best first, by the metric; those on other dev data apart.")
    ] = False,
    metric: Annotated[
        Metric | None, typer.Option(metavar="METRIC", help="The metric to show. [default: the task's own]")
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """List a task's versions, oldest first: frozen depth k, task layers l, the metric on the dev data.

    Only scores on the same dev data can be compared. With --best, versions measured on other data stand in a group of
    their own, the group with the newest version first.
    """
    context: Context = ctx.obj
    with context.database.read() as session:
        owner = tasks.get_task(session, task)
        found = versions.list_versions(session, task, kind=kind, backbone=backbone)
    metric = metric or owner.spec.metric
    groups = best_first(found, metric) if best else [found]
    shown = _first(groups, rows_wanted(limit, as_json=as_json), newest=not best)
    if as_json:
        print_json([version for group in shown for version in group])
    elif not found:
        print_line(_no_versions(owner))
    else:
        _print_versions(shown, owner, metric, by_dev_data=best and len(groups) > 1)
        print_rest(len(found) - sum(map(len, shown)), "more; use --limit" if best else "older; use --limit or --best")


def _first(groups: list[list[Version]], limit: int | None, *, newest: bool) -> list[list[Version]]:
    """The first so many of all groups together, or the last."""
    left = sum(map(len, groups)) if limit is None else limit
    shown = []
    for group in groups:
        shown.append(group[max(0, len(group) - left) :] if newest else group[:left])
        left -= len(shown[-1])
    return [group for group in shown if group]


def _no_versions(owner: Task) -> str:
    if owner.version_count:
        return f"none of the {owner.version_count} versions of task {owner.name} is of this kind and backbone"
    return f"task {owner.name} has no version yet; train one: trunkline train {owner.name} --layers 2"


def _print_versions(groups: list[list[Version]], owner: Task, metric: Metric, *, by_dev_data: bool) -> None:
    numbers = [number_column(header) for header in ("k", "l", str(metric), "teacher")]
    columns: list[str | Column] = [number_column("version"), "kind", *numbers, "aliases"]
    columns += [time_column("created (UTC)"), "by"]
    for group in groups:
        if by_dev_data:
            print_line(f"on dev data {short_digest(group[0].dev_digest)}:")
        print_table(columns, [_version_row(version, owner, metric) for version in group])
    statistics = dict.fromkeys(version.statistic for group in groups for version in group)
    print_line(f"{metric}: of each version on its dev data, {' or '.join(statistics)}")


def _version_row(version: Version, owner: Task, metric: Metric) -> tuple[str, ...]:
    score = version.metrics.get(metric)
    aliases = sorted(alias for alias, number in owner.aliases.items() if number == version.number)
    return (
        str(version.number),
        version.kind,
        str(version.frozen_depth),
        str(version.task_layers),
        "" if score is None else f"{score:.4f}",
        "" if version.teacher is None else str(version.teacher),
        ", ".join(aliases),
        moment(version.created_at),
        version.created_by,
    )


@app.command(
    epilog=example('trunkline task retire rte --reason "nli does it better" --sunset 2027-03-31 --superseded-by nli')
)
def retire(
    ctx: typer.Context,
    task: TaskName,
    reason: Annotated[str, typer.Option(help="Why, for those who find it gone.")],
    sunset: Annotated[
        date | None,
        typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help="The day from which it will not be served any more."),
    ] = None,
    superseded_by: Annotated[str | None, typer.Option(metavar="TASK", help="The task that takes its place.")] = None,
    as_json: AsJson = False,
) -> None:
    """Retire a task: no new versions or promotions, and no places in releases from its sunset on, or at once.

    Says which releases still hold it and where it is live. Nothing is deleted.
    """
    context: Context = ctx.obj
    try:
        retirement = Retirement(reason=reason.strip(), sunset_on=sunset, superseded_by=superseded_by)
    except ValidationError as error:
        raise UsageError(f"retiring task {task}: {'; '.join(validation_problems(error))}") from None
    with context.database.write() as session:
        retired = tasks.retire_task(session, task, retirement, actor=context.actor, at=context.now())
        holding = [release.name for release in releases.find_releases(session, holding=task).releases]
        live = channels.channels_with(session, task)
    if as_json:
        uses = {"releases": holding, "channels": {channel.name: channel.release for channel in live}}
        print_json({**retired.model_dump(mode="json"), "uses": uses})
        return
    print_line(f"retired task {retired.name}")
    if holding:
        print_line(f"still in {', '.join(holding[-_MOST_RELEASES:])}")
    for channel in live:
        update = f"trunkline release update --channel {channel.name} --remove {task}"
        print_line(f"live on {channel.name} in {channel.release}: `{update}` takes it out")


@app.command(epilog=example("trunkline task revive rte"))
def revive(ctx: typer.Context, task: TaskName, as_json: AsJson = False) -> None:
    """Make a retired task active again."""
    context: Context = ctx.obj
    with context.database.write() as session:
        revived = tasks.revive_task(session, task, actor=context.actor, at=context.now())
    if as_json:
        print_json(revived)
    else:
        print_line(f"task {revived.name} is active again")
