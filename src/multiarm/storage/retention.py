"""What leaves the database: rewards past their retention, and what deleted experiments held. A step at a time."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.evidence import Row
from multiarm.domain.policies import Observation
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.schema import arm, baseline, evidence, experiment, reward

STEP_ROWS = 5_000


class PruneStep(NamedTuple):
    """How many rows a step deleted, and the row number to go on from; None when the walk is done."""

    deleted_count: int
    next_number: int | None


def prune(connection: Connection, after_number: int, before: float) -> PruneStep:
    """Walk the next 5,000 rewards in order of receipt; those past retention move into the baseline.

    before: seconds since the epoch; a reward is past retention when it was received earlier and, for a decision,
    the decision was issued earlier too.
    """
    numbers = list(
        connection.scalars(
            sa.select(reward.c.number).where(reward.c.number > after_number).order_by(reward.c.number).limit(STEP_ROWS)
        )
    )
    if not numbers:
        return PruneStep(0, None)
    walked = reward.c.number.between(numbers[0], numbers[-1])
    gone = list(connection.execute(sa.delete(reward).where(walked, *expired(before)).returning(*reward.c)))
    add_to_baseline(connection, gone)
    done = len(numbers) < STEP_ROWS or not gone
    return PruneStep(len(gone), None if done else numbers[-1])


def expired(before: float) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        reward.c.received_at < before,
        sa.or_(reward.c.issued_at.is_(None), reward.c.issued_at < before),
    )


def add_to_baseline(connection: Connection, rows: Sequence[sa.Row[tuple[object, ...]]]) -> None:
    """Add the sums of reward rows that go to what the books know of those that went; of live experiments only."""
    groups: dict[tuple[int, int, int], list[sa.Row[tuple[object, ...]]]] = defaultdict(list)
    for row in rows:
        groups[row.experiment, row.arm, row.epoch].append(row)
    uids = {uid for uid, _, _ in groups}
    specs = {
        row.uid: msgspec.json.decode(row.spec, type=ExperimentSpec)
        for row in connection.execute(
            sa.select(experiment.c.uid, experiment.c.spec).where(
                experiment.c.uid.in_(uids), experiment.c.deleted_at.is_(None)
            )
        )
    }
    for (uid, number, epoch), members in sorted(groups.items()):
        if uid not in specs:
            continue
        key = sa.and_(baseline.c.experiment == uid, baseline.c.arm == number, baseline.c.epoch == epoch)
        found = connection.execute(sa.select(baseline).where(key).with_for_update()).first()
        before = Row() if found is None else baseline_row(found)
        after = before.plus([replayed(row, specs[uid]) for row in members], specs[uid].half_life_s)
        values = {
            "sums": msgspec.json.encode(after.sums).decode(),
            "as_of": after.as_of,
            "pull_count": after.pull_count,
        }
        if found is None:
            connection.execute(sa.insert(baseline).values(experiment=uid, arm=number, epoch=epoch, **values))
        else:
            connection.execute(sa.update(baseline).where(key).values(**values))


def replayed(row: sa.Row[tuple[object, ...]], spec: ExperimentSpec) -> tuple[tuple[float, ...], float]:
    """(numbers, evidence time) of a stored reward, as they were counted."""
    observation = Observation(row.reward, spec.reward_origin, row.evidence_time, row.propensity)
    return spec.policy.increment(observation), row.evidence_time


def baseline_row(row: sa.Row[tuple[object, ...]]) -> Row:
    return Row(msgspec.json.decode(row.sums, type=tuple[float, ...]), row.as_of, row.pull_count)


def purge(connection: Connection) -> bool:
    """Delete up to 5,000 rewards of one deleted experiment, in the end itself. False when nothing is left to purge."""
    uid = connection.scalar(sa.select(experiment.c.uid).where(experiment.c.deleted_at.is_not(None)).limit(1))
    if uid is None:
        return False
    chosen = sa.select(reward.c.number).where(reward.c.experiment == uid).limit(STEP_ROWS)
    if connection.execute(sa.delete(reward).where(reward.c.number.in_(chosen))).rowcount:
        return True
    for table in (evidence, baseline, arm):
        connection.execute(sa.delete(table).where(table.c.experiment == uid))
    connection.execute(sa.delete(experiment).where(experiment.c.uid == uid))
    return True
