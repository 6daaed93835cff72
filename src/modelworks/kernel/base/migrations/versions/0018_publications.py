"""published data spaces, and what their readers say of answers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "space_publications",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_publications_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_publications")),
    )
    with op.batch_alter_table("space_publications", schema=None) as batch_op:
        batch_op.create_index("ix_space_publications_space_id_id", ["space_id", "id"], unique=False)
    op.create_table(
        "space_feedback",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("publication_id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("answer_id", sa.String(length=64), nullable=False),
        sa.Column("rating", sa.String(length=8), nullable=False),
        sa.Column("correction", sa.Text(), nullable=True),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("origin", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["publication_id"],
            ["space_publications.id"],
            name=op.f("fk_space_feedback_publication_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_feedback_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_feedback")),
        sa.UniqueConstraint("publication_id", "answer_id", name=op.f("uq_space_feedback_publication_id_answer_id")),
    )
    with op.batch_alter_table("space_feedback", schema=None) as batch_op:
        batch_op.create_index("ix_space_feedback_space_id_id", ["space_id", "id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("space_feedback", schema=None) as batch_op:
        batch_op.drop_index("ix_space_feedback_space_id_id")
    op.drop_table("space_feedback")
    with op.batch_alter_table("space_publications", schema=None) as batch_op:
        batch_op.drop_index("ix_space_publications_space_id_id")
    op.drop_table("space_publications")
