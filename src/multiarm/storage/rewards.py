"""The group commit: reward rows in, duplicates told apart, evidence added up. One transaction's work."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from multiarm.domain.errors import ArmNotFound, ExperimentGone, InvalidReward, MultiarmError, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Increment
from multiarm.storage.experiments import evidence_from
from multiarm.storage.schema import arm, evidence, experiment, reward

T = TypeVar("T")
ArmKey = tuple[int, int]  # experiment uid, arm number
PAIRS_PER_QUERY = 400  # SQLite builds may allow no more than 999 parameters


class UpdateRequest(NamedTuple):
    """The rewards of one request, to be counted together or not at all. received_at: seconds since the epoch."""

    uid: int
    epoch: int
    half_life_s: float | None
    increments: Sequence[Increment]
    received_at: float


Outcome = list[bool] | Exception  # for each increment whether it was new, or why the request was left out


class ArmRow(NamedTuple):
    """This node's row of an arm inside the transaction; `stored`: there is one to update, of whatever epoch."""

    row: Row
    deleted: bool
    stored: bool


class GroupResult(NamedTuple):
    """One outcome a request, and the evidence rows as they now stand, with their epoch, by uid and arm number."""

    outcomes: list[Outcome]
    rows: dict[int, tuple[int, dict[int, Row]]]


def commit_updates(connection: Connection, node: int, requests: Sequence[UpdateRequest], now: float) -> GroupResult:
    """Count what is new in `requests`; InvalidReward where a sum would not stay finite: commit nothing then."""
    epochs = current_epochs(connection, {request.uid for request in requests})
    arms = arm_rows(
        connection, node, {(request.uid, i.arm.number) for request in requests for i in request.increments}, epochs
    )
    outcomes: list[Outcome] = [stale(request, epochs, arms) or [] for request in requests]
    fresh = [request for request, outcome in zip(requests, outcomes, strict=True) if isinstance(outcome, list)]
    news = iter(insert_rewards(connection, node, fresh))
    added: dict[ArmKey, list[tuple[Sequence[float], float]]] = defaultdict(list)
    half_lives: dict[int, float | None] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        if not isinstance(outcome, list):
            continue
        outcome.extend(next(news))
        half_lives[request.uid] = request.half_life_s
        for increment, new in zip(request.increments, outcome, strict=True):
            if new:
                added[request.uid, increment.arm.number].append((increment.numbers, increment.evidence_time))
    after = {key: arms[key].row.plus(increments, half_lives[key[0]]) for key, increments in added.items()}
    if not all(math.isfinite(value) for row in after.values() for value in row.sums):
        raise InvalidReward("With this reward the arm's sums would no longer be finite.")
    write_evidence(connection, node, {key: (epochs[key[0]], row) for key, row in after.items()}, arms, now)
    shown: dict[int, tuple[int, dict[int, Row]]] = {}
    for (uid, number), row in after.items():
        shown.setdefault(uid, (epochs[uid], {}))[1][number] = row
    return GroupResult(outcomes, shown)


def write_draw_counts(connection: Connection, node: int, counts: Mapping[ArmKey, tuple[int, int]], now: float) -> None:
    """Store the absolute draw counts, (epoch, count) by arm; those of an earlier epoch or a deleted one are dropped."""
    epochs = current_epochs(connection, {uid for uid, _ in counts})
    arms = arm_rows(connection, node, counts, epochs)
    rows = {
        key: (epoch, arms[key].row._replace(draw_count=count))
        for key, (epoch, count) in counts.items()
        if epochs.get(key[0]) == epoch and key in arms
    }
    write_evidence(connection, node, rows, arms, now)


def current_epochs(connection: Connection, uids: Collection[int]) -> dict[int, int]:
    """uid → epoch of those not deleted."""
    query = sa.select(experiment.c.uid, experiment.c.epoch).where(
        experiment.c.uid.in_(sa.bindparam("uids", expanding=True)), experiment.c.deleted_at.is_(None)
    )
    return {
        uid: epoch
        for chunk in chunks(sorted(uids), PAIRS_PER_QUERY)
        for uid, epoch in connection.execute(query, {"uids": chunk})
    }


_ARM_ROWS = (
    sa.select(
        arm.c.experiment,
        arm.c.number,
        arm.c.deleted_at,
        *evidence.c["epoch", "sums", "as_of", "pull_count", "draw_count"],
    )
    .select_from(
        arm.outerjoin(
            evidence,
            sa.and_(
                evidence.c.experiment == arm.c.experiment,
                evidence.c.arm == arm.c.number,
                evidence.c.node == sa.bindparam("node"),
            ),
        )
    )
    .where(sa.tuple_(arm.c.experiment, arm.c.number).in_(sa.bindparam("pairs", expanding=True)))
)


def arm_rows(
    connection: Connection, node: int, keys: Collection[ArmKey], epochs: Mapping[int, int]
) -> dict[ArmKey, ArmRow]:
    """This node's rows of these arms; a row of an earlier epoch reads as an empty one."""
    found = {}
    for pairs in chunks(sorted(keys), PAIRS_PER_QUERY):
        for row in connection.execute(_ARM_ROWS, {"node": node, "pairs": pairs}):
            stored = row.epoch is not None
            current = stored and row.epoch == epochs.get(row.experiment)
            found[row.experiment, row.number] = ArmRow(
                evidence_from(row) if current else Row(), row.deleted_at is not None, stored
            )
    return found


def stale(request: UpdateRequest, epochs: Mapping[int, int], arms: Mapping[ArmKey, ArmRow]) -> MultiarmError | None:
    """Why a request that waited no longer holds; None where it does."""
    epoch = epochs.get(request.uid)
    if epoch is None:
        return ExperimentGone("The experiment was deleted while the request waited.")
    if epoch != request.epoch:
        return StaleEpoch("The experiment was reset while the request waited.")
    for increment in request.increments:
        known = arms.get((request.uid, increment.arm.number))
        if known is None or (known.deleted and increment.issued_at is None):
            return ArmNotFound(increment.arm.arm_id)
    return None


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
        for arm_, _numbers, time, key, value, propensity, issued_at, _unique, _ts in increments:
            new = key is None or (uid, key) not in seen
            first.append(new)
            if not new:
                continue
            if key is not None:
                seen.add((uid, key))
            rows.append((uid, key, arm_.number, epoch, time, received_at, issued_at, value, propensity, node))
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
    if connection.dialect.name == "postgresql":
        rows.sort(key=lambda row: (row[0], row[1] or ""))
        insert = postgresql.insert(reward).on_conflict_do_nothing().returning(reward.c.experiment, reward.c.key)
        parameters = [dict(zip(REWARD_COLUMNS, row, strict=True)) for row in rows]
        inserted = {(uid, key) for uid, key in connection.execute(insert, parameters)} if rows else set()
        return {key for key in keys if key not in inserted}
    known = known_keys(connection, keys)
    if known:
        rows = [row for row in rows if (row[0], row[1]) not in known]
    rows.sort(key=lambda row: (row[0], row[1] or ""))
    if rows:
        marks = ", ".join("?" * len(REWARD_COLUMNS))
        connection.exec_driver_sql(f"INSERT INTO reward ({', '.join(REWARD_COLUMNS)}) VALUES ({marks})", rows)
    return known


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


_UPDATE = (
    sa.update(evidence)
    .where(
        evidence.c.experiment == sa.bindparam("b_experiment"),
        evidence.c.arm == sa.bindparam("b_arm"),
        evidence.c.node == sa.bindparam("b_node"),
    )
    .values({name: sa.bindparam(name) for name in ("epoch", "sums", "as_of", "pull_count", "draw_count", "updated_at")})
)


def write_evidence(
    connection: Connection,
    node: int,
    rows: Mapping[ArmKey, tuple[int, Row]],
    arms: Mapping[ArmKey, ArmRow],
    now: float,
) -> None:
    """Write this node's absolute sums, (epoch, row) by arm; writing twice changes nothing."""
    updates, inserts = [], []
    for (uid, number), (epoch, row) in rows.items():
        values = {
            "epoch": epoch,
            "sums": msgspec.json.encode(row.sums).decode(),
            "as_of": row.as_of,
            "pull_count": row.pull_count,
            "draw_count": row.draw_count,
            "updated_at": now,
        }
        if arms[uid, number].stored:
            updates.append(values | {"b_experiment": uid, "b_arm": number, "b_node": node})
        else:
            inserts.append(values | {"experiment": uid, "arm": number, "node": node})
    if updates:
        connection.execute(_UPDATE, updates)
    if inserts:
        connection.execute(sa.insert(evidence), inserts)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
