"""what data spaces learn: models of their own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "space_learnings",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("is_automatic", sa.Boolean(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("base", sa.String(length=128), nullable=False),
        sa.Column("base_version_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("passages_version_id", sa.String(length=40), nullable=False),
        sa.Column("samples_version_id", sa.String(length=40), nullable=True),
        sa.Column("test_version_id", sa.String(length=40), nullable=True),
        sa.Column("adapter_version_id", sa.String(length=40), nullable=True),
        sa.Column("runs", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_learnings_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_learnings")),
    )
    with op.batch_alter_table("space_learnings", schema=None) as batch_op:
        batch_op.create_index("ix_space_learnings_space_id_id", ["space_id", "id"], unique=False)
        batch_op.create_index("ix_space_learnings_state", ["state"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("space_learnings", schema=None) as batch_op:
        batch_op.drop_index("ix_space_learnings_state")
        batch_op.drop_index("ix_space_learnings_space_id_id")
    op.drop_table("space_learnings")
