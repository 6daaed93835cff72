"""data spaces: documents, sources, builds, events"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spaces",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("catalog_name", sa.String(length=64), nullable=False),
        sa.Column("expires_after_days", sa.Integer(), nullable=True),
        sa.Column("last_active_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("built_revision", sa.Integer(), nullable=False),
        sa.Column("failed_revision", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("documents_version_id", sa.String(length=40), nullable=True),
        sa.Column("passages_version_id", sa.String(length=40), nullable=True),
        sa.Column("index_version_id", sa.String(length=40), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spaces")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_spaces_project_id_name")),
    )
    with op.batch_alter_table("spaces", schema=None) as batch_op:
        batch_op.create_index("ix_spaces_project_id_id", ["project_id", "id"], unique=False)

    op.create_table(
        "space_builds",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("documents_version_id", sa.String(length=40), nullable=True),
        sa.Column("parsing_run_id", sa.String(length=40), nullable=True),
        sa.Column("passages_version_id", sa.String(length=40), nullable=True),
        sa.Column("indexing_run_id", sa.String(length=40), nullable=True),
        sa.Column("index_version_id", sa.String(length=40), nullable=True),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_builds_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_builds")),
    )
    with op.batch_alter_table("space_builds", schema=None) as batch_op:
        batch_op.create_index("ix_space_builds_space_id_id", ["space_id", "id"], unique=False)
        batch_op.create_index("ix_space_builds_state", ["state"], unique=False)

    op.create_table(
        "space_documents",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("source_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(length=256), nullable=True),
        sa.Column("fingerprint", sa.String(length=200), nullable=True),
        sa.Column("file_id", sa.String(length=40), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("licence", sa.String(length=256), nullable=True),
        sa.Column("owner", sa.String(length=256), nullable=True),
        sa.Column("access", sa.JSON(), nullable=False),
        sa.Column("is_restricted", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("indexed_digest", sa.String(length=80), nullable=True),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.Column("num_passages", sa.Integer(), nullable=False),
        sa.Column("num_pages", sa.Integer(), nullable=True),
        sa.Column("language", sa.String(length=35), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_documents_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_documents")),
    )
    with op.batch_alter_table("space_documents", schema=None) as batch_op:
        batch_op.create_index("ix_space_documents_digest", ["digest"], unique=False)
        batch_op.create_index("ix_space_documents_expires_at", ["expires_at"], unique=False)
        batch_op.create_index("ix_space_documents_file_id", ["file_id"], unique=False)
        batch_op.create_index("ix_space_documents_key", ["space_id", "source_id", "key"], unique=False)
        batch_op.create_index("ix_space_documents_space_id_id", ["space_id", "id"], unique=False)
        batch_op.create_index("ix_space_documents_space_id_state", ["space_id", "state"], unique=False)

    op.create_table(
        "space_events",
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_events_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("space_id", "seq", name=op.f("pk_space_events")),
    )
    op.create_table(
        "space_sources",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("secret_name", sa.String(length=100), nullable=True),
        sa.Column("every_s", sa.Integer(), nullable=True),
        sa.Column("daily_at", sa.String(length=5), nullable=True),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=True),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("last_sync_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_sync_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_sources_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_sources")),
    )
    with op.batch_alter_table("space_sources", schema=None) as batch_op:
        batch_op.create_index("ix_space_sources_next_sync_at", ["next_sync_at"], unique=False)
        batch_op.create_index("ix_space_sources_space_id_id", ["space_id", "id"], unique=False)

    op.create_table(
        "vector_store_batches",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("file_ids", sa.JSON(), nullable=False),
        sa.Column("is_cancelled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_vector_store_batches_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_store_batches")),
    )
    with op.batch_alter_table("vector_store_batches", schema=None) as batch_op:
        batch_op.create_index("ix_vector_store_batches_space_id", ["space_id"], unique=False)


def downgrade() -> None:
    for table in ("vector_store_batches", "space_sources", "space_events", "space_documents", "space_builds", "spaces"):
        op.drop_table(table)
