"""`trunkline release update|try`: the live release with some tasks changed, held to the live one by the gates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from sqlalchemy.orm import Session

from cli.application import AsJson, Context, example
from cli.devices import chosen_device
from cli.number_lists import numbers_of, positive_or_zero
from cli.progress import progress_bar
from cli.release_findings import print_findings, refuse_failed, refuse_with_table
from cli.release_life import ChannelOption
from cli.releases import print_release, refuse_retired_selection, sunset_notes
from cli.rendering import print_json, print_line, print_warning
from registry.domain.manifests import Manifest, parse_manifest
from registry.domain.records import Backbone, Member, Release, Version
from registry.domain.references import VersionReference, check_name, parse_reference
from registry.domain.release_life import Channel
from registry.errors import UsageError
from registry.progress import Report
from registry.services import backbones, channels, release_states, releases, versions
from registry.services.blobs import refer_to

if TYPE_CHECKING:
    from pipelines.assembly.comparison_gates import ChangedTask, Limits
    from pipelines.assembly.release_assembly import AssembledRelease

app = typer.Typer()

TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="VERSION", help="A task's other version, TASK/NUMBER or TASK@ALIAS; may be repeated."
    ),
]
AddOption = Annotated[
    list[str] | None, typer.Option("--add", metavar="VERSION", help="A task that is not in it yet; may be repeated.")
]
RemoveOption = Annotated[
    list[str] | None, typer.Option("--remove", metavar="TASK", help="A task to leave out; may be repeated.")
]
ToleranceOption = Annotated[
    str | None,
    typer.Option(
        metavar="POINTS",
        help="How much a changed task may lose, or TASK=POINTS for some, as in 1,rte=2. [default: 0.5]",
    ),
]
RetentionOption = Annotated[
    float,
    typer.Option("--least-retention", metavar="SHARE", help="Share of its teacher's score that a student must keep."),
]
AcceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-contract",
        metavar="TASK=NOTE",
        help="Let this task's labels, type or input form change; the note is kept with what was found.",
    ),
]
LayersOption = Annotated[int | None, typer.Option(min=1, help="The most layers that the release may have.")]
ParametersOption = Annotated[int | None, typer.Option(min=1, help="The most parameters that the release may have.")]


@app.command(
    epilog=example(
        "trunkline release update --channel production --task rte/4",
        "trunkline release update --channel production --add sst/1 --remove mnli --max-layers 40",
    )
)
def update(
    ctx: typer.Context,
    channel: ChannelOption,
    task: TaskOption = None,
    add: AddOption = None,
    remove: RemoveOption = None,
    tolerance: ToleranceOption = None,
    least_retention: RetentionOption = 0.9,
    accept_contract: AcceptOption = None,
    max_layers: LayersOption = None,
    max_parameters: ParametersOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a release that differs from the live one in these tasks alone, and hold it to the live one.

    Beside what `release verify` runs: the output contract of each changed task, its score on the same dev rows, what a
    student keeps of its teacher, the budget, and that every other task answers bit for bit as before. What fails is
    kept with the draft, and ends with code 3. Nothing is promoted.
    """
    context: Context = ctx.obj
    limits = _limits(tolerance, least_retention, accept_contract, max_layers, max_parameters)
    wanted = _Wanted.of(task, add, remove)
    proposal = _proposal(context, channel, wanted)
    assembled = _judged(context, proposal, limits)
    if assembled.parameters is None:  # no model could be built of it: there is nothing to keep a draft of
        refuse_with_table(assembled.findings, as_json=as_json)
    release = _register(context, assembled)
    if as_json:
        print_json({"live": proposal.live.name, "release": release.model_dump(mode="json"), **_document(assembled)})
    else:
        print_release(release, assembled.manifest, as_json=False)
        print_line("")
        print_findings(assembled.findings)
    refuse_failed(assembled.findings)
    if not as_json:
        if not proposal.channel.accepts(release.state):
            print_line(f"first: trunkline release approve {release.name}")
        print_line(
            f"live with: trunkline release promote {release.name} --channel {channel} --expect {proposal.live.name}"
        )


@app.command("try", epilog=example("trunkline release try --channel production --task rte/4"))
def try_(
    ctx: typer.Context,
    channel: ChannelOption,
    task: TaskOption = None,
    add: AddOption = None,
    remove: RemoveOption = None,
    tolerance: ToleranceOption = None,
    least_retention: RetentionOption = 0.9,
    accept_contract: AcceptOption = None,
    max_layers: LayersOption = None,
    max_parameters: ParametersOption = None,
    as_json: AsJson = False,
) -> None:
    """See what `release update` would do and find, without making anything."""
    context: Context = ctx.obj
    limits = _limits(tolerance, least_retention, accept_contract, max_layers, max_parameters)
    proposal = _proposal(context, channel, _Wanted.of(task, add, remove))
    assembled = _judged(context, proposal, limits)
    if as_json:
        print_json({"live": proposal.live.name, **_document(assembled)})
    else:
        print_findings(assembled.findings)
    refuse_failed(assembled.findings)


class _Wanted(NamedTuple):
    """The changes that are asked for, by task."""

    changed: Sequence[str]
    added: Sequence[str]
    removed: Sequence[str]

    @classmethod
    def of(cls, changed: list[str] | None, added: list[str] | None, removed: list[str] | None) -> "_Wanted":
        if not (changed or added or removed):
            raise UsageError("say what to change with --task VERSION, --add VERSION or --remove TASK")
        for task in removed or ():
            check_name("task", task)
        return cls(changed or (), added or (), removed or ())


class _Proposal(NamedTuple):
    channel: Channel
    live: Release
    live_manifest: Manifest
    backbone: Backbone
    members: Sequence[Member]
    changed: "Sequence[ChangedTask]"
    compared: Sequence[Member]
    """Every version that a changed task is compared by."""


def _proposal(context: Context, channel: str, wanted: _Wanted) -> _Proposal:
    """The live release's selection with the changes; raises UsageError with all that does not fit it."""
    from pipelines.assembly.comparison_gates import ChangedTask

    with context.database.read() as session:
        found, live = channels.get_channel(session, channel), channels.live_release(session, channel)
        named = versions.get_versions(session, [parse_reference(one) for one in (*wanted.changed, *wanted.added)])
        selection = _selection(live, wanted, named)
        references = [VersionReference(task=task, number=number) for task, number in selection.items()]
        members = releases.members_of(session, versions.get_versions(session, references), at=context.now())
        leaving = sunset_notes(session, selection)
        changed = [
            ChangedTask(
                member.version.task,
                member.spec,
                _version(session, member.version.task, live.tasks.get(member.version.task)),
                member.version,
                _version(session, member.version.task, member.version.teacher),
            )
            for member in members
            if live.tasks.get(member.version.task) != member.version.number
        ]
        backbone = backbones.get_backbone(session, live.backbone)
        of_changed = [one for task in changed for one in (task.old, task.new, task.teacher) if one is not None]
        compared = releases.members_of(session, of_changed, at=context.now())
    for note in leaving:
        print_warning(note)
    manifest = parse_manifest(context.store.read(live.manifest), f"manifest of release {live.name}")
    return _Proposal(found, live, manifest, backbone, members, changed, compared)


def _selection(live: Release, wanted: _Wanted, named: Sequence[Version]) -> dict[str, int]:
    changed, added = named[: len(wanted.changed)], named[len(wanted.changed) :]
    tasks = [version.task for version in named] + list(wanted.removed)
    problems = [f"{task} is named twice" for task in sorted({task for task in tasks if tasks.count(task) > 1})]
    problems += [
        f"--task {version.reference}: {live.name} does not hold {version.task}; --add puts it in"
        for version in changed
        if version.task not in live.tasks
    ]
    problems += [
        f"--add {version.reference}: {live.name} holds {version.task}/{live.tasks[version.task]}; --task changes it"
        for version in added
        if version.task in live.tasks
    ]
    problems += [f"--remove {task}: {live.name} does not hold it" for task in wanted.removed if task not in live.tasks]
    if problems:
        raise UsageError("; ".join(problems))
    selection = {**live.tasks, **{version.task: version.number for version in named}}
    selection = {task: number for task, number in selection.items() if task not in wanted.removed}
    if not selection:
        raise UsageError("no task would be left")
    if selection == dict(live.tasks):
        raise UsageError(f"{live.name} holds exactly this already: there is nothing to change")
    return selection


def _version(session: Session, task: str, number: int | None) -> Version | None:
    return None if number is None else versions.get_version(session, VersionReference(task=task, number=number))


def _limits(
    tolerance: str | None,
    least_retention: float,
    accepted: list[str] | None,
    max_layers: int | None,
    max_parameters: int | None,
) -> "Limits":
    from pipelines.assembly.comparison_gates import Limits

    parts = [part.strip() for part in tolerance.split(",")] if tolerance else []
    for_tasks = numbers_of(",".join(part for part in parts if "=" in part), "--tolerance")
    for_all = [positive_or_zero(part, "--tolerance") for part in parts if "=" not in part]
    if len(for_all) > 1 or any(points < 0 for points in for_tasks.values()):
        raise UsageError(
            f"--tolerance {tolerance}: write points from 0 up, once for all tasks, and TASK=POINTS for some"
        )
    if not 0 <= least_retention <= 1:
        raise UsageError("--least-retention: is a share, from 0 to 1")
    return Limits(
        tolerance=for_all[0] if for_all else Limits().tolerance,
        tolerances=for_tasks,
        least_retention=least_retention,
        accepted=dict(_accepted(one) for one in accepted or ()),
        most_layers=max_layers,
        most_parameters=max_parameters,
    )


def _accepted(option: str) -> tuple[str, str]:
    """The task, and the note that says why."""
    task, _, note = option.partition("=")
    if not note.strip():
        raise UsageError(f"--accept-contract {option}: say why, as in {task or 'TASK'}='agreed with its readers'")
    return check_name("task", task), note.strip()


def _refuse_unknown(limits: "Limits", proposal: _Proposal) -> None:
    """A mistyped task must not leave the default in force."""
    changed = {one.task for one in proposal.changed if one.old is not None}
    problems = [
        f"{option}: {task} is not changed"
        for option, tasks in (("--tolerance", limits.tolerances), ("--accept-contract", limits.accepted))
        for task in sorted(set(tasks) - changed)
    ]
    if problems:
        raise UsageError("; ".join(problems))


def _judged(context: Context, proposal: _Proposal, limits: "Limits") -> "AssembledRelease":
    from pipelines.assembly import release_assembly
    from pipelines.assembly.comparison_gates import LiveRelease

    manifest = release_assembly.draft(proposal.backbone, proposal.members)
    refuse_retired_selection(context, manifest)
    _refuse_unknown(limits, proposal)
    with progress_bar() as report:
        changed = _with_missing_predictions(context, proposal, report)
        against = LiveRelease(proposal.live_manifest, changed, limits)
        return release_assembly.verify(manifest, store=context.store, report=report, against=against)


def _with_missing_predictions(context: Context, proposal: _Proposal, report: Report) -> "list[ChangedTask]":
    """The changed tasks; what was scored on other dev data answers the task's dev file anew, where that fits."""
    from pipelines.assembly.reevaluation import Evaluator, evaluated_anew

    settings = context.settings
    evaluator = Evaluator(
        context.store, settings.home / "cache", settings.activation_cache_bytes, chosen_device("auto"), report
    )
    return [
        evaluated_anew(
            one,
            {member.version.number: member for member in proposal.compared if member.version.task == one.task},
            evaluator,
        )
        for one in proposal.changed
    ]


def _register(context: Context, assembled: "AssembledRelease") -> Release:
    """As verified, or as a draft with what failed."""
    from pipelines.assembly import release_assembly

    new = release_assembly.new_release(assembled.manifest, context.store, gates=None)
    actor, at = context.actor, context.now()
    with context.database.write() as session:
        refer_to(session, context.store, (new.manifest, *assembled.manifest.blobs))
        release = releases.register_release(session, new, actor=actor, at=at)
        return release_states.record_verification(session, release.name, assembled.gates, actor=actor, at=at)


def _document(assembled: "AssembledRelease") -> dict[str, object]:
    return {**assembled.gates, "layer_count": assembled.manifest.layers_in_use}
