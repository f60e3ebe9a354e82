"""The tables. Times are seconds since the epoch; structured values are JSON text, floats in it exact."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

RowId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself on SQLite


def experiment_uid() -> Column[int]:
    return Column("experiment", BigInteger, ForeignKey("experiment.uid"), primary_key=True, autoincrement=False)


experiment = Table(
    "experiment",
    metadata,
    Column("number", RowId, primary_key=True, comment="order of creation"),
    Column("uid", BigInteger, nullable=False, unique=True, comment="random, 64 bits"),
    Column("id", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("next_arm_number", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("deleted_at", Double),
)
Index(
    "uq_experiment_live_id",
    experiment.c.id,
    unique=True,
    sqlite_where=experiment.c.deleted_at.is_(None),
    postgresql_where=experiment.c.deleted_at.is_(None),
)

arm = Table(
    "arm",
    metadata,
    experiment_uid(),
    Column("number", Integer, primary_key=True, autoincrement=False, comment="never reused"),
    Column("id", String(64), nullable=False),
    Column("payload", Text),
    Column("prior", Text),
    Column("enabled", Boolean, nullable=False),
    Column("deleted_at", Double),
    Column("head_start", Double, nullable=False, server_default="0", comment="in this epoch, under this policy"),
)
Index(
    "uq_arm_live_id",
    arm.c.experiment,
    arm.c.id,
    unique=True,
    sqlite_where=arm.c.deleted_at.is_(None),
    postgresql_where=arm.c.deleted_at.is_(None),
)

evidence = Table(
    "evidence",
    metadata,
    experiment_uid(),
    Column("arm", Integer, primary_key=True, autoincrement=False),
    Column("node", BigInteger, primary_key=True, autoincrement=False, comment="the only writer of this row"),
    Column("epoch", Integer, nullable=False, comment="a row of an earlier epoch counts as zero"),
    Column("sums", Text, nullable=False),
    Column("as_of", Double, nullable=False),
    Column("pull_count", BigInteger, nullable=False),
    Column("draw_count", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# No foreign key: each insert would pay a look-up for what the same transaction has just checked. On SQLite the numbers
# of new rows follow on each other (so no AUTOINCREMENT): which keys were there before is told by that.
reward = Table(
    "reward",
    metadata,
    Column("number", RowId, primary_key=True),
    Column("experiment", BigInteger, nullable=False),
    Column("key", String(140), comment="d: + unique number of the decision, or k: + the caller's key"),
    Column("arm", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("evidence_time", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("issued_at", Double, comment="the decision's own time"),
    Column("reward", Double, nullable=False),
    Column("propensity", Double),
    Column("node", BigInteger, nullable=False),
    Column("exposure", Double, comment="null: not said"),
    Column("events", Double, comment="null: not said"),
    Column("withdrawn_at", Double, comment="not null: it counts no more; the key stays, so that no retry counts"),
    Column("pull_count", Integer, nullable=False, server_default="1", comment="rewards that came together, all alike"),
)
Index(
    "uq_reward_key",
    reward.c.experiment,
    reward.c.key,
    unique=True,
    sqlite_where=reward.c.key.is_not(None),
    postgresql_where=reward.c.key.is_not(None),
)

baseline = Table(
    "baseline",
    metadata,
    experiment_uid(),
    Column("arm", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("sums", Text, nullable=False),
    Column("magnitudes", Text, nullable=False, comment="Σ|increments|, never decayed: what rounding is measured by"),
    Column("as_of", Double, nullable=False),
    Column("pull_count", BigInteger, nullable=False),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("number", RowId, primary_key=True),
    Column("experiment", BigInteger, ForeignKey("experiment.uid"), nullable=False),
    Column("taken_at", Double, nullable=False),
    Column("reason", String(16), nullable=False, comment="interval, or the action that it came before"),
    Column("grade", Integer, nullable=False, comment="0, 1, 2: how long it is kept"),
    Column("epoch", Integer, nullable=False),
    Column("policy", Text, nullable=False),
    Column("arms", Text, nullable=False),
)
Index(None, snapshot.c.experiment, snapshot.c.taken_at, snapshot.c.number)
Index(None, snapshot.c.grade, snapshot.c.taken_at)

signing_key = Table(
    "signing_key",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("retired_at", Double),
)

# Only ever added to, so that a reader need but ask for what is newer than it knows.
revocation = Table(
    "revocation",
    metadata,
    Column("number", RowId, primary_key=True),
    Column("token_id", String(255), comment="the claim jti; null: of a subject"),
    Column("subject", String(255), comment="the claim sub; null: of one token"),
    Column("not_before", Double, comment="the subject's tokens of an earlier iat are refused"),
    Column("revoked_at", Double, nullable=False),
)

# Without a foreign key: it outlives the experiments.
audit = Table(
    "audit",
    metadata,
    Column("number", RowId, primary_key=True),
    Column("at", Double, nullable=False),
    Column("subject", String(255), nullable=False, comment="the claim sub; empty: no authentication"),
    Column("token_id", String(255), comment="the claim jti"),
    Column("address", String(64)),
    Column("action", String(32), nullable=False),
    Column("experiment", BigInteger, nullable=False, comment="its uid; it may be gone"),
    Column("experiment_id", String(64), nullable=False),
    Column("before", Text, comment="what was different, as JSON; null: there was none"),
    Column("after", Text, comment="what is; null: there is none any more"),
    Column("request_id", String(128), comment="X-Request-Id of the answer"),
)
Index("ix_audit_experiment_number", audit.c.experiment, audit.c.number)
Index("ix_audit_at", audit.c.at)

# Written so as to know that writing works: a disk that is full or read-only still reads.
heartbeat = Table(
    "heartbeat",
    metadata,
    Column("node", BigInteger, primary_key=True, autoincrement=False),
    Column("beat_at", Double, nullable=False),
)
