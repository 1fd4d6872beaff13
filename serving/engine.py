"""The engine: while one batch runs, the next one forms; an answer leaves when its branch is done."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from modeling.decoding import Answer
from serving.questions import Text
from serving.served_release import ServedRelease


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """One task's answer to one text of a request."""

    number: int
    """The text's place in its request, from 0."""
    task: str
    answer: Answer


class EngineObserver(Protocol):
    """What is told about the engine's work; called from its threads, so it must be quick."""

    def batch(self, *, texts: int, tokens: int, padding: int, seconds: float) -> None:
        """A batch was computed: tokens of texts, and tokens computed beside them."""

    def waited(self, *, texts: int, seconds: float) -> None:
        """So many texts entered a batch after they had waited this long."""

    def answered(self, *, task: str, version: int, answers: int, seconds: float) -> None:
        """Answers left, so long after their request was taken in."""

    def looked_up(self, *, hits: int, misses: int) -> None:
        """Answers that were found in the cache, and not."""


@dataclass(frozen=True)
class Asked:
    """A request that the engine took in. One release answers all of it."""

    release: ServedRelease
    tasks: Sequence[Sequence[str]]
    """Which tasks answer each text, in the manifest's order."""
    truncated: Sequence[bool]
    """Which texts were longer than `max_length`: their ends are not read."""

    def cancel(self) -> None:
        """Nobody waits any more: what has not entered a batch leaves the queue. `on_end` is not called."""


class Engine:
    """Answers requests of any thread; computes in threads of its own."""

    @property
    def release(self) -> ServedRelease:
        """What new requests are answered by."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        raise NotImplementedError

    def ask(
        self,
        texts: Sequence[Text],
        tasks: Collection[str] | None,
        *,
        timeout: float,
        on_answers: Callable[[Sequence[TextAnswer]], None],
        on_end: Callable[[Exception | None], None],
    ) -> Asked:
        """Takes a request in, checked as a whole, or refuses it as a whole.

        Args:
            tasks: by name; None asks every task of each text's form.
            timeout: seconds after which it is no longer worth an answer.
            on_answers: called whenever a branch is done, with its answers; from a thread of the engine, or from this
                call for what the cache knows.
            on_end: called once, after the last answer, or with what ended the request early.

        Raises:
            NotFound, UsageError, InvalidInput: the request cannot be answered; says all that is wrong with it.
            Overloaded: the queue has no room for it.
            Stopping: the engine is being closed.
        """
        raise NotImplementedError

    def swap(self, release: ServedRelease) -> ServedRelease:
        """From now on requests go to this release; those taken in before end with theirs. Returns the old one."""
        raise NotImplementedError

    def close(self, *, timeout: float) -> bool:
        """Takes nothing new, and ends once all is answered, or after so many seconds. Whether all was answered."""
        raise NotImplementedError
