"""Who changed what."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False, comment="the claim sub; empty: no authentication"),
        sa.Column("token_id", sa.String(255), comment="the claim jti"),
        sa.Column("address", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("experiment", sa.BigInteger(), nullable=False, comment="its uid; it may be gone"),
        sa.Column("experiment_id", sa.String(64), nullable=False),
        sa.Column("before", sa.Text(), comment="what was different, as JSON; null: there was none"),
        sa.Column("after", sa.Text(), comment="what is; null: there is none any more"),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_experiment_number", "audit", ["experiment", "number"])
    op.create_index("ix_audit_at", "audit", ["at"])


def downgrade() -> None:
    op.drop_table("audit")
