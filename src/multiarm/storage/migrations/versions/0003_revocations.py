"""Tokens that are valid no more."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "revocation",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("token_id", sa.String(255), comment="the claim jti; null: of a subject"),
        sa.Column("subject", sa.String(255), comment="the claim sub; null: of one token"),
        sa.Column("not_before", sa.Double(), comment="the subject's tokens of an earlier iat are refused"),
        sa.Column("revoked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_revocation"),
    )


def downgrade() -> None:
    op.drop_table("revocation")
