"""When each node last found that it can write."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "heartbeat",
        sa.Column("node", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("beat_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("node", name="pk_heartbeat"),
    )


def downgrade() -> None:
    op.drop_table("heartbeat")
