"""Trials in processes on this machine: each `trunkline trial work`, fed with files and read line by line.

A process is used for one trial after the other, because importing torch takes longer than some trials. One that dies
or hangs costs the attempt, not the search: a new one takes its place.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from pydantic import ValidationError

from pipelines.execution.executor import Ended, Event, Progressed, Warned
from pipelines.execution.trial_file import TrialFailure, TrialFile, TrialRequest, TrialResult
from registry.artifacts.atomic_file import write_atomically
from registry.fault_points import reached
from registry.progress import WAITING

HANGS_AFTER_SECONDS = 600.0
"""A process that says nothing at all for so long is given up: a thread of its own says every few seconds that it
lives, so that one which is silent was stopped, or waits in the system."""

STUCK_AFTER_SECONDS = 7200.0
"""One that lives and comes no further for so long is given up too. Tokenising, scoring and checking report nothing
while they last, which grows with the data: so this is far above what they should need. One that waits for what
another process computes is not given up for it, which would not help it; after as long it is said."""

_LAST_WORDS = 2000  # characters of a dead process's stderr that are shown
_WARNING = 500  # characters of a warning that are passed on
_FAREWELL_SECONDS = 5.0
"""How long the pipes of an ended process are heard out: a process that it started may hold them open."""


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
        stuck_after: float = STUCK_AFTER_SECONDS,
    ) -> None:
        """
        Args:
            folder: where the specification and result files lie while a trial runs; those of an attempt that broke
                stay for whoever wants to know why, until the trial is run again.
            command: what a process runs: this program's `trial work`.
            environ: of the processes; the store's credentials are in it.
        """
        self._folder = folder
        self._environ = dict(environ)
        self._hangs_after = hangs_after
        self._stuck_after = stuck_after
        self._command = command
        self._events: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._idle: list[_Process] = []
        self._busy: dict[str, _Process] = {}
        self._count = count
        self._asked_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def room(self) -> int:
        return self._count - len(self._busy)

    def start(self, file: TrialFile) -> None:
        specification = self._specification(file.key)
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
        self._forgive_own_absence(seconds)
        return found + self._given_up()

    def close(self) -> None:
        # Each is taken out before it is ended: its last words are nobody's then, whoever asks for events meanwhile.
        while self._busy:
            key, process = self._busy.popitem()
            process.end()
            self._remove_files(key)
        while self._idle:
            self._idle.pop().end()

    def _translated(self, process: "_Process", said: dict[str, Any] | None) -> list[Event]:
        key = process.key
        if self._busy.get(key) is not process:
            return []  # the last words of one that was given up
        match said:
            case None:
                process.end()
                return self._broken(process, f"its process ended with status {process.status}: {process.last_words}")
            case {"stage": str(stage), "done": int(done), "total": int(total)}:
                return [Progressed(key, stage, done, total)]
            case {"warning": str(text)}:
                return [Warned(key, text[:_WARNING])]
            case {"refused": str(reason)}:
                return self._ended(process, TrialResult(failure=TrialFailure(kind="refused", message=reason)))
            case {"ended": path} if path == str(self._result(key)):
                try:
                    result = TrialResult.model_validate_json(self._result(key).read_bytes())
                except (OSError, ValidationError) as error:
                    result = _failed(f"its result cannot be read: {error}")
                return self._ended(process, result)
            case _:
                return []  # a library's own word on stdout

    def _ended(self, process: "_Process", result: TrialResult) -> list[Event]:
        """Of a process that goes on to the next trial."""
        if self._busy.pop(process.key, None) is None:
            return []
        self._idle.append(process)
        if result.failure is None or result.failure.kind != "broken":
            self._remove_files(process.key)
        return [Ended(process.key, result)]

    def _forgive_own_absence(self, waited: float) -> None:
        """Nobody is judged by what was not heard while this process itself was stopped, as by Ctrl-Z."""
        now = time.monotonic()
        if now - self._asked_at - waited > self._hangs_after / 2:
            for process in self._busy.values():
                process.heard_at = process.moved_at = now
        self._asked_at = now

    def _given_up(self) -> list[Event]:
        now, given_up = time.monotonic(), list[Event]()
        for process in list(self._busy.values()):
            if now - process.heard_at > self._hangs_after:
                given_up += self._broken(process, f"it said nothing for {self._hangs_after:g} seconds and was stopped")
            elif now - process.moved_at > self._stuck_after:
                given_up += self._broken(
                    process, f"it came no further for {self._stuck_after:g} seconds and was stopped"
                )
            elif process.waits_since is not None and now - process.waits_since > self._stuck_after:
                process.waits_since = now
                given_up.append(Warned(process.key, f"{process.waits_for}, for {self._stuck_after / 3600:g} h"))
        return given_up

    def _broken(self, process: "_Process", why: str) -> list[Event]:
        """Of a process that is of no more use."""
        if self._busy.pop(process.key, None) is None:
            return []
        process.end()
        return [Ended(process.key, _failed(why))]

    def _remove_files(self, key: str) -> None:
        for path in (self._specification(key), self._result(key)):
            with suppress(OSError):  # one that stays is in nobody's way
                path.unlink()

    def _specification(self, key: str) -> Path:
        return self._folder / f"{key}.json"

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
        self.heard_at = self.moved_at = time.monotonic()
        self.waits_since: float | None = None
        self.waits_for = ""
        self._progress: object = None
        self._words = ""
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
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
        self.key = key
        self.heard_at = self.moved_at = time.monotonic()
        self.waits_since = None
        with suppress(BrokenPipeError):  # it has just died: whoever hears its pipe close says so
            stdin = _pipe(self._process.stdin)
            stdin.write(TrialRequest(specification=str(specification), result=str(result)).model_dump_json() + "\n")
            stdin.flush()

    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Ends the process, if it still runs, with those that it started, and hears it out."""
        if self.lives():
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # whatever it writes, it writes whole or not at all
        self._process.wait()
        for listener, stream in zip(self._listeners, (self._process.stdout, self._process.stderr), strict=True):
            listener.join(_FAREWELL_SECONDS)
            if not listener.is_alive():  # closing what another thread reads would wait for it
                _pipe(stream).close()
        with suppress(BrokenPipeError):  # of what it has not read any more
            _pipe(self._process.stdin).close()

    @property
    def status(self) -> int | None:
        return self._process.returncode

    @property
    def last_words(self) -> str:
        return self._words.strip()[-_LAST_WORDS:] or "it said nothing"

    def _hear(self, events: "queue.Queue[tuple[_Process, dict[str, Any] | None]]") -> None:
        try:
            for line in _pipe(self._process.stdout):
                self._take(line, events)
        finally:
            events.put((self, None))

    def _take(self, line: str, events: "queue.Queue[tuple[_Process, dict[str, Any] | None]]") -> None:
        self.heard_at = time.monotonic()
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return  # a library's own word on stdout
        if not isinstance(said, dict) or "alive" in said:
            return
        if "stage" in said:
            progress = said["stage"], said.get("done")
            waits = str(said["stage"]).startswith(WAITING)
            if progress != self._progress or waits:
                self._progress, self.moved_at = progress, self.heard_at
            self.waits_since = (self.waits_since or self.heard_at) if waits else None
            self.waits_for = str(said["stage"]) if waits else ""
        events.put((self, said))

    def _overhear(self, _: object) -> None:
        for line in _pipe(self._process.stderr):
            self._words = (self._words + line)[-2 * _LAST_WORDS :]


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # noqa: S101 - all three are pipes
    return stream
