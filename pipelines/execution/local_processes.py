"""Trials in processes on this machine: each `trunkline trial work`, fed with files and read line by line.

A process is used for one trial after the other, because importing torch takes longer than some trials. One that dies
or hangs costs the attempt, not the search: a new one takes its place.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from pipelines.execution.executor import Ended, Event, Progressed
from pipelines.execution.trial_file import TrialFailure, TrialFile, TrialResult
from registry.artifacts.atomic_file import write_atomically
from registry.fault_points import reached

HANGS_AFTER_SECONDS = 600.0
"""A process that says nothing for so long is given up. Training reports every step, and the slowest step that was
measured took some seconds."""

_LAST_WORDS = 2000  # characters of a dead process's stderr that are shown


class LocalProcesses:
    """An executor of so many processes, each of which runs one trial at a time."""

    def __init__(
        self,
        count: int,
        *,
        folder: Path,
        command: Sequence[str],
        environ: Mapping[str, str],
        hangs_after: float = HANGS_AFTER_SECONDS,
    ) -> None:
        """
        Args:
            folder: where the specification and result files lie.
            command: what a process runs: this program's `trial work`.
            environ: of the processes; the store's credentials are in it.
        """
        self._folder = folder
        self._environ = dict(environ)
        self._hangs_after = hangs_after
        self._command = command
        self._events: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._idle: list[_Process] = []
        self._busy: dict[str, _Process] = {}
        self._count = count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def room(self) -> int:
        return self._count - len(self._busy)

    def start(self, file: TrialFile) -> None:
        specification = self._folder / f"{file.key}.json"
        write_atomically(specification, file.model_dump_json().encode())
        result = self._result(file.key)
        result.unlink(missing_ok=True)
        reached("search.trial-file-written")
        for dead in [process for process in self._idle if not process.lives()]:
            self._idle.remove(dead)
            dead.end()
        process = self._idle.pop() if self._idle else _Process(self._command, self._environ, self._events)
        self._busy[file.key] = process
        process.send(file.key, specification, result)

    def events(self, *, seconds: float) -> list[Event]:
        found: list[Event] = []
        try:
            found += self._translated(*self._events.get(timeout=seconds))
            while True:
                found += self._translated(*self._events.get_nowait())
        except queue.Empty:
            pass
        return found + self._given_up()

    def close(self) -> None:
        for process in [*self._busy.values(), *self._idle]:
            process.end()
        self._busy.clear()
        self._idle.clear()

    def _translated(self, process: "_Process", said: dict[str, Any] | None) -> list[Event]:
        if self._busy.get(process.key) is not process:
            return []  # the last words of one that was given up
        if said is None:
            process.end()
            return [self._broken(process, f"its process ended with status {process.status}: {process.last_words}")]
        if "done" in said:
            return [Progressed(process.key, str(said["stage"]), int(said["done"]), int(said["total"]))]
        del self._busy[process.key]
        self._idle.append(process)
        try:
            result = TrialResult.model_validate_json(self._result(process.key).read_bytes())
        except (OSError, ValidationError) as error:
            result = _failed(f"its result cannot be read: {error}")
        return [Ended(process.key, result)]

    def _given_up(self) -> list[Event]:
        now = time.monotonic()
        silent = [process for process in self._busy.values() if now - process.heard_at > self._hangs_after]
        return [
            self._broken(one, f"it said nothing for {self._hangs_after:g} seconds and was stopped") for one in silent
        ]

    def _broken(self, process: "_Process", why: str) -> Ended:
        del self._busy[process.key]
        process.end()
        return Ended(process.key, _failed(why))

    def _result(self, key: str) -> Path:
        return self._folder / f"{key}.result.json"


def _failed(why: str) -> TrialResult:
    return TrialResult(failure=TrialFailure(kind="broken", message=why))


class _Process:
    """One `trunkline trial work`: a line of JSON in for each trial, lines of progress out, one more at its end."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        events: "queue.Queue[tuple[_Process, dict[str, Any] | None]]",
    ) -> None:
        self.key = ""
        self.heard_at = time.monotonic()
        self._words = ""
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environ),
            # Ctrl-C is for the search, which then ends its processes: here it would cut a write short.
            start_new_session=True,
        )
        self._listeners = [
            threading.Thread(target=listen, args=(events,), daemon=True) for listen in (self._hear, self._overhear)
        ]
        for listener in self._listeners:
            listener.start()

    def send(self, key: str, specification: Path, result: Path) -> None:
        self.key, self.heard_at = key, time.monotonic()
        with suppress(BrokenPipeError):  # it has just died: whoever hears its pipe close says so
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps({"specification": str(specification), "result": str(result)}) + "\n")
            stdin.flush()

    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Ends the process, if it still runs, and hears it out."""
        self._process.kill()  # whatever it writes, it writes whole or not at all
        self._process.wait()
        for listener in self._listeners:
            listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(BrokenPipeError):  # of what it has not read any more
                _pipe(stream).close()

    @property
    def status(self) -> int | None:
        return self._process.returncode

    @property
    def last_words(self) -> str:
        return self._words.strip()[-_LAST_WORDS:] or "it said nothing"

    def _hear(self, events: "queue.Queue[tuple[_Process, dict[str, Any] | None]]") -> None:
        for line in _pipe(self._process.stdout):
            self.heard_at = time.monotonic()
            try:
                said = json.loads(line)
            except ValueError:
                continue  # a library's own word on stdout
            if isinstance(said, dict):
                events.put((self, said))
        events.put((self, None))

    def _overhear(self, _: object) -> None:
        for line in _pipe(self._process.stderr):
            self._words = (self._words + line)[-2 * _LAST_WORDS :]


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - all three are pipes
    return stream
