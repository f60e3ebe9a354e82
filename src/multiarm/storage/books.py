"""The books: for each arm, evidence over all nodes = baseline + reward rows of this epoch."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.evidence import Row, decay_weight
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.evidence import ArmKey
from multiarm.storage.experiments import Unreadable, evidence_from, spec_from
from multiarm.storage.retention import STEP_ROWS, Baseline, Counted, baseline_from, replayed
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
        if self.pull_count != self.expected_pull_count:
            return False
        if not len(self.sums) == len(self.expected) == len(self.scale):
            return False
        return all(
            abs(have - want) <= TOLERANCE * max(scale, 1e-300)
            for have, want, scale in zip(self.sums, self.expected, self.scale, strict=True)
        )


def audit(connection: Connection) -> Iterator[Entry]:
    """The books of every arm of every live experiment, in order; reads each reward once, a bounded number at a time."""
    live = list(
        connection.execute(sa.select(experiment).where(experiment.c.deleted_at.is_(None)).order_by(experiment.c.number))
    )
    epochs = {row.uid: row.epoch for row in live}
    specs = {row.uid: spec_from(row) for row in live}
    actual = actual_rows(connection, epochs)
    expected = expected_rows(connection, epochs, specs)
    for parent in live:
        half_life_s = specs[parent.uid].half_life_s
        traits = specs[parent.uid].policy.traits
        zeros = (0.0,) * len(traits.columns)
        audited = len(zeros) - traits.path_columns
        query = sa.select(arm.c.id, arm.c.number).where(arm.c.experiment == parent.uid).order_by(arm.c.number)
        for arm_id, number in connection.execute(query):
            try:
                have = merged(actual[parent.uid, number], half_life_s)
            except Unreadable:
                have = Row((math.nan,) * len(zeros))
            want, magnitudes = expected.get((parent.uid, number), Baseline())
            as_of = max(have.as_of, want.as_of)
            yield Entry(
                parent.id,
                arm_id,
                have.pull_count,
                want.pull_count,
                (read_at(have, as_of, half_life_s) or zeros)[:audited],
                (read_at(want, as_of, half_life_s) or zeros)[:audited],
                (magnitudes or zeros)[:audited],
            )


def actual_rows(connection: Connection, epochs: Mapping[int, int]) -> dict[ArmKey, list[Row]]:
    """What each node says of each arm, in this epoch."""
    found: dict[ArmKey, list[Row]] = defaultdict(list)
    for row in connection.execute(sa.select(evidence)):
        if epochs.get(row.experiment) == row.epoch:
            found[row.experiment, row.arm].append(evidence_from(row))
    return found


def expected_rows(
    connection: Connection, epochs: Mapping[int, int], specs: Mapping[int, ExperimentSpec]
) -> dict[ArmKey, Baseline]:
    """The baseline of each arm in this epoch, with its reward rows added."""
    found = {
        (row.experiment, row.arm): baseline_from(row)
        for row in connection.execute(sa.select(baseline))
        if epochs.get(row.experiment) == row.epoch
    }
    query = sa.select(reward).where(reward.c.withdrawn_at.is_(None)).order_by(reward.c.number)
    for partition in connection.execute(query, execution_options={"yield_per": STEP_ROWS}).partitions():
        increments: dict[ArmKey, list[Counted]] = defaultdict(list)
        for row in partition:
            if epochs.get(row.experiment) == row.epoch:
                increments[row.experiment, row.arm].append(replayed(row, specs[row.experiment]))
        for key, counted in increments.items():
            try:
                found[key] = found.get(key, Baseline()).plus(counted, specs[key[0]].half_life_s)
            except ValueError:  # the baseline has more columns, or fewer
                found[key] = Baseline(Row((math.nan,) * len(counted[0][0])))
    return found


def merged(rows: list[Row], half_life_s: float | None) -> Row:
    """All nodes' rows of one arm as one, decayed to the latest; Unreadable where they do not have the same columns."""
    if len({len(row.sums) for row in rows if row.sums}) > 1:
        raise Unreadable("In the database, the nodes' evidence of an arm differs in its columns; restore a backup.")
    total = Row()
    for row in rows:
        if row.sums:
            sum_ = total.plus([(row.sums, row.as_of)], half_life_s)
            total = sum_._replace(pull_count=total.pull_count + row.pull_count)
    return total


def read_at(row: Row, as_of: float, half_life_s: float | None) -> tuple[float, ...]:
    weight = decay_weight(as_of - row.as_of, half_life_s)
    return tuple(weight * value for value in row.sums)
