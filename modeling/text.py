"""Text to tensors: the one encoder, and batches.

Text-level and word-level tasks read the very same trunk input: the raw text goes through the backbone's tokenizer, and
character offsets tell afterwards which piece begins which word.

B = rows, T = pieces of the longest row (padded), W = words of the row that has most.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from modeling.words import Word, split_words
from registry.errors import InvalidInput

NO_TOKEN = -1

_TOGETHER = 100_000
"""Characters that are turned into pieces at once: some 45 MB while they are, with a piece for each of them."""

_SPACE_MARKER = "▁"  # what SentencePiece tokenizers put where a space was


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One row of trunk input, not padded.

    `words` are those of the first text. `word_tokens[i]` is the position of the first piece that begins in word i, or
    NO_TOKEN: the word was merged into an earlier word's piece, swallowed by the tokenizer's normaliser, or cut off.
    Words from number `words_seen` on were cut off by `max_length`.
    """

    input_ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    words: tuple[Word, ...]
    word_tokens: tuple[int, ...]
    words_seen: int
    truncated: bool = False
    """Whether a text was longer than `max_length` and its end was not read."""

    def slimmed(self) -> Self:
        """The same, smaller, if the text has more words than pieces were read: `whole` makes it whole again.

        A hundred thousand words take 15 MB, a hundred times what they are made of.
        """
        if len(self.words) <= len(self.input_ids):
            return self
        last = max((number for number, token in enumerate(self.word_tokens) if token != NO_TOKEN), default=-1)
        return replace(self, words=(), word_tokens=self.word_tokens[: last + 1])

    def whole(self, text: str) -> Self:
        """With the words of this text, the row's first, if they were left out."""
        if self.words:
            return self
        words = split_words(text)
        left_out = (NO_TOKEN,) * (len(words) - len(self.word_tokens))
        return replace(self, words=words, word_tokens=self.word_tokens + left_out)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows: `input_ids` and `type_ids` [B, T] int64, `mask` [B, T] bool (False on padding),
    `word_tokens` [B, W] int64 (NO_TOKEN where there is none)."""

    input_ids: Tensor
    type_ids: Tensor
    mask: Tensor
    word_tokens: Tensor

    def to(self, device: torch.device | str) -> Self:
        return type(self)(
            self.input_ids.to(device), self.type_ids.to(device), self.mask.to(device), self.word_tokens.to(device)
        )


def collate(rows: Sequence[EncodedText], *, pad_id: int, multiple_of: int = 8, max_length: int | None = None) -> Batch:
    """Pads the rows to the longest, rounded up to a multiple, but never beyond `max_length`.

    Kernels like round sizes; a backbone has no position beyond its last, so one that was pinned at an odd
    `max_length` needs the limit.
    """
    longest = max(len(row.input_ids) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    if max_length is not None:
        width = max(longest, min(width, max_length))
    word_count = max(len(row.words) for row in rows)

    def padded(values: Sequence[Sequence[int]], length: int, fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in values], dtype=torch.int64)

    lengths = torch.tensor([len(row.input_ids) for row in rows])
    return Batch(
        input_ids=padded([row.input_ids for row in rows], width, pad_id),
        type_ids=padded([row.type_ids for row in rows], width, 0),
        mask=torch.arange(width) < lengths[:, None],
        word_tokens=padded([row.word_tokens for row in rows], word_count, NO_TOKEN).reshape(len(rows), word_count),
    )


class _Template(NamedTuple):
    """The special pieces that the tokenizer puts around one text, or around each of two."""

    ids: tuple[tuple[int, ...], ...]
    """Before the first text, then after each text."""
    types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]
    """The type id of each text's own pieces."""

    @property
    def special_count(self) -> int:
        return sum(map(len, self.ids))

    def typed(self, type_count: int) -> "_Template":
        """With types that a backbone of so many has: one that has a single type is given no other."""
        if type_count == 1:
            return self._replace(
                types=tuple((0,) * len(one) for one in self.types), text_types=(0,) * len(self.text_types)
            )
        largest = max((*self.text_types, *(number for one in self.types for number in one)))
        if largest >= type_count:
            raise InvalidInput(
                "tokenizer.json", [f"gives token type {largest}; the backbone has 0 to {type_count - 1}"]
            )
        return self


class TextEncoder:
    """The backbone's tokenizer, at its one `max_length`.

    Special pieces written out in a text ("[SEP]") are read as ordinary text, or as the unknown piece where they are in
    the vocabulary like any other (SentencePiece): a request must not be able to end its own text and begin another.

    Args:
        type_count: how many the backbone tells apart; with one, all pieces are of type 0, whatever the tokenizer says.

    Raises:
        InvalidInput: the tokenizer cannot be read, leaves no room for text in `max_length`, or gives a token type that
            the backbone does not have.
    """

    def __init__(self, tokenizer_json: bytes, *, max_length: int, pad_id: int, type_count: int = 2) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json.decode())
        except Exception as error:  # tokenizers raises bare Exception for whatever it cannot read
            raise InvalidInput("tokenizer.json", [f"cannot be read: {error}"]) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._single, self._pair = self._template("a").typed(type_count), self._template("a", "a").typed(type_count)
        self._tokenizer.encode_special_tokens = True
        self._unknown = _unknown_piece(self._tokenizer, json.loads(tokenizer_json)["model"])
        self._special = self._special_pieces()
        self.max_length = max_length
        self.pad_id = pad_id
        if self._pair.special_count > max_length:
            raise InvalidInput(
                "tokenizer.json",
                [f"puts {self._pair.special_count} special pieces around a pair: too many for {max_length}"],
            )

    def encode(self, texts: Sequence[tuple[str, str | None]]) -> list[EncodedText]:
        """One row a text or pair; the longer text of a pair gives way first when both do not fit.

        Raises:
            InvalidInput: as `rows` says.
        """
        return list(self.rows(texts))

    def rows(self, texts: Sequence[tuple[str, str | None]]) -> Iterator[EncodedText]:
        """What `encode` gives, one after the other: of many long texts, what a reader does not keep is never held.

        Raises:
            InvalidInput: a text holds half of a surrogate pair, which is no character, or spells out a special piece
                that the tokenizer cannot read otherwise.
        """
        for some in _parts(texts):
            try:
                encoded = self._tokenizer.encode_batch(
                    [part for pair in some for part in pair if part is not None], add_special_tokens=False
                )
            except TypeError:
                raise InvalidInput("texts", _surrogate_problems(texts)) from None
            if self._unknown is None and not all(self._special.isdisjoint(encoding.ids) for encoding in encoded):
                raise InvalidInput(
                    "texts", ["one spells out a special piece, and the tokenizer has no unknown piece for it"]
                )
            encodings = iter(encoded)
            for text, text_pair in some:
                yield self._row(text, next(encodings), next(encodings) if text_pair is not None else None)

    def collate(self, rows: Sequence[EncodedText]) -> Batch:
        """A batch of this encoder's rows; it fits the backbone's positions."""
        return collate(rows, pad_id=self.pad_id, max_length=self.max_length)

    def _template(self, text: str, text_pair: str | None = None) -> _Template:
        encoding = self._tokenizer.encode(text, text_pair)
        ids: list[list[int]] = [[]]
        types: list[list[int]] = [[]]
        text_types: list[int] = []
        for piece, type_id, owner in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if owner is None:
                ids[-1].append(piece)
                types[-1].append(type_id)
            elif owner == len(text_types):
                text_types.append(type_id)
                ids.append([])
                types.append([])
            elif owner != len(text_types) - 1 or ids[-1]:
                break
        if len(text_types) != (1 if text_pair is None else 2):
            raise InvalidInput("tokenizer.json", ["does not keep the texts whole and in order"])
        return _Template(tuple(map(tuple, ids)), tuple(map(tuple, types)), tuple(text_types))

    def _row(self, text: str, first: Any, second: Any | None) -> EncodedText:
        # The texts are cut and joined here: tokenizers' own truncation keeps what it cut off, for a pair every
        # combination of it, so that two long texts would cost the square of their length.
        template = self._single if second is None else self._pair
        encodings = (first,) if second is None else (first, second)
        kept = _kept_lengths([len(encoding) for encoding in encodings], self.max_length - template.special_count)
        ids, types = list(template.ids[0]), list(template.types[0])
        begin = len(ids)
        for number, (encoding, length) in enumerate(zip(encodings, kept, strict=True)):
            ids += self._text_ids(encoding.ids[:length])
            ids += template.ids[number + 1]
            types += [template.text_types[number]] * length
            types += template.types[number + 1]
        words = split_words(text)
        pieces = _first_pieces(text, words, first)
        word_tokens = tuple(begin + piece if 0 <= piece < kept[0] else NO_TOKEN for piece in pieces)
        cut_off = (number for number, piece in enumerate(pieces) if piece >= kept[0])
        truncated = sum(kept) < sum(map(len, encodings))
        return EncodedText(tuple(ids), tuple(types), words, word_tokens, next(cut_off, len(words)), truncated)

    def _special_pieces(self) -> frozenset[int]:
        """Ids that no text may bring along."""
        added = (number for number, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)
        around = (number for part in (*self._single.ids, *self._pair.ids) for number in part)
        return frozenset({*added, *around} - {self._unknown})

    def _text_ids(self, ids: list[int]) -> list[int]:
        if self._unknown is None or self._special.isdisjoint(ids):
            return ids
        return [self._unknown if number in self._special else number for number in ids]


def _parts(texts: Sequence[tuple[str, str | None]]) -> Iterator[Sequence[tuple[str, str | None]]]:
    """The texts in their order, a part at a time: as many as have `_TOGETHER` characters, or one."""
    first = characters = 0
    for number, (text, text_pair) in enumerate(texts):
        length = len(text) + len(text_pair or "")
        if first < number and characters + length > _TOGETHER:
            yield texts[first:number]
            first, characters = number, 0
        characters += length
    if first < len(texts):
        yield texts[first:]


def _unknown_piece(tokenizer: Tokenizer, model: Mapping[str, Any]) -> int | None:
    """The id that stands for what is not in the vocabulary; byte-level models may do without one."""
    if isinstance(number := model.get("unk_id"), int):
        return number
    spellings = (model.get("unk_token"), "<unk>", "[UNK]")
    numbers = (tokenizer.token_to_id(spelling) for spelling in spellings if spelling)
    return next((number for number in numbers if number is not None), None)


def _kept_lengths(lengths: Sequence[int], room: int) -> list[int]:
    """How many pieces each text keeps: the longer one gives way first (`longest_first` in tokenizers)."""
    if sum(lengths) <= room or len(lengths) == 1:
        return [min(length, room) for length in lengths]
    shorter = min(*lengths, room // 2)
    return [room - shorter, shorter] if lengths[0] > lengths[1] else [shorter, room - shorter]


def _first_pieces(text: str, words: Sequence[Word], encoding: Any) -> list[int]:
    """For each word the number of the first piece that begins in it, or NO_TOKEN."""
    first = [NO_TOKEN] * len(words)
    starts = [word.start for word in words]
    for number, ((start, end), piece) in enumerate(zip(encoding.offsets, encoding.tokens, strict=True)):
        if piece == _SPACE_MARKER:  # a piece of its own, before a word whose pieces do not take it in
            continue
        while start < end and text[start].isspace():  # SentencePiece counts the space before a word to its piece
            start += 1
        if start == end:
            continue
        word = bisect_right(starts, start) - 1
        if first[word] == NO_TOKEN:
            first[word] = number
    return first


def _surrogate_problems(texts: Sequence[tuple[str, str | None]]) -> list[str]:
    return [
        f"text {number}: holds half of a surrogate pair (U+D800 to U+DFFF), which is no character"
        for number, pair in enumerate(texts, start=1)
        if any("\ud800" <= character <= "\udfff" for part in pair if part for character in part)
    ]
