"""`trunkline version`: what a version is, and what made it."""

from typing import Annotated, Any

import typer

from cli.application import AsJson, Context, example
from cli.rendering import moment, print_fields, print_json, short_digest
from registry.domain.records import Version
from registry.domain.references import parse_reference
from registry.services import versions

app = typer.Typer(no_args_is_help=True, help="Versions: trained modules, immutable.")


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


def _fields(version: Version) -> list[tuple[str, str]]:
    teacher = [("teacher", f"{version.task}/{version.teacher}")] if version.teacher else []
    return [
        ("version", f"{version.reference} ({version.kind})"),
        ("branch", f"{version.task_layers} of its own above layer {version.frozen_depth} of {version.backbone}"),
        ("dev", _list(version.metrics, places=4)),
        ("statistic", version.statistic),
        *teacher,
        ("spec revision", str(version.spec_revision)),
        ("recipe", _list(_flat(version.recipe))),
        ("seed", str(version.seed)),
        ("data", f"train {short_digest(version.train_digest)}, dev {short_digest(version.dev_digest)}"),
        ("module", short_digest(version.module)),
        ("P(k)", short_digest(version.prefix_digest)),
        ("environment", _list(version.environment)),
        ("MLflow run", version.mlflow_run or "none"),
        ("created (UTC)", f"{moment(version.created_at)} by {version.created_by}"),
    ]


def _flat(recipe: Any) -> dict[str, Any]:
    plain = {name: value for name, value in recipe.items() if not isinstance(value, dict) and value is not None}
    return plain | {name: value for part in recipe.values() if isinstance(part, dict) for name, value in part.items()}


def _list(values: Any, *, places: int | None = None) -> str:
    shown = {name: value if places is None else f"{value:.{places}f}" for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
