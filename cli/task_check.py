"""`trunkline task check`: a definition and its data, before anything is registered."""

import typer

from cli.application import AsJson, Context, example
from cli.rendering import number_column, print_fields, print_json, print_line, print_rest, print_table
from cli.task_data import DataFiles, Held, look_at_data, warn_of_data
from cli.tasks import SpecFile, read_spec
from registry.domain.task_specs import InputForm, TagScheme, TaskSpec, TaskType

app = typer.Typer()

_MOST_LABELS = 30
_NUMBERS = ("least", "mean", "greatest")


@app.command(epilog=example("trunkline task check rte.yaml"))
def check(ctx: typer.Context, file: SpecFile, as_json: AsJson = False) -> None:
    """Read a definition and its data files and show what they hold; needs no registry and changes none.

    What no run could use is refused, as `register` does.
    """
    context: Context = ctx.obj
    spec = read_spec(context.cwd / file)
    found = look_at_data(spec, read=True, hint="")
    if as_json:
        print_json(_told(spec, found))
    else:
        _print_found(spec, found)
    warn_of_data(spec, found)


def _told(spec: TaskSpec, found: DataFiles) -> dict[str, object]:
    return {
        "task": spec.task,
        "data": {
            split: {
                "rows": held.rows,
                "counts": dict(held.counts),
                "numbers": None if held.numbers is None else dict(zip(_NUMBERS, held.numbers, strict=True)),
            }
            for split, held in found.held.items()
        },
        "missing": list(found.missing),
        "dev_rows_in_train": found.dev_rows_in_train,
    }


def _print_found(spec: TaskSpec, found: DataFiles) -> None:
    pairs = " of pairs" if spec.input_form is InputForm.PAIR else ""
    files = [
        (f"{split} data", f"{_rows(held.rows)}, {getattr(spec.data, split)}") for split, held in found.held.items()
    ]
    shared = found.dev_rows_in_train
    both = [] if shared is None else [("dev rows in train", f"{shared:,}")]
    print_fields([("task", f"{spec.task}: {spec.type}{pairs}, {spec.metric}"), *files, *both])
    if not found.held:
        return
    print_line("")
    columns = [number_column(split) for split in found.held]
    if spec.type is TaskType.REGRESSION:
        numbers = zip(*(held.numbers or () for held in found.held.values()), strict=True)
        rows = [(name, *(f"{value:.4g}" for value in values)) for name, values in zip(_NUMBERS, numbers, strict=True)]
        print_table(["target", *columns], rows)
        return
    shown = spec.labels[:_MOST_LABELS]
    rows = [(label, *(_count(spec, held, label) for held in found.held.values())) for label in shown]
    print_table([_what_is_counted(spec), *columns], rows)
    print_rest(len(spec.labels) - len(shown), "more; --json shows all")


def _what_is_counted(spec: TaskSpec) -> str:
    return {None: "label", TagScheme.BIO: "spans of", TagScheme.PLAIN: "words with"}[spec.tag_scheme]


def _count(spec: TaskSpec, held: Held, label: str) -> str:
    count = held.counts[label]
    return f"{count:,}" if spec.type is TaskType.TOKEN_CLASSIFICATION else f"{count:,} ({count / held.rows:.0%})"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
