"""Snapshots: what an experiment knew at a time, for charts and `restore`. Each function is one transaction's work."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain import evidence as domain
from multiarm.domain.arm import Arm
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.snapshot import ArmStatistics
from multiarm.storage.books import merged
from multiarm.storage.experiments import Unreadable, arm_from, evidence_from, locked, spec_from, stored
from multiarm.storage.schema import arm, evidence, experiment, snapshot

Reason = Literal[
    "interval",
    "create",
    "reset",
    "enable",
    "disable",
    "policy",
    "add_arm",
    "delete_arm",
    "enable_arm",
    "disable_arm",
    "restore",
]
FINE, HOURLY, DAILY = range(3)  # how long one is kept: with those of its minutes, of its hours, of its days
HOUR_S, DAY_S = 3_600, 86_400
FORGOTTEN_PER_STEP = 1_000

T = TypeVar("T")


class Outlook(NamedTuple):
    """What an experiment in memory makes of its evidence, by arm number; nothing where it cannot say."""

    epoch: int = -1
    arms: Mapping[int, ArmStatistics] = {}


class ArmRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One arm in a snapshot: its evidence over all nodes, and what the policy made of it.

    sums: as of `as_of`, none before the first reward; share, probability_best, interval: None where not known.
    """

    number: int
    arm_id: str
    enabled: bool
    deleted: bool
    head_start: float
    sums: tuple[float, ...]
    as_of: float
    pull_count: int
    draw_count: int
    share: float | None
    probability_best: float | None
    interval: tuple[float, float] | None

    @property
    def row(self) -> domain.Row:
        return domain.Row(self.sums, self.as_of, self.pull_count, self.draw_count)

    def seen(self) -> tuple[object, ...]:
        """All but what follows from the rest, or from the passing of time."""
        return (self.number, self.enabled, self.deleted, self.sums, self.pull_count, self.draw_count)


_arms_decoder = msgspec.json.Decoder(list[ArmRecord])
_policy_decoder = msgspec.json.Decoder(AnyPolicy)


def arms_of(row: sa.Row[tuple[object, ...]]) -> list[ArmRecord]:
    """Unreadable where it is damaged, or of a later version."""
    return stored(row.arms, _arms_decoder, f"snapshot {row.number}")


def policy_of(row: sa.Row[tuple[object, ...]]) -> AnyPolicy:
    """Unreadable as `arms_of`."""
    policy: AnyPolicy = stored(row.policy, _policy_decoder, f"snapshot {row.number}")
    return policy


# --- taking ------------------------------------------------------------------------------------------------------


def before(
    work: Callable[[Connection], T], uid: int, reason: Reason, outlook: Outlook, now: float, *, limit: int
) -> Callable[[Connection], T]:
    """`work`, and in the same transaction, before it, a snapshot of the state that it changes."""

    def both(connection: Connection) -> T:
        take(connection, uid, reason, outlook, now, limit=limit)
        return work(connection)

    return both


def take(connection: Connection, uid: int, reason: Reason, outlook: Outlook, now: float, *, limit: int) -> None:
    """A snapshot for an administrative action; none where it cannot be read: that must not keep from a reset.

    limit: how many of actions an experiment keeps, beside the first of each day; the oldest goes.
    """
    locked(connection, uid)
    take_many(connection, {uid: outlook}, now, reason)
    of_actions = sa.and_(snapshot.c.experiment == uid, snapshot.c.reason != "interval", snapshot.c.grade != DAILY)
    newest = sa.select(snapshot.c.number).where(of_actions).order_by(snapshot.c.number.desc())
    connection.execute(sa.delete(snapshot).where(snapshot.c.number.in_(newest.offset(limit).limit(FORGOTTEN_PER_STEP))))


def take_many(connection: Connection, outlooks: Mapping[int, Outlook], now: float, reason: Reason = "interval") -> int:
    """Snapshots of these experiments, by uid; returns how many. At an interval only of those that changed since.

    An experiment that cannot be read gets none, and keeps no other from its own.
    """
    uids = sorted(outlooks)
    live = sa.select(experiment).where(experiment.c.uid.in_(uids), experiment.c.deleted_at.is_(None))
    parents = list(connection.execute(live.order_by(experiment.c.uid).with_for_update()))
    last = latest(connection, uids)
    arms = by_experiment(connection, sa.select(arm).where(arm.c.experiment.in_(uids)).order_by(arm.c.number))
    evidences = by_experiment(connection, sa.select(evidence).where(evidence.c.experiment.in_(uids)))
    rows = []
    for parent in parents:
        uid, previous = parent.uid, last.get(parent.uid)
        try:
            records, policy = recorded(parent, arms[uid], evidences[uid], outlooks[uid]), policy_text(parent)
        except Unreadable:
            continue
        if reason == "interval" and previous is not None and same(previous, parent.epoch, policy, records):
            continue
        rows.append(
            {
                "experiment": uid,
                "taken_at": now,
                "reason": reason,
                "grade": grade(reason, now, None if previous is None else previous.taken_at),
                "epoch": parent.epoch,
                "policy": policy,
                "arms": msgspec.json.encode(records).decode(),
            }
        )
    if rows:
        connection.execute(sa.insert(snapshot), rows)
    return len(rows)


def latest(connection: Connection, uids: Sequence[int]) -> dict[int, sa.Row[tuple[object, ...]]]:
    """The last snapshot of each experiment that has one."""
    newest = sa.select(snapshot.c.number).where(snapshot.c.experiment == experiment.c.uid)
    newest = newest.order_by(snapshot.c.taken_at.desc(), snapshot.c.number.desc()).limit(1)
    numbers = sa.select(newest.scalar_subquery()).where(experiment.c.uid.in_(uids))
    return {
        row.experiment: row for row in connection.execute(sa.select(snapshot).where(snapshot.c.number.in_(numbers)))
    }


def by_experiment(
    connection: Connection, query: sa.Select[tuple[object, ...]]
) -> dict[int, list[sa.Row[tuple[object, ...]]]]:
    found: dict[int, list[sa.Row[tuple[object, ...]]]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.experiment].append(row)
    return found


def recorded(
    parent: sa.Row[tuple[object, ...]],
    arms: Iterable[sa.Row[tuple[object, ...]]],
    evidences: Iterable[sa.Row[tuple[object, ...]]],
    outlook: Outlook,
) -> list[ArmRecord]:
    """The arms of an experiment, deleted ones too: rewards are counted over them all. Unreadable."""
    half_life_s = spec_from(parent).half_life_s
    said = outlook.arms if outlook.epoch == parent.epoch else {}
    rows: dict[int, list[domain.Row]] = defaultdict(list)
    for row in evidences:
        if row.epoch == parent.epoch:
            rows[row.arm].append(evidence_from(row))
    return [record_of(found, rows[found.number], half_life_s, said.get(found.number)) for found in map(arm_from, arms)]


def record_of(
    found: Arm, of_nodes: list[domain.Row], half_life_s: float | None, said: ArmStatistics | None
) -> ArmRecord:
    total = merged(of_nodes, half_life_s)
    return ArmRecord(
        *(found.number, found.arm_id, found.enabled, found.deleted, found.head_start),
        *(total.sums, total.as_of, total.pull_count, sum(row.draw_count for row in of_nodes)),
        *((None, None, None) if said is None else (said.share, said.probability_best, said.interval)),
    )


def policy_text(parent: sa.Row[tuple[object, ...]]) -> str:
    return msgspec.json.encode(spec_from(parent).policy).decode()


def same(previous: sa.Row[tuple[object, ...]], epoch: int, policy: str, records: Sequence[ArmRecord]) -> bool:
    """Whether nothing has changed since that snapshot but the time; one that cannot be read is never the same."""
    if (previous.epoch, previous.policy) != (epoch, policy):
        return False
    try:
        return [record.seen() for record in arms_of(previous)] == [record.seen() for record in records]
    except Unreadable:
        return False


def grade(reason: Reason, now: float, previous_at: float | None) -> int:
    """The first of a day and of an hour are kept longer than the others, and those of actions as long as the latter.

    None is the first of its day, or hour, where the previous one is ahead of it: the clock was.
    """
    if previous_at is None or now // DAY_S > previous_at // DAY_S:
        return DAILY
    return HOURLY if reason != "interval" or now // HOUR_S > previous_at // HOUR_S else FINE


# --- reading -----------------------------------------------------------------------------------------------------


def chosen(connection: Connection, uid: int, start: float, end: float, point_limit: int) -> list[int]:
    """The numbers of at most `point_limit` snapshots from `start` to `end`, spread over them; the last is one."""
    within = sa.and_(snapshot.c.experiment == uid, snapshot.c.taken_at.between(start, end))
    count, first, last = connection.execute(
        sa.select(sa.func.count(), sa.func.min(snapshot.c.taken_at), sa.func.max(snapshot.c.taken_at)).where(within)
    ).one()
    numbers = sa.select(snapshot.c.number).where(within)
    if count <= point_limit:
        return sorted(connection.scalars(numbers))
    newest = connection.scalars(numbers.order_by(snapshot.c.taken_at.desc(), snapshot.c.number.desc()).limit(1)).one()
    # the first of each of as many stretches of time as may stand beside the last; rounding may make one more of them
    scale = (point_limit - 1) / (last - first) if last > first else 0.0
    stretch = sa.func.floor((snapshot.c.taken_at - first) * scale)
    firsts = sa.select(sa.func.min(snapshot.c.number)).where(within, snapshot.c.taken_at < last).group_by(stretch)
    return [*sorted(connection.scalars(firsts))[: point_limit - 1], newest]


def read(connection: Connection, numbers: Sequence[int]) -> list[sa.Row[tuple[object, ...]]]:
    """These snapshots, in order; those that are gone by now are left out."""
    query = sa.select(snapshot).where(snapshot.c.number.in_(numbers))
    return list(connection.execute(query.order_by(snapshot.c.taken_at, snapshot.c.number)))


# --- forgetting --------------------------------------------------------------------------------------------------


def forget(connection: Connection, before_by_grade: Mapping[int, float]) -> int:
    """Delete up to 1,000 snapshots of each grade that were taken before its time; returns how many."""
    count = 0
    for kept, time in before_by_grade.items():
        old = sa.select(snapshot.c.number).where(snapshot.c.grade == kept, snapshot.c.taken_at < time)
        some = old.limit(FORGOTTEN_PER_STEP)
        count += connection.execute(sa.delete(snapshot).where(snapshot.c.number.in_(some))).rowcount
    return count
