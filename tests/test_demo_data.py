import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge, RidgeClassifier

from modeling.words import split_words
from pipelines.data.dataset import load_dataset
from pipelines.training.metrics import score
from registry.domain.task_specs import TaskSpec, TaskType, parse_task_spec
from registry.errors import NotFound

SCRIPT = Path(__file__).parents[1] / "examples" / "demo_data.py"


@pytest.fixture(scope="module")
def folder(demo_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo_data.write_demo_data(folder)
    return folder


@pytest.fixture(scope="module")
def specs(folder) -> dict[str, TaskSpec]:
    found = {}
    for path in folder.glob("*/task.yaml"):
        content = yaml.safe_load(path.read_text())
        content["data"] = {split: str(path.parent / name) for split, name in content["data"].items()}
        found[path.parent.name] = parse_task_spec(content, str(path))
    return found


def _rows(folder: Path, task: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / task / f"{split}.jsonl").read_text().splitlines()]


def _texts(folder: Path, task: str, split: str) -> list[str]:
    return [row.get("text") or " ".join(row["tokens"]) for row in _rows(folder, task, split)]


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", re.sub(r"@\w+", " ", text.lower()))
    return {tuple(words[begin : begin + length]) for begin in range(max(1, len(words) - length + 1))}


def test_four_tasks_of_all_three_types_are_valid_and_of_the_demo_s_size(specs):
    assert set(specs) == {"news-topic", "tweet-sentiment", "tweet-mood", "restore-case"}
    assert {spec.type for spec in specs.values()} == set(TaskType)
    for name, spec in specs.items():
        assert spec.task == name
        assert spec.description
        assert 1500 <= len(load_dataset(spec, "train").examples) <= 3000
        assert 500 <= len(load_dataset(spec, "dev").examples) <= 800


def test_the_paths_of_the_task_files_are_returned(demo_data, folder):
    assert [definition["task"] for definition in demo_data.DEFINITIONS] == [
        path.parent.name for path in demo_data.write_demo_data(folder)
    ]


def test_another_process_writes_the_same_bytes(folder, tmp_path):
    program = "import pathlib, sys, demo_data; demo_data.write_demo_data(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(SCRIPT.parent)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, cwd=tmp_path, check=True)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert written == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    assert len(written) == 12


@pytest.mark.parametrize(
    ("tasks", "length"), [(("news-topic", "restore-case"), 10), (("tweet-sentiment", "tweet-mood"), 6)]
)
def test_no_dev_row_has_a_near_copy_in_the_training_data_of_either_task(folder, tasks, length):
    trained = {run for task in tasks for text in _texts(folder, task, "train") for run in _runs(text, length)}
    for task in tasks:
        assert not [text for text in _texts(folder, task, "dev") if _runs(text, length) & trained]


@pytest.mark.parametrize("task", ["news-topic", "tweet-sentiment", "tweet-mood", "restore-case"])
def test_rows_are_clean_short_and_without_repeats(folder, task):
    texts = _texts(folder, task, "train") + _texts(folder, task, "dev")
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text == " ".join(text.split())
        assert not re.search(r"\ufffd|¿|&\w+;|https?|^RT ", text)
        assert 4 <= len(text.split()) <= 80
    if task == "news-topic":
        assert max(len(text.split()) for text in texts) <= 40


def test_rows_are_not_sorted_by_label(folder):
    for task in ("news-topic", "tweet-sentiment"):
        labels = [row["label"] for row in _rows(folder, task, "train")]
        assert sum(before == after for before, after in pairwise(labels)) < len(labels) * 0.4


def test_tweets_are_balanced_and_mood_is_the_signed_agreement(folder):
    for split, each in (("train", 666), ("dev", 200)):
        labels = Counter(row["label"] for row in _rows(folder, "tweet-sentiment", split))
        assert labels == {"negative": each, "neutral": each, "positive": each}
        moods = [row["label"] for row in _rows(folder, "tweet-mood", split)]
        assert Counter((mood > 0) - (mood < 0) for mood in moods) == {-1: each, 0: each, 1: each}
        assert all(abs(mood) <= 1 for mood in moods)


def test_a_tweet_of_both_tasks_has_the_same_sign_in_both(folder):
    signs = {"negative": -1, "neutral": 0, "positive": 1}
    sentiments = {row["text"]: row["label"] for row in _rows(folder, "tweet-sentiment", "train")}
    shared = [row for row in _rows(folder, "tweet-mood", "train") if row["text"] in sentiments]
    assert len(shared) > 100
    assert all(row["label"] == signs[sentiments[row["text"]]] for row in shared)


def test_words_to_restore_are_those_of_the_one_splitter(folder):
    for row in _rows(folder, "restore-case", "dev"):
        text = " ".join(row["tokens"])
        assert text == text.lower()
        assert len(row["tags"]) == len(row["tokens"])
        assert [text[word.start : word.end] for word in split_words(text)] == row["tokens"]


@pytest.mark.parametrize(
    ("word", "case"),
    [
        ("the", "lower"),
        ("4.89", "lower"),
        ("25bn", "lower"),
        ("%", "lower"),
        ("Blair", "title"),
        ("I", "title"),
        ("Élysée", "title"),
        ("BBC", "upper"),
        ("MP3", "upper"),
        ("iPod", "mixed"),
        ("McDonald", "mixed"),
        ("DVDs", "mixed"),
    ],
)
def test_the_case_of_a_word(demo_data, word, case):
    assert demo_data.case_of(word) == case


def test_sentences_end_at_their_marks_but_not_after_initials_and_ellipses(demo_data):
    text = 'He said: "We won." J. K. Rowling did too... and left! £5m was paid.  At 4.5% it grew.'
    assert demo_data.split_sentences(text) == [
        'He said: "We won."',
        "J. K. Rowling did too... and left!",
        "£5m was paid.",
        "At 4.5% it grew.",
    ]


def test_passages_are_whole_sentences_that_fit(demo_data):
    sentences = ["a " * 9 + "a.", "b " * 19 + "b.", "c " * 29 + "c.", "d " * 49 + "d.", "e."]
    assert demo_data.passages([sentence.strip() for sentence in sentences]) == [
        "a " * 9 + "a. " + "b " * 19 + "b.",
        "c " * 29 + "c.",
    ]


def test_a_tweet_is_cleaned_of_what_is_no_text(demo_data):
    raw = "RT @united: Fly &amp;lt;3 us\r\rnow &amp; then http://t.co/x https:"
    assert demo_data.clean_tweet(raw) == "Fly <3 us now & then"


def test_near_copies_are_dropped(demo_data):
    texts = ["one two three four", "zero ONE two, three!", "one two", "one two", "two three four five"]
    assert demo_data.without_copies(texts, str, run=3) == ["one two three four", "one two"]


def test_a_missing_package_is_named_with_what_to_install(demo_data):
    with pytest.raises(NotFound, match=r"no_such_corpus.*trunkline\[demo\]"):
        demo_data._package("no_such_corpus")


@pytest.mark.parametrize(("task", "least"), [("news-topic", 0.8), ("tweet-sentiment", 0.7), ("tweet-mood", 0.6)])
def test_a_bag_of_words_learns_it(specs, task, least):
    spec = specs[task]
    train, dev = load_dataset(spec, "train").examples, load_dataset(spec, "dev").examples
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    model = Ridge() if spec.type is TaskType.REGRESSION else RidgeClassifier()
    model.fit(vectorizer.fit_transform([example.text for example in train]), [example.target for example in train])
    predicted = list(model.predict(vectorizer.transform([example.text for example in dev])))
    assert score(spec, [example.target for example in dev], predicted)[spec.metric] >= least
