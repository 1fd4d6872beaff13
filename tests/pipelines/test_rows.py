import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.rows import Row, read_rows
from registry.errors import InvalidInput


def _written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def _problem(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        list(read_rows(path))
    assert caught.value.subject == str(path)
    (problem,) = caught.value.problems
    return problem


JSON_LINES = '{"text": "a b", "label": "x"}\n{"text": "c", "label": 1.5, "more": [true, null]}\n'
JSON_ROWS = [Row(1, {"text": "a b", "label": "x"}), Row(2, {"text": "c", "label": 1.5, "more": [True, None]})]


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.json.gz", "D.JSONL", "d.v2.jsonl.GZ"])
def test_json_lines_are_read_plain_and_gzipped(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(JSON_LINES.encode()) if name.lower().endswith("gz") else JSON_LINES.encode())
    assert list(read_rows(path)) == JSON_ROWS


def test_blank_lines_are_passed_over_and_counted(tmp_path):
    path = _written(tmp_path, "d.jsonl", '\n{"a": 1}\r\n  \n{"a": 2}')
    assert list(read_rows(path)) == [Row(2, {"a": 1}), Row(4, {"a": 2})]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for name, content in (("d.jsonl", '{"a": "1"}\n'), ("d.csv", "a\n1\n")):
        (row,) = read_rows(_written(tmp_path, name, b"\xef\xbb\xbf" + content.encode()))
        assert row.values == {"a": "1"}


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    text = "one\u2028two\u0085three\x0cfour"
    path = _written(tmp_path, "d.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n")
    assert [row.values["text"] for row in read_rows(path)] == [text]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_csv_follows_its_quotes(tmp_path, suffix):
    content = 'text,label\n"a, ""b""\nand c",x\n\nd,y\n'
    path = _written(tmp_path, f"d.csv{suffix}", content)
    assert list(read_rows(path)) == [
        Row(2, {"text": 'a, "b"\nand c', "label": "x"}),
        Row(5, {"text": "d", "label": "y"}),
    ]


def test_tsv_is_split_at_tabs(tmp_path):
    path = _written(tmp_path, "d.tsv", 'text\tlabel\na, "b" c\tx\r\n"say ""d"""\ty\n')
    assert list(read_rows(path)) == [
        Row(2, {"text": 'a, "b" c', "label": "x"}),
        Row(3, {"text": 'say "d"', "label": "y"}),
    ]


def test_a_tsv_quote_that_swallows_lines_is_refused(tmp_path):
    path = _written(tmp_path, "d.tsv", 'text\tlabel\n"So it goes\tx\nfine\ty\nhe said "so"\tx\n')
    assert _problem(path).startswith("line 2: ")
    path = _written(tmp_path, "e.tsv", 'text\tlabel\nfine\tx\n"So it goes\tx\nhe said so"\tx\n')
    problem = _problem(path)
    assert problem.startswith("line 3: ")
    assert "quote" in problem


def test_rows_before_a_garbled_line_are_yielded(tmp_path):
    rows = read_rows(_written(tmp_path, "d.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n'))
    assert next(rows) == Row(1, {"a": 1})
    with pytest.raises(InvalidInput, match="line 2: is not JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", '{"a": 1}\n{"a": 1,}\n', "line 2: is not JSON"),
        ("d.jsonl", '[\n{"a": 1}\n]\n', "line 1: is not JSON"),
        ("d.jsonl", '{"a": 1}\n["a"]\n', "line 2: is not one JSON object"),
        ("d.jsonl", "3\n", "line 1: is not one JSON object"),
        ("d.jsonl", '{"a": ' + "9" * 5000 + "}\n", "line 1: is not JSON that can be read"),
        ("d.jsonl", "[" * 200_000 + "\n", "line 1: is not JSON that can be read"),
        ("d.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: byte 8 is not UTF-8"),
        ("d.jsonl", '{"a": 1}\n'.encode("utf-16"), "line 1: byte 1 is not UTF-8"),
        ("d.csv", b"a,b\n1,\xe9\n", "line 2: byte 3 is not UTF-8"),
        ("d.csv", "a,b\n1,2\n1,2,3\n", "line 3: has 3 fields, but the header has 2"),
        ("d.csv", "a,b\n1\n", "line 2: has 1 fields, but the header has 2"),
        ("d.csv", "a,b,a\n1,2,3\n", "line 1: the header names a column twice: 'a'"),
        ("d.csv", 'a,b\n1,2\n"x,2\n3,4\n', "line 3: cannot be split into fields"),
        ("d.csv", 'a,b\n"x"y,2\n', "line 2: cannot be split into fields"),
        ("d.csv", f"a,b\n{'x' * 200_000},2\n", "line 2: cannot be split into fields"),
        ("d.tsv", "a\tb\n1\t2\t3\n", "line 2: has 3 fields, but the header has 2"),
    ],
)
def test_a_garbled_line_is_named(tmp_path, name, content, expected):
    assert _problem(_written(tmp_path, name, content)).startswith(expected)
    assert _problem(_written(tmp_path, f"{name}.gz", content)).startswith(expected)


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(JSON_LINES.encode() * 1000, mtime=0)
    cut_off, flipped, plain = (tmp_path / f"{name}.jsonl.gz" for name in ("cut-off", "flipped", "plain"))
    cut_off.write_bytes(whole[: len(whole) // 2])
    flipped.write_bytes(whole[:40] + bytes([whole[40] ^ 255]) + whole[41:])
    plain.write_text(JSON_LINES)
    for path in (cut_off, flipped, plain):
        assert "damaged or not gzip" in _problem(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert _problem(tmp_path / "missing.jsonl") == "the file does not exist"
    assert _problem(tmp_path / "missing.csv.gz") == "the file does not exist"
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be read" in _problem(tmp_path / "folder.jsonl")
    (tmp_path / "folder.tsv.gz").mkdir()
    assert "cannot be read" in _problem(tmp_path / "folder.tsv.gz")


@pytest.mark.parametrize("name", ["d.txt", "d.gz", "jsonl", "d.parquet", "d.csv.zip"])
def test_an_unknown_format_is_refused_with_those_that_are_known(tmp_path, name):
    problem = _problem(_written(tmp_path, name, "a\n"))
    assert ".jsonl" in problem
    assert ".tsv" in problem


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("d.jsonl", "d.jsonl.gz", "d.csv", "d.tsv"):
        assert list(read_rows(_written(tmp_path, name, ""))) == []
    assert list(read_rows(_written(tmp_path, "header.csv", "text,label\n"))) == []


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=8))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, pairs):
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *pairs])
    path = _written(tmp_path_factory.mktemp("rows"), "d.csv", text.getvalue())
    assert [tuple(row.values.values()) for row in read_rows(path)] == pairs


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=5), _JSON, max_size=4), max_size=6), st.booleans())
def test_what_the_json_module_writes_is_read_back(tmp_path_factory, objects, ascii_only):
    content = "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in objects)
    path = _written(tmp_path_factory.mktemp("rows"), "d.jsonl", content)
    assert list(read_rows(path)) == [Row(line, values) for line, values in enumerate(objects, start=1)]
