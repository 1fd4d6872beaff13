"""Rows of a Parquet file as Python values, batch by batch: a file need not fit into memory."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipelines.data.fields import OtherType
from registry.errors import InvalidInput

_ROWS_A_BATCH = 4096


def parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """The rows in order. Texts, numbers, booleans and lists of them have their values; a column of another type, or
    one that is not asked for, has an `OtherType` instead and is not read.

    Raises:
        InvalidInput: the file does not exist, is damaged or not Parquet, has two columns of a name, or a text in it is
            not UTF-8. What was read before has been yielded.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    done = 0
    try:
        with path.open("rb") as opened:
            file = ParquetFile(opened, page_checksum_verification=True)
            schema = file.schema_arrow
            if repeated := sorted({name for name in schema.names if schema.names.count(name) > 1}):
                raise InvalidInput(str(path), [f"it has two columns of a name: {', '.join(map(repr, repeated))}"])
            unread = {field.name: OtherType(str(field.type)) for field in schema}
            read = [
                field.name for field in schema if _is_read(field.type) and (columns is None or field.name in columns)
            ]
            for batch in file.iter_batches(_ROWS_A_BATCH, columns=read):
                for values in zip(*(_values(batch, name) for name in read), strict=True) if read else ():
                    yield unread | dict(zip(read, values, strict=True))
                if not read:
                    yield from (dict(unread) for _ in range(batch.num_rows))
                done += batch.num_rows
    except FileNotFoundError:
        raise InvalidInput(str(path), ["the file does not exist"]) from None
    except UnicodeDecodeError:
        raise InvalidInput(str(path), [f"a text after row {done} is not UTF-8"]) from None
    except (pyarrow.ArrowException, OSError) as error:
        after = f" after row {done}" if done else ""
        raise InvalidInput(str(path), [f"cannot be read as Parquet{after}: {_reason(error)}"]) from None


def _values(batch: Any, name: str) -> list[Any]:
    values: list[Any] = batch.column(name).to_pylist()
    return values


def _is_read(type: Any) -> bool:  # noqa: A002
    """Whether it is one of text, number or boolean, in a dictionary or not, or a list of such."""
    from pyarrow import types

    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    if any(is_list(type) for is_list in lists):
        type = type.value_type  # noqa: A001
    if types.is_dictionary(type):
        type = type.value_type  # noqa: A001
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    others = (types.is_integer, types.is_floating, types.is_boolean, types.is_null)
    return any(is_one(type) for is_one in (*texts, *others))


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), type(error).__name__)
