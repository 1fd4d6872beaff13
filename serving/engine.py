"""The engine: while one batch runs, the next one forms; an answer leaves when its branch is done.

A request is checked, looked up in the cache and encoded where it is asked; what is left waits in line. Lanes take
batches from the line as soon as they are free, so nothing waits while the machine is idle, and a batch grows with what
has come while the last one ran. In a batch the trunk is computed once, as deep as somebody needs, and each branch only
for the texts that asked for it, in the order of `serving.branch_order`.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modeling.decoding import Answer
from modeling.products import use_threads
from registry.errors import InvalidInput, TrunklineError, UsageError
from serving.answer_cache import AnswerCache, CachedAnswer, text_key
from serving.branch_order import BranchWork, best_order
from serving.errors import DeadlinePassed, EngineFailed
from serving.questions import Text, TextAnswer, refuse_empty, tasks_of
from serving.served_release import ServedRelease
from serving.waiting_line import Question, Request, WaitingLine

_log = logging.getLogger(__name__)


class EngineObserver(Protocol):
    """What is told about the engine's work; called from its threads, so it must be quick."""

    def batch(self, *, texts: int, tokens: int, padding: int, seconds: float) -> None:
        """A batch was computed: tokens of texts, and places of attention's blocks that they did not fill."""

    def tokenised(self, *, texts: int, seconds: float) -> None:
        """So many texts of a request were turned into tokens."""

    def waited(self, *, texts: int, seconds: float) -> None:
        """So many texts of a request entered a batch after they had waited in line this long."""

    def answered(self, *, task: str, version: int, answers: int, seconds: float) -> None:
        """Answers left, so long after their request was taken in."""

    def looked_up(self, *, hits: int, misses: int) -> None:
        """Answers that were found in the cache, and not."""


class Unobserved:
    """Tells nobody."""

    def batch(self, *, texts: int, tokens: int, padding: int, seconds: float) -> None: ...

    def tokenised(self, *, texts: int, seconds: float) -> None: ...

    def waited(self, *, texts: int, seconds: float) -> None: ...

    def answered(self, *, task: str, version: int, answers: int, seconds: float) -> None: ...

    def looked_up(self, *, hits: int, misses: int) -> None: ...


@dataclass(frozen=True)
class EngineSettings:
    """How the engine uses the machine."""

    lanes: int = 1
    """Batches that are computed at once."""
    threads: int = 1
    """Of each lane's products."""
    batch_pieces: int = 1024
    """Most pieces of a batch. In fp32 products are within a few percent of their peak from some 256 rows on, and a
    larger batch makes its texts wait for each other; with AMX, 1,024 bore a third more than 256
    (docs/serving_speed.md)."""
    least_share: int = 64
    """Pieces that a lane aims at, at least, where it leaves the rest of what waits to one that is idle: 16
    brought nothing more that could be measured (docs/serving_speed.md)."""
    waiting_texts: int = 4096
    cache_bytes: int = 64 << 20


@dataclass(frozen=True)
class Asked:
    """A request that the engine took in. One release answers all of it."""

    release: ServedRelease
    tasks: Sequence[Sequence[str]]
    """Which tasks answer each text, in the manifest's order."""
    truncated: Sequence[bool]
    """Which texts were longer than `max_length`: their ends are not read."""
    _cancel: Callable[[], None] = field(repr=False)

    def cancel(self) -> None:
        """Nobody waits any more: what has not entered a batch leaves the queue. `on_end` is not called."""
        self._cancel()


class Engine:
    """Answers requests of any thread; computes in threads of its own."""

    def __init__(
        self, release: ServedRelease, settings: EngineSettings | None = None, observer: EngineObserver | None = None
    ) -> None:
        self.settings = settings or EngineSettings()
        self._observer = observer or Unobserved()
        self._release = release
        self.cache = AnswerCache(self.settings.cache_bytes)
        self._line = WaitingLine(self.settings.waiting_texts, self._expire, least_share=self.settings.least_share)
        self._lock = threading.Lock()
        self._lanes = [
            threading.Thread(target=self._work, name=f"lane-{number}", daemon=True)
            for number in range(self.settings.lanes)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def release(self) -> ServedRelease:
        """What new requests are answered by."""
        return self._release

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return len(self._line)

    @property
    def idle_lanes(self) -> int:
        """Lanes that have nothing to do."""
        return self._line.idle_lanes

    @property
    def working(self) -> bool:
        """Whether every lane lives; one that does not has met an error that nobody foresaw."""
        return all(lane.is_alive() for lane in self._lanes)

    def ask(
        self,
        texts: Sequence[Text],
        tasks: Collection[str] | None,
        *,
        timeout: float,
        on_answers: Callable[[Sequence[TextAnswer]], None],
        on_end: Callable[[Exception | None], None],
        refuse_truncated: bool = False,
        between_texts: Callable[[], None] = lambda: None,
    ) -> Asked:
        """Takes a request in, checked as a whole, or refuses it as a whole.

        Args:
            tasks: by name; None asks every task of each text's form.
            timeout: seconds after which it is no longer worth an answer.
            on_answers: called whenever a branch is done, with its answers; from a thread of the engine, or from this
                call for what the cache knows.
            on_end: called once, after the last answer, or with what ended the request early.
            refuse_truncated: whether a text that is longer than `max_length` is refused, instead of losing its end.
            between_texts: called after each text that was turned into tokens; what it raises ends the call.

        Raises:
            NotFound, UsageError, InvalidInput: the request cannot be answered; says all that is wrong with it.
            Overloaded: the queue has no room for it.
            Stopping: the engine is being closed.
        """
        entered, release = time.monotonic(), self._release
        if not texts or (tasks is not None and not tasks):
            raise UsageError("nothing is asked: give at least one text, and one task or none for all")
        refuse_empty(texts)
        by_form = {form: tasks_of(form, release.manifest, tasks) for form in {text.form for text in texts}}
        of_texts = [by_form[text.form] for text in texts]
        request = Request(release, entered, entered + timeout, on_answers, on_end)
        keys = [text_key(text) for text in texts]
        known = [self._known(release, key, of_text) for key, of_text in zip(keys, of_texts, strict=True)]
        open_texts = [number for number, of_text in enumerate(of_texts) if len(known[number]) < len(of_text)]
        if open_texts:
            self._line.refuse_without_room(len(open_texts))
        begun = time.monotonic()
        rows = release.encoder.rows([(texts[number].text, texts[number].text_pair) for number in open_texts])
        encoded = []
        for row in rows:
            encoded.append(row.slimmed())  # thousands of them may wait
            between_texts()
        if open_texts:
            _tell(self._observer.tokenised, texts=len(open_texts), seconds=time.monotonic() - begun)
        truncated = [any(one.truncated for one in found.values()) for found in known]
        for number, row in zip(open_texts, encoded, strict=True):
            truncated[number] = row.truncated
            left = [task for task in of_texts[number] if task not in known[number]]
            request.waiting.append(Question(request, number, texts[number].text, keys[number], row, left))
        if refuse_truncated:
            _refuse_truncated(truncated, release.manifest.trunk.max_length)
        request.unanswered = sum(map(len, of_texts))
        found_answers = [
            TextAnswer(number, task, one.answer) for number, found in enumerate(known) for task, one in found.items()
        ]
        misses = request.unanswered - len(found_answers)
        if request.waiting:
            self._line.add(request)
        _tell(self._observer.looked_up, hits=len(found_answers), misses=misses)
        if found_answers:
            self._deliver(request, found_answers)
        return Asked(release, of_texts, truncated, lambda: self._cancel(request))

    def swap(self, release: ServedRelease) -> ServedRelease:
        """From now on requests go to this release; those taken in before end with theirs. Returns the old one."""
        old, self._release = self._release, release
        return old

    def close(self, *, timeout: float) -> bool:
        """Takes nothing new, and ends once all is answered, or after so many seconds. Whether all was answered."""
        self._line.close()
        until = time.monotonic() + timeout
        for lane in self._lanes:
            lane.join(max(0.0, until - time.monotonic()))
        return not any(lane.is_alive() for lane in self._lanes)

    def _known(self, release: ServedRelease, key: bytes, tasks: Sequence[str]) -> dict[str, CachedAnswer]:
        return self.cache.find(key, {task: release.branch_keys[task] for task in tasks})

    def _work(self) -> None:
        """A lane: one batch after the other."""
        use_threads(self.settings.threads)
        while self._compute_next():
            pass

    def _compute_next(self) -> bool:
        """Whether there was a batch. It is forgotten with this call: an idle lane must not keep a release alive."""
        batch = self._line.take(self.settings.batch_pieces)
        if batch is None:
            return False
        begun = time.monotonic()
        for request, texts in Counter(question.request for question in batch).items():
            _tell(self._observer.waited, texts=texts, seconds=begun - request.lined_up)
        self._answer_or_halve(batch)
        self._line.computed(len(batch) * len(self._lanes), time.monotonic() - begun)
        return True

    def _answer(self, batch: Sequence[Question]) -> None:
        begun = time.monotonic()
        release = batch[0].request.release
        rows = _rows_by_task(batch)
        encoded = [question.encoded for question in batch]
        one_pass = release.model.one_pass(encoded, {task: rows[task] for task in _order(release, batch, rows)})
        for task, outputs in one_pass:
            asking = [batch[row] for row in rows[task]]
            answers = release.decoded(task, outputs, [one.text for one in asking], [one.encoded for one in asking])
            self._answered(task, asking, answers)
        seconds = time.monotonic() - begun
        _tell(self._observer.batch, texts=len(batch), tokens=one_pass.pieces, padding=one_pass.padding, seconds=seconds)

    def _answered(self, task: str, asking: Sequence[Question], answers: Sequence[Answer]) -> None:
        of_request: dict[Request, list[TextAnswer]] = {}
        for question, answer in zip(asking, answers, strict=True):
            question.tasks.remove(task)
            of_request.setdefault(question.request, []).append(TextAnswer(question.number, task, answer))
            key = question.request.release.branch_keys[task]
            self.cache.keep(question.key, key, CachedAnswer(answer, question.encoded.truncated))
        for request, own in of_request.items():
            self._deliver(request, own)

    def _answer_or_halve(self, batch: Sequence[Question]) -> None:
        """What breaks on one text is no reason to fail the others: a batch that fails is tried again in halves."""
        try:
            self._answer(batch)
        except Exception as error:  # noqa: BLE001 - a lane must outlive whatever one batch does
            _log.exception("a batch of %d texts failed", len(batch))
            left = [question for question in batch if question.tasks]
            if len(batch) > 1:
                for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                    if half:
                        self._answer_or_halve(half)
            elif left:
                names = ", ".join(left[0].tasks)
                self._end(left[0].request, EngineFailed(f"text {left[0].number + 1}: {names}: {_said(error)}"))

    def _deliver(self, request: Request, answers: Sequence[TextAnswer]) -> None:
        """Tells the answers first and counts them then: whoever counts the last ones tells the end, and by then every
        other thread has told its own."""
        if request.ended:
            return
        seconds = time.monotonic() - request.entered
        for task, count in Counter(one.task for one in answers).items():
            version = request.release.manifest.tasks[task].version
            _tell(self._observer.answered, task=task, version=version, answers=count, seconds=seconds)
        _tell(request.on_answers, answers)
        with self._lock:
            request.unanswered -= len(answers)
            last = not request.unanswered and not request.ended
            request.ended |= last
        if last:
            _tell(request.on_end, None)

    def _cancel(self, request: Request) -> None:
        with self._lock:
            request.ended = True
        self._line.leave(request)

    def _expire(self, request: Request) -> None:
        seconds = request.deadline - request.entered
        self._end(request, DeadlinePassed(f"not answered within {seconds:g} s: the server is busy; allow more time"))

    def _end(self, request: Request, error: Exception) -> None:
        with self._lock:
            if request.ended:
                return
            request.ended = True
        self._line.leave(request)
        _tell(request.on_end, error)


def _tell(listener: Callable[..., None], *told: object, **by_name: object) -> None:
    """What a listener or an observer does with what it is told must not end a lane."""
    try:
        listener(*told, **by_name)
    except Exception:  # noqa: BLE001 - a lane must outlive whatever a listener does
        _log.exception("a listener failed")


def _refuse_truncated(truncated: Sequence[bool], max_length: int) -> None:
    if problems := [
        f"text {number}: has more than {max_length} tokens, and this server reads no part of a text for the whole"
        for number, is_truncated in enumerate(truncated, 1)
        if is_truncated
    ]:
        raise InvalidInput("input", problems)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TrunklineError) else f"the model failed with {type(error).__name__}"


def _rows_by_task(batch: Sequence[Question]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(batch):
        for task in question.tasks:
            rows.setdefault(task, []).append(row)
    return rows


def _order(release: ServedRelease, batch: Sequence[Question], rows: Mapping[str, Sequence[int]]) -> list[str]:
    """The batch's tasks, in the order in which they are best computed: work is counted in pieces through a layer."""
    lengths = [len(question.encoded.input_ids) for question in batch]
    depths = {task: release.manifest.tasks[task].frozen_depth for task in rows}
    deepest = [max(depths[task] for task in question.tasks) for question in batch]
    trunk_costs = [
        float(sum(length for length, depth in zip(lengths, deepest, strict=True) if depth >= layer))
        for layer in range(1, max(depths.values()) + 1)
    ]
    work = {
        task: BranchWork(depths[task], release.branch_costs[task] * sum(lengths[row] for row in own), len(own))
        for task, own in rows.items()
    }
    return best_order(trunk_costs, work)
