"""Rewards without a key that came together and are alike take one row."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ALIKE = "experiment, arm, epoch, evidence_time, received_at, reward, node, exposure, events"


def upgrade() -> None:
    comment = "rewards that came together, all alike"
    op.add_column("reward", sa.Column("pull_count", sa.Integer, nullable=False, server_default="1", comment=comment))


def downgrade() -> None:
    """Each gets a row of its own again."""
    op.execute(f"""
        INSERT INTO reward ({ALIKE})
        WITH RECURSIVE copy AS (
            SELECT {ALIKE}, pull_count - 1 AS copy_count FROM reward WHERE pull_count > 1
            UNION ALL SELECT {ALIKE}, copy_count - 1 FROM copy WHERE copy_count > 1
        )
        SELECT {ALIKE} FROM copy""")
    op.drop_column("reward", "pull_count")
