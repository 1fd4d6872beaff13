"""Answers that were given before, by module and text: they stay valid across releases that keep the module."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from modeling.decoding import Answer, LabelAnswer, NumberAnswer, Span, SpansAnswer, TaggedWord, TagsAnswer
from registry.domain.manifests import Manifest
from registry.domain.plain_data import canonical_json
from serving.questions import Text

# Measured with tracemalloc (CPython 3.11, 3,000 entries each), rounded up.
_ENTRY_BYTES = 850
"""Of an entry with a small answer: keys, links, objects."""
_LABEL_BYTES = 60
_SPAN_BYTES = 1200
_CHARACTER_BYTES = 4
"""Of text outside Latin scripts; CPython may take less."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    answer: Answer
    truncated: bool
    """Whether the text's end was not read."""


def branch_keys(manifest: Manifest, precision: str) -> dict[str, bytes]:
    """What each task's answers depend on beside the text: its branch, the trunk below it (by its prefix digest, which
    covers the tokenizer), `max_length` and the precision. Equal keys give equal answers, in whatever release."""
    common = {"max_length": manifest.trunk.max_length, "precision": precision}
    return {
        task: hashlib.sha256(canonical_json({**common, "branch": branch.model_dump(mode="json")})).digest()
        for task, branch in manifest.tasks.items()
    }


def text_key(text: Text) -> bytes:
    """A text by its digest: of what was sent, the cache holds only the words that an answer repeats."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (text.text, text.text_pair):
        encoded = b"" if part is None else part.encode("utf-8", "surrogatepass")
        digest.update((-1 if part is None else len(encoded)).to_bytes(8, "big", signed=True))
        digest.update(encoded)
    return digest.digest()


class AnswerCache:
    """The least recently used answers leave first.

    Args:
        limit: bytes, as estimated; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._lock = Lock()
        self._kept: LRUCache[tuple[bytes, bytes], CachedAnswer] = LRUCache(limit, getsizeof=_size)

    @property
    def size(self) -> int:
        """Bytes, as estimated."""
        return int(self._kept.currsize)

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, text: bytes, branches: Mapping[str, bytes]) -> dict[str, CachedAnswer]:
        """What is known of this text.

        Args:
            text: its `text_key`.
            branches: task -> its branch's key.
        """
        with self._lock:
            known = ((task, self._kept.get((branch, text))) for task, branch in branches.items())
            return {task: found for task, found in known if found is not None}

    def keep(self, text: bytes, branch: bytes, answer: CachedAnswer) -> None:
        """An answer larger than the cache is not kept."""
        if _size(answer) <= self._kept.maxsize:
            with self._lock:
                self._kept[branch, text] = answer


def _size(kept: CachedAnswer) -> int:
    answer = kept.answer
    match answer:
        case LabelAnswer():
            return _ENTRY_BYTES + _LABEL_BYTES * len(answer.probabilities)
        case NumberAnswer():
            return _ENTRY_BYTES
        case SpansAnswer():
            words: Sequence[Span | TaggedWord] = answer.spans
        case TagsAnswer():
            words = answer.words
    return _ENTRY_BYTES + sum(_SPAN_BYTES + _CHARACTER_BYTES * len(word.text) for word in words)
