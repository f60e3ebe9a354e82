"""Corrections: a reward that was counted becomes another one, or none. One transaction's work."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import InvalidReward, RewardNotFound, StaleEpoch
from multiarm.domain.evidence import BASE_COLUMNS, Row, decay_weight
from multiarm.domain.records import Increment
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.engine import Driver
from multiarm.storage.evidence import read_rows
from multiarm.storage.experiments import arm_from, locked, spec_from
from multiarm.storage.policy_change import NodeArm, counted_in, replace_rows, replay, stored_rows
from multiarm.storage.retention import Baseline, change_baseline, known_baseline, replayed
from multiarm.storage.schema import arm, reward

SQUARES = BASE_COLUMNS.index("reward2")
SWALLOWS = 1e4  # times as large as the others together, a square costs them 4 of 16 digits, at most


class Corrected(NamedTuple):
    """A reward that stands differently now. row: the node's evidence of its arm; origin: what its numbers are about.

    before, after: the reward, None where it was or is withdrawn. increment: what counts now, or last did.
    """

    epoch: int
    row: Row
    increment: Increment
    origin: float
    before: float | None
    after: float | None


def correct(
    connection: Connection, *, uid: int, key: str, after: float | None, node: int, now: float
) -> Corrected | None:
    """Put a reward right, in its row and in the evidence of `node`; None where it stands like that already.

    key: as it is stored; after: None withdraws the reward. Raises ExperimentNotFound, RewardNotFound, StaleEpoch, and
    Invalid where the reward is none for the experiment's policy.
    """
    # First the reward, then the experiment, as retention locks them. Who locks the experiment has its baselines too.
    of_key = sa.and_(reward.c.experiment == uid, reward.c.key == key)
    stored = connection.execute(sa.select(reward).where(of_key).with_for_update()).first()
    parent = locked(connection, uid)
    if stored is None:
        raise RewardNotFound(
            "No reward is known by it; retention removes what was received more than reward_retention_days ago."
        )
    if stored.epoch != parent.epoch:
        raise StaleEpoch("The reward can no longer be corrected: it was counted before a reset or a restore.")
    spec = spec_from(parent)
    if after is not None:
        spec.policy.check_reward(after)
        spec.policy.check_measures(decision=stored.propensity is not None)
    before = None if stored.withdrawn_at is not None else stored.reward
    if before == after:
        return None
    kept = stored.reward if after is None else after
    values = {"reward": kept, "withdrawn_at": now if after is None else None}
    connection.execute(sa.update(reward).where(reward.c.number == stored.number).values(**values))
    increment = increment_of(connection, stored, kept, spec)
    old = None if before is None else numbers_of(stored, before, spec)
    new = None if after is None else increment.numbers
    row = move(connection, stored, spec, old=old, new=new, node=node, now=now)
    return Corrected(parent.epoch, row, increment, spec.reward_origin, before, after)


def increment_of(
    connection: Connection, stored: sa.Row[tuple[object, ...]], value: float, spec: ExperimentSpec
) -> Increment:
    """A stored reward as it came, but for its value."""
    of_arm = sa.and_(arm.c.experiment == stored.experiment, arm.c.number == stored.arm)
    return Increment(
        arm_from(connection.execute(sa.select(arm).where(of_arm)).one()),
        numbers_of(stored, value, spec),
        stored.evidence_time,
        stored.key,
        value,
        stored.propensity,
        stored.issued_at,
        bytes.fromhex(stored.key[2:]) if stored.issued_at is not None else None,
        None,
        stored.exposure,
        stored.events,
    )


def numbers_of(stored: sa.Row[tuple[object, ...]], value: float, spec: ExperimentSpec) -> tuple[float, ...]:
    """What a stored reward would add if it were `value`; 0 in columns that depend on the order of the rewards."""
    numbers, _ = replayed(stored, spec, value)
    paths = spec.policy.traits.path_columns
    numbers = (*numbers[: len(numbers) - paths], *[0.0] * paths)
    if not all(map(math.isfinite, numbers)):
        raise not_finite()
    return numbers


def move(
    connection: Connection,
    stored: sa.Row[tuple[object, ...]],
    spec: ExperimentSpec,
    *,
    old: tuple[float, ...] | None,
    new: tuple[float, ...] | None,
    node: int,
    now: float,
) -> Row:
    """The node's row with `old` taken out and `new` put in, written; the books know what rounding may have done.

    Beside a very large `old` the digits of the others are lost: the arm's rewards are added up again then.
    """
    uid, number, time = stored.experiment, stored.arm, stored.evidence_time
    with Driver(connection) as driver:
        known = read_rows(driver, node, {(uid, number)})
    try:
        rows = {(node, number): known[uid, number].row.corrected(old, new, time, spec.half_life_s)}
        of_arm = dict(stored_rows(connection, uid, stored.epoch, number)) | rows
        if old is not None and swallowed(old, time, of_arm.values(), spec.half_life_s):
            rows = added_up_again(connection, stored, of_arm, spec, node)
        elif old is not None:
            change = partial(Baseline.after_correction, gone=old, time=time)
            change_baseline(connection, (uid, number, stored.epoch), change)
    except OverflowError:
        raise not_finite() from None
    if not all(math.isfinite(value) for row in rows.values() for value in row.sums):
        raise not_finite()
    replace_rows(connection, uid, stored.epoch, rows, now)
    return rows[node, number]


def swallowed(gone: tuple[float, ...], time: float, left: Iterable[Row], half_life_s: float | None) -> bool:
    """Whether the square that is taken out leaves so little that it is mostly what rounding made of it."""
    rows = [row for row in left if row.sums]
    if sum(row.pull_count for row in rows) <= 0 or gone[SQUARES] <= 1:
        return False
    now = max(row.as_of for row in rows)
    squares = math.fsum(row.sums[SQUARES] * decay_weight(now - row.as_of, half_life_s) for row in rows)
    return gone[SQUARES] * decay_weight(now - time, half_life_s) > SWALLOWS * squares


def added_up_again(
    connection: Connection,
    stored: sa.Row[tuple[object, ...]],
    rows: Mapping[NodeArm, Row],
    spec: ExperimentSpec,
    node: int,
) -> dict[NodeArm, Row]:
    """All nodes' rows of the arm from its rewards; `node` gets those that retention removed, too."""
    begun = {key: row._replace(sums=tuple(0.0 for _ in row.sums), pull_count=0) for key, row in rows.items()}
    removed = known_baseline(connection, (stored.experiment, stored.arm, stored.epoch)).row
    if removed.sums:
        row = begun[node, stored.arm].plus([(removed.sums, removed.as_of)], spec.half_life_s)
        begun[node, stored.arm] = row._replace(pull_count=removed.pull_count)
    of_arm = sa.and_(counted_in(stored.experiment, stored.epoch), reward.c.arm == stored.arm)
    again = replay(connection, of_arm, begun, spec)
    fixed = len(spec.policy.traits.columns) - spec.policy.traits.path_columns
    return {
        key: row._replace(sums=(*row.sums[:fixed], *rows[key].sums[fixed:])) if key in rows else row
        for key, row in again.items()
    }


def not_finite() -> InvalidReward:
    return InvalidReward("With this reward the arm's sums would no longer be finite.")
