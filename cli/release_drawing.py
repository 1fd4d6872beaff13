"""A release as a picture in the terminal: the trunk from top to bottom, each branch where it leaves."""

from collections.abc import Mapping

from registry.domain.manifests import BranchManifest, Manifest

_LAYER = "■"


def draw(manifest: Manifest, notes: Mapping[str, str] | None = None) -> list[str]:
    """One line a trunk layer, and one more for every further branch that leaves at the same depth.

    Args:
        notes: task -> what stands beside its branch, in place of its type.
    """
    notes = notes or {}
    leaving: dict[int, list[tuple[str, BranchManifest]]] = {}
    for task, branch in sorted(manifest.tasks.items()):
        leaving.setdefault(branch.frozen_depth, []).append((task, branch))
    longest = max(branch.task_layers for branch in manifest.tasks.values())
    widest = max(len(f"{task}/{branch.version}") for task, branch in manifest.tasks.items())
    lines = []
    for depth in range(manifest.trunk.depth + 1):
        station = "○ embeddings" if depth == 0 else f"{_LAYER} layer {depth}"
        lines += _station(f"{station:<12}", leaving.get(depth, []), longest, widest, notes)
    lines += [
        f"· layer {depth:<4} not needed" for depth in range(manifest.trunk.depth + 1, manifest.trunk.layer_count + 1)
    ]
    return lines


def summary(manifest: Manifest) -> str:
    """The layer count against one model a task."""
    depth, count, separate = manifest.trunk.depth, manifest.layers_in_use, manifest.layers_if_separate
    return (
        f"{depth} shared + {layers_of_its_own(count - depth)} = {count}, instead of "
        f"{len(manifest.tasks)} × {manifest.trunk.layer_count} = {separate} ({count / separate:.0%})"
    )


def layers_of_its_own(count: int) -> str:
    return f"{count} task layer{'s' if count > 1 else ''}"


def _station(
    station: str,
    branches: list[tuple[str, BranchManifest]],
    longest: int,
    widest: int,
    notes: Mapping[str, str],
) -> list[str]:
    if not branches:
        return [station.rstrip()]
    lines = []
    for number, (task, branch) in enumerate(branches):
        first, last = number == 0, number == len(branches) - 1
        joint = "───" if first and last else "─┬─" if first else " └─" if last else " ├─"
        layers = "─".join([_LAYER] * branch.task_layers)
        reach = 2 * (longest - branch.task_layers)
        label = f"{f'{task}/{branch.version}':<{widest}}  {notes.get(task, branch.type)}"
        lines.append(f"{station if first else ' ' * len(station)} {joint}{layers}{'─' * reach}─▶ {label}")
    return lines
