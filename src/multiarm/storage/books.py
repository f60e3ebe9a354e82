"""The books: for each arm, evidence over all nodes = baseline + reward rows of this epoch."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.evidence import Row, decay_weight
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.experiments import evidence_from
from multiarm.storage.retention import STEP_ROWS, baseline_row, replayed
from multiarm.storage.schema import arm, baseline, evidence, experiment, reward

TOLERANCE = 1e-9  # of the column's Σ|undecayed increments|


@dataclass(frozen=True, slots=True)
class Entry:
    """One arm's books. `sums`: of the evidence; `expected`: of baseline and rewards; decayed to the same time."""

    experiment_id: str
    arm_id: str
    pull_count: int
    expected_pull_count: int
    sums: tuple[float, ...]
    expected: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def balanced(self) -> bool:
        return self.pull_count == self.expected_pull_count and all(
            abs(have - want) <= TOLERANCE * max(scale, 1e-300)
            for have, want, scale in zip(self.sums, self.expected, self.scale, strict=True)
        )


def audit(connection: Connection) -> Iterator[Entry]:
    """The books of every arm of every live experiment; reads each reward row once, a bounded number at a time."""
    for row in list(connection.execute(sa.select(experiment).where(experiment.c.deleted_at.is_(None)))):
        spec = msgspec.json.decode(row.spec, type=ExperimentSpec)
        yield from audit_experiment(connection, row.uid, row.id, row.epoch, spec)


def audit_experiment(
    connection: Connection, uid: int, experiment_id: str, epoch: int, spec: ExperimentSpec
) -> Iterator[Entry]:
    half_life_s = spec.half_life_s
    here = (evidence.c.experiment == uid, evidence.c.epoch == epoch)
    actual: dict[int, list[Row]] = defaultdict(list)
    for row in connection.execute(sa.select(evidence).where(*here)):
        actual[row.arm].append(evidence_from(row))
    expected = {
        row.arm: baseline_row(row)
        for row in connection.execute(
            sa.select(baseline).where(baseline.c.experiment == uid, baseline.c.epoch == epoch)
        )
    }
    scale = {number: [abs(value) for value in row.sums] for number, row in expected.items()}
    for number, increments in reward_increments(connection, uid, epoch, spec):
        expected[number] = expected.get(number, Row()).plus(increments, half_life_s)
        sizes = zip(*(numbers for numbers, _ in increments), strict=True)
        before = scale.get(number) or [0.0] * len(spec.policy.columns)
        scale[number] = [old + math.fsum(map(abs, column)) for old, column in zip(before, sizes, strict=True)]
    zeros = (0.0,) * len(spec.policy.columns)
    for arm_row in connection.execute(sa.select(arm).where(arm.c.experiment == uid).order_by(arm.c.number)):
        have = merged(actual[arm_row.number], half_life_s)
        want = expected.get(arm_row.number, Row())
        as_of = max(have.as_of, want.as_of)
        yield Entry(
            experiment_id,
            arm_row.id,
            have.pull_count,
            want.pull_count,
            read_at(have, as_of, half_life_s) or zeros,
            read_at(want, as_of, half_life_s) or zeros,
            tuple(scale.get(arm_row.number, zeros)),
        )


def reward_increments(
    connection: Connection, uid: int, epoch: int, spec: ExperimentSpec
) -> Iterator[tuple[int, list[tuple[tuple[float, ...], float]]]]:
    """(arm number, increments with their evidence times) of this epoch's reward rows, in pieces of bounded size."""
    query = sa.select(reward).where(reward.c.experiment == uid, reward.c.epoch == epoch).order_by(reward.c.number)
    for partition in connection.execution_options(yield_per=STEP_ROWS).execute(query).partitions():
        by_arm: dict[int, list[tuple[tuple[float, ...], float]]] = defaultdict(list)
        for row in partition:
            by_arm[row.arm].append(replayed(row, spec))
        yield from by_arm.items()


def merged(rows: list[Row], half_life_s: float | None) -> Row:
    """All nodes' rows of one arm as one, decayed to the latest."""
    total = Row()
    for row in rows:
        if row.sums:
            sum_ = total.plus([(row.sums, row.as_of)], half_life_s)
            total = sum_._replace(pull_count=total.pull_count + row.pull_count)
    return total


def read_at(row: Row, as_of: float, half_life_s: float | None) -> tuple[float, ...]:
    weight = decay_weight(as_of - row.as_of, half_life_s)
    return tuple(weight * value for value in row.sums)
