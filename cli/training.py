"""`train` and `distil`: read the task in one short transaction, run a trial, register what it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.application import AsJson, Context, example
from cli.cache_cost import say_cache_cost
from cli.devices import DeviceOption, chosen_device
from cli.progress import progress_bar
from cli.release_drawing import layers_of_its_own
from cli.rendering import print_fields, print_json, print_note, print_warning
from registry.domain.manifests import Gather, HeadConfig, Pooling, head_problems
from registry.domain.records import Backbone, TaskState, Version
from registry.domain.references import check_name, parse_reference
from registry.domain.task_specs import TaskSpec
from registry.errors import ArtifactDamaged, ArtifactError, NotAllowed, UsageError
from registry.fault_points import reached
from registry.services import backbones, tasks, versions
from registry.services.blobs import refer_to

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from pipelines.training.recipes import Distillation
    from pipelines.training.trial_run import TrialRun
    from pipelines.training.trials import Trial

app = typer.Typer()

WEAK_STUDENT = 0.95
"""Below this share of its teacher's metric a student is worth a warning. The students of the paper's mixed model
keep 98 % and more (table 2, "mixed" against "w/o KD")."""

Seed = Annotated[int, typer.Option(min=0, help="Decides initial weights, order and dropout.")]
RecipeOption = Annotated[
    Literal["default", "paper"], typer.Option("--recipe", help="paper: the paper's learning rate, 2e-5, at any width.")
]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Learning rate. Else by the encoder's width.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Passes over the data; the best from the third on is kept. [default: 5]")
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option("--precision", help="What training multiplies in; auto: bf16 where the hardware is faster in it."),
]


@dataclass(frozen=True)
class RunOptions:
    """What `train` and `distil` let the caller choose about a run."""

    seed: int
    recipe: Literal["default", "paper"]
    learning_rate: float | None
    epochs: int | None
    precision: Literal["auto", "fp32", "bf16"]
    device: str


@app.command(epilog=example("trunkline train rte --layers 4", "trunkline train rte --layers 4 --seed 1 --epochs 3"))
def train(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="A registered task.")],
    layers: Annotated[int, typer.Option(help="L: how many top layers of the backbone to fine-tune.")],
    backbone: Annotated[str | None, typer.Option(help="A pinned backbone; may be left out when there is one.")] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="What the head reads of a text: its first piece, or the mean of all.")
    ] = "first",
    gather: Annotated[
        Gather, typer.Option(help="Which hidden states the head reads: the last one, or a learnt mix of all.")
    ] = "last",
    crf: Annotated[
        bool, typer.Option("--crf", help="Learn what tag follows what, and answer with legal BIO only.")
    ] = False,
    seed: Seed = 0,
    recipe: RecipeOption = "default",
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Fine-tune the top L layers for a task and register the module as a new version.

    The layers below stay frozen and are computed once per data set. The same trial is never run twice: asking again
    gives the version that exists, and an interrupted run goes on where it stopped.
    """
    context: Context = ctx.obj
    check_name("task", task)
    with context.database.read() as session:
        found = tasks.get_task(session, task)
        trunk = backbone_of(session, backbone)
    refuse_retired(task, found.state)
    trial = _trial(
        found.spec,
        found.spec_revision,
        trunk,
        frozen_depth=trunk.layer_count - layers,
        layers=layers,
        head=chosen_head(found.spec, pooling=pooling, gather=gather, crf=crf),
        teacher=None,
        run=RunOptions(seed, recipe, learning_rate, epochs, precision, device),
        distillation=None,
    )
    _run_and_show(context, trial, device, as_json=as_json)


@app.command(epilog=example("trunkline distil rte/3 --layers 1", "trunkline distil rte@champion --layers 2 --depth 8"))
def distil(
    ctx: typer.Context,
    teacher: Annotated[str, typer.Argument(help="The version to distil: TASK/NUMBER or TASK@ALIAS.")],
    layers: Annotated[int, typer.Option(help="l: how many layers the student has.")],
    depth: Annotated[
        int | None, typer.Option(help="k': where the student leaves the trunk. [default: the teacher's depth]")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens both outputs. [default: 2]")] = None,
    soft_weight: Annotated[
        float | None, typer.Option(help="Weight of the teacher's outputs; labels get the rest. [default: 0.7]")
    ] = None,
    hidden_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the distance to what the teacher's head reads, beside the others. [default: 0]"),
    ] = None,
    init: Annotated[
        Literal["teacher", "backbone"],
        typer.Option(help="What the student begins as: the teacher's layers and head, or the backbone's layers."),
    ] = "teacher",
    seed: Seed = 0,
    recipe: RecipeOption = "default",
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Distil a version into a student of few layers and register it as a new version.

    A student may leave the trunk at any depth at or above its teacher's; it starts from the teacher's own layers
    there and the teacher's head, unless --init says otherwise. What its head reads is what the teacher's reads.
    """
    context: Context = ctx.obj
    reference = parse_reference(teacher)
    with context.database.read() as session:
        source = versions.get_version(session, reference)
        found = tasks.get_task(session, source.task)
        trunk = backbones.get_backbone(session, source.backbone)
        taught = tasks.get_spec(session, source.task, source.spec_revision)
    refuse_retired(source.task, found.state)
    if taught.interface != found.spec.interface:
        raise UsageError(
            f"{source.reference} has another type, input form or labels than spec revision {found.spec_revision}: "
            f"train a teacher for that revision first (trunkline train {source.task} --layers {source.task_layers})"
        )
    trial = _trial(
        found.spec,
        found.spec_revision,
        trunk,
        frozen_depth=source.frozen_depth if depth is None else depth,
        layers=layers,
        head=source.head,
        teacher=source,
        run=RunOptions(seed, recipe, learning_rate, epochs, precision, device),
        distillation=chosen_distillation(
            temperature=temperature, soft_weight=soft_weight, hidden_weight=hidden_weight, initialisation=init
        ),
    )
    _run_and_show(context, trial, device, as_json=as_json)


def _only_backbone(pinned: list[Backbone]) -> Backbone:
    if len(pinned) == 1:
        return pinned[0]
    if not pinned:
        raise UsageError("no backbone is pinned: pin one first (trunkline backbone pin NAME FOLDER)")
    raise UsageError(f"several backbones are pinned ({', '.join(b.name for b in pinned)}): choose one with --backbone")


def backbone_of(session: "Session", name: str | None) -> Backbone:
    """The backbone of this name, or the only one there is."""
    return backbones.get_backbone(session, name) if name else _only_backbone(backbones.list_backbones(session))


def refuse_retired(task: str, state: TaskState) -> None:
    """Refused here too, and not only when the version is registered: training takes long."""
    if state is TaskState.RETIRED:
        raise NotAllowed(
            f"task {task} is retired and takes no new versions; revive it first (trunkline task revive {task})"
        )


def chosen_head(spec: TaskSpec, *, pooling: Pooling, gather: Gather, crf: bool) -> HeadConfig:
    """The head that was asked for; raises UsageError with every reason why this task cannot have it."""
    if problems := head_problems(type=spec.type, tag_scheme=spec.tag_scheme, pooling=pooling, crf=crf):
        raise UsageError(f"task {spec.task} cannot have this head: {'; '.join(problems)}")
    return HeadConfig(type=spec.type, outputs=spec.output_count, pooling=pooling, gather=gather, crf=crf)


def chosen_distillation(**chosen: object) -> "Distillation":
    """With the defaults for what is None."""
    from pipelines.training.recipes import Distillation, checked

    return checked(Distillation, {name: value for name, value in chosen.items() if value is not None})


def _trial(
    spec: TaskSpec,
    spec_revision: int,
    backbone: Backbone,
    *,
    frozen_depth: int,
    layers: int,
    head: HeadConfig,
    teacher: Version | None,
    run: RunOptions,
    distillation: "Distillation | None",
) -> "Trial":
    from modeling.precision import best_precision
    from pipelines.data.dataset import load_dataset
    from pipelines.training.recipes import make_recipe
    from pipelines.training.trials import Trial, check_shape

    # Before the data are read: a wrong number should be answered at once.
    check_shape(spec.task, backbone=backbone, frozen_depth=frozen_depth, task_layers=layers, teacher=teacher)
    recipe = make_recipe(
        run.recipe,
        hidden_size=backbone.hidden_size,
        precision=best_precision(chosen_device(run.device)) if run.precision == "auto" else run.precision,
        learning_rate=run.learning_rate,
        epochs=run.epochs,
        distillation=distillation,
    )
    return Trial(
        spec=spec,
        spec_revision=spec_revision,
        backbone=backbone,
        train=load_dataset(spec, "train"),
        dev=load_dataset(spec, "dev"),
        frozen_depth=frozen_depth,
        task_layers=layers,
        recipe=recipe,
        seed=run.seed,
        head=head,
        teacher=teacher,
    )


def _run_and_show(context: Context, trial: "Trial", device: str, *, as_json: bool) -> None:
    version = run_trial(context, trial, device, says_cost=True, for_another="choose another --seed for another run")
    _print_version(version, trial, as_json=as_json)


def run_trial(
    context: Context,
    trial: "Trial",
    device: str,
    *,
    depths: Sequence[int] = (),
    says_cost: bool = False,
    for_another: str = "",
) -> Version:
    """Runs a trial and registers the version that it makes; one that has been run before gives the version that exists.

    Args:
        depths: frozen depths that other trials on the same data will ask for.
        says_cost: say beforehand what the cache will take on the disk, which tokenises the data once more.
        for_another: what to do where another run than the one that exists was wanted.
    Raises:
        Conflict: another process is running this very trial.
        TrainingFailed, StorageError: as `TrialRun.run`.
    """
    from pipelines.training.trial_run import open_trial

    reached("train.data-read")
    limit = context.settings.activation_cache_bytes
    with open_trial(trial, context.settings.home, depths=depths, cache_bytes=limit) as held:
        with context.database.read() as session:
            version = versions.find_trial(session, trial.spec.task, trial.key)
        if version is None:
            if says_cost:
                _say_cost(context, trial)
            version = _register(context, held, device)
        else:
            hint = f"; {for_another}" if for_another else ""
            print_note(f"this trial has been run before: {version.reference}{hint}")
            _mend(context, held, version, device)
        held.forget()
    reached("train.trial-forgotten")
    return version


def _register(context: Context, held: "TrialRun", device: str) -> Version:
    from pipelines.tracking import LoggedTrial, Tracking

    tracking = Tracking(context.settings.mlflow_uri, context.settings.mlflow_artifact_location)
    with progress_bar() as report:
        trained = held.run(store=context.store, device=chosen_device(device), report=report)
        report("MLflow", 0, 1)
        state = trained.state
        logged = LoggedTrial.of(
            trained.trial, losses=state.epoch_losses, metrics=state.epoch_metrics, best=trained.metrics
        )
        run = tracking.log_trial(logged)
        report("MLflow", 1, 1)
    reached("train.run-logged")
    new = trained.to_version(context.store, mlflow_run=run)
    reached("train.blobs-stored")
    with context.database.write() as session:
        refer_to(session, context.store, new.blobs)
        version = versions.register_version(session, new, actor=context.actor, at=context.now())
    reached("train.committed")
    if run:
        tracking.tag_version(run, str(version.reference))
        reached("train.run-tagged")
    return version


def _say_cost(context: Context, trial: "Trial") -> None:
    taught = [] if trial.teacher is None else [trial.teacher.frozen_depth]
    say_cache_cost(
        context,
        trial.backbone,
        train=trial.train,
        dev=trial.dev,
        head=trial.head,
        precision=trial.recipe.precision,
        depths=[trial.frozen_depth, *taught],
    )


def _mend(context: Context, held: "TrialRun", version: Version, device: str) -> None:
    """Runs the trial of a version again where its blobs are damaged or gone; the same bytes take their place."""
    try:
        for blob in version.blobs:
            context.store.verify(blob)
    except ArtifactError as damage:
        print_note(f"{version.reference}: {damage}")
        with progress_bar() as report:
            trained = held.run(store=context.store, device=chosen_device(device), report=report)
        again = trained.to_version(context.store, mlflow_run=None)
        if again.blobs != version.blobs:
            raise ArtifactDamaged(
                f"{version.reference} cannot be made again: the same trial gives other numbers here (other machine, "
                "threads or library versions); restore its blobs from a copy, or train with another --seed"
            ) from damage
        print_note(f"{version.reference}: mended by running its trial again")


def _print_version(version: Version, trial: "Trial", *, as_json: bool) -> None:
    metric = trial.spec.metric
    if as_json:
        print_json(version)
    else:
        others = ", ".join(f"{name} {value:.3f}" for name, value in version.metrics.items() if name != metric)
        taught = trial.teacher
        fields = [
            ("version", f"{version.reference} ({version.kind})"),
            ("branch", f"leaves after layer {version.frozen_depth}, with {layers_of_its_own(version.task_layers)}"),
            ("dev", f"{metric} {version.metrics[metric]:.4f} ({version.statistic})"),
            *([("", others)] if others else []),
            *(
                [("teacher", f"{taught.reference}, {metric} {taught.metrics[metric]:.4f} ({taught.statistic})")]
                if taught
                else []
            ),
            *([("MLflow run", version.mlflow_run)] if version.mlflow_run else []),
        ]
        print_fields(fields)
    if version.metrics[metric] <= 0:
        print_warning(
            f"{version.reference} has {metric} {version.metrics[metric]:.4f}, no better than answers at random: more "
            "--epochs, another --lr, or more data"
        )
    elif trial.teacher is not None:
        warn_of_weak_student(version, trial.teacher, metric=metric, epochs=trial.recipe.epochs)


def warn_of_weak_student(version: Version, teacher: Version, *, metric: str, epochs: int) -> None:
    """A student far below its teacher has mostly seen too few steps, or has too few layers: better said at once."""
    if teacher.dev_digest != version.dev_digest:
        return
    kept, before = version.metrics[metric], teacher.metrics[metric]
    if before > 0 and kept < WEAK_STUDENT * before:
        print_warning(
            f"{version.reference} keeps {max(kept, 0) / before:.0%} of its teacher's {metric}: where data are few, "
            f"more epochs help (this run: {epochs}), on a hard task more layers"
        )
