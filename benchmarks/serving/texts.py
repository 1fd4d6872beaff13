"""The texts that are asked about: all of one length, or of the lengths that real data have.

A pair is read as a single text here, both sentences joined by a space, so that all eight tasks answer every text.
"""

import argparse
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import beside  # noqa: F401
import numpy as np
from merged_vs_separate import real_texts

from modeling.text import TextEncoder

SETS = (
    "clinc150_intent",
    "snips",
    "atis",
    "trec",
    "sst2",
    "emotion",
    "sms_spam",
    "ag_news",
    "qqp",
    "mrpc",
    "rte",
    "qnli",
)
"""From short intents to pairs of sentences and a passage."""


@dataclass(frozen=True)
class Texts:
    name: str
    texts: Sequence[str]
    lengths: Sequence[int]
    """In pieces, special ones with them, at most the backbone's `max_length`."""

    @property
    def title(self) -> str:
        median, high = np.percentile(self.lengths, [50, 95])
        return (
            f"{self.name}: {len(self.texts)} texts of {np.mean(self.lengths):.1f} pieces in the mean, "
            f"P50 {median:.0f}, P95 {high:.0f}, most {max(self.lengths)}"
        )


def uniform(encoder: TextEncoder, count: int, *, pieces: int = 32) -> Texts:
    """Real text, cut so that every one has exactly so many pieces."""
    words = " ".join(real_texts(max(200, count))).split()
    found: list[str] = []
    begin = 0
    while len(found) < count:
        # The longest run of words that fits; a text that does not come out even begins one word later.
        text = " ".join(words[begin % len(words) : begin % len(words) + pieces])
        while text and (length := _lengths(encoder, [text])[0]) > pieces:
            text = text.rpartition(" ")[0]
        if text and length == pieces:
            found.append(text)
            begin += pieces // 2
        begin += 1
    return Texts(f"uniform ({pieces} pieces)", found, _lengths(encoder, found))


def mixed(encoder: TextEncoder, count: int, data: Path | None, *, seed: int = 0) -> Texts:
    """As many texts of each data set, in an order drawn from the seed.

    Args:
        data: folder of data sets, one folder each with `dev.jsonl.gz`; None: news sentences of 5 to 40 words.
    """
    drawn = random.Random(seed)  # noqa: S311
    if data is None:
        found = real_texts(count)
    else:
        share = -(-count // len(SETS))
        found = []
        for name in SETS:
            texts = sorted(set(_texts_of(data / name / "dev.jsonl.gz")))
            found += drawn.sample(texts, min(share, len(texts)))
    drawn.shuffle(found)
    found = found[:count]
    return Texts("mixed lengths", found, _lengths(encoder, found))


def _texts_of(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            text = " ".join(row["tokens"]) if "tokens" in row else row["text"]
            whole = " ".join([text, row["text_pair"]] if "text_pair" in row else [text]).strip()
            if whole:
                yield whole


def _lengths(encoder: TextEncoder, texts: Sequence[str]) -> list[int]:
    return [len(row.input_ids) for row in encoder.encode([(text, None) for text in texts])]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder of data sets (default: news sentences)")
    parser.add_argument("--texts", type=int, default=384, help="how many different ones")
    parser.add_argument("--lengths", default="uniform,mixed")


def chosen(arguments: argparse.Namespace, encoder: TextEncoder) -> list[Texts]:
    made = {
        "uniform": lambda: uniform(encoder, arguments.texts),
        "mixed": lambda: mixed(encoder, arguments.texts, arguments.data),
    }
    return [made[name]() for name in arguments.lengths.split(",")]
