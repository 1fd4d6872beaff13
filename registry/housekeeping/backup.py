"""A registry in one file, and from it again, onto either database and into any store.

backup.json                 what follows: format, schema, rows and digest of every table, number of blobs
rows/<table>.jsonl          one row a line, keys sorted; times in ISO 8601 UTC, enums as their values
blobs/sha256/ab/cdef…       every blob that a row refers to, where the backup holds them

It is a plain tar file (POSIX 2001), so that other programs can read it too. Nothing is ever unpacked by its names.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any, Literal, Self

import filelock
from pydantic import Field, ValidationError
from sqlalchemy import Column, Date, Enum, Table, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from registry.artifacts.atomic_file import sync_path
from registry.artifacts.store import ArtifactStore, blob_key
from registry.database.columns import UtcDateTime
from registry.database.engine import Database
from registry.database.schema import SCHEMA_REVISION, SWEEP_COUNTER, CounterRow, Schema
from registry.domain.plain_data import Plain, canonical_json, json_digest
from registry.domain.task_specs import validation_problems
from registry.errors import ArtifactError, ArtifactMissing, Conflict, InvalidInput, NotAllowed, StorageError
from registry.fault_points import reached
from registry.progress import Report
from registry.services.audit import record_event, verify_chain
from registry.services.blobs import keep_sweeps_away, owner_name, referenced_blobs, registry_number

_SUMMARY = "backup.json"
_ROWS_AT_ONCE = 500
_LARGEST_SUMMARY = 1 << 20  # bytes: what is longer is no summary of ours

_INSERTED_LATER: Mapping[str, tuple[str, ...]] = {"tasks": ("superseded_by_id",)}
"""Columns that refer to rows of their own table which may come after."""


class TableSummary(Plain):
    rows: int = Field(ge=0)
    sha256: str


class BackupSummary(Plain):
    """What a backup holds, read before anything else of it."""

    format: Literal[1] = 1
    schema_revision: str
    created_at: datetime
    tables: Mapping[str, TableSummary]
    blobs: int | None
    """How many blobs follow; None for a backup of rows alone."""
    missing_blobs: tuple[str, ...] = ()
    """Those that rows refer to, but that could not be read when the backup was made: it is all that was left."""
    audit_problems: tuple[str, ...] = ()
    """What was wrong with the audit trail when the backup was made."""

    @property
    def is_whole(self) -> bool:
        return not self.missing_blobs and not self.audit_problems

    def to_bytes(self) -> bytes:
        """As `backup.json` holds it: with a digest of all the rest, so that a changed digit is noticed."""
        content = self.model_dump(mode="json")
        return canonical_json(content | {"sha256": json_digest(content)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises ValueError when it is not what `to_bytes` wrote."""
        content = json.loads(data)
        digest = content.pop("sha256", None) if isinstance(content, dict) else None
        if digest != json_digest(content):
            raise ValueError("its digest is another one")
        return cls.model_validate(content)


def write_backup(
    database: Database, store: ArtifactStore, path: Path, *, blobs: bool, at: datetime, report: Report
) -> BackupSummary:
    """Writes all rows as of one moment, and the blobs that they refer to; the file is there whole or not at all.

    What is lost or broken already does not keep the rest from being saved: the summary, and the file, say what it was.

    Raises:
        Conflict: another process is writing this very file.
        StorageError: the database, the store or the file cannot be used.
    """
    # Of these names, so that the next backup takes the place of what a killed one has left.
    temporary, rows = path.with_name(f".{path.name}.writing"), path.with_name(f".{path.name}.rows")
    try:
        with filelock.FileLock(_lock_file(path), blocking=False):
            shutil.rmtree(rows, ignore_errors=True)
            rows.mkdir()
            with database.read() as session:
                tables = _export_rows(session, rows, report)
                referenced = sorted(referenced_blobs(session))
                audit_problems = tuple(str(found) for found in verify_chain(session))
            usable = list(_usable(referenced, store, report)) if blobs else _present(referenced, store)
            summary = BackupSummary(
                schema_revision=SCHEMA_REVISION,
                created_at=at,
                tables=tables,
                blobs=len(usable) if blobs else None,
                missing_blobs=tuple(sorted(set(referenced) - set(usable))),
                audit_problems=audit_problems,
            )
            with temporary.open("wb") as file:
                _write_archive(file, summary, rows, usable if blobs else [], store, report)
                file.flush()
                os.fsync(file.fileno())
            reached("backup.written")
            temporary.replace(path)
            sync_path(path.parent)
    except filelock.Timeout:
        raise Conflict(f"another process is writing {path}: wait for it, or choose another name") from None
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}; there is no backup under this name") from error
    finally:
        shutil.rmtree(rows, ignore_errors=True)
    return summary


def _lock_file(path: Path) -> Path:
    """Not beside the backup, where it would stay."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"trunkline-backup-{name}.lock"


def restore_backup(
    database: Database, store: ArtifactStore, path: Path, *, actor: str, at: datetime, report: Report
) -> BackupSummary:
    """Fills an empty registry from a backup: blobs first, then all rows in one transaction.

    Killed anywhere, the registry is still empty, and restoring again goes on with the blobs that are there. The
    restoring is an audit event of its own, the first after those of the backup.

    Raises:
        NotAllowed: the registry is not empty.
        InvalidInput: the file is no backup, is damaged, or is of another schema.
        ArtifactMissing: it holds no blobs, and the store does not hold them either.
        StorageError: the database, the store or the file cannot be used.
    """
    with _opened(path) as (archive, members, summary), tempfile.TemporaryDirectory() as folder:
        with database.read() as session:
            _refuse_unless_empty(session)
        _unpack(archive, members, Path(folder), summary, store, path, report)
        with database.write() as session:
            _restore_rows(session, Path(folder), summary, store, path, report)
            after = {"created_at": summary.created_at.isoformat(), "blobs": summary.blobs}
            record_event(session, "registry.restore", "registry", actor=actor, at=at, after=after)
    return summary


def restore_blobs(store: ArtifactStore, path: Path, *, report: Report) -> BackupSummary:
    """Puts a backup's blobs into the store, where they mend what is damaged or lost; no row is looked at.

    Raises:
        InvalidInput: the file is no backup, or is damaged.
        StorageError: the store or the file cannot be used.
    """
    with _opened(path) as (archive, members, summary), tempfile.TemporaryDirectory() as folder:
        _unpack(archive, members, Path(folder), summary, store, path, report)
    return summary


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo], BackupSummary]]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = iter(archive)
            yield archive, members, _read_summary(archive, members, path)
    except tarfile.TarError as error:
        raise InvalidInput(str(path), [f"is no whole backup: {error}"]) from error
    except OSError as error:
        raise StorageError(f"cannot restore from {path}: {error.strerror}; no row was changed") from error


def _usable(digests: Sequence[str], store: ArtifactStore, report: Report) -> Iterator[str]:
    for done, digest in enumerate(digests):
        report("reading blobs", done, len(digests))
        try:
            store.fetch(digest)
        except ArtifactError:
            continue
        yield digest
    report("reading blobs", len(digests), len(digests))


def _present(digests: Sequence[str], store: ArtifactStore) -> list[str]:
    there = {blob.digest for blob in store.blobs()}
    return [digest for digest in digests if digest in there]


def _write_archive(
    file: IO[bytes], summary: BackupSummary, rows: Path, blobs: Sequence[str], store: ArtifactStore, report: Report
) -> None:
    # dereference: a blob that is a symbolic link, as in a store that was moved, is written as what it leads to.
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, dereference=True) as archive:
        _add_bytes(archive, _SUMMARY, summary.to_bytes())
        for table in summary.tables:
            archive.add(rows / table, f"rows/{table}.jsonl", filter=_anonymous)
        for done, digest in enumerate(blobs):
            report("writing blobs", done, len(blobs))
            archive.add(store.fetch(digest), f"blobs/{blob_key(digest)}", filter=_anonymous)
            reached("backup.blob-added")
    report("writing blobs", len(blobs), len(blobs))


def _export_rows(session: Session, folder: Path, report: Report) -> dict[str, TableSummary]:
    tables = {}
    for done, table in enumerate(Schema.metadata.sorted_tables):
        report("writing rows", done, len(Schema.metadata.tables))
        tables[table.name] = _export_table(session, table, folder / table.name)
        reached("backup.table-written")
    report("writing rows", len(tables), len(tables))
    return tables


def _export_table(session: Session, table: Table, path: Path) -> TableSummary:
    digest, rows = hashlib.sha256(), 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS_AT_ONCE)
    with path.open("wb") as file:
        for row in session.execute(query).mappings():
            line = canonical_json({column.name: _plain(row[column]) for column in table.columns}) + b"\n"
            digest.update(line)
            file.write(line)
            rows += 1
    return TableSummary(rows=rows, sha256=digest.hexdigest())


def _read_summary(archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], path: Path) -> BackupSummary:
    first = next(members, None)
    if first is None or first.name != _SUMMARY or not first.isfile() or first.size > _LARGEST_SUMMARY:
        raise InvalidInput(str(path), [f"is no backup of Trunkline's: its first member is not {_SUMMARY}"])
    try:
        summary = BackupSummary.parse(_content(archive, first).read())
    except ValidationError as error:
        raise InvalidInput(str(path), validation_problems(error)) from None
    except ValueError as error:
        raise InvalidInput(str(path), [f"{_SUMMARY} is damaged: {error}"]) from None
    problems = []
    if summary.schema_revision != SCHEMA_REVISION:
        problems.append(
            f"its rows are of schema {summary.schema_revision}, and this program's is {SCHEMA_REVISION}: restore it "
            "with the trunkline that wrote it, then run `trunkline db upgrade` with this one"
        )
    elif different := sorted(summary.tables.keys() ^ Schema.metadata.tables.keys()):
        problems.append(f"tables are missing or unknown: {', '.join(different)}")
    if problems:
        raise InvalidInput(str(path), problems)
    return summary


def _refuse_unless_empty(session: Session) -> None:
    filled = [
        table.name
        for table in Schema.metadata.sorted_tables
        if table is not CounterRow.__table__ and session.scalar(select(func.count()).select_from(table))
    ]
    if filled:
        raise NotAllowed(
            f"this registry is not empty (rows in {', '.join(filled)}): restore into a new one, with another "
            "TRUNKLINE_HOME or TRUNKLINE_DATABASE_URL"
        )


def _unpack(
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    folder: Path,
    summary: BackupSummary,
    store: ArtifactStore,
    path: Path,
    report: Report,
) -> None:
    """Puts the blobs into the store, and the rows, compared with their digests but unread, into files of the folder."""
    tables = {f"rows/{table}.jsonl": table for table in summary.tables}
    blobs = 0
    for member in members:
        if member.isfile() and member.name in tables:
            _copy(_content(archive, member), folder / tables[member.name])
            continue
        report("storing blobs", blobs, summary.blobs or 0)
        _copy(_content(archive, member) if member.isfile() else io.BytesIO(), folder / "blob")
        digest = store.put_file(folder / "blob")
        if member.name != f"blobs/{blob_key(digest)}":
            raise InvalidInput(str(path), [f"{member.name} is damaged: its bytes have digest {digest}"])
        blobs += 1
        reached("restore.blob-stored")
    if blobs != (summary.blobs or 0):
        raise InvalidInput(str(path), [f"is cut off: {blobs} of {summary.blobs} blobs are there"])
    report("storing blobs", blobs, blobs)
    if damaged := [table for table in summary.tables if not _is_whole(folder / table, summary.tables[table])]:
        raise InvalidInput(str(path), [f"the rows of {table} are damaged or missing" for table in damaged])


def _is_whole(rows: Path, summary: TableSummary) -> bool:
    if not rows.exists():
        return False
    with rows.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == summary.sha256


def _restore_rows(
    session: Session, folder: Path, summary: BackupSummary, store: ArtifactStore, path: Path, report: Report
) -> None:
    _refuse_unless_empty(session)
    number = registry_number(session)  # its own: the registry that was backed up may live on
    session.execute(delete(CounterRow))
    for done, table in enumerate(Schema.metadata.sorted_tables):
        report("restoring rows", done, len(summary.tables))
        _restore_table(session, table, folder / table.name)
        reached("restore.table-written")
    session.execute(update(CounterRow).where(CounterRow.name == SWEEP_COUNTER).values(next_number=number))
    keep_sweeps_away(session)
    needed = referenced_blobs(session) - set(summary.missing_blobs)
    if lost := needed - set(_present(sorted(needed), store)):
        raise ArtifactMissing(
            f"{len(lost)} of {len(needed)} blobs are not in {store.location}: {', '.join(sorted(lost)[:3])}; nothing "
            "was restored. Take a backup that holds blobs, or point TRUNKLINE_ARTIFACT_ROOT at the store that has them"
        )
    if store.owner() is None:
        store.claim(owner_name(number))
    breaks = [str(found) for found in verify_chain(session)]
    if breaks != list(summary.audit_problems):
        raise InvalidInput(str(path), [f"its audit trail is broken: {found}" for found in breaks])
    report("restoring rows", len(summary.tables), len(summary.tables))


def _restore_table(session: Session, table: Table, file: Path) -> None:
    read: dict[str, Callable[[Any], Any]] = {column.name: _reader(column) for column in table.columns}
    later = _INSERTED_LATER.get(table.name, ())
    postponed: list[dict[str, Any]] = []
    for lines in _batches(file):
        batch = []
        for line in lines:
            row = {name: None if value is None else read[name](value) for name, value in json.loads(line).items()}
            if any(row[name] is not None for name in later):
                postponed.append(row)
            batch.append(row | dict.fromkeys(later))
        session.execute(insert(table), batch)
    for row in postponed:
        session.execute(update(table).where(table.c.id == row["id"]).values({name: row[name] for name in later}))
    _continue_numbers(session, table)


def _continue_numbers(session: Session, table: Table) -> None:
    """PostgreSQL gives ids from a sequence, which rows that bring their own do not move."""
    if session.get_bind().dialect.name == "postgresql" and "id" in table.c:
        session.execute(
            text(
                "SELECT setval(sequence, (SELECT max(id) FROM " + table.name + ")) "  # noqa: S608 - a name of the schema
                "FROM pg_get_serial_sequence(:table, 'id') AS sequence WHERE sequence IS NOT NULL "
                "AND EXISTS (SELECT 1 FROM " + table.name + ")"
            ),
            {"table": table.name},
        )


def _batches(file: Path) -> Iterator[list[bytes]]:
    with file.open("rb") as lines:
        while batch := [line for _, line in zip(range(_ROWS_AT_ONCE), lines, strict=False)]:
            yield batch


def _plain(value: Any) -> Any:
    """JSON's form of a column's value; `_reader` reads it back."""
    return value.isoformat() if isinstance(value, date) else value  # a datetime is a date, an enum of ours a str


def _reader(column: Column[Any]) -> Callable[[Any], Any]:
    match column.type:
        case UtcDateTime():
            return datetime.fromisoformat
        case Date():
            return date.fromisoformat
        case Enum(enum_class=enum_class) if enum_class is not None:
            return enum_class
        case _:
            return lambda value: value


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - asked of regular files only
    return content


def _copy(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of the machine on which the backup was made."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
