"""What experiments knew at earlier times."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "snapshot",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("experiment", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False, comment="interval, or the action that it came before"),
        sa.Column("grade", sa.Integer(), nullable=False, comment="0, 1, 2: how long it is kept"),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("arms", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.uid"], name="fk_snapshot_experiment"),
        sa.PrimaryKeyConstraint("number", name="pk_snapshot"),
    )
    op.create_index("ix_snapshot_experiment_taken_at_number", "snapshot", ["experiment", "taken_at", "number"])
    op.create_index("ix_snapshot_grade_taken_at", "snapshot", ["grade", "taken_at"])


def downgrade() -> None:
    op.drop_table("snapshot")
