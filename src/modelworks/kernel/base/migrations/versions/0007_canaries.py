"""deployments that take a share of another's requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("canary_of", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("share", sa.Double(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.drop_column("share")
        batch_op.drop_column("canary_of")
