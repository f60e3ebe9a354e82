"""What leaves the database: rewards past their retention, and what deleted experiments held. A step at a time."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.evidence import Row
from multiarm.domain.policies import Observation
from multiarm.domain.spec import ExperimentSpec
from multiarm.storage.experiments import spec_from
from multiarm.storage.schema import arm, baseline, evidence, experiment, reward, snapshot

STEP_ROWS = 5_000
LARGE_ROWS = 500  # of snapshots, which may have a hundred kilobytes each
EXPERIMENTS_PER_PURGE = 100
REPLAYED = ("reward", "evidence_time", "propensity", "exposure", "events", "pull_count")  # what `replayed` needs


class Counted(NamedTuple):
    """What a reward row adds: so many times these numbers. time: the evidence time, seconds since the epoch."""

    numbers: tuple[float, ...]
    time: float
    pull_count: int


class Step(NamedTuple):
    """How many rewards a step pruned, or rows it purged; and the number to go on from, None when the walk is done."""

    deleted_count: int
    next_number: int | None


def prune(connection: Connection, after_number: int, before: float) -> Step:
    """Walk the next 5,000 rewards in order of receipt; those past retention move into the baseline.

    before: seconds since the epoch; a reward is past retention when it was received earlier and, for a decision,
    the decision was issued earlier too. The walk ends where it meets none.
    """
    numbers = next_numbers(connection, after_number)
    if not numbers:
        return Step(0, None)
    old = sa.delete(reward).where(reward.c.number.between(numbers[0], numbers[-1]), *expired(before))
    gone = list(connection.execute(old.returning(*reward.c)))
    add_to_baseline(connection, [row for row in gone if row.withdrawn_at is None])
    done = len(numbers) < STEP_ROWS or not gone
    return Step(sum(row.pull_count for row in gone), None if done else numbers[-1])


def purge(connection: Connection, after_number: int, uids: Sequence[int]) -> Step:
    """Walk the next 5,000 rewards and delete those of the experiments `uids`; at the end all else that they held.

    uids: deleted experiments, which therefore get no new rewards.
    """
    numbers = next_numbers(connection, after_number)
    if not numbers:
        return bury(connection, after_number, uids)
    walked = reward.c.number.between(numbers[0], numbers[-1])
    deleted = connection.execute(sa.delete(reward).where(walked, reward.c.experiment.in_(uids)))
    return Step(deleted.rowcount, numbers[-1])


def bury(connection: Connection, after_number: int, uids: Sequence[int]) -> Step:
    """Delete up to 5,000 rows of what experiments without rewards still hold; when nothing is left, themselves."""
    for table in (snapshot, evidence, baseline, arm):
        key = table.primary_key.columns
        limit = LARGE_ROWS if table is snapshot else STEP_ROWS
        some = sa.select(*key).where(table.c.experiment.in_(uids)).limit(limit)
        deleted = connection.execute(sa.delete(table).where(sa.tuple_(*key).in_(some)))
        if deleted.rowcount:
            return Step(deleted.rowcount, after_number)
    connection.execute(sa.delete(experiment).where(experiment.c.uid.in_(uids)))
    return Step(0, None)


def deleted_experiments(connection: Connection) -> list[int]:
    """Uids of up to 100 experiments that wait to be purged."""
    query = sa.select(experiment.c.uid).where(experiment.c.deleted_at.is_not(None)).limit(EXPERIMENTS_PER_PURGE)
    return list(connection.scalars(query))


def next_numbers(connection: Connection, after_number: int) -> list[int]:
    query = sa.select(reward.c.number).where(reward.c.number > after_number).order_by(reward.c.number)
    return list(connection.scalars(query.limit(STEP_ROWS)))


def expired(before: float) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        reward.c.received_at < before,
        sa.or_(reward.c.issued_at.is_(None), reward.c.issued_at < before),
    )


def add_to_baseline(connection: Connection, rows: Sequence[sa.Row[tuple[object, ...]]]) -> None:
    """Add the sums of reward rows that go, none of them withdrawn, to what the books know of those that went.

    Of live experiments and their present epoch only: what earlier ones counted, under another policy perhaps, is worth
    nothing.
    """
    groups: dict[tuple[int, int, int], list[sa.Row[tuple[object, ...]]]] = defaultdict(list)
    for row in rows:
        groups[row.experiment, row.arm, row.epoch].append(row)
    uids = {uid for uid, _, _ in groups}
    live = sa.select(experiment).where(experiment.c.uid.in_(uids), experiment.c.deleted_at.is_(None))
    parents = list(connection.execute(live.with_for_update(read=True)))  # so that no policy is changed meanwhile
    epochs = {row.uid: row.epoch for row in parents}
    specs = {row.uid: spec_from(row) for row in parents}
    for (uid, number, epoch), members in sorted(groups.items()):
        if epochs.get(uid) != epoch:
            continue
        counted = [replayed(row, specs[uid]) for row in members]
        change = partial(Baseline.plus, increments=counted, half_life_s=specs[uid].half_life_s)
        change_baseline(connection, (uid, number, epoch), change)


def change_baseline(
    connection: Connection, key: tuple[int, int, int], change: Callable[["Baseline"], "Baseline"]
) -> None:
    """Change what the books know of an arm beside its reward rows. key: experiment uid, arm number, epoch."""
    write_baseline(connection, key, change(known_baseline(connection, key)))


def known_baseline(connection: Connection, key: tuple[int, int, int]) -> "Baseline":
    """What the books know so far, locked; nothing at first."""
    found = connection.execute(sa.select(baseline).where(of_baseline(key)).with_for_update()).first()
    return Baseline() if found is None else baseline_from(found)


def write_baseline(connection: Connection, key: tuple[int, int, int], books: "Baseline") -> None:
    uid, number, epoch = key
    changed = connection.execute(sa.update(baseline).where(of_baseline(key)).values(**books.columns))
    if not changed.rowcount:
        connection.execute(sa.insert(baseline).values(experiment=uid, arm=number, epoch=epoch, **books.columns))


def of_baseline(key: tuple[int, int, int]) -> sa.ColumnElement[bool]:
    uid, number, epoch = key
    return sa.and_(baseline.c.experiment == uid, baseline.c.arm == number, baseline.c.epoch == epoch)


class Baseline(NamedTuple):
    """Sums of rewards, and Σ|increments| of each column, undecayed: the measure of what rounding may do to the sums."""

    row: Row = Row()
    magnitudes: tuple[float, ...] = ()

    def plus(self, increments: Sequence[Counted], half_life_s: float | None) -> Self:
        sizes = [tuple(count * abs(number) for number in numbers) for numbers, _, count in increments]
        columns = zip(*(sizes + [self.magnitudes] * bool(self.magnitudes)), strict=True)
        row = plus_counted(self.row, increments, half_life_s)
        return type(self)(row, tuple(math.fsum(column) for column in columns))

    def after_correction(self, gone: Sequence[float], time: float) -> Self:
        """The same sums, measured by an increment too that was counted once, at `time`, and stands in no row any more.

        Rounding may have done to the evidence what it does beside so large a number.
        """
        row = self.row if self.row.sums else Row((0.0,) * len(gone), time)
        sizes = self.magnitudes or (0.0,) * len(gone)
        return type(self)(row, tuple(size + abs(number) for size, number in zip(sizes, gone, strict=True)))

    @property
    def columns(self) -> dict[str, object]:
        """As the table keeps it."""
        return {
            "sums": msgspec.json.encode(self.row.sums).decode(),
            "magnitudes": msgspec.json.encode(self.magnitudes).decode(),
            "as_of": self.row.as_of,
            "pull_count": self.row.pull_count,
        }


def baseline_from(row: sa.Row[tuple[object, ...]]) -> Baseline:
    sums, magnitudes = (msgspec.json.decode(text, type=tuple[float, ...]) for text in (row.sums, row.magnitudes))
    return Baseline(Row(sums, row.as_of, row.pull_count), magnitudes)


def replayed(row: sa.Row[tuple[object, ...]], spec: ExperimentSpec, value: float | None = None) -> Counted:
    """What a stored reward adds, as it was counted; path columns are left as they begin.

    value: what the reward is to be instead.
    """
    value = row.reward if value is None else value
    exposure = 1.0 if row.exposure is None else row.exposure
    events = 1.0 if row.events is None else row.events
    observation = Observation(value, spec.reward_origin, row.evidence_time, row.propensity, exposure, events)
    return Counted(spec.policy.increment(observation), row.evidence_time, row.pull_count)


def plus_counted(row: Row, increments: Sequence[Counted], half_life_s: float | None) -> Row:
    """`row` and what those rewards add; there is one at least."""
    numbers, times, counts = zip(*increments, strict=True)
    return row.plus_columns(numbers, times, half_life_s, counts)
