"""Runs commands in processes of its own that can be killed at named places. Torch is imported once, then forked.

One JSON job a line on stdin: {"arguments", "environ", "cwd", "minute", "kill_at": null or [place, occurrence],
"largest_file": null or bytes, at which a write fails as on a full disk, "sweep_at": null or a place, at which another
process sweeps without any grace time}.
One JSON answer a line on stdout: {"status": exit code or minus the signal, "out", "err", "places": those reached}.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3.s3.transfer  # noqa: F401 - imported before forking, as are those after it
import mlflow  # noqa: F401
import psycopg  # noqa: F401
import sqlalchemy.dialects.postgresql  # noqa: F401
import torch

import cli.boundary  # noqa: F401
import pipelines.assembly.release_assembly
import pipelines.training.trial_run  # noqa: F401
from cli.main import main
from registry import fault_points

FIRST_MINUTE = datetime(2026, 5, 1, 9, tzinfo=UTC)


def run(job: dict, places: Path) -> int:
    """In the child: one command, with the place armed."""
    os.environ.update(job["environ"])  # for the libraries that look there themselves
    arrivals: dict[str, int] = {}

    def on_reached(place: str) -> None:
        arrivals[place] = arrivals.get(place, 0) + 1
        with places.open("a") as file:
            file.write(place + "\n")
        if job["sweep_at"] == place and arrivals[place] == 1:
            sweep(job)
        if job["kill_at"] == [place, arrivals[place]]:
            os.kill(os.getpid(), signal.SIGKILL)

    readings = iter(range(1, 1000))
    start = FIRST_MINUTE + timedelta(minutes=job["minute"])
    if job["largest_file"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
    fault_points.arm(on_reached)
    torch.set_num_threads(1)
    return main(
        job["arguments"],
        environ=job["environ"],
        cwd=Path(job["cwd"]),
        clock=lambda: start + timedelta(seconds=next(readings)),
    )


def sweep(job: dict) -> None:
    child = os.fork()
    if child == 0:
        fault_points.arm(None)
        os._exit(main(["gc", "--grace", "0"], environ=job["environ"], cwd=Path(job["cwd"])))
    assert os.waitpid(child, 0)[1] == 0


def answer(job: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out, err, places = (Path(folder) / name for name in ("out", "err", "places"))
        places.touch()
        child = os.fork()
        if child == 0:
            for descriptor, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            status = run(job, places)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, waited = os.waitpid(child, 0)
        return {
            "status": os.waitstatus_to_exitcode(waited),
            "out": out.read_text(),
            "err": err.read_text(),
            "places": places.read_text().split(),
        }


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
