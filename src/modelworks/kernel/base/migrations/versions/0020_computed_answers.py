"""the query and the rows that a computed answer of a data space told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("space_answers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("computed", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("space_answers", schema=None) as batch_op:
        batch_op.drop_column("computed")
