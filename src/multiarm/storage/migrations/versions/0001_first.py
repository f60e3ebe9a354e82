"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "experiment",
        sa.Column(
            "number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, comment="order of creation"
        ),
        sa.Column("uid", sa.BigInteger(), nullable=False, comment="random, 64 bits"),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("next_arm_number", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_experiment")),
        sa.UniqueConstraint("uid"),
    )
    op.create_index(
        "uq_experiment_live_id",
        "experiment",
        ["id"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "reward",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("experiment", sa.BigInteger(), nullable=False),
        sa.Column(
            "key",
            sa.String(length=140),
            nullable=True,
            comment="d: + unique number of the decision, or k: + the caller's key",
        ),
        sa.Column("arm", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("evidence_time", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("issued_at", sa.Double(), nullable=True, comment="the decision's own time"),
        sa.Column("reward", sa.Double(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=True),
        sa.Column("node", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_reward")),
    )
    op.create_index(
        "uq_reward_key",
        "reward",
        ["experiment", "key"],
        unique=True,
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.create_table(
        "signing_key",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("retired_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "arm",
        sa.Column("experiment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False, comment="never reused"),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=True),
        sa.Column("prior", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.uid"], name=op.f("fk_arm_experiment")),
        sa.PrimaryKeyConstraint("experiment", "number", name=op.f("pk_arm")),
    )
    op.create_index(
        "uq_arm_live_id",
        "arm",
        ["experiment", "id"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "baseline",
        sa.Column("experiment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sums", sa.Text(), nullable=False),
        sa.Column(
            "magnitudes",
            sa.Text(),
            nullable=False,
            comment="Σ|increments|, never decayed: what rounding is measured by",
        ),
        sa.Column("as_of", sa.Double(), nullable=False),
        sa.Column("pull_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.uid"], name=op.f("fk_baseline_experiment")),
        sa.PrimaryKeyConstraint("experiment", "arm", "epoch", name=op.f("pk_baseline")),
    )
    op.create_table(
        "evidence",
        sa.Column("experiment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.BigInteger(), autoincrement=False, nullable=False, comment="the only writer of this row"),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="a row of an earlier epoch counts as zero"),
        sa.Column("sums", sa.Text(), nullable=False),
        sa.Column("as_of", sa.Double(), nullable=False),
        sa.Column("pull_count", sa.BigInteger(), nullable=False),
        sa.Column("draw_count", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiment.uid"], name=op.f("fk_evidence_experiment")),
        sa.PrimaryKeyConstraint("experiment", "arm", "node", name=op.f("pk_evidence")),
    )


def downgrade() -> None:
    op.drop_table("evidence")
    op.drop_table("baseline")
    op.drop_index(
        "uq_arm_live_id",
        table_name="arm",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("arm")
    op.drop_table("signing_key")
    op.drop_index(
        "uq_reward_key",
        table_name="reward",
        sqlite_where=sa.text("key IS NOT NULL"),
        postgresql_where=sa.text("key IS NOT NULL"),
    )
    op.drop_table("reward")
    op.drop_index(
        "uq_experiment_live_id",
        table_name="experiment",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("experiment")
