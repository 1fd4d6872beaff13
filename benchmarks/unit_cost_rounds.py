"""Unit costs of a task on a sample of its own rows: the fastest setting of each side, then rounds in turn."""

import statistics
from typing import Any

from cost_setting import Setting
from printed_tables import say
from unit_costs import Job, Lanes, filling_seconds, in_turn

from pipelines.training.recipes import Distillation, Recipe


def measure_units(setting: Setting, task: str) -> None:
    """Writes `units-TASK`, with one row a repeat, side and shape."""
    found = setting.kept(f"units-{task}") or {"setting": None, "seconds": {}, "filling": None}
    files = setting.files(task)
    rows = min(setting.sample_rows, len(files.train))
    # A stated sample: every n-th row, so that its lengths are those of the whole.
    sample = files.train[:: max(1, len(files.train) // rows)][:rows]
    spec = files.spec(train=sample, dev=files.dev[:rows], called=f"sample{rows}")
    one = setting.recipe.model_copy(update={"epochs": 1, "evaluate_from": 1})
    taught = one.model_copy(update={"distillation": Distillation()})
    N = setting.backbone_layers  # noqa: N806
    shared = {"folder": setting.workshop.folder, "model": setting.model, "spec": spec}

    def job(side: Any, layers: int, *, depth: int | None = None, recipe: Recipe = one, **more: Any) -> Job:
        return Job(
            side=side,
            frozen_depth=N - layers if depth is None else depth,
            task_layers=layers,
            recipe=recipe,
            **shared,
            **more,
        )

    middle = setting.measured_layers[len(setting.measured_layers) // 2]
    with Lanes(setting.cores) as lanes:
        if found["setting"] is None:
            threads = sorted({1, setting.cores})
            tried = {
                f"{side} {count} {attention}": job(side, middle, threads=count, attention=attention)
                for count in threads
                for side, attention in (("trunkline", "sdpa"), ("trainer", "sdpa"), ("trainer", "eager"))
            }
            times = in_turn(lanes, tried, repeats=2, say=say)
            fastest = {
                side: min(
                    (name for name in times if name.startswith(f"{side} ")),
                    key=lambda name: statistics.median(one.epoch for one in times[name]),
                )
                for side in ("trunkline", "trainer")
            }
            found["setting"] = {
                "rows": len(sample),
                "dev_rows": len(files.dev[:rows]),
                "layers": middle,
                "tried": {name: statistics.median(one.epoch for one in seconds) for name, seconds in times.items()},
                "fastest": fastest,
            }
            setting.keep(f"units-{task}", found)
        chosen = {side: name.split() for side, name in found["setting"]["fastest"].items()}
        jobs = {}
        for side, (_, threads_text, attention) in chosen.items():
            how = {"threads": int(threads_text), "attention": attention}
            for layers in setting.measured_layers:
                jobs[f"{side} teacher {layers}"] = job(side, layers, **how)
            for layers in setting.students:
                jobs[f"{side} student {layers}"] = job(side, layers, depth=N - middle, recipe=taught, **how)
        while (number := len(next(iter(found["seconds"].values()), []))) < setting.repeats:
            for name, (seconds,) in in_turn(lanes, jobs, repeats=1, say=say).items():
                found["seconds"].setdefault(name, []).append(seconds)
            say(f"{task}: unit costs, round {number + 1} of {setting.repeats}")
            setting.keep(f"units-{task}", found)
    if found["filling"] is None:
        deepest = job("trunkline", N - max(N - layers for layers in setting.layers), threads=1)
        found["filling"] = filling_seconds(deepest)
        setting.keep(f"units-{task}", found)
