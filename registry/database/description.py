"""What a schema promises, item by item, and how two of them differ."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import ReflectedColumn

from registry.database.schema import Schema

Description: TypeAlias = Mapping[str, str]
"""Item -> how it is defined: "versions: column module" -> "VARCHAR(64) COLLATE "C" not null"."""

_SQLITE_TRIGGERS = "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'"
_POSTGRESQL_TRIGGERS = """
    SELECT relname, tgname, concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), 'enabled', tgenabled, 'as', prosrc)
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE NOT tgisinternal AND nspname = :schema
"""


def describe(connection: Connection, *, schema: str | None = None) -> Description:
    """Columns, keys, constraints, indexes and triggers of our tables, in PostgreSQL's `schema`."""
    places = [] if schema is None else [f"{schema}.", f'"{schema}".']

    def anywhere(definition: str) -> str:
        for place in places:
            definition = definition.replace(place, "")
        return " ".join(definition.split())

    items = {**dict(_tables(connection, schema)), **dict(_triggers(connection, schema))}
    return {item: anywhere(definition) for item, definition in sorted(items.items())}


def differences(found: Description, expected: Description) -> list[str]:
    """Every item that is missing, too many, or defined otherwise."""
    lines = []
    for item in sorted(found.keys() | expected.keys()):
        if item not in found:
            lines.append(f"{item} is missing: {expected[item]}")
        elif item not in expected:
            lines.append(f"{item} is not known: {found[item]}")
        elif found[item] != expected[item]:
            lines.append(f"{item} is {found[item]}, but should be {expected[item]}")
    return lines


def _tables(connection: Connection, schema: str | None) -> Iterator[tuple[str, str]]:
    inspector = inspect(connection)
    there = set(inspector.get_table_names(schema=schema))
    for table in Schema.metadata.tables.keys() & there:
        for column in inspector.get_columns(table, schema=schema):
            yield f"{table}: column {column['name']}", _column(column)
        named = [
            ("primary key", inspector.get_pk_constraint(table, schema=schema)),
            *(("unique constraint", one) for one in inspector.get_unique_constraints(table, schema=schema)),
            *(("foreign key", one) for one in inspector.get_foreign_keys(table, schema=schema)),
            *(("check", one) for one in inspector.get_check_constraints(table, schema=schema)),
            *(("index", one) for one in inspector.get_indexes(table, schema=schema)),
        ]
        for kind, one in named:
            definition = {key: value for key, value in one.items() if key not in ("name", "referred_schema")}
            yield f"{table}: {kind} {one['name']}", str(dict(sorted(definition.items())))


def _column(column: ReflectedColumn) -> str:
    default = f" default {column['default']}" if column.get("default") else ""
    return f"{column['type']} {'null' if column['nullable'] else 'not null'}{default}"


def _triggers(connection: Connection, schema: str | None) -> Iterator[tuple[str, str]]:
    query = text(_SQLITE_TRIGGERS) if schema is None else text(_POSTGRESQL_TRIGGERS).bindparams(schema=schema)
    for table, name, definition in connection.execute(query):
        if table in Schema.metadata.tables:
            yield f"{table}: trigger {name}", definition
