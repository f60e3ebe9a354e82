"""The group commit: reward rows in, duplicates told apart, evidence added up. One transaction's work."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from multiarm.domain.errors import ArmNotFound, ExperimentGone, InvalidReward, MultiarmError, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.records import Increment
from multiarm.storage.evidence import ArmKey, ArmRow, chunks, read_rows, write_rows
from multiarm.storage.schema import reward

ROWS_PER_INSERT = (50, 10, 1)  # in one statement they cost a third less than one by one


class UpdateRequest(NamedTuple):
    """The rewards of one request, to be counted together or not at all. received_at: seconds since the epoch."""

    uid: int
    epoch: int
    half_life_s: float | None
    increments: Sequence[Increment]
    received_at: float


Outcome = list[bool] | Exception  # for each increment whether it was new, or why the request was left out


class GroupResult(NamedTuple):
    """One outcome a request, and the evidence rows as they now stand, with their epoch, by uid and arm number."""

    outcomes: list[Outcome]
    rows: dict[int, tuple[int, dict[int, Row]]]


def commit_updates(connection: Connection, node: int, requests: Sequence[UpdateRequest], now: float) -> GroupResult:
    """Count what is new in `requests`; InvalidReward where a sum would not stay finite: commit nothing then."""
    touched = [{increment.arm.number for increment in request.increments} for request in requests]
    keys = {(request.uid, number) for request, numbers in zip(requests, touched, strict=True) for number in numbers}
    arms = read_rows(connection, node, keys)
    refusals = [stale(request, numbers, arms) for request, numbers in zip(requests, touched, strict=True)]
    fresh = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]
    news = insert_rewards(connection, node, fresh)
    rows = added_up(fresh, news, arms)
    write_rows(connection, node, rows, arms, now)
    shown: dict[int, tuple[int, dict[int, Row]]] = {}
    for (uid, number), row in rows.items():
        shown.setdefault(uid, (arms[uid, number].epoch, {}))[1][number] = row
    counted = iter(news)
    return GroupResult([next(counted) if refusal is None else refusal for refusal in refusals], shown)


def write_draw_counts(connection: Connection, node: int, counts: Mapping[ArmKey, tuple[int, int]], now: float) -> None:
    """Store the absolute draw counts, (epoch, count) by arm; those of an earlier epoch or a deleted one are dropped."""
    arms = read_rows(connection, node, counts)
    rows = {
        key: arms[key].row._replace(draw_count=count)
        for key, (epoch, count) in counts.items()
        if key in arms and arms[key].epoch == epoch
    }
    write_rows(connection, node, rows, arms, now)


def stale(request: UpdateRequest, numbers: set[int], arms: Mapping[ArmKey, ArmRow]) -> MultiarmError | None:
    """Why a request that waited, for the arms `numbers`, no longer holds; None where it does."""
    deleted = set()
    for number in numbers:
        known = arms.get((request.uid, number))
        if known is None:
            return ExperimentGone("The experiment was deleted while the request waited.")
        if known.epoch != request.epoch:
            return StaleEpoch("The experiment was reset while the request waited.")
        if known.deleted:
            deleted.add(number)
    for increment in request.increments if deleted else ():
        if increment.arm.number in deleted and increment.issued_at is None:
            return ArmNotFound(increment.arm.arm_id)
    return None


def added_up(
    requests: Sequence[UpdateRequest], news: Sequence[Sequence[bool]], arms: Mapping[ArmKey, ArmRow]
) -> dict[ArmKey, Row]:
    """The rows of the arms that get something new, with it; InvalidReward where a sum would not stay finite."""
    added: dict[ArmKey, list[tuple[Sequence[float], float]]] = defaultdict(list)
    half_lives: dict[int, float | None] = {}
    for request, new in zip(requests, news, strict=True):
        uid = request.uid
        half_lives[uid] = request.half_life_s
        for increment, is_new in zip(request.increments, new, strict=True):
            if is_new:
                added[uid, increment.arm.number].append((increment.numbers, increment.evidence_time))
    try:
        rows = {key: arms[key].row.plus(increments, half_lives[key[0]]) for key, increments in added.items()}
        finite = all(math.isfinite(value) for row in rows.values() for value in row.sums)
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidReward("With this reward the arm's sums would no longer be finite.")
    return rows


REWARD_COLUMNS = (
    "experiment",
    "key",
    "arm",
    "epoch",
    "evidence_time",
    "received_at",
    "issued_at",
    "reward",
    "propensity",
    "node",
)
RewardRow = tuple[int, str | None, int, int, float, float, float | None, float, float | None, int]


def insert_rewards(connection: Connection, node: int, requests: Sequence[UpdateRequest]) -> list[list[bool]]:
    """Insert the reward rows; for each request, which of its increments were new. The first of a key wins."""
    seen: set[tuple[int, str]] = set()
    rows: list[RewardRow] = []
    firsts: list[list[bool]] = []
    for uid, epoch, _half_life_s, increments, received_at in requests:
        first = []
        for i in increments:
            key = i.key
            if key is not None:
                if (uid, key) in seen:
                    first.append(False)
                    continue
                seen.add((uid, key))
            first.append(True)
            rows.append(
                (
                    uid,
                    key,
                    i.arm.number,
                    epoch,
                    i.evidence_time,
                    received_at,
                    i.issued_at,
                    i.reward,
                    i.propensity,
                    node,
                )
            )
        firsts.append(first)
    known = insert_new(connection, rows, seen)
    if not known:
        return firsts
    return [
        [
            new and (increment.key is None or (request.uid, increment.key) not in known)
            for new, increment in zip(first, request.increments, strict=True)
        ]
        for request, first in zip(requests, firsts, strict=True)
    ]


def insert_new(
    connection: Connection, rows: list[RewardRow], keys: Collection[tuple[int, str]]
) -> set[tuple[int, str]]:
    """Insert the rows whose key is not there yet, and return the keys that were. The one statement of two forms.

    SQLite has a single writer, so that what it does not find it may insert; PostgreSQL has to ask while inserting.
    """
    if keys:  # in the order of the index: fewer pages touched, and no two nodes in each other's way
        rows.sort(key=lambda row: (row[0], row[1] or ""))
    if connection.dialect.name == "postgresql":
        return insert_on_postgresql(connection, rows, keys)
    known = known_keys(connection, keys)
    if known:
        rows = [row for row in rows if (row[0], row[1]) not in known]
    for row_count in ROWS_PER_INSERT:
        whole = len(rows) - len(rows) % row_count
        if whole:
            several = [tuple(chain.from_iterable(chunk)) for chunk in chunks(rows[:whole], row_count)]
            connection.exec_driver_sql(_insert_sql(row_count), several)
            rows = rows[whole:]
    return known


def insert_on_postgresql(
    connection: Connection, rows: Sequence[RewardRow], keys: Collection[tuple[int, str]]
) -> set[tuple[int, str]]:
    if not rows:
        return set()
    insert = postgresql.insert(reward).on_conflict_do_nothing().returning(reward.c.experiment, reward.c.key)
    parameters = [dict(zip(REWARD_COLUMNS, row, strict=True)) for row in rows]
    inserted = {(uid, key) for uid, key in connection.execute(insert, parameters)}
    return {key for key in keys if key not in inserted}


@cache
def _insert_sql(row_count: int) -> str:
    marks = f"({', '.join('?' * len(REWARD_COLUMNS))})"
    return f"INSERT INTO reward ({', '.join(REWARD_COLUMNS)}) VALUES {', '.join([marks] * row_count)}"


def known_keys(connection: Connection, keys: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    by_uid: dict[int, list[str]] = defaultdict(list)
    for uid, key in keys:
        by_uid[uid].append(key)
    query = "SELECT key FROM reward WHERE experiment = ? AND key IN (SELECT value FROM json_each(?))"
    return {
        (uid, key)
        for uid, wanted in by_uid.items()
        for (key,) in connection.exec_driver_sql(query, (uid, msgspec.json.encode(wanted).decode()))
    }
