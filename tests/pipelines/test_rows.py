import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.fields import OtherType
from pipelines.data.rows import Row, is_table, place_word, read_rows
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
        ("d.jsonl", '[\n{"a": 1}\n]\n', "line 1: begins JSON of several lines with '['"),
        ("d.jsonl", '{\n"a": 1\n}\n', "line 1: begins JSON of several lines with '{'"),
        ("d.jsonl", '[{"a": 1}]\n', "line 1: is not one JSON object"),
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
        ("d.csv", "text;label\nx;y\n", "line 1: the header is one column, 'text;label': columns are parted by ','"),
        (
            "d.csv",
            '"text,label"\n"x,y"\n',
            "line 1: the header is one column, 'text,label': the whole line stands in quotes",
        ),
        ("d.tsv", "text,label\nx,y\n", "line 1: the header is one column"),
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


def test_gzip_under_another_name_is_told_its_name(tmp_path):
    for name in ("d.jsonl", "d.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(JSON_LINES.encode(), mtime=0))
        assert _problem(path) == "line 1: is gzip: the file's name must end in .gz"
    twice = tmp_path / "d.jsonl.gz"
    twice.write_bytes(gzip.compress(gzip.compress(JSON_LINES.encode(), mtime=0), mtime=0))
    assert _problem(twice) == "line 1: is gzip: unpack it first"


def test_quotes_are_blamed_only_for_what_they_do(tmp_path):
    assert "must be quoted as a whole" in _problem(_written(tmp_path, "a.csv", 'a,b\n"x"y,2\n'))
    assert "quoted" not in _problem(_written(tmp_path, "b.csv", f"a,b\n{'x' * 200_000},2\n"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert _problem(tmp_path / "missing.jsonl") == "the file does not exist"
    assert _problem(tmp_path / "missing.csv.gz") == "the file does not exist"
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be read" in _problem(tmp_path / "folder.jsonl")
    (tmp_path / "folder.tsv.gz").mkdir()
    assert "cannot be read" in _problem(tmp_path / "folder.tsv.gz")


@pytest.mark.parametrize("name", ["d.txt", "d.gz", "jsonl", "d.parquet.gz", "d.csv.zip"])
def test_an_unknown_format_is_refused_with_those_that_are_known(tmp_path, name):
    problem = _problem(_written(tmp_path, name, "a\n"))
    assert ".jsonl" in problem
    assert ".tsv" in problem
    assert ".parquet" in problem


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


# --- Parquet


def _parquet(folder: Path, columns: dict[str, pa.Array], name: str = "d.parquet", **options) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path, **options)
    return path


TEXTS = ["Zoë's", None, "", "a\nb\u2028c 😀"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_texts_of_every_layout_are_read(tmp_path, kind):
    path = _parquet(tmp_path, {"text": pa.array(TEXTS).cast(kind)})
    assert list(read_rows(path)) == [Row(number, {"text": text}) for number, text in enumerate(TEXTS, start=1)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.int8(), [0, -1, None]),
        (pa.uint64(), [2**63, 1]),
        (pa.float16(), [0.5, None]),
        (pa.float32(), [0.25, -1.0]),
        (pa.float64(), [0.1, 1e300]),
        (pa.bool_(), [True, False, None]),
        (pa.null(), [None, None]),
        (pa.dictionary(pa.int8(), pa.int64()), [3, 4, 3]),
    ],
    ids=str,
)
def test_numbers_and_booleans_are_those_that_json_would_hold(tmp_path, kind, values):
    path = _parquet(tmp_path, {"label": pa.array(values, kind)})
    found = [row.values["label"] for row in read_rows(path)]
    assert found == values
    assert json.loads(json.dumps(found)) == values
    assert [value.__class__ for value in found] == [value.__class__ for value in values]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.string(), 2),
    ],
    ids=str,
)
def test_lists_of_every_layout_are_read(tmp_path, kind):
    values = [["to", "Oslo"], ["a", "b"]]
    path = _parquet(tmp_path, {"tokens": pa.array(values, pa.list_(pa.string())).cast(kind)})
    assert [row.values["tokens"] for row in read_rows(path)] == values


def test_lists_may_be_empty_or_null_or_hold_null(tmp_path):
    values = [[], None, [None, "a"]]
    path = _parquet(tmp_path, {"tags": pa.array(values, pa.list_(pa.string()))})
    assert [row.values["tags"] for row in read_rows(path)] == values


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (pa.array([{"a": 1}]), "struct<a: int64>"),
        (pa.array([b"a"]), "binary"),
        (pa.array([[["a"]]]), "list<element: list<element: string>>"),
        (pa.array([0], pa.timestamp("us")), "timestamp[us]"),
        (pa.array([1], pa.decimal128(5, 2)), "decimal128(5, 2)"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "map<string, int64 ('more')>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_column_of_another_type_is_named_and_not_read(tmp_path, values, name):
    path = _parquet(tmp_path, {"text": pa.array(["a"]), "more": values})
    (row,) = read_rows(path)
    assert row.values["text"] == "a"
    assert row.values["more"] == OtherType(name)


def test_only_the_columns_asked_for_are_read(tmp_path):
    path = _parquet(tmp_path, {"a": pa.array(["1"]), "b": pa.array(["2"]), "a.c": pa.array(["3"])})
    (row,) = read_rows(path, ["a.c", "z"])
    assert row.values == {"a": OtherType("string"), "b": OtherType("string"), "a.c": "3"}
    assert [row.number for row in read_rows(path, ["z"])] == [1]


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_row_groups_are_read_one_after_the_other(tmp_path, compression):
    texts = [f"text {number}" for number in range(10_000)]
    labels = pa.array([text[-1] for text in texts]).dictionary_encode()
    path = _parquet(tmp_path, {"text": pa.array(texts), "label": labels}, row_group_size=3000, compression=compression)
    rows = list(read_rows(path))
    assert [row.values["text"] for row in rows] == texts
    assert [row.number for row in rows] == list(range(1, 10_001))
    assert rows[-1].values["label"] == "9"
    assert next(read_rows(path)) == Row(1, {"text": "text 0", "label": "0"})


def test_a_parquet_file_of_no_rows_has_none(tmp_path):
    assert list(read_rows(_parquet(tmp_path, {"text": pa.array([], pa.string())}))) == []


def test_names_tell_parquet_and_what_its_numbers_count(tmp_path):
    assert is_table(Path("a.PARQUET"))
    assert not is_table(Path("a.parquet.gz"))
    assert (place_word(Path("a.parquet")), place_word(Path("a.jsonl.gz"))) == ("row", "line")


def test_what_is_not_parquet_is_refused(tmp_path):
    whole = _parquet(tmp_path, {"text": pa.array([str(number) for number in range(1000)])}).read_bytes()
    for content in (b"", b"text\na\n", whole[:-1], whole[: len(whole) // 2], whole[4:], b"PAR1" + bytes(60) + b"PAR1"):
        assert _problem(_written(tmp_path, "e.parquet", content)).startswith("cannot be read as Parquet: ")
    assert _problem(tmp_path / "missing.parquet") == "the file does not exist"
    (tmp_path / "folder.parquet").mkdir()
    assert _problem(tmp_path / "folder.parquet") == "cannot be read as Parquet: Is a directory"


def test_a_page_that_was_changed_is_found_after_what_was_read_before_it(tmp_path):
    texts = [f"text {number}" for number in range(9000)]
    path = _parquet(
        tmp_path,
        {"text": pa.array(texts)},
        row_group_size=4500,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content = path.read_bytes()
    place = content.index(b"text 8000")
    path.write_bytes(content[:place] + b"tent" + content[place + 4 :])
    read = []
    with pytest.raises(InvalidInput, match=r"cannot be read as Parquet after row \d+: .*checksum"):
        read.extend(row.values["text"] for row in read_rows(path))
    assert 4000 < len(read) < 8000
    assert read == texts[: len(read)]


def test_a_text_that_is_not_utf8_is_refused(tmp_path):
    offsets, data = (2).to_bytes(4, "little"), pa.py_buffer(b"\xff\xfe")
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(bytes(4) + offsets), data])
    assert _problem(_parquet(tmp_path, {"text": text})) == "a text after row 0 is not UTF-8"


def test_two_columns_of_one_name_are_refused(tmp_path):
    schema = pa.schema([("a", pa.string()), ("b", pa.string()), ("a", pa.string())])
    table = pa.Table.from_arrays([pa.array(["x"])] * 3, schema=schema)
    pq.write_table(table, tmp_path / "d.parquet")
    assert _problem(tmp_path / "d.parquet") == "it has two columns of a name: 'a'"


def test_parquet_is_imported_only_where_such_a_file_is_read():
    code = "import sys, pipelines.data.rows; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_COLUMNS = {
    "text": (pa.string(), _PLAIN),
    "label": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "score": (pa.float64(), st.floats(allow_nan=False)),
    "right": (pa.bool_(), st.booleans()),
    "tokens": (pa.list_(pa.string()), st.lists(st.none() | _PLAIN, max_size=3)),
}


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries({name: st.none() | values for name, (_, values) in _COLUMNS.items()}),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 3),
)
def test_rows_are_the_same_in_json_lines_and_in_parquet(tmp_path_factory, rows, group):
    folder = tmp_path_factory.mktemp("rows")
    columns = {name: pa.array([row[name] for row in rows], kind) for name, (kind, _) in _COLUMNS.items()}
    parquet = _parquet(folder, columns, row_group_size=group)
    lines = _written(folder, "d.jsonl", "".join(json.dumps(row.values) + "\n" for row in read_rows(parquet)))
    assert list(read_rows(parquet)) == list(read_rows(lines))
    assert [row.values for row in read_rows(parquet)] == rows
