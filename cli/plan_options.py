"""From what `plan` is asked on the command line to numbers, versions and tasks; each wrong part refused by name."""

from collections.abc import Collection, Mapping

from cli.application import Context
from cli.number_lists import numbers_of
from registry.domain.references import AliasReference, VersionReference, check_name, parse_reference
from registry.errors import UsageError
from registry.services import versions


def refuse_together(*rules: tuple[str, bool, Mapping[str, object | None]]) -> None:
    """Each rule: an option, whether it is given, and the options that it does not go with."""
    for option, is_given, others in rules:
        if is_given and (given := [name for name, value in others.items() if value is not None]):
            raise UsageError(f"{', '.join(given)}: does not go with {option}")


def task_changes(text: str | None, *, among: Collection[str]) -> tuple[set[str], set[str]]:
    """Tasks that come and tasks that go: "+sst,-rte" -> ({"sst"}, {"rte"})."""
    added: set[str] = set()
    removed: set[str] = set()
    for part in text.split(",") if text is not None else ():
        sign, task = part.strip()[:1], part.strip()[1:]
        if sign not in ("+", "-"):
            raise UsageError(f"--what-if {part}: write +TASK or -TASK")
        (added if sign == "+" else removed).add(check_name("task", task))
    if twice := sorted(added & removed):
        raise UsageError(f"--what-if: {', '.join(twice)} cannot both come and go")
    if unknown := sorted((added | removed) - set(among)):
        raise UsageError(f"--what-if: there is no task {', '.join(unknown)} to choose versions of")
    return added, removed


def task_weights(text: str | None, *, among: Collection[str]) -> dict[str, float]:
    weights = numbers_of(text, "--weights")
    if unknown := sorted(weights.keys() - set(among)):
        raise UsageError(f"--weights: there is no task {', '.join(unknown)}")
    if any(weight <= 0 for weight in weights.values()):
        raise UsageError("--weights: must be above 0; --exclude leaves a task out")
    return weights


def pinned_versions(context: Context, text: str | None, *, from_file: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(",") if text else ():
        reference = parse_reference(part.strip())
        if isinstance(reference, AliasReference):
            if from_file:
                raise UsageError(f"--pin {part}: name a version, as in rte/3")
            with context.database.read() as session:
                reference = VersionReference(
                    task=reference.task, number=versions.get_version(session, reference).number
                )
        if reference.task in found:
            raise UsageError(f"--pin: names {reference.task} twice")
        found[reference.task] = reference.number
    return found
