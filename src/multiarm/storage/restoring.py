"""Restoring: an experiment starts again, in a new epoch, from the evidence of a snapshot."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import NotRestored, SnapshotNotFound
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.experiments import Unreadable, forget_head_starts, load_experiment, locked, spec_from, touch
from multiarm.storage.policy_change import Picks, kept_columns, picked, replace_rows
from multiarm.storage.retention import Baseline
from multiarm.storage.schema import arm, baseline, snapshot
from multiarm.storage.snapshots import ArmRecord, Outlook, arms_of, policy_of, take

READ_AT_A_TIME = 4


class Taken(NamedTuple):
    """What a snapshot holds."""

    snapshot_id: int
    taken_at: float
    policy: AnyPolicy
    arms: list[ArmRecord]


class Restored(NamedTuple):
    """From which snapshot, and the experiment as it stands now."""

    snapshot_id: int
    taken_at: float
    state: ExperimentState


def restore(
    connection: Connection,
    *,
    uid: int,
    snapshot_id: int | None,
    at: float | None,
    outlook: Outlook,
    snapshot_limit: int,
    node: int,
    now: float,
) -> Restored:
    """Start from that snapshot, or from the newest taken at `at` or before; arms, policy and guardrails stay.

    The state that it ends becomes a snapshot too. SnapshotNotFound; Unreadable; NotRestored where the policy of today
    cannot go on from the sums of then.
    """
    parent = locked(connection, uid)
    spec, epoch = spec_from(parent), parent.epoch + 1
    found = wanted(connection, uid, snapshot_id, at)
    before, records = msgspec.structs.replace(spec, policy=found.policy), found.arms
    picks = fitting(before, spec)
    take(connection, uid, "restore", outlook, now, limit=snapshot_limit)
    rows = {record.number: record.row if picks is None else carried(record, picks) for record in records if record.sums}
    write(connection, uid, epoch, rows)
    replace_rows(connection, uid, epoch, {(node, n): row._replace(draw_count=0) for n, row in rows.items()}, now)
    touch(connection, uid, now, epoch=epoch)
    forget_head_starts(connection, uid)
    if spec.policy == before.policy:
        set_head_starts(connection, uid, ((record.number, record.head_start) for record in records))
    state = load_experiment(connection, node, uid)
    assert state is not None, "its row is locked"
    late = state.arms.keys() - {record.number for record in records}
    if late:
        head_start = joining(state, late, now)
        set_head_starts(connection, uid, ((number, head_start) for number in sorted(late)))
        for number in late:
            state.arms[number] = msgspec.structs.replace(state.arms[number], head_start=head_start)
    return Restored(found.snapshot_id, found.taken_at, state)


def wanted(connection: Connection, uid: int, snapshot_id: int | None, at: float | None) -> Taken:
    """By time the newest that can be read; Unreadable only where none can."""
    query = sa.select(snapshot).where(snapshot.c.experiment == uid)
    if snapshot_id is not None:
        query = query.where(snapshot.c.number == snapshot_id)
    else:
        query = query.where(snapshot.c.taken_at <= at).order_by(snapshot.c.taken_at.desc(), snapshot.c.number.desc())
    unreadable = None
    with connection.execute(query, execution_options={"yield_per": READ_AT_A_TIME}) as rows:
        for row in rows:
            try:
                return Taken(row.number, row.taken_at, policy_of(row), arms_of(row))
            except Unreadable as error:
                unreadable = unreadable or error
    raise unreadable or SnapshotNotFound(snapshot_id)


def fitting(before: ExperimentSpec, now: ExperimentSpec) -> Picks | None:
    """Where the columns of today are among those of then; None: they are the same. NotRestored if they do not fit."""
    if before.policy == now.policy:
        return None
    picks, old, new = kept_columns(before, now), before.policy.traits, now.policy.traits
    narrower = new.reward_min > old.reward_min or new.reward_max < old.reward_max
    if picks is None or narrower or (new.needs_decision and not old.needs_decision):
        raise NotRestored(
            f"The snapshot was taken under {before.policy.name}, and {now.policy.name} adds up other sums, or takes "
            f"other rewards. Nothing was changed. Change the policy back first (PUT …/policy, to "
            f"{msgspec.json.encode(before.policy).decode()}), or restore a snapshot from after the change."
        )
    return picks


def carried(record: ArmRecord, picks: Picks) -> Row:
    return record.row._replace(sums=picked(record.sums, picks))


def write(connection: Connection, uid: int, epoch: int, rows: dict[int, Row]) -> None:
    """The books of the new epoch begin with these sums.

    Both sides of the books begin with the same numbers, so what rounding may do to them from here on is measured by
    these, and not by the increments that once made them.
    """
    values = [
        {"experiment": uid, "arm": number, "epoch": epoch, **Baseline(row, tuple(map(abs, row.sums))).columns}
        for number, row in sorted(rows.items())
    ]
    if values:
        connection.execute(sa.insert(baseline), values)


def joining(state: ExperimentState, late: Iterable[int], now: float) -> float:
    """What arms begin with that came after the snapshot: they join the others of it, as if they were added now."""
    others = {number: known for number, known in state.arms.items() if number not in set(late)}
    experiment = Experiment(spec=state.spec)
    experiment.load(replace(state, arms=others))
    return experiment.snapshot(now).head_start()


def set_head_starts(connection: Connection, uid: int, head_starts: Iterable[tuple[int, float]]) -> None:
    values: Sequence[dict[str, float]] = [{"n": n, "value": value} for n, value in head_starts if value]
    if values:
        of_arm = sa.and_(arm.c.experiment == uid, arm.c.number == sa.bindparam("n"))
        connection.execute(sa.update(arm).where(of_arm).values(head_start=sa.bindparam("value")), values)
