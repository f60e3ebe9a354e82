"""The columns of the ledger's tables, and how rows of Python become columns of Arrow."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any, Literal, NamedTuple, Self, TypeAlias, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from multiarm.domain.decision import CLAIMS
from multiarm.domain.records import Decisions, Increment

Table: TypeAlias = Literal["decisions", "rewards", "requests"]


# The ledger gets its rows in runs, of what happened together. Times are seconds since the epoch.
class DecisionRun(NamedTuple):
    """Draws of one experiment: as many rows."""

    experiment_id: str
    decisions: Decisions

    @property
    def row_count(self) -> int:
        return len(self.decisions)

    def part(self, start: int, stop: int) -> Self:
        return self._replace(decisions=self.decisions.part(start, stop))


class RewardRun(NamedTuple):
    """Rewards that came together: as many rows. news: for each increment, whether it was new, and counted.

    origin: what the increments are about. correction: of a reward that was counted before. corrects: what that was,
    None where it was withdrawn. withdrawn: it counts no more.
    """

    received_at: float
    experiment_id: str
    uid: int
    epoch: int
    increments: Sequence[Increment]
    news: Sequence[bool]
    origin: float = 0.0
    correction: bool = False
    corrects: float | None = None
    withdrawn: bool = False

    @property
    def row_count(self) -> int:
        return len(self.increments)

    def part(self, start: int, stop: int) -> Self:
        return self._replace(increments=self.increments[start:stop], news=self.news[start:stop])


class RequestRun(NamedTuple):
    """Requests that were alike, or one that has an id: as many rows. time: seconds since the epoch."""

    time: float
    method: str
    route: str
    status: int
    duration_s: float
    experiment_id: str | None = None
    row_count: int = 1
    request_id: str | None = None
    trace_id: str | None = None

    def part(self, start: int, stop: int) -> Self:
        return self._replace(row_count=min(stop, self.row_count) - start)


Column: TypeAlias = Any  # a sequence, a NumPy or an Arrow array
Run: TypeAlias = DecisionRun | RewardRun | RequestRun

_TIME = pa.timestamp("us", tz="UTC")
_HEX_DIGITS = np.frombuffer(bytes(range(256)).hex().encode(), np.dtype("<u2"))  # two of them a byte
_SAMPLE_ROWS = 128
_FIRST_S, _END_S = -62_135_596_800, 253_402_300_799  # years 1 to 9999: many readers can show no others


_TYPES: Mapping[str, Any] = {
    "time": _TIME,
    "string": pa.string(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
}


def _schema(columns: str) -> pa.Schema:
    """From "name type, name type?, …", where "?" allows null."""
    parts = [column.split(" ") for column in columns.split(", ")]
    return pa.schema([pa.field(name, _TYPES[kind.rstrip("?")], nullable=kind.endswith("?")) for name, kind in parts])


_ARM = "experiment_id string, experiment_uid int64, epoch int32, arm_id string, arm_number int32"
SCHEMAS: Mapping[Table, pa.Schema] = {
    "decisions": _schema(f"time time, {_ARM}, propensity double, random bool, decision string?"),
    "rewards": _schema(
        f"time time, {_ARM}, reward double?, evidence_time time?, ts time?, key string?, decision string?, "
        "propensity double?, accepted bool, exposure double?, events double?, counted_reward double?, "
        "corrects double?, correction bool"
    ),
    "requests": _schema(
        "time time, method string, route string, status int16, duration_s double, experiment_id string?, "
        "request_id string?, trace_id string?"
    ),
}


def row_count(runs: Iterable[Run]) -> int:
    return sum(run.row_count for run in runs)


def pieces(runs: Iterable[Run], limit_rows: int) -> Iterator[Sequence[Run]]:
    """The same rows, at most `limit_rows` at a time; runs are cut where they do not fit."""
    piece: list[Run] = []
    room = limit_rows
    for run in runs:
        at = 0
        while at < run.row_count:
            part = run if not at and run.row_count <= room else run.part(at, at + room)
            piece.append(part)
            at += part.row_count
            room -= part.row_count
            if not room:
                yield piece
                piece, room = [], limit_rows
    if piece:
        yield piece


def batches(table: Table, runs: Sequence[Run]) -> Iterator[pa.RecordBatch]:
    """The rows as columns; where some do not fit, halves of halves, without these."""
    schema = SCHEMAS[table]
    try:
        if table == "decisions":
            columns = _decision_columns(cast("Sequence[DecisionRun]", runs))
        elif table == "rewards":
            columns = _reward_columns(cast("Sequence[RewardRun]", runs))
        else:
            columns = _request_columns(cast("Sequence[RequestRun]", runs))
        arrays = [_array(*pair) for pair in zip(schema, columns, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (ValueError, TypeError, OverflowError, AttributeError, IndexError):
        count = row_count(runs)
        if count > 1:
            for half in pieces(runs, (count + 1) // 2):
                yield from batches(table, half)


def _decision_columns(runs: Sequence[DecisionRun]) -> Iterable[Column]:
    """The draws are many: their claims are unpacked all at once."""
    experiment_ids, decisions = zip(*runs, strict=True)
    packed = np.frombuffer(b"".join([many.claims for many in decisions]), CLAIMS)
    shares = [share for many in decisions for share in many.shares]
    below = np.array([share.random_below for share in shares], np.float64)
    us = np.fromiter(chain.from_iterable(many.us for many in decisions), np.float64)
    return (
        packed["time"],
        _repeated(experiment_ids, [len(many) for many in decisions]),
        packed["uid"].astype(np.int64),
        packed["epoch"].astype(np.int32),
        [share.arm.arm_id for share in shares],
        packed["arm_number"].astype(np.int32),
        packed["propensity"].astype(np.float64),
        us < below,
        _hex(packed["unique"]),
    )


def _reward_columns(runs: Sequence[RewardRun]) -> Iterable[Column]:
    times, experiment_ids, uids, epochs, _, news, origins, corrections, corrects, withdrawn = zip(*runs, strict=True)
    counts = [run.row_count for run in runs]
    increments, where = _distinct([i for run in runs for i in run.increments])

    def spread(name: str, values: list[Any]) -> Any:
        """A value of each increment, for every row."""
        return _array(SCHEMAS["rewards"].field(name), values, where)

    rewards = spread("reward", [i.reward for i in increments]).to_numpy()
    deviations = spread("reward", [i.numbers[1] for i in increments]).to_numpy()
    counted = _counted(rewards, deviations, np.repeat(np.array(origins, np.float64), counts))
    gone = np.repeat(np.array(withdrawn, np.bool_), counts) if any(withdrawn) else None
    keys, decisions, propensities = _names(increments)
    return (
        np.repeat(times, counts),
        _repeated(experiment_ids, counts),
        np.repeat(np.array(uids, np.int64), counts),
        np.repeat(np.array(epochs, np.int64), counts),
        spread("arm_id", [i.arm.arm_id for i in increments]),
        spread("arm_number", [i.arm.number for i in increments]),
        pa.array(rewards, pa.float64(), mask=gone),
        spread("evidence_time", [i.evidence_time for i in increments]),
        spread("ts", [i.ts for i in increments]),
        spread("key", keys),
        spread("decision", decisions),
        spread("propensity", propensities),
        list(chain.from_iterable(news)),
        spread("exposure", [i.exposure for i in increments]),
        spread("events", [i.events for i in increments]),
        pa.array(counted, pa.float64(), mask=gone),
        _repeated(corrects, counts, pa.float64()),
        np.repeat(np.array(corrections, np.bool_), counts),
    )


def _distinct(increments: Sequence[Increment]) -> tuple[Sequence[Increment], NDArray[np.int64] | None]:
    """Each once, and where among them every one of `increments` is; None where few come again, in the same words."""
    some = increments[:_SAMPLE_ROWS]
    if 2 * len(set(some)) > len(some):
        return increments, None
    places = dict(zip(dict.fromkeys(increments), count()))
    return list(places), np.fromiter(map(places.__getitem__, increments), np.int64, len(increments))


def _names(increments: Sequence[Increment]) -> tuple[list[Any], list[Any], list[Any]]:
    """Keys, decisions and their propensities; plain rewards, the most in many places, have none of them."""
    keys = [i.key for i in increments]
    if not any(keys):
        nothing = [None] * len(keys)
        return nothing, nothing, nothing
    return (
        [key and key[2:] if i.unique is None else None for i, key in zip(increments, keys, strict=True)],
        [i.unique and i.unique.hex() for i in increments],
        [i.propensity for i in increments],
    )


def _counted(
    rewards: NDArray[np.float64], deviations: NDArray[np.float64], origins: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What of each reward was added up; the reward itself to the last bit, where that is all of it."""
    return np.where(deviations == rewards - origins, rewards, deviations + origins)


def _request_columns(runs: Sequence[RequestRun]) -> Iterable[Column]:
    times, methods, routes, statuses, durations, experiment_ids, counts, *ids = zip(*runs, strict=True)
    return (
        np.repeat(times, counts),
        _repeated(methods, counts),
        _repeated(routes, counts),
        np.repeat(np.array(statuses, np.int64), counts),
        np.repeat(np.array(durations, np.float64), counts),
        _repeated(experiment_ids, counts),
        *(_repeated(each, counts) for each in ids),
    )


def _repeated(values: Sequence[str | float | None], counts: Sequence[int], kind: Any = _TYPES["string"]) -> Any:
    return pa.array(values, kind).take(np.repeat(np.arange(len(counts)), counts))


def _array(field: Any, values: Column, where: NDArray[np.int64] | None = None) -> Any:
    """where: which of the values each row has; None: its own."""
    if isinstance(values, pa.Array):
        array = values
    elif field.nullable and isinstance(values, list) and values.count(None) == len(values):
        return pa.nulls(len(values if where is None else where), field.type)  # much of a plain reward says nothing
    elif field.type == _TIME:
        array = _times(values)
    else:
        array = pa.array(values, type=field.type)
    if array.null_count and not field.nullable:
        raise ValueError(f"{field.name} has no value")
    return array if where is None else array.take(where)


def _times(values: Column) -> Any:
    """Timestamps from seconds; null where there is none, or one that readers could not show."""
    seconds = np.array(values, dtype=np.float64)  # None becomes nan
    known = (seconds >= _FIRST_S) & (seconds < _END_S)
    micros = np.rint(np.where(known, seconds, 0) * 1e6).astype(np.int64)
    return pa.array(micros, mask=~known).view(_TIME)


def _hex(unique: NDArray[np.uint8]) -> Any:
    """uint8[n, 16] as n strings of 32 digits."""
    digits = _HEX_DIGITS[unique]
    offsets = np.arange(len(unique) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(unique), pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits.tobytes()))
