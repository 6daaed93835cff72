"""prices, ledger, invoices, budgets and limits, idempotency keys; what was recorded before is posted at no cost"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("usage_requests", sa.Column("cost", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("usage_requests", sa.Column("price_id", sa.String(length=40), nullable=True))
    op.create_table(
        "prices",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("input", sa.BigInteger(), nullable=False),
        sa.Column("cached", sa.BigInteger(), nullable=False),
        sa.Column("output", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index(op.f("ix_prices_project_id_model_valid_from"), "prices", ["project_id", "model", "valid_from"])
    op.create_table(
        "ledger_entries",
        sa.Column("usage_id", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=300), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("usage_id", "account", name=op.f("pk_ledger_entries")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_ledger_entries_project_id_month"), "ledger_entries", ["project_id", "month"])
    op.create_table(
        "invoices",
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("num_requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "month", name=op.f("pk_invoices")),
    )
    op.create_table(
        "allowances",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("metric", sa.String(length=16), nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allowances")),
        sa.UniqueConstraint(
            "project_id",
            "scope",
            "subject",
            "metric",
            "period",
            name=op.f("uq_allowances_project_id_scope_subject_metric_period"),
        ),
    )
    op.create_table(
        "allowance_states",
        sa.Column("allowance_id", sa.String(length=40), nullable=False),
        sa.Column("span", sa.String(length=10), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("full_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("allowance_id", "span", name=op.f("pk_allowance_states")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("endpoint", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("price_id", sa.String(length=40), nullable=True),
        sa.Column("claims", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_reservations_holder"), "reservations", ["holder"])
    op.create_table(
        "reservation_holders",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservation_holders")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("claim", sa.String(length=40), nullable=False),
        sa.Column("request", sa.String(length=1024), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"])
    _post_what_was_recorded()


def _post_what_was_recorded() -> None:
    if op.get_bind().dialect.name == "sqlite":
        month = "substr(CAST(created_at AS VARCHAR), 1, 7)"
    else:
        month = "to_char(timezone('UTC', created_at), 'YYYY-MM')"
    for account, sign in (("'project:' || project_id", ""), ("'model:' || model", "-")):
        op.execute(
            "INSERT INTO ledger_entries (usage_id, account, project_id, month, tokens, cost) "  # noqa: S608 - no value of users
            f"SELECT id, {account}, project_id, {month}, {sign}(prompt_tokens + completion_tokens), 0 "
            "FROM usage_requests WHERE prompt_tokens + completion_tokens > 0"
        )
    op.execute(
        "INSERT INTO invoices (project_id, month, num_requests, prompt_tokens, cached_tokens, completion_tokens, cost) "  # noqa: S608
        f"SELECT project_id, {month}, count(*), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), 0 "
        f"FROM usage_requests GROUP BY project_id, {month}"
    )


def downgrade() -> None:
    for table in (
        "idempotency_keys",
        "reservation_holders",
        "reservations",
        "allowance_states",
        "allowances",
        "invoices",
        "ledger_entries",
        "prices",
    ):
        op.drop_table(table)
    op.drop_column("usage_requests", "price_id")
    op.drop_column("usage_requests", "cost")
