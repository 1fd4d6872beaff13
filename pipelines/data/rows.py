"""Files of labelled rows: JSON Lines, CSV and TSV, plain or gzipped, and Parquet.

What a row means (which column is the text, which values are labels) is the business of `dataset`.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from pipelines.data.parquet_rows import parquet_rows
from registry.errors import InvalidInput


class Row(NamedTuple):
    """One row; `number` counts from 1: the line where it begins in its (uncompressed) file, in Parquet the row."""

    number: int
    values: dict[str, Any]


_GZIP = b"\x1f\x8b"
_QUOTES = 'a field that begins with " must be quoted as a whole, with each " inside it written twice'


def is_table(path: Path) -> bool:
    """Whether `read_rows` can tell the file's format by its name."""
    return _is_parquet(path) or _parser(path) is not None


def place_word(path: Path) -> Literal["line", "row"]:
    """What `Row.number` counts in this file."""
    return "row" if _is_parquet(path) else "line"


def read_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a file, in order; the format is told by the file's name.

    JSON Lines: `.jsonl`, `.json`; with a header line: `.csv`, `.tsv`; each also with `.gz`. UTF-8, with or without a
    byte order mark. Lines that are blank are passed over. Values of CSV and TSV are strings, those of JSON Lines are
    what JSON says, those of `.parquet` what `parquet_rows` says.

    Args:
        columns: those that will be looked at; of a Parquet file no other is read.

    Raises:
        InvalidInput: the file does not exist or cannot be read, its name tells no format, it is not UTF-8, damaged
            gzip or Parquet, or a line is garbled. The problem names the line; what was read before it has been yielded.
    """
    if _is_parquet(path):
        yield from (Row(number, values) for number, values in enumerate(parquet_rows(path, columns), start=1))
        return
    parse = _parser(path)
    if parse is None:
        refuse_format(path)
    else:
        yield from parse(path)


def refuse_format(path: Path) -> None:
    """Raises InvalidInput for a file whose name tells no format."""
    if not is_table(path):
        formats = ", ".join(_FORMATS)
        raise InvalidInput(
            str(path), [f"its name tells no format: it must end in .parquet or one of {formats}, these also with .gz"]
        )


def text_lines(source: Path | BinaryIO) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file or stream, with their ends; raises InvalidInput as `read_rows` does.

    Only a line feed ends one: a text may hold U+2028 and its like.
    """
    if isinstance(source, Path):
        yield from _lines(source)
    else:
        yield from _decoded(source, Path("standard input"))


def json_rows(lines: Iterable[tuple[int, str]], path: Path = Path("standard input")) -> Iterator[Row]:
    """Rows of JSON Lines from numbered lines; `path` is what the error names."""
    for number, text in lines:
        if not text.strip():
            continue
        if text.strip() in ("[", "{"):
            raise _garbled(path, number, f"begins JSON of several lines with {text.strip()!r}: write one object a line")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise _garbled(path, number, f"is not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise _garbled(path, number, f"is not JSON that can be read: {error}") from None
        if not isinstance(values, dict):
            shown = text.strip()[:40]
            raise _garbled(path, number, f"is not one JSON object ({{...}}) but begins with {shown!r}")
        yield Row(number, values)


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _parser(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    name = path.name.lower().removesuffix(".gz")
    return next((parse for suffix, parse in _FORMATS.items() if name.endswith(suffix)), None)


def _json_rows(path: Path) -> Iterator[Row]:
    return json_rows(_lines(path), path)


def _csv_rows(path: Path) -> Iterator[Row]:
    return _table_rows(path, "excel")


def _tsv_rows(path: Path) -> Iterator[Row]:
    for row in _table_rows(path, "excel-tab"):
        # A stray quote at the start of a field would swallow all lines up to the next one: better refused than read.
        if any("\n" in value for value in row.values.values()):
            raise _garbled(
                path,
                row.number,
                f"a quoted field runs over several lines; {_QUOTES}",
            )
        yield row


def _table_rows(path: Path, dialect: str) -> Iterator[Row]:
    reader = csv.reader((text for _, text in _lines(path)), dialect=dialect, strict=True)
    columns: list[str] = []
    line = 1
    try:
        for fields in reader:
            if not columns and fields:
                columns = _header(path, line, fields, dialect)
            elif fields:
                if len(fields) != len(columns):
                    raise _garbled(path, line, f"has {len(fields)} fields, but the header has {len(columns)}")
                yield Row(line, dict(zip(columns, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        of_quotes = any(words in str(error) for words in ("expected after", "unexpected end of data"))
        advice = f"; {_QUOTES}" if of_quotes else ""
        raise _garbled(path, line, f"cannot be split into fields: {error}{advice}") from None


def _header(path: Path, line: int, fields: list[str], dialect: str) -> list[str]:
    if len(fields) == 1 and (other := next((mark for mark in "\t;|," if mark in fields[0]), None)):
        own = csv.get_dialect(dialect).delimiter
        why = (
            "the whole line stands in quotes"
            if other == own
            else f"columns are parted by {own!r} in a file of this name, not by {other!r}"
        )
        raise _garbled(path, line, f"the header is one column, {fields[0]!r}: {why}")
    if repeated := sorted({name for name in fields if fields.count(name) > 1}):
        raise _garbled(path, line, f"the header names a column twice: {', '.join(map(repr, repeated))}")
    return fields


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield from _decoded(file, path)
    except FileNotFoundError:
        raise InvalidInput(str(path), ["the file does not exist"]) from None
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror or error}"]) from None


def _decoded(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, data in enumerate(lines, start=1):
            yield number, data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        if number == 1 and error.object.startswith(_GZIP):
            misnamed = path.suffix and path.suffix.lower() != ".gz"  # else standard input, or packed twice
            advice = "the file's name must end in .gz" if misnamed else "unpack it first"
            raise _garbled(path, number, f"is gzip: {advice}") from None
        raise _garbled(path, number, f"byte {error.start + 1} is not UTF-8: save the file as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _garbled(path, number + 1, f"is damaged or not gzip: {error}") from None


def _garbled(path: Path, line: int, problem: str) -> InvalidInput:
    return InvalidInput(str(path), [f"line {line}: {problem}"])


_FORMATS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
}
