"""`trunkline version`: what a version is, and what made it; modules that were trained elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cli.application import AsJson, Context, example
from cli.devices import DeviceOption, chosen_device
from cli.progress import progress_bar
from cli.rendering import moment, print_fields, print_json, print_note, short_digest
from cli.yaml_files import read_yaml
from registry.artifacts.store import ArtifactStore
from registry.domain.module_manifests import parse_module_manifest
from registry.domain.records import Version
from registry.domain.references import check_name, parse_reference
from registry.errors import ArtifactDamaged, ArtifactError, InvalidInput
from registry.fault_points import reached
from registry.services import versions
from registry.services.blobs import refer_to
from registry.services.imports import plan_import

app = typer.Typer(no_args_is_help=True, help="Versions: trained modules, immutable.")

_MANIFEST = """A manifest, in YAML or JSON:

backbone: minilm
frozen_depth: 4             # k: the module begins after layer 4
task_layers: 2              # l
kind: teacher               # or student, with teacher: NUMBER

Optional: pooling (mean), gather (mix), crf (true), prefix_digest (P(k) of the backbone that it was trained on),
spec_revision, metrics (what it is said to reach), train_digest, seed, recipe (any fields), trained_by, source,
notes."""


@app.command(epilog=example("trunkline version show rte/3", "trunkline version show rte@champion --json"))
def show(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="TASK/NUMBER or TASK@ALIAS.")],
    as_json: AsJson = False,
) -> None:
    """Show one version: where its branch leaves, its metrics, and everything that made it."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = versions.get_version(session, parse_reference(version))
    if as_json:
        print_json(found)
    else:
        print_fields(_fields(found))


@app.command(
    "import", epilog=example("trunkline version import rte module.safetensors --manifest module.yaml", then=_MANIFEST)
)
def import_(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A registered task.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The module's weights: safetensors, as docs/modules.md describes.")
    ],
    manifest: Annotated[Path, typer.Option(metavar="FILE", help="What the weights do not say; see below.")],
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Register a module that was trained elsewhere as a new version, under the checks that a trained one passes.

    Its metrics, dev predictions and golden examples are computed here, on the task's dev data. The same module again
    gives the version that exists.
    """
    from pipelines.data.dataset import load_dataset
    from pipelines.importing import evaluate_module, read_module

    context: Context = ctx.obj
    check_name("task", task)
    subject = f"manifest {manifest}"
    told = parse_module_manifest(_content(context.cwd / manifest), subject)
    with context.database.read() as session:
        planned = plan_import(session, task, told, subject)
    module = read_module(context.cwd / file, planned)
    dev = load_dataset(planned.spec, "dev")
    train_digest = told.train_digest or load_dataset(planned.spec, "train").digest
    reached("import.checked")
    with progress_bar() as report:
        imported = evaluate_module(
            module,
            planned,
            subject=subject,
            dev=dev,
            train_digest=train_digest,
            store=context.store,
            caches=context.settings.home / "cache",
            device=chosen_device(device),
            report=report,
            cache_bytes=context.settings.activation_cache_bytes,
        )
    new = imported.to_version(context.store)
    reached("import.blobs-stored")
    with context.database.write() as session:
        refer_to(session, context.store, new.blobs)
        known = versions.find_trial(session, task, new.trial_key)
        version = versions.register_version(session, new, actor=context.actor, at=context.now())
    reached("import.committed")
    if known:
        if version.blobs != new.blobs:
            _refuse_unless_whole(context.store, version)
        print_note(f"this module has been imported before: it is {version.reference}")
    if as_json:
        print_json(version)
    else:
        print_fields(_fields(version))


def _refuse_unless_whole(store: ArtifactStore, version: Version) -> None:
    """What was made elsewhere, with other last digits, cannot be made again here: it is there or it is lost."""
    try:
        for blob in version.blobs:
            store.verify(blob)
    except ArtifactError as damage:
        raise ArtifactDamaged(
            f"{version.reference} was imported before, and a blob of it is lost or damaged ({damage}): this machine "
            "computes other last digits, so take it from a backup (`trunkline restore FILE --only-blobs`)"
        ) from damage


def _content(path: Path) -> object:
    """What a manifest holds: JSON where its name says so, else YAML."""
    if path.suffix.lower() != ".json":
        return read_yaml(path)
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_without_repeats)
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(str(path), [f"is not JSON: {error}"]) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(repeated)} stands there twice")
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _fields(version: Version) -> list[tuple[str, str]]:
    teacher = [("teacher", f"{version.task}/{version.teacher}")] if version.teacher else []
    return [
        ("version", f"{version.reference} ({version.kind})"),
        ("branch", f"{version.task_layers} of its own above layer {version.frozen_depth} of {version.backbone}"),
        ("head", _list(version.head.model_dump(mode="json"))),
        ("dev", _list(version.metrics, places=4)),
        ("statistic", version.statistic),
        *teacher,
        ("spec revision", str(version.spec_revision)),
        *_recipe_fields(version.recipe),
        ("seed", str(version.seed)),
        ("data", f"train {short_digest(version.train_digest)}, dev {short_digest(version.dev_digest)}"),
        ("module", short_digest(version.module)),
        ("P(k)", short_digest(version.prefix_digest)),
        ("environment", _list(version.environment)),
        ("MLflow run", version.mlflow_run or "none"),
        ("created (UTC)", f"{moment(version.created_at)} by {version.created_by}"),
    ]


def _recipe_fields(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The recipe; of a module that was trained elsewhere, apart from it what else its manifest told."""
    if "imported" not in recipe:
        return [("recipe", _list(flat_recipe(recipe)))]
    told = dict(recipe["imported"])
    own = _list(flat_recipe(told.pop("recipe", {})))
    claims = {f"claimed {metric}": value for metric, value in told.pop("metrics", {}).items()}
    return [(name, text) for name, text in (("recipe", own), ("as told", _list(told | claims))) if text]


def flat_recipe(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a recipe says, parts within parts by their dotted names; without what is None."""
    flat: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            flat |= flat_recipe(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _list(values: Any, *, places: int | None = None) -> str:
    shown = {name: value if places is None else f"{value:.{places}f}" for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
