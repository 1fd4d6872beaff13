"""Triggers by which the database itself refuses to change rows that are only ever added."""

from sqlalchemy import DDL, MetaData, Table, UniqueConstraint, event

_FUNCTION = "trunkline_refuse_change"

_SQLITE = (
    "CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted'); END",
    "CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted'); END",
    # INSERT OR REPLACE deletes without asking the trigger above, unless the connection wants recursive triggers.
    "CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {same_key}) "
    "BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted, and one has this key'); END",
)
_POSTGRESQL_FUNCTION = f"""CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$"""
_POSTGRESQL = (
    "CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()",
    "CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
)


def keep_unchanged(metadata: MetaData, *tables: str) -> None:
    """Lets rows of these tables be added, never changed or deleted. The migrations say the same in their own words."""
    event.listen(metadata, "before_create", _ddl(_POSTGRESQL_FUNCTION).execute_if(dialect="postgresql"))
    for table in tables:
        _listen(metadata.tables[table], _SQLITE, "sqlite")
        _listen(metadata.tables[table], _POSTGRESQL, "postgresql")


def _listen(table: Table, statements: tuple[str, ...], dialect: str) -> None:
    for statement in statements:
        ddl = _ddl(statement.format(table=table.name, function=_FUNCTION, same_key=_same_key(table)))
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


def _same_key(table: Table) -> str:
    """That a row is there which the new one would replace."""
    unique = [list(one.columns.keys()) for one in table.constraints if isinstance(one, UniqueConstraint)]
    keys = [table.primary_key.columns.keys(), *sorted(unique)]
    return " OR ".join(" AND ".join(f"{column} = NEW.{column}" for column in key) for key in keys)


def _ddl(statement: str) -> DDL:
    return DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
