"""what answers of data spaces rest on, and documents that are forgotten"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("space_learnings", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tainted_by", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("is_tainted", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "space_answers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("index_version_id", sa.String(length=40), nullable=True),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.Column("model_version_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["space_id"], ["spaces.id"], name=op.f("fk_space_answers_space_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_answers")),
    )
    with op.batch_alter_table("space_answers", schema=None) as batch_op:
        batch_op.create_index("ix_space_answers_project_id_request_id", ["project_id", "request_id"], unique=False)
        batch_op.create_index("ix_space_answers_expires_at", ["expires_at"], unique=False)
    op.create_table(
        "space_answer_passages",
        sa.Column("answer_id", sa.String(length=64), nullable=False),
        sa.Column("passage_id", sa.String(length=128), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("document_id", sa.String(length=40), nullable=False),
        sa.Column("document_digest", sa.String(length=80), nullable=False),
        sa.Column("document_version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["space_answers.id"], name=op.f("fk_space_answer_passages_answer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("answer_id", "passage_id", name=op.f("pk_space_answer_passages")),
    )
    with op.batch_alter_table("space_answer_passages", schema=None) as batch_op:
        batch_op.create_index("ix_space_answer_passages_document_id", ["document_id"], unique=False)
    op.create_table(
        "space_forgettings",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("space_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("document_id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("sentences", sa.JSON(), nullable=False),
        sa.Column("digests", sa.JSON(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("report_digest", sa.String(length=80), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space_forgettings")),
    )
    with op.batch_alter_table("space_forgettings", schema=None) as batch_op:
        batch_op.create_index("ix_space_forgettings_space_id_id", ["space_id", "id"], unique=False)
        batch_op.create_index("ix_space_forgettings_document_id", ["document_id"], unique=False)
        batch_op.create_index("ix_space_forgettings_state", ["state"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("space_forgettings", schema=None) as batch_op:
        batch_op.drop_index("ix_space_forgettings_state")
        batch_op.drop_index("ix_space_forgettings_document_id")
        batch_op.drop_index("ix_space_forgettings_space_id_id")
    op.drop_table("space_forgettings")
    with op.batch_alter_table("space_answer_passages", schema=None) as batch_op:
        batch_op.drop_index("ix_space_answer_passages_document_id")
    op.drop_table("space_answer_passages")
    with op.batch_alter_table("space_answers", schema=None) as batch_op:
        batch_op.drop_index("ix_space_answers_expires_at")
        batch_op.drop_index("ix_space_answers_project_id_request_id")
    op.drop_table("space_answers")
    with op.batch_alter_table("space_learnings", schema=None) as batch_op:
        batch_op.drop_column("is_tainted")
        batch_op.drop_column("tainted_by")
