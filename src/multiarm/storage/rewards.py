"""The group commit: reward rows in, duplicates told apart, evidence added up. One transaction's work."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, compress
from typing import NamedTuple, TypeAlias

import msgspec
from sqlalchemy import Connection

from multiarm.domain.errors import ArmNotFound, ExperimentGone, InvalidReward, MultiarmError, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.policies import Policy
from multiarm.domain.records import Increment
from multiarm.storage.engine import Driver
from multiarm.storage.evidence import ArmKey, ArmRow, KnownRows, read_rows, write_rows
from multiarm.storage.reward_rows import (
    KeyedRow,
    MeasuredKeyedRow,
    MeasuredPlainRow,
    PlainRow,
    insert_keyed,
    insert_plain,
)


class UpdateRequest(msgspec.Struct, frozen=True, gc=False):
    """The rewards of one request, to be counted together or not at all. received_at: seconds since the epoch.

    policy: where its rewards are more than numbers to add up, see `Experiment.adds_only`; arm_count: enabled ones then.
    """

    uid: int
    epoch: int
    half_life_s: float | None
    increments: Sequence[Increment]
    received_at: float
    policy: Policy | None = None
    arm_count: int = 0


class Tallied(NamedTuple):
    """A request, and how often each of its increments comes: those in the same words are one."""

    request: UpdateRequest
    tally: Counter[Increment]


Columns: TypeAlias = tuple[list[tuple[float, ...]], list[float], list[int]]  # numbers, evidence times, how often each
Outcome = list[bool] | Exception  # for each increment whether it was new, or why the request was left out


class GroupResult(NamedTuple):
    """One outcome a request, and the evidence rows as they now stand, with their epoch, by uid and arm number."""

    outcomes: list[Outcome]
    rows: dict[int, tuple[int, dict[int, Row]]]


def commit_updates(
    connection: Connection, node: int, requests: Sequence[UpdateRequest], now: float, known: KnownRows | None = None
) -> GroupResult:
    """Count what is new in `requests`; InvalidReward where a sum would not stay finite: commit nothing then.

    known: what the connection's last group left; None: nothing is known.
    """
    known = known or KnownRows()
    tallied = [Tallied(request, Counter(request.increments)) for request in requests]
    keys = {(request.uid, increment.arm.number) for request, tally in tallied for increment in tally}
    with Driver(connection) as driver:
        arms = known.read(driver, node, keys)
        refusals = refused(requests, arms)
        fresh = tallied
        if any(refusals):
            fresh = [one for one, refusal in zip(tallied, refusals, strict=True) if refusal is None]
        news = insert_rewards(driver, node, fresh)
        rows = added_up(fresh, news, arms)
        write_rows(driver, node, rows, arms, now)
        known.keep(rows)
    shown: dict[int, tuple[int, dict[int, Row]]] = {}
    for (uid, number), row in rows.items():
        shown.setdefault(uid, (arms[uid, number].epoch, {}))[1][number] = row
    counted = iter(news)
    return GroupResult([next(counted) if refusal is None else refusal for refusal in refusals], shown)


def write_draw_counts(connection: Connection, node: int, counts: Mapping[ArmKey, tuple[int, int]], now: float) -> None:
    """Store the absolute draw counts, (epoch, count) by arm; those of an earlier epoch or a deleted one are dropped."""
    with Driver(connection) as driver:
        arms = read_rows(driver, node, counts)
        rows = {
            key: arms[key].row._replace(draw_count=count)
            for key, (epoch, count) in counts.items()
            if key in arms and arms[key].epoch == epoch
        }
        write_rows(driver, node, rows, arms, now)


def refused(requests: Sequence[UpdateRequest], arms: Mapping[ArmKey, ArmRow]) -> list[MultiarmError | None]:
    """Why a request that waited no longer holds, for each; None where it does."""
    epochs = {uid: known.epoch for (uid, _), known in arms.items()}
    deleted = {key for key, known in arms.items() if known.deleted}
    refusals: list[MultiarmError | None] = []
    for request in requests:
        epoch = epochs.get(request.uid)
        if epoch is None:
            refusals.append(ExperimentGone("The experiment was deleted while the request waited."))
        elif epoch != request.epoch:
            refusals.append(StaleEpoch("The experiment was reset while the request waited."))
        else:
            refusals.append(names_deleted(request, deleted) if deleted else None)
    return refusals


def names_deleted(request: UpdateRequest, deleted: Collection[ArmKey]) -> ArmNotFound | None:
    """A plain update of an arm that was deleted; a decision for it still counts."""
    for increment in request.increments:
        if increment.issued_at is None and (request.uid, increment.arm.number) in deleted:
            return ArmNotFound(increment.arm.arm_id)
    return None


def added_up(
    fresh: Sequence[Tallied], news: Sequence[Sequence[bool]], arms: Mapping[ArmKey, ArmRow]
) -> dict[ArmKey, Row]:
    """The rows of the arms that get something new, with it; InvalidReward where a sum would not stay finite."""
    added: dict[int, defaultdict[int, Columns]] = {}
    half_lives: dict[int, float | None] = {}
    in_order: list[tuple[UpdateRequest, Sequence[bool]]] = []
    for (request, tally), new in zip(fresh, news, strict=True):
        if request.policy is not None and request.policy.traits.path_columns:
            in_order.append((request, new))
            continue
        by_arm = added.setdefault(request.uid, defaultdict(lambda: ([], [], [])))
        half_lives[request.uid] = request.half_life_s
        counted = tally if all(new) else Counter(compress(request.increments, new))
        for increment, count in counted.items():
            numbers, times, counts = by_arm[increment.arm.number]
            numbers.append(increment.numbers)
            times.append(increment.evidence_time)
            counts.append(count)
    try:
        rows = {
            (uid, number): arms[uid, number].row.plus_columns(numbers, times, half_lives[uid], counts)
            for uid, by_arm in added.items()
            for number, (numbers, times, counts) in by_arm.items()
        }
        if in_order:
            rows |= completed(in_order, arms)
        finite = all(map(math.isfinite, chain.from_iterable(row.sums for row in rows.values())))
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidReward("With this reward the arm's sums would no longer be finite.")
    return rows


def completed(
    requests: Sequence[tuple[UpdateRequest, Sequence[bool]]], arms: Mapping[ArmKey, ArmRow]
) -> dict[ArmKey, Row]:
    """The same where what a reward adds depends on the row that it meets: one after the other, as they arrived."""
    rows: dict[ArmKey, Row] = {}
    for request, new in requests:
        assert request.policy is not None
        for increment in compress(request.increments, new):
            key = request.uid, increment.arm.number
            row = rows.get(key) or arms[key].row
            numbers = request.policy.completed(increment.numbers, row.sums, request.arm_count)
            rows[key] = row.plus_columns([numbers], [increment.evidence_time], request.half_life_s)
    return rows


def insert_rewards(driver: Driver, node: int, fresh: Sequence[Tallied]) -> list[list[bool]]:
    """Insert the reward rows; for each request, which of its increments were new. The first of a key wins."""
    plain: dict[tuple[int, int], list[PlainRow | MeasuredPlainRow]] = defaultdict(list)
    keyed: dict[tuple[int, int], dict[str, KeyedRow | MeasuredKeyedRow]] = defaultdict(dict)
    news: list[list[bool]] = []
    for one in fresh:
        request = one.request
        new = [True] * len(request.increments)
        news.append(new)
        collect = collect_rows if request.policy is None else collect_measured
        collect(one, new, plain[request.uid, request.epoch], keyed[request.uid, request.epoch])
    for (uid, epoch), rows in plain.items():
        if rows:
            insert_plain(driver, (uid, epoch, node), rows)
    known = {
        (uid, key)
        for (uid, epoch), by_key in sorted(keyed.items())
        if by_key
        for key in insert_keyed(driver, (uid, epoch, node), sorted(by_key.values()))
    }
    if known:
        for (request, _), new in zip(fresh, news, strict=True):
            new[:] = [
                is_new and (request.uid, i.key) not in known for i, is_new in zip(request.increments, new, strict=True)
            ]
    return news


def collect_rows(
    one: Tallied,
    new: list[bool],
    plain_rows: list[PlainRow | MeasuredPlainRow],
    keyed_rows: dict[str, KeyedRow | MeasuredKeyedRow],
) -> None:
    """The rows of a request, for rewards without a key that are alike just one; `new` becomes False where a key came
    before.
    """
    received_at, increments = one.request.received_at, one.request.increments
    rows = [(i.arm.number, i.evidence_time, received_at, i.reward, n) for i, n in one.tally.items() if i.key is None]
    plain_rows += rows
    if len(rows) == len(one.tally):
        return
    for index, i in enumerate(increments):
        key = i.key
        if key in keyed_rows:
            new[index] = False
        elif key is not None:
            keyed_rows[key] = key, i.arm.number, i.evidence_time, received_at, i.issued_at, i.reward, i.propensity


def collect_measured(
    one: Tallied,
    new: list[bool],
    plain_rows: list[PlainRow | MeasuredPlainRow],
    keyed_rows: dict[str, KeyedRow | MeasuredKeyedRow],
) -> None:
    """The same with what its rewards were measured over, each in a row of its own."""
    received_at = one.request.received_at
    for index, i in enumerate(one.request.increments):
        key, number, time, measures = i.key, i.arm.number, i.evidence_time, (i.exposure, i.events)
        if key is None:
            plain_rows.append((number, time, received_at, i.reward, 1, *measures))
        elif key in keyed_rows:
            new[index] = False
        else:
            row = key, number, time, received_at, i.issued_at, i.reward, i.propensity
            keyed_rows[key] = (*row, *measures)
