"""Whole runs by the clock: the default search by its command, and single teachers by `Trainer`."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmark_tasks import Home, end_command_with_parent, half_rows
from cost_setting import Setting
from printed_tables import say

from registry.database.engine import Database
from registry.domain.searches import Search
from registry.services import searches


def run_whole(setting: Setting, task: str) -> None:
    """Writes `whole-TASK`: the command's wall time, over all its starts."""
    files, name = setting.files(task), f"whole-{task}"
    found = setting.kept(name) or {"seconds": [], "finished": False}
    if found["finished"]:
        return
    spec = files.spec(dev=[files.dev[row] for row in half_rows(files.dev, "a", 0)], called="half0a")
    home = Home(setting.home / f"whole-{task}")
    home.register(setting.model, [spec])
    command = home.command(
        "search", "run", spec.task,
        "--layers", ",".join(map(str, setting.layers)),
        "--seeds", str(setting.seeds),
        "--students", ",".join(map(str, setting.students)),
        "--epochs", str(setting.epochs),
        "--student-epochs", str(setting.student_epochs),
        "--workers", str(setting.cores),
    )  # fmt: skip
    say(f"{task}: {' '.join(command[4:])}")
    began = time.monotonic()
    found["seconds"].append(0.0)
    with (setting.home / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdout=log,
            stderr=log,
            preexec_fn=end_command_with_parent,
        )
        try:
            while process.poll() is None:
                time.sleep(1)
                found["seconds"][-1] = time.monotonic() - began
                setting.keep(name, found)  # a kill loses a second of it
        finally:
            process.terminate()
            process.wait()
    found["seconds"][-1] = time.monotonic() - began
    if process.returncode:
        setting.keep(name, found)
        raise SystemExit(f"the search of {task} failed; see {log.name}")
    found["finished"] = True
    setting.keep(name, found)


def whole_search(setting: Setting, task: str) -> Search | None:
    """The search of `run_whole` as its ledger has it."""
    file = setting.home / f"whole-{task}" / "registry.db"
    if not file.exists():
        return None
    database = Database.open(f"sqlite:///{file}")
    try:
        with database.read() as session:
            found = searches.list_searches(session)
            return searches.get_search(session, found[0].task, found[0].number) if found else None
    finally:
        database.close()


def run_trainer(setting: Setting, task: str, count: int) -> None:
    """Some whole teachers by `Trainer`, in the setting that unit costs found the fastest; writes `trainer-TASK`."""
    units = setting.kept(f"units-{task}")
    if units is None or units["setting"] is None:
        raise SystemExit("the part trainer needs the part units first")
    _, threads, attention = units["setting"]["fastest"]["trainer"].split()
    lanes = setting.cores if threads == "1" else 1
    shapes = [(L, seed) for seed in range(setting.seeds) for L in setting.measured_layers][:count]
    found = setting.kept(f"trainer-{task}") or []
    done = {(one["layers"], one["seed"]) for one in found}
    left = [shape for shape in shapes if shape not in done]
    for first in range(0, len(left), lanes):
        running = [
            (shape, _start_trainer(setting, task, *shape, threads=threads, attention=attention))
            for shape in left[first : first + lanes]
        ]
        for (layers, seed), process in running:
            out, error = process.communicate()
            if process.returncode:
                raise SystemExit(f"Trainer failed: {error}")
            document = json.loads(out.splitlines()[-1])
            found.append(document | {"layers": layers, "seed": seed, "lanes": len(running)})
            say(f"{task}: Trainer L={layers} seed {seed}: {document['total_seconds']:.0f} s, {document['scores']}")
        setting.keep(f"trainer-{task}", found)


def _start_trainer(
    setting: Setting, task: str, layers: int, seed: int, *, threads: str, attention: str
) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("trainer_baseline.py")
    command = [
        sys.executable, str(script), "--model", str(setting.model), "--data", str(setting.data), "--task", task,
        "--frozen", str(setting.backbone_layers - layers), "--seed", str(seed), "--epochs", str(setting.epochs),
        "--threads", threads, "--attention", attention,
    ]  # fmt: skip
    if setting.limit_rows:
        command += ["--limit-rows", str(setting.limit_rows)]
    return subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=end_command_with_parent
    )
