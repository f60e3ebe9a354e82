"""Corrections: a reward that was counted becomes another one, or none. One transaction's work."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import InvalidReward, RewardNotFound, StaleEpoch
from multiarm.domain.evidence import Row, decay_weight
from multiarm.domain.records import ExperimentState, Increment
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.engine import Driver
from multiarm.storage.evidence import read_rows
from multiarm.storage.experiments import arm_from, load_experiment, locked, spec_from
from multiarm.storage.policy_change import NodeArm, counted_in, replace_rows, replay, stored_rows
from multiarm.storage.retention import Baseline, known_baseline, replayed, write_baseline
from multiarm.storage.schema import arm, reward

SWALLOWS = 1e4  # times as large as what is left, what was taken out has cost it 4 of 16 digits
EXACT_OR_SIGNED = frozenset({"effective_pulls", "reward", "logs"})


class Corrected(NamedTuple):
    """A reward that stands differently now. row: the node's evidence of its arm; origin: what its numbers are about.

    before, after: the reward, None where it was or is withdrawn. increment: what counts now, or last did. state: the
    whole experiment, where other nodes' evidence was written too.
    """

    epoch: int
    row: Row
    increment: Increment
    origin: float
    before: float | None
    after: float | None
    state: ExperimentState | None = None


def correct(
    connection: Connection, *, uid: int, key: str, after: float | None, node: int, now: float, limit_rewards: int
) -> Corrected | None:
    """Put a reward right, in its row and in the evidence of `node`; None where it stands like that already.

    key: as it is stored; after: None withdraws the reward. limit_rewards: the most of an arm that are added up again,
    where a very large one took their digits along. Raises ExperimentNotFound, RewardNotFound, StaleEpoch, and
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
    rows = move(connection, stored, spec, old=old, new=new, node=node, limit_rewards=limit_rewards)
    replace_rows(connection, uid, parent.epoch, rows, now)
    state = load_experiment(connection, node, uid) if len(rows) > 1 else None
    return Corrected(parent.epoch, rows[node, stored.arm], increment, spec.reward_origin, before, after, state)


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
    numbers = replayed(stored, spec, value).numbers
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
    limit_rewards: int,
) -> dict[NodeArm, Row]:
    """The node's row with `old` taken out and `new` put in; the books know what rounding may have done.

    Beside a very large `old` the digits of the others are lost: their arm is added up again then, for all nodes.
    """
    uid, number, time = stored.experiment, stored.arm, stored.evidence_time
    key = uid, number, stored.epoch
    with Driver(connection) as driver:
        known = read_rows(driver, node, {(uid, number)})
    try:
        rows = {(node, number): known[uid, number].row.corrected(old, new, time, spec.half_life_s)}
        if old is not None:
            books = known_baseline(connection, key).after_correction(old, time)
            all_rows = dict(stored_rows(connection, uid, stored.epoch, number)) | rows
            pull_count = sum(row.pull_count for row in all_rows.values())
            if 0 < pull_count <= limit_rewards and swallowed(connection, stored, books, all_rows.values(), spec):
                rows = added_up_again(connection, stored, books.row, all_rows, spec=spec, node=node)
                books = books._replace(magnitudes=tuple(map(abs, books.row.sums)))
            write_baseline(connection, key, books)
    except OverflowError:
        raise not_finite() from None
    if not all(math.isfinite(value) for row in rows.values() for value in row.sums):
        raise not_finite()
    return rows


def swallowed(
    connection: Connection,
    stored: sa.Row[tuple[object, ...]],
    books: Baseline,
    left: Iterable[Row],
    spec: ExperimentSpec,
) -> bool:
    """Whether what was taken out of the arm's sums leaves so little that it is mostly what rounding made of it.

    Of sums that cannot be negative, for others may be small beside large ones; and none where all rewards are small.
    """
    traits = spec.policy.traits
    if traits.reward_max - traits.reward_min <= 1:
        return False
    rows = [row for row in left if row.sums]
    now = max(row.as_of for row in rows)
    weights = [decay_weight(now - row.as_of, spec.half_life_s) for row in rows]
    for column, name in enumerate(traits.columns[: len(traits.columns) - traits.path_columns]):
        total = math.fsum(row.sums[column] * weight for row, weight in zip(rows, weights, strict=True))
        if name in EXACT_OR_SIGNED or books.magnitudes[column] <= SWALLOWS * total:
            continue
        if name != "reward2" or total or books.row.sums[column] or is_any_left(connection, stored, spec):
            return True
    return False


def is_any_left(connection: Connection, stored: sa.Row[tuple[object, ...]], spec: ExperimentSpec) -> bool:
    """Whether a reward of the arm differs from the origin, so that there is something to lose."""
    differs = sa.and_(of_arm(stored), reward.c.reward != spec.reward_origin)
    return bool(connection.scalar(sa.select(sa.exists().where(differs))))


def added_up_again(
    connection: Connection,
    stored: sa.Row[tuple[object, ...]],
    removed: Row,
    rows: Mapping[NodeArm, Row],
    *,
    spec: ExperimentSpec,
    node: int,
) -> dict[NodeArm, Row]:
    """All nodes' rows of the arm from its rewards; `node` gets those that retention removed, too."""
    begun = {key: row._replace(sums=tuple(0.0 for _ in row.sums), pull_count=0) for key, row in rows.items()}
    if removed.pull_count:
        row = begun[node, stored.arm].plus([(removed.sums, removed.as_of)], spec.half_life_s)
        begun[node, stored.arm] = row._replace(pull_count=removed.pull_count)
    again = replay(connection, of_arm(stored), begun, spec)
    fixed = len(spec.policy.traits.columns) - spec.policy.traits.path_columns
    return {
        key: row._replace(sums=(*row.sums[:fixed], *rows[key].sums[fixed:])) if key in rows else row
        for key, row in again.items()
    }


def of_arm(stored: sa.Row[tuple[object, ...]]) -> sa.ColumnElement[bool]:
    """The rewards that count for the arm of a stored one."""
    return sa.and_(counted_in(stored.experiment, stored.epoch), reward.c.arm == stored.arm)


def not_finite() -> InvalidReward:
    return InvalidReward("With this reward the arm's sums would no longer be finite.")
