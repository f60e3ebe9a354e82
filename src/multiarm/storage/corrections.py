"""Corrections: a reward that was counted becomes another one, or none. One transaction's work."""

import math
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import InvalidReward, RewardNotFound, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.records import Increment
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.engine import Driver
from multiarm.storage.evidence import read_rows, write_rows
from multiarm.storage.experiments import arm_from, locked, spec_from
from multiarm.storage.retention import Baseline, change_baseline, replayed
from multiarm.storage.schema import arm, reward


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
    row = move(connection, stored, old=old, new=new, half_life_s=spec.half_life_s, node=node, now=now)
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
    *,
    old: tuple[float, ...] | None,
    new: tuple[float, ...] | None,
    half_life_s: float | None,
    node: int,
    now: float,
) -> Row:
    """The node's row with `old` taken out and `new` put in, written; the books know what rounding may have done."""
    key = stored.experiment, stored.arm
    with Driver(connection) as driver:
        known = read_rows(driver, node, {key})
        try:
            row = known[key].row.corrected(old, new, stored.evidence_time, half_life_s)
        except OverflowError:
            raise not_finite() from None
        if not all(map(math.isfinite, row.sums)):
            raise not_finite()
        write_rows(driver, node, {key: row}, known, now)
    if old is not None:
        change = partial(Baseline.after_correction, gone=old, time=stored.evidence_time)
        change_baseline(connection, (*key, stored.epoch), change)
    return row


def not_finite() -> InvalidReward:
    return InvalidReward("With this reward the arm's sums would no longer be finite.")
