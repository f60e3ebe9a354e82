"""What a rate is counted over, and what an arm that joins later begins with."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """On both kinds of database columns are added without a look at the rows, however many there are."""
    op.add_column("reward", sa.Column("exposure", sa.Double(), nullable=True, comment="null: not said"))
    op.add_column("reward", sa.Column("events", sa.Double(), nullable=True, comment="null: not said"))
    op.add_column(
        "arm",
        sa.Column(
            "head_start", sa.Double(), nullable=False, server_default="0", comment="in this epoch, under this policy"
        ),
    )


def downgrade() -> None:
    op.drop_column("arm", "head_start")
    op.drop_column("reward", "events")
    op.drop_column("reward", "exposure")
