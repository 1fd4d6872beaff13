"""`serve --estimate`: what a release bears on this machine, as tables."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.rendering import print_json, print_line, print_table

if TYPE_CHECKING:
    from serving.estimate import FormEstimate
    from serving.served_release import ServedRelease


def show_estimate(release: "ServedRelease", found: "Sequence[FormEstimate]", *, as_json: bool) -> None:
    if as_json:
        print_json({"release": release.name, "precision": release.precision, "forms": list(map(asdict, found))})
        return
    for number, form in enumerate(found):
        print_line(
            ("\n" if number else "") + f"{release.name} in {release.precision}, {form.form} texts of {form.pieces:.0f} "
            f"tokens (its tasks' golden examples), all tasks: {form.texts_per_second:,.0f} texts a second"
        )
        rows = [("trunk", str(release.manifest.trunk.depth), f"{form.trunk_share:.1%}", "")]
        rows += [
            (cost.task, str(cost.layers), f"{cost.share:.1%}", "" if without is None else f"{without:,.0f}")
            for cost in form.tasks
            for without in [cost.texts_per_second_without]
        ]
        print_table(["", "layers", "of a text's time", "texts/s without it"], rows)
        more = ", ".join(f"{rate:,.0f} with {layers}" for layers, rate in form.with_one_more.items())
        print_line(f"one more task, leaving the trunk where it is computed anyway, by its task layers:\n  {more}")
    print_line("\nthrough the engine, nothing cached; HTTP and JSON come on top (docs/serving_speed.md)")
