"""Rewards that were withdrawn."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    comment = "not null: it counts no more; the key stays, so that no retry counts"
    op.add_column("reward", sa.Column("withdrawn_at", sa.Double(), comment=comment))


def downgrade() -> None:
    op.drop_column("reward", "withdrawn_at")
