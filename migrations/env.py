"""Runs the migrations on the connection, and in the transaction, of whoever called Alembic."""

from alembic import context

from registry.database.schema import VERSION_TABLE, Schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Schema.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by building it again
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
