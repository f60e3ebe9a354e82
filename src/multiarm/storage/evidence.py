"""This node's evidence rows: read and written as a group, in driver SQL, because every commit pays for it."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from functools import cache
from itertools import chain
from typing import NamedTuple, TypeVar

import msgspec

from multiarm.domain.evidence import Row
from multiarm.storage.engine import Driver
from multiarm.storage.experiments import sums_from

encode = msgspec.json.Encoder().encode

T = TypeVar("T")
ArmKey = tuple[int, int]  # experiment uid, arm number
# SQLite builds may allow no more than 999 parameters
PAIRS_PER_QUERY = 400
ROWS_PER_UPSERT = 104
SMALL_CHUNK = 16
CHUNK_STEP = 8
KNOWN_LIMIT_ARMS = 20_000  # some 10 MB


class ArmRow(NamedTuple):
    """This node's row of an arm inside the transaction, empty where it is of an earlier epoch than the experiment's.

    `deleted`: the arm was.
    """

    epoch: int
    row: Row
    deleted: bool


class KnownRows:
    """This node's rows as its last group left them, so that the next need not read them again.

    On SQLite alone: elsewhere, reading them locks the experiment against other nodes. `forget` after a transaction of
    another kind on this connection, and after one that failed; those of other connections are noticed.
    """

    def __init__(self) -> None:
        self._arms: dict[ArmKey, ArmRow] = {}
        self._version: int | None = None

    def read(self, driver: Driver, node: int, keys: Set[ArmKey]) -> dict[ArmKey, ArmRow]:
        """As `read_rows` does."""
        if driver.mark != "?":
            return read_rows(driver, node, keys)
        (version,) = driver.cursor.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._arms) > KNOWN_LIMIT_ARMS:
            self.forget()
            self._version = version
        unknown = keys - self._arms.keys()
        if unknown:
            self._arms |= read_rows(driver, node, unknown)
        return {key: self._arms[key] for key in keys if key in self._arms}

    def keep(self, rows: Mapping[ArmKey, Row]) -> None:
        """What this transaction writes."""
        for key, row in rows.items():
            if key in self._arms:
                epoch, _, deleted = self._arms[key]
                self._arms[key] = ArmRow(epoch, row, deleted)

    def forget(self) -> None:
        self._arms.clear()


def read_rows(driver: Driver, node: int, keys: Collection[ArmKey]) -> dict[ArmKey, ArmRow]:
    """This node's rows of these arms; arms of deleted experiments are left out."""
    lock_experiments(driver, {uid for uid, _ in keys})
    found = {}
    for pairs in chunks(sorted(keys), PAIRS_PER_QUERY):
        driver.cursor.execute(_select_sql(len(pairs), driver.mark), (*chain.from_iterable(pairs), node))
        for uid, number, deleted_at, epoch, row_epoch, sums, as_of, pull_count, draw_count in driver.cursor.fetchall():
            current = Row(sums_from(sums, number), as_of, pull_count, draw_count) if row_epoch == epoch else Row()
            found[uid, number] = ArmRow(epoch, current, deleted_at is not None)
    return found


def lock_experiments(driver: Driver, uids: Set[int]) -> None:
    """Against other nodes, which must not reset, purge or correct them meanwhile; on SQLite there is one writer anyway.

    In a statement of its own: the next one sees what those wrote that it waited for.
    """
    if driver.mark == "?":
        return
    for chunk in chunks(sorted(uids), PAIRS_PER_QUERY):
        marks = ", ".join([driver.mark] * len(chunk))
        query = f"SELECT uid FROM experiment WHERE uid IN ({marks}) ORDER BY uid FOR SHARE"
        driver.cursor.execute(query, tuple(chunk))


def write_rows(
    driver: Driver, node: int, rows: Mapping[ArmKey, Row], before: Mapping[ArmKey, ArmRow], now: float
) -> None:
    """Write this node's absolute sums, as of the current epoch; writing twice changes nothing. `before`: as read."""
    values = [
        (*key, node, before[key].epoch, encode(sums).decode(), as_of, pull_count, draw_count, now)
        for key, (sums, as_of, pull_count, draw_count) in rows.items()
    ]
    for chunk in chunks(values, ROWS_PER_UPSERT):
        driver.cursor.execute(_upsert_sql(len(chunk), driver.mark), tuple(chain.from_iterable(chunk)))


@cache
def _select_sql(pair_count: int, mark: str) -> str:
    """CROSS JOIN makes SQLite begin with the arms that are wanted; by itself it would walk through all there are."""
    pairs = ", ".join([f"({mark}, {mark})"] * pair_count)
    return f"""
        WITH wanted (uid, number) AS (VALUES {pairs})
        SELECT arm.experiment, arm.number, arm.deleted_at, experiment.epoch, evidence.epoch, evidence.sums,
            evidence.as_of, evidence.pull_count, evidence.draw_count
        FROM wanted CROSS JOIN experiment CROSS JOIN arm
        LEFT JOIN evidence
            ON evidence.experiment = arm.experiment AND evidence.arm = arm.number AND evidence.node = {mark}
        WHERE experiment.uid = wanted.uid AND experiment.deleted_at IS NULL
            AND arm.experiment = wanted.uid AND arm.number = wanted.number"""


_COLUMNS = ("experiment", "arm", "node", "epoch", "sums", "as_of", "pull_count", "draw_count", "updated_at")


@cache
def _upsert_sql(row_count: int, mark: str) -> str:
    row = f"({', '.join([mark] * len(_COLUMNS))})"
    assignments = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[3:])
    return f"""
        INSERT INTO evidence ({", ".join(_COLUMNS)}) VALUES {", ".join([row] * row_count)}
        ON CONFLICT (experiment, arm, node) DO UPDATE SET {assignments}"""


def chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The items in slices of few different sizes: to prepare a statement takes longer than to run it."""
    start = 0
    while start < len(items):
        size = min(len(items) - start, most)
        if size > SMALL_CHUNK:
            size -= size % CHUNK_STEP
        yield items[start : start + size]
        start += size
