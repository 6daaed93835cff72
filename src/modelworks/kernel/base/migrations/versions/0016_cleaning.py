"""cleaning as a step of a data space's build"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("spaces", schema=None) as batch_op:
        batch_op.add_column(sa.Column("clean_version_id", sa.String(length=40), nullable=True))
    with op.batch_alter_table("space_documents", schema=None) as batch_op:
        batch_op.add_column(sa.Column("num_cleaned", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("dropped", sa.JSON(), nullable=True))
    with op.batch_alter_table("space_builds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cleaning_run_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("clean_version_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("space_builds", schema=None) as batch_op:
        batch_op.drop_column("clean_version_id")
        batch_op.drop_column("cleaning_run_id")
    with op.batch_alter_table("space_documents", schema=None) as batch_op:
        batch_op.drop_column("dropped")
        batch_op.drop_column("num_cleaned")
    with op.batch_alter_table("spaces", schema=None) as batch_op:
        batch_op.drop_column("clean_version_id")
