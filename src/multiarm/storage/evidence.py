"""This node's evidence rows: read and written as a group, in driver SQL, because every commit pays for it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection

from multiarm.domain.evidence import Row
from multiarm.storage.engine import driver, is_postgresql
from multiarm.storage.experiments import sums_from

encode = msgspec.json.Encoder().encode

T = TypeVar("T")
ArmKey = tuple[int, int]  # experiment uid, arm number
PAIRS_PER_QUERY = 400  # SQLite builds may allow no more than 999 parameters

# another node must not reset or purge the experiment meanwhile; on SQLite there is one writer at a time
SHARED_LOCK = " FOR SHARE OF experiment"


class ArmRow(NamedTuple):
    """This node's row of an arm inside the transaction, empty where it is of an earlier epoch than the experiment's.

    `deleted`: the arm was; `stored`: there is a row to update, of whatever epoch.
    """

    epoch: int
    row: Row
    deleted: bool
    stored: bool


def read_rows(connection: Connection, node: int, keys: Collection[ArmKey]) -> dict[ArmKey, ArmRow]:
    """This node's rows of these arms; arms of deleted experiments are left out."""
    found = {}
    with driver(connection) as cursor:
        for pairs in chunks(sorted(keys), PAIRS_PER_QUERY):
            parameters = (*chain.from_iterable(pairs), node)
            cursor.execute(_select_sql(len(pairs), mark(connection)), parameters)
            for uid, number, deleted_at, epoch, row_epoch, sums, as_of, pull_count, draw_count in cursor.fetchall():
                current = Row(sums_from(sums, number), as_of, pull_count, draw_count) if row_epoch == epoch else Row()
                found[uid, number] = ArmRow(epoch, current, deleted_at is not None, row_epoch is not None)
    return found


def write_rows(
    connection: Connection, node: int, rows: Mapping[ArmKey, Row], before: Mapping[ArmKey, ArmRow], now: float
) -> None:
    """Write this node's absolute sums, as of the current epoch; writing twice changes nothing. `before`: as read."""
    updates: list[tuple[object, ...]] = []
    inserts: list[tuple[object, ...]] = []
    for key, (sums, as_of, pull_count, draw_count) in rows.items():
        values = (before[key].epoch, encode(sums).decode(), as_of, pull_count, draw_count, now, *key, node)
        (updates if before[key].stored else inserts).append(values)
    with driver(connection) as cursor:
        if updates:
            cursor.executemany(_update_sql(mark(connection)), updates)
        if inserts:
            cursor.executemany(_insert_sql(mark(connection)), inserts)


def mark(connection: Connection) -> str:
    """The driver's sign for a parameter."""
    return "%s" if is_postgresql(connection) else "?"


@cache
def _select_sql(pair_count: int, mark_: str) -> str:
    """CROSS JOIN makes SQLite begin with the arms that are wanted; by itself it would walk through all there are."""
    pairs = ", ".join([f"({mark_}, {mark_})"] * pair_count)
    return f"""
        WITH wanted (uid, number) AS (VALUES {pairs})
        SELECT arm.experiment, arm.number, arm.deleted_at, experiment.epoch, evidence.epoch, evidence.sums,
            evidence.as_of, evidence.pull_count, evidence.draw_count
        FROM wanted CROSS JOIN experiment CROSS JOIN arm
        LEFT JOIN evidence
            ON evidence.experiment = arm.experiment AND evidence.arm = arm.number AND evidence.node = {mark_}
        WHERE experiment.uid = wanted.uid AND experiment.deleted_at IS NULL
            AND arm.experiment = wanted.uid AND arm.number = wanted.number{"" if mark_ == "?" else SHARED_LOCK}"""


_COLUMNS = ("epoch", "sums", "as_of", "pull_count", "draw_count", "updated_at", "experiment", "arm", "node")


@cache
def _update_sql(mark_: str) -> str:
    assignments = ", ".join(f"{column} = {mark_}" for column in _COLUMNS[:6])
    return f"UPDATE evidence SET {assignments} WHERE experiment = {mark_} AND arm = {mark_} AND node = {mark_}"


@cache
def _insert_sql(mark_: str) -> str:
    return f"INSERT INTO evidence ({', '.join(_COLUMNS)}) VALUES ({', '.join([mark_] * len(_COLUMNS))})"


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
