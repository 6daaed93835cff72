"""Run by Alembic; `modelworks.kernel.base.migration` hands in the connection, whose transaction is already open."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=attributes.get("metadata"),
    render_item=attributes.get("render_item"),
    # SQLite changes a table by making it anew; batch operations do that there and are plain ALTERs on PostgreSQL.
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
