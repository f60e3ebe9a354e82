"""Reward rows: many in one statement, and which of their keys were there already."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeAlias

import msgspec
from sqlalchemy.dialects import postgresql

from multiarm.storage.engine import Driver, is_postgresql
from multiarm.storage.evidence import chunks
from multiarm.storage.schema import reward

# what the rows of one statement share: experiment, epoch, node
Shared: TypeAlias = tuple[int, int, int]
# arm, evidence_time, received_at, reward, pull_count
PlainRow: TypeAlias = tuple[int, float, float, float, int]
# key, arm, evidence_time, received_at, issued_at, reward, propensity
KeyedRow: TypeAlias = tuple[str, int, float, float, float | None, float, float | None]
# the same with exposure, events: of policies that take them, for a wider row costs more
Measures: TypeAlias = tuple[float | None, float | None]
MeasuredPlainRow: TypeAlias = tuple[int, float, float, float, int, *Measures]
MeasuredKeyedRow: TypeAlias = tuple[str, int, float, float, float | None, float, float | None, *Measures]

SHARED = ("experiment", "epoch", "node")
PLAIN = ("arm", "evidence_time", "received_at", "reward", "pull_count")
KEYED = ("key", "arm", "evidence_time", "received_at", "issued_at", "reward", "propensity")
MEASURES = ("exposure", "events")
PARAMETERS_PER_STATEMENT = 999  # SQLite builds may allow no more
ROWS_PER_STATEMENT = 128


def insert_plain(driver: Driver, shared: Shared, rows: Sequence[PlainRow | MeasuredPlainRow]) -> None:
    """Rows without a key: each counts, as often as it says. All are of one kind."""
    columns = PLAIN if len(rows[0]) == len(PLAIN) else PLAIN + MEASURES
    if is_postgresql(driver.connection):
        parameters = [dict(zip(SHARED + columns, shared + row, strict=True)) for row in rows]
        driver.connection.execute(reward.insert(), parameters)
    else:
        insert_on_sqlite(driver, columns, shared, rows)


def insert_keyed(driver: Driver, shared: Shared, rows: Sequence[KeyedRow | MeasuredKeyedRow]) -> set[str]:
    """Insert the rows whose key is not there yet; returns the keys that are.

    `rows` are in the order of their keys, and no key comes twice: fewer pages of the index are touched then, and no
    two nodes are in each other's way. All are of one kind.
    """
    columns = KEYED if len(rows[0]) == len(KEYED) else KEYED + MEASURES
    if is_postgresql(driver.connection):
        insert = postgresql.insert(reward).on_conflict_do_nothing().returning(reward.c.key)
        parameters = [dict(zip(SHARED + columns, shared + row, strict=True)) for row in rows]
        inserted = {key for (key,) in driver.connection.execute(insert, parameters)}
        return {row[0] for row in rows} - inserted
    count = insert_on_sqlite(driver, columns, shared, rows)
    if count == len(rows):
        return set()
    if not count:
        return {row[0] for row in rows}
    return known_keys(driver, shared[0], driver.cursor.lastrowid - count, [row[0] for row in rows])


def insert_on_sqlite(driver: Driver, columns: tuple[str, ...], shared: Shared, rows: Sequence[tuple[Any, ...]]) -> int:
    """How many were inserted."""
    count = 0
    most = min(ROWS_PER_STATEMENT, (PARAMETERS_PER_STATEMENT - len(shared)) // len(columns))
    for chunk in chunks(rows, most):
        driver.cursor.execute(_insert_sql(columns, len(chunk)), (*shared, *chain.from_iterable(chunk)))
        count += driver.cursor.rowcount
    return count


def known_keys(driver: Driver, uid: int, last: int, keys: Iterable[str]) -> set[str]:
    """Those of `keys` in rows up to number `last`: SQLite has a single writer, and counts its rows up."""
    query = """SELECT key FROM reward
        WHERE experiment = ? AND key IN (SELECT value FROM json_each(?)) AND number <= ?"""
    driver.cursor.execute(query, (uid, msgspec.json.encode(keys).decode(), last))
    return {key for (key,) in driver.cursor.fetchall()}


@cache
def _insert_sql(columns: tuple[str, ...], row_count: int) -> str:
    """Shared values are bound once: binding is a third of an insert's cost."""
    names, width = SHARED + columns, len(columns)
    rows = []
    for start in range(len(SHARED) + 1, len(SHARED) + 1 + row_count * width, width):
        numbers = (*range(1, len(SHARED) + 1), *range(start, start + width))
        rows.append(f"({', '.join(f'?{number}' for number in numbers)})")
    return f"INSERT INTO reward ({', '.join(names)}) VALUES {', '.join(rows)} ON CONFLICT DO NOTHING"
