import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.words import split_words
from pipelines.data.dataset import Example, load_dataset
from registry.domain.task_specs import (
    Columns,
    DataFiles,
    InputForm,
    Metric,
    TagScheme,
    TaskSpec,
    TaskType,
)
from registry.errors import InvalidInput

CLASSIFICATION = {"type": TaskType.CLASSIFICATION, "metric": Metric.ACCURACY, "labels": ("ham", "spam")}
REGRESSION = {"type": TaskType.REGRESSION, "metric": Metric.SPEARMAN}
BIO = {
    "type": TaskType.TOKEN_CLASSIFICATION,
    "metric": Metric.ENTITY_F1,
    "labels": ("city", "day"),
    "tag_scheme": TagScheme.BIO,
}
PLAIN = BIO | {"metric": Metric.ACCURACY, "labels": ("lower", "title"), "tag_scheme": TagScheme.PLAIN}


def _spec(path: Path, fields: Mapping[str, Any]) -> TaskSpec:
    return TaskSpec(task="mail", data=DataFiles(train=str(path), dev=str(path)), **fields)


def _json_lines(folder: Path, rows: Sequence[object], name: str = "rows.jsonl") -> Path:
    path = folder / name
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def _file(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def _problems(spec: TaskSpec, split: str = "train") -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load_dataset(spec, split)
    assert caught.value.subject == f"task mail, {split} data {spec.data.train}"
    return list(caught.value.problems)


def _parquet(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "rows.parquet", **types: pa.DataType) -> Path:
    """The rows' columns, in the types that Arrow infers unless told otherwise, in row groups of two."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows], types.get(name)) for name in names})
    pq.write_table(table, folder / name, row_group_size=2)
    return folder / name


HAM_AND_SPAM = [{"text": "See you at six", "label": "ham"}, {"text": "WIN a phone", "label": "spam"}]


def test_classification_rows_become_examples(tmp_path):
    dataset = load_dataset(_spec(_json_lines(tmp_path, HAM_AND_SPAM), CLASSIFICATION), "train")
    assert dataset.examples == (Example("See you at six", None, "ham"), Example("WIN a phone", None, "spam"))


def test_train_and_dev_are_different_files(tmp_path):
    train = _json_lines(tmp_path, HAM_AND_SPAM, "train.jsonl")
    dev = _json_lines(tmp_path, HAM_AND_SPAM[:1], "dev.jsonl")
    spec = TaskSpec(task="mail", data=DataFiles(train=str(train), dev=str(dev)), **CLASSIFICATION)
    assert len(load_dataset(spec, "train").examples) == 2
    assert len(load_dataset(spec, "dev").examples) == 1


def test_pairs_keep_both_texts_and_single_texts_ignore_the_second(tmp_path):
    rows = [{**row, "text_pair": "Yes"} for row in HAM_AND_SPAM]
    path = _json_lines(tmp_path, rows)
    pair = load_dataset(_spec(path, CLASSIFICATION | {"input_form": InputForm.PAIR}), "train")
    single = load_dataset(_spec(path, CLASSIFICATION), "train")
    assert [example.text_pair for example in pair.examples] == ["Yes", "Yes"]
    assert [example.text_pair for example in single.examples] == [None, None]


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_tables_are_read_like_json_lines(tmp_path, name, separator):
    table = _file(tmp_path, name, f"label{separator}text\nham{separator}See you at six\nspam{separator}WIN a phone\n")
    lines = _json_lines(tmp_path, HAM_AND_SPAM)
    assert load_dataset(_spec(table, CLASSIFICATION), "train") == load_dataset(_spec(lines, CLASSIFICATION), "train")


def test_gzip_changes_nothing(tmp_path):
    plain, packed = _json_lines(tmp_path, HAM_AND_SPAM), _json_lines(tmp_path, HAM_AND_SPAM, "rows.jsonl.gz")
    assert load_dataset(_spec(plain, CLASSIFICATION), "dev") == load_dataset(_spec(packed, CLASSIFICATION), "dev")


def test_columns_can_be_named_otherwise(tmp_path):
    path = _json_lines(tmp_path, [{"q": "a?", "r": "b", "y": "ham"}, {"q": "c?", "r": "d", "y": "spam"}])
    columns = Columns(text="q", text_pair="r", label="y")
    spec = _spec(path, CLASSIFICATION | {"columns": columns, "input_form": InputForm.PAIR})
    assert load_dataset(spec, "train").examples[0] == Example("a?", "b", "ham")


def test_labels_that_json_wrote_as_numbers_or_booleans_are_compared_by_their_text(tmp_path):
    path = _json_lines(tmp_path, [{"text": "a", "label": 1}, {"text": "b", "label": True}, {"text": "c", "label": 0.5}])
    spec = _spec(path, CLASSIFICATION | {"labels": ("0.5", "1", "true")})
    assert [example.target for example in load_dataset(spec, "train").examples] == ["1", "true", "0.5"]


def test_numbers_are_read_from_json_and_from_tables(tmp_path):
    lines = _json_lines(
        tmp_path, [{"text": "a", "label": 5}, {"text": "b", "label": -0.25}, {"text": "c", "label": "2"}]
    )
    table = _file(tmp_path, "rows.csv", "text,label\na,5\nb,-2.5e-1\nc,2.0\n")
    for path in (lines, table):
        targets = [example.target for example in load_dataset(_spec(path, REGRESSION), "train").examples]
        assert targets == [5.0, -0.25, 2.0]
        assert all(type(target) is float for target in targets)


def test_tags_are_carried_to_the_words_of_the_one_splitter(tmp_path):
    path = _json_lines(
        tmp_path,
        [
            {"tokens": ["fly", "to", "St.John's"], "tags": ["O", "O", "B-city"]},
            {"tokens": ["on", "Ash", "Wednesday"], "tags": ["O", "B-day", "I-day"]},
        ],
    )
    for example in load_dataset(_spec(path, BIO), "train").examples:
        assert len(example.target) == len(split_words(example.text))
    first, second = load_dataset(_spec(path, BIO), "train").examples
    assert first.text == "fly to St.John's"
    assert first.target[:3] == ("O", "O", "B-city")
    assert set(first.target[3:]) == {"I-city"}
    assert second.target == ("O", "B-day", "I-day")


def test_plain_tags_are_repeated_over_the_words_of_a_token(tmp_path):
    path = _json_lines(tmp_path, [{"tokens": ["Rock-star", "sings"], "tags": ["title", "lower"]}])
    (example,) = load_dataset(_spec(path, PLAIN), "train").examples
    assert example.target == ("title",) * (len(split_words(example.text)) - 1) + ("lower",)


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_tables_hold_tokens_and_tags_separated_by_spaces(tmp_path, name, separator):
    content = f"tokens{separator}tags\nfly to  Oslo{separator}O O B-city\nfly  now{separator}O O\n"
    examples = load_dataset(_spec(_file(tmp_path, name, content), BIO), "train").examples
    assert examples == (Example("fly to Oslo", None, ("O", "O", "B-city")), Example("fly now", None, ("O", "O")))


def test_one_joint_file_serves_two_tasks(tmp_path):
    rows = [
        {"tokens": ["fly", "to", "Oslo"], "tags": ["O", "O", "B-city"], "intent": "flight"},
        {"tokens": ["how", "far"], "tags": ["O", "O"], "intent": "distance"},
    ]
    path = _json_lines(tmp_path, rows)
    intents = CLASSIFICATION | {"labels": ("distance", "flight"), "columns": Columns(label="intent")}
    by_intent, by_slot = load_dataset(_spec(path, intents), "train"), load_dataset(_spec(path, BIO), "train")
    assert by_intent.examples[0] == Example("fly to Oslo", None, "flight")
    assert by_slot.examples[0] == Example("fly to Oslo", None, ("O", "O", "B-city"))
    assert by_intent.input_digests == by_slot.input_digests
    assert by_intent.digest != by_slot.digest


def test_a_text_is_preferred_to_tokens(tmp_path):
    rows = [{"text": "Fly!", "tokens": ["fly"], "label": "ham"}, {"text": "Go!", "tokens": ["go"], "label": "spam"}]
    examples = load_dataset(_spec(_json_lines(tmp_path, rows), CLASSIFICATION), "train").examples
    assert [example.text for example in examples] == ["Fly!", "Go!"]


@pytest.mark.parametrize(
    ("fields", "rows", "types"),
    [
        (CLASSIFICATION, HAM_AND_SPAM * 3, {}),
        (CLASSIFICATION, HAM_AND_SPAM, {"label": pa.dictionary(pa.int8(), pa.string()), "text": pa.large_string()}),
        (
            CLASSIFICATION | {"labels": ("1", "2"), "input_form": InputForm.PAIR},
            [{"text": "Zoë", "text_pair": "b", "label": 1}, {"text": "c", "text_pair": "d", "label": 2}],
            {"label": pa.int16()},
        ),
        (
            CLASSIFICATION | {"labels": ("true", "false")},
            [{"text": "a", "label": True}, {"text": "b", "label": False}],
            {},
        ),
        (REGRESSION, [{"text": "a", "label": 5}, {"text": "b", "label": -1}], {"label": pa.int64()}),
        (REGRESSION, [{"text": "a", "label": 0.1}, {"text": "b", "label": 1e30}], {"label": pa.float64()}),
        (REGRESSION, [{"text": "a", "label": 0.25}, {"text": "b", "label": 2.0}], {"label": pa.float32()}),
        (
            BIO,
            [
                {"tokens": ["fly", "to", "St.John's"], "tags": ["O", "O", "B-city"]},
                {"tokens": ["on", "Ash"], "tags": ["O", "B-day"]},
            ],
            {"tags": pa.large_list(pa.dictionary(pa.int32(), pa.string()))},
        ),
        (PLAIN, [{"tokens": "Rock star sings", "tags": "title lower lower"}], {}),
    ],
)
def test_parquet_is_read_like_json_lines_with_the_same_digests(tmp_path, fields, rows, types):
    lines, parquet = _json_lines(tmp_path, rows), _parquet(tmp_path, rows, **types)
    assert load_dataset(_spec(parquet, fields), "dev") == load_dataset(_spec(lines, fields), "dev")


def test_a_parquet_table_has_the_digest_of_the_same_table_in_csv(tmp_path):
    table = _file(tmp_path, "rows.csv", "text,label\nSee you at six,ham\nWIN a phone,spam\n")
    parquet = _parquet(tmp_path, HAM_AND_SPAM)
    assert load_dataset(_spec(table, CLASSIFICATION), "dev") == load_dataset(_spec(parquet, CLASSIFICATION), "dev")


def test_a_parquet_column_that_no_task_reads_may_be_of_any_type(tmp_path):
    rows = [{**row, "when": {"year": 2026}, "vector": [[0.5]]} for row in HAM_AND_SPAM]
    dataset = load_dataset(_spec(_parquet(tmp_path, rows), CLASSIFICATION), "train")
    assert [example.target for example in dataset.examples] == ["ham", "spam"]


_words = st.text("ab.'- é中😀", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=30)
@given(st.lists(st.tuples(_words, _words, st.floats(-1e30, 1e30)), min_size=1, max_size=6))
def test_any_rows_have_one_digest_in_parquet_and_in_json_lines(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    values = [{"text": text, "text_pair": pair, "label": label} for text, pair, label in rows]
    fields = REGRESSION | {"input_form": InputForm.PAIR}
    lines, parquet = _json_lines(folder, values), _parquet(folder, values)
    assert load_dataset(_spec(parquet, fields), "dev") == load_dataset(_spec(lines, fields), "dev")


# --- digests


def test_the_digest_has_the_documented_layout(tmp_path):
    rows = [{"text": "Zoë's", "text_pair": "b", "label": 5}, {"text": "c", "text_pair": 'd"', "label": 0.5}]
    spec = _spec(_json_lines(tmp_path, rows), REGRESSION | {"input_form": InputForm.PAIR})
    layout = 'trunkline data 1\n["Zoë\'s","b",5.0]\n["c","d\\"",0.5]\n'
    dataset = load_dataset(spec, "train")
    assert dataset.digest == hashlib.sha256(layout.encode()).hexdigest()
    assert dataset.input_digests == tuple(
        hashlib.sha256(text.encode()).hexdigest() for text in ('["Zoë\'s","b"]', '["c","d\\""]')
    )


def test_the_digest_of_tags_has_the_documented_layout(tmp_path):
    path = _json_lines(tmp_path, [{"tokens": ["to", "Oslo"], "tags": ["O", "B-city"]}])
    layout = b'trunkline data 1\n["to Oslo",null,["O","B-city"]]\n'
    assert load_dataset(_spec(path, BIO), "dev").digest == hashlib.sha256(layout).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        [{"text": "See you at six!", "label": "ham"}, HAM_AND_SPAM[1]],
        [{"text": "See you at six", "label": "spam"}, HAM_AND_SPAM[1]],
        [HAM_AND_SPAM[1], HAM_AND_SPAM[0]],
        [*HAM_AND_SPAM, HAM_AND_SPAM[0]],
    ],
    ids=["text", "label", "order", "one row more"],
)
def test_the_digest_changes_with(tmp_path, changed):
    before = load_dataset(_spec(_json_lines(tmp_path, HAM_AND_SPAM, "a.jsonl"), CLASSIFICATION), "dev")
    after = load_dataset(_spec(_json_lines(tmp_path, changed, "b.jsonl"), CLASSIFICATION), "dev")
    assert before.digest != after.digest


def test_input_digests_depend_on_the_texts_alone(tmp_path):
    relabelled = [{"text": row["text"], "label": "ham", "id": 7} for row in HAM_AND_SPAM]
    before = load_dataset(_spec(_json_lines(tmp_path, HAM_AND_SPAM, "a.jsonl"), CLASSIFICATION), "dev")
    after = load_dataset(_spec(_json_lines(tmp_path, relabelled, "b.jsonl"), CLASSIFICATION), "dev")
    assert before.input_digests == after.input_digests
    assert len(set(before.input_digests)) == 2


# --- refused input


def test_all_problems_of_a_file_are_reported_at_once(tmp_path):
    rows = [
        {"text": "a", "label": "ham"},
        {"text": "  ", "label": "hamm"},
        {"label": "spam"},
        {"text": 3, "label": None},
        {"text": None, "label": {"is": "spam"}},
    ]
    problems = _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION))
    assert problems == [
        "line 2: 'text' is empty",
        "line 2: label 'hamm' is not declared; did you mean 'ham'?",
        "line 3: no column 'text'; there is 'label' (`columns` in the task file says which to read)",
        "line 4: 'text' is 3, not a text",
        "line 4: 'label' is null",
        "line 5: 'text' is null",
        "line 5: 'label' holds an object, not a label",
    ]


def test_a_problem_of_many_rows_is_reported_once_with_its_count(tmp_path):
    rows = [{"text": "a", "label": "Spam"}] * 1200 + HAM_AND_SPAM + [{"text": "b", "label": "Ham"}] * 2
    assert _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION)) == [
        "lines 1, 2, 3 and 1,197 more: label 'Spam' is not declared; did you mean 'spam'?",
        "lines 1203, 1204: label 'Ham' is not declared; did you mean 'ham'?",
    ]


def test_the_message_shows_twenty_problems_and_counts_the_rest(tmp_path):
    rows = [{"text": "a", "label": f"label {number}"} for number in range(50)]
    spec = _spec(_json_lines(tmp_path, rows), CLASSIFICATION)
    with pytest.raises(InvalidInput) as caught:
        load_dataset(spec, "train")
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[0] == f"task mail, train data {spec.data.train}: 50 problems"
    assert lines[-1].strip() == "- and 30 more"


def test_a_column_that_a_table_lacks_is_reported_once(tmp_path):
    path = _file(tmp_path, "rows.csv", "sentence,label\na,ham\nb,spam\nc,ham\nd,ham\n")
    (problem,) = _problems(_spec(path, CLASSIFICATION))
    assert problem.startswith("lines 2, 3, 4 and 1 more: no column 'text'; there is 'sentence', 'label'")


def test_a_pair_task_needs_the_second_text(tmp_path):
    rows = [{**HAM_AND_SPAM[0], "text_pair": ""}, HAM_AND_SPAM[1]]
    problems = _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION | {"input_form": InputForm.PAIR}))
    assert problems[0] == "line 1: 'text_pair' is empty"
    assert problems[1].startswith("line 2: no column 'text_pair'")


def test_all_problems_of_a_parquet_file_are_reported_with_their_rows(tmp_path):
    rows = [
        {"text": "a", "label": "ham"},
        {"text": " ", "label": "hamm"},
        {"text": None, "label": "spam"},
        {"text": "b", "label": None},
        {"text": None, "label": "ham"},
    ]
    assert _problems(_spec(_parquet(tmp_path, rows), CLASSIFICATION)) == [
        "row 2: 'text' is empty",
        "row 2: label 'hamm' is not declared; did you mean 'ham'?",
        "rows 3, 5: 'text' is null",
        "row 4: 'label' is null",
    ]


def test_nulls_in_parquet_lists_are_reported_with_their_rows(tmp_path):
    rows = [
        {"tokens": ["to", None], "tags": ["O", "O"]},
        {"tokens": None, "tags": ["O"]},
        {"tokens": ["to"], "tags": [None]},
        {"tokens": [], "tags": []},
    ]
    assert _problems(_spec(_parquet(tmp_path, rows), BIO)) == [
        "row 1: 'tokens' holds something that is not a text",
        "row 2: 'tokens' is null",
        "row 3: 'tags' holds null, not a label",
        "row 4: 'tokens' is empty or holds an empty token",
    ]


def test_a_parquet_column_of_an_unsupported_type_is_reported_once_with_its_type(tmp_path):
    rows = [{"text": f"text {number}", "label": {"name": "ham", "of": ["ham", "spam"]}} for number in range(5)]
    (problem,) = _problems(_spec(_parquet(tmp_path, rows), CLASSIFICATION))
    assert problem == (
        "rows 1, 2, 3 and 2 more: 'label' is of type struct<name: string, of: list<element: …; "
        "what can be read is text, numbers, booleans and lists of them"
    )


def test_a_column_that_a_parquet_file_lacks_is_reported_with_those_it_has(tmp_path):
    path = _parquet(tmp_path, [{"sentence": "a", "idx": 3, "label": "ham"}] * 2)
    (problem,) = _problems(_spec(path, CLASSIFICATION), "dev")
    assert problem.startswith("rows 1, 2: no column 'text'; there is 'sentence', 'idx', 'label' (`columns`")


def test_what_was_wrong_before_parquet_broke_off_is_reported_with_it(tmp_path):
    texts = pa.array([f"text {number}" for number in range(9000)])
    table = pa.table({"text": texts, "label": pa.array(["Ham", *["ham"] * 8999])})
    path = tmp_path / "rows.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, path, row_group_size=4500, **options)
    path.write_bytes(path.read_bytes().replace(b"text 8000", b"tent 8000"))
    first, second = _problems(_spec(path, CLASSIFICATION))
    assert first == "row 1: label 'Ham' is not declared; did you mean 'ham'?"
    assert second.startswith("cannot be read as Parquet after row ")


@pytest.mark.parametrize("write", [_json_lines, _parquet])
@pytest.mark.parametrize("numbers", [(0, 1), (0.0, 1.0), ("0", "1"), (-1, 7)])
def test_a_number_is_not_taken_for_the_place_of_a_label(tmp_path, write, numbers):
    rows = [{"text": "a", "label": numbers[0]}, {"text": "b", "label": numbers[1]}]
    assert _problems(_spec(write(tmp_path, rows), CLASSIFICATION)) == [
        f"{'row' if write is _parquet else 'line'} {place}: label '{number}' is not declared: a number is not taken "
        "for a label's place; write the labels' names into the data, or declare the numbers"
        for place, number in enumerate(numbers, start=1)
    ]


def test_a_number_is_not_taken_for_the_place_of_a_tag(tmp_path):
    rows = [{"tokens": ["to", "Oslo"], "tags": [0, 1]}]
    for path in (_parquet(tmp_path, rows), _json_lines(tmp_path, rows)):
        problems = _problems(_spec(path, BIO))
        assert len(problems) == 2
        assert all("a number is not taken for a label's place" in problem for problem in problems)


def test_where_numbers_are_declared_another_is_simply_not(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 3}]
    spec = _spec(_parquet(tmp_path, rows), CLASSIFICATION | {"labels": ("1", "2")})
    assert _problems(spec) == ["row 2: label '3' is not declared"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_a_parquet_target_that_is_not_finite_is_refused(tmp_path, value):
    rows = [{"text": "a", "label": value}, {"text": "b", "label": 1.0}]
    (problem,) = _problems(_spec(_parquet(tmp_path, rows), REGRESSION))
    assert problem.startswith("row 1: 'label' is ")
    assert problem.endswith("not a finite number (that fits fp32)")


@pytest.mark.parametrize(
    "written", ["NaN", "Infinity", "-Infinity", "1e400", '"nan"', '"inf"', "1e39", "1" + "0" * 400]
)
def test_a_target_that_is_not_finite_is_refused(tmp_path, written):
    path = _file(tmp_path, "rows.jsonl", f'{{"text": "a", "label": 1}}\n{{"text": "b", "label": {written}}}\n')
    (problem,) = _problems(_spec(path, REGRESSION))
    assert problem.startswith("line 2: 'label' is ")
    assert problem.endswith("not a finite number (that fits fp32)")


@pytest.mark.parametrize("written", ['"high"', '"3,8"', '"1_000"', '"\u0663"', '"nan"', '""', "true", "[1]", "{}"])
def test_a_target_that_is_no_number_is_refused(tmp_path, written):
    path = _file(tmp_path, "rows.jsonl", f'{{"text": "a", "label": {written}}}\n{{"text": "b", "label": 2}}\n')
    (problem,) = _problems(_spec(path, REGRESSION))
    assert problem.startswith("line 1: 'label' is ")
    assert problem.endswith("not a finite number (that fits fp32)")


def test_tokens_and_tags_of_unequal_length_are_refused(tmp_path):
    rows = [{"tokens": ["to", "Oslo"], "tags": ["O", "B-city"]}, {"tokens": ["to", "Oslo"], "tags": ["O"]}]
    assert _problems(_spec(_json_lines(tmp_path, rows), BIO)) == ["line 2: 2 tokens, but 1 tags"]


def test_an_undeclared_tag_is_refused_with_the_rule_of_its_scheme(tmp_path):
    rows = [
        {"tokens": ["to", "Oslo"], "tags": ["O", "B-town"]},
        {"tokens": ["Oslo", "Oslo"], "tags": ["B-town", "city"]},
        {"tokens": ["on", "Ash"], "tags": ["B-city", "I-day"]},
    ]
    problems = _problems(_spec(_json_lines(tmp_path, rows), BIO))
    rule = "with tag_scheme bio tags are O, B-x and I-x for a label x"
    assert problems == [
        f"lines 1, 2: tag 'B-town' is not declared; {rule}",
        f"line 2: tag 'city' is not declared; {rule}",
    ]
    plain = _problems(_spec(_json_lines(tmp_path, [{"tokens": ["a"], "tags": ["O"]}]), PLAIN), "dev")
    assert plain == ["line 1: tag 'O' is not declared"]


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ([], "'tokens' is empty or holds an empty token"),
        (["to", " "], "'tokens' is empty or holds an empty token"),
        (["to", ""], "'tokens' is empty or holds an empty token"),
        (["to", 5], "'tokens' holds something that is not a text"),
        (7, "'tokens' is 7, not a list"),
        ({"0": "to"}, "'tokens' is an object, not a list"),
        (["to", "\ud83d"], "'tokens' holds half of a surrogate pair, which is no character"),
    ],
)
@pytest.mark.parametrize("fields", [BIO, CLASSIFICATION], ids=["tokens", "joined"])
def test_unusable_tokens_are_refused(tmp_path, tokens, problem, fields):
    rows = [{"tokens": tokens, "tags": ["O", "O"], "label": "ham"}]
    assert _problems(_spec(_json_lines(tmp_path, rows), fields), "dev") == [f"line 1: {problem}"]


def test_half_a_surrogate_pair_is_refused(tmp_path):
    rows = [{"text": "well \ud83d", "label": "ham"}, HAM_AND_SPAM[1]]
    problems = _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION), "dev")
    assert problems == ["line 1: 'text' holds half of a surrogate pair, which is no character"]


@pytest.mark.parametrize("fields", [CLASSIFICATION, REGRESSION, BIO, PLAIN])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_an_empty_file_is_refused(tmp_path, fields, name):
    path = _file(tmp_path, name, "text,label,tokens,tags\n" if name.endswith("csv") else "")
    assert _problems(_spec(path, fields), "dev") == ["the file holds no rows"]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (CLASSIFICATION, {"text": "a", "label": "ham"}),
        (REGRESSION, {"text": "a", "label": 2}),
        (BIO, {"tokens": ["a", "b"], "tags": ["O", "O"]}),
        (PLAIN, {"tokens": ["a", "b"], "tags": ["lower", "lower"]}),
    ],
)
def test_training_data_of_one_target_are_refused_but_dev_data_are_not(tmp_path, fields, row):
    spec = _spec(_json_lines(tmp_path, [row, row]), fields)
    (problem,) = _problems(spec, "train")
    assert "everywhere: there is nothing to learn" in problem
    assert len(load_dataset(spec, "dev").examples) == 2


def test_a_misspelt_label_is_not_taken_for_one_class_data(tmp_path):
    rows = [HAM_AND_SPAM[0], {"text": "WIN", "label": "Spam"}]
    assert _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION)) == [
        "line 2: label 'Spam' is not declared; did you mean 'spam'?"
    ]


def test_one_class_data_are_reported_with_their_other_problems(tmp_path):
    rows = [{"text": "", "label": "ham"}, {"text": "a", "label": "ham"}]
    assert _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION)) == [
        "line 1: 'text' is empty",
        "the target is 'ham' everywhere: there is nothing to learn",
    ]


def test_what_was_wrong_before_a_garbled_line_is_reported_with_it(tmp_path):
    path = _file(
        tmp_path, "rows.jsonl", '{"text": "a", "label": "Ham"}\n{"text": "b", \n{"text": "", "label": "ham"}\n'
    )
    problems = _problems(_spec(path, CLASSIFICATION))
    assert problems[0] == "line 1: label 'Ham' is not declared; did you mean 'ham'?"
    assert problems[1].startswith("line 2: is not JSON")
    assert len(problems) == 2


def test_a_missing_file_is_refused(tmp_path):
    assert _problems(_spec(tmp_path / "none.jsonl", CLASSIFICATION)) == ["the file does not exist"]


@given(
    st.lists(
        st.tuples(st.text("ab.'- é", min_size=1).filter(str.strip), st.sampled_from(["lower", "title"])), min_size=1
    )
)
def test_every_word_of_any_tokens_gets_one_declared_tag(tmp_path_factory, pairs):
    row = {"tokens": [token for token, _ in pairs], "tags": [tag for _, tag in pairs]}
    spec = _spec(_json_lines(tmp_path_factory.mktemp("rows"), [row]), PLAIN)
    (example,) = load_dataset(spec, "dev").examples
    assert len(example.target) == len(split_words(example.text))
    assert set(example.target) == set(row["tags"])


def test_a_label_that_is_nearly_declared_is_told_what_it_may_have_been_meant_for(tmp_path):
    rows = [{"text": "a", "label": label} for label in ("Ham ", "something else", "spam")]
    problems = _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION))
    assert problems == [
        "line 1: label 'Ham ' is not declared; did you mean 'ham'?",
        "line 2: label 'something else' is not declared",
    ]
    rows = [{"text": "a", "label": label} for label in ("unspam", "2021", "ham")]
    declared = CLASSIFICATION | {"labels": ("ham", "spam", "2022")}
    assert _problems(_spec(_json_lines(tmp_path, rows), declared)) == [
        "line 1: label 'unspam' is not declared",
        "line 2: label '2021' is not declared",
    ]


def test_only_so_many_labels_are_given_a_hint(tmp_path):
    rows = [{"text": "a", "label": f"Ham{number}"} for number in range(10)]
    rows += [{"text": "a", "label": f"spam{letter}"} for letter in "abcdefghijklmnopqrstuvwxyz"]
    problems = _problems(_spec(_json_lines(tmp_path, rows), CLASSIFICATION))
    assert sum("did you mean" in problem for problem in problems) == 20
