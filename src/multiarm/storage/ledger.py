"""The ledger: every decision, reward and request, appended as Arrow and kept as Parquet.

    <root>/<table>/date=YYYY-MM-DD/_<segment>.arrows     rows as they come, synced at every write
    <root>/<table>/date=YYYY-MM-DD/<segment>.parquet     the same rows, once the segment is full or old

Spark, pyarrow and others that are pointed at a whole table pass over names that begin with "_". No threads
and no clock: one caller at a time passes `now`, in seconds since the epoch. Many processes may share a root,
because a segment is locked while it is written or compacted.
"""

import fcntl
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from io import FileIO
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Table: TypeAlias = Literal["decisions", "rewards", "requests"]

# Rows are plain tuples in the order of the columns below: to build an object would cost more than to record it.
# Times are seconds since the epoch; a decision is the 16 bytes of its unique number.
DecisionRow: TypeAlias = tuple[float, str, int, int, str, int, float, bool, bytes | None]
RewardRow: TypeAlias = tuple[
    float, str, int, int, str, int, float, float, float | None, str | None, bytes | None, float | None, bool
]
RequestRow: TypeAlias = tuple[float, str, str, int, float, str | None]
Row: TypeAlias = DecisionRow | RewardRow | RequestRow

_BATCH_ROWS = 2_048  # to convert a batch holds the interpreter's lock for about a millisecond
_ROW_GROUP_ROWS = 65_536
_UNIQUE = {"decision", "key"}  # a dictionary of them would only grow
_TIME = pa.timestamp("us", tz="UTC")
_DAY_S = 86_400
_HEAD = Struct("<II")  # of an Arrow IPC message: a mark and the length of its metadata
_SEAL = Struct("<QQ")  # of ours: the length of the message's body and a checksum
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
        f"time time, {_ARM}, reward double, evidence_time time?, ts time?, key string?, decision string?, "
        "propensity double?, accepted bool"
    ),
    "requests": _schema(
        "time time, method string, route string, status int16, duration_s double, experiment_id string?"
    ),
}


class Compacted(NamedTuple):
    """What came of a segment. No rows, no file: it was empty, or another process has it.

    `lost_bytes` at its end were not a whole batch.
    """

    path: Path
    row_count: int
    lost_bytes: int


class Ledger:
    """The three tables under one root.

    `segment_s`: an older segment is finished, to become Parquet. `segment_limit_bytes`: so is a larger one.
    """

    def __init__(self, root: Path, *, segment_s: float = 300.0, segment_limit_bytes: int = 64 << 20) -> None:
        self._root = root
        self._segment_s = segment_s
        self._segment_limit_bytes = segment_limit_bytes
        self._open: dict[tuple[Table, str], _Segment] = {}
        self._backlog: deque[Path] = deque()
        self._compaction: Iterator[Compacted | None] | None = None

    def write(self, table: Table, rows: Sequence[Row], now: float) -> int:
        """Append rows, each to the partition of its own UTC date, and sync them: how many are now on disk.

        Rows that do not fit the columns are left out. Raises `OSError`, and then no row is kept.
        """
        touched: dict[str, _Segment] = {}
        row_count = 0
        try:
            for start in range(0, len(rows), _BATCH_ROWS):
                for batch in _batches(SCHEMAS[table], rows[start : start + _BATCH_ROWS]):
                    for partition, part in _by_date(batch):
                        if partition not in touched:
                            touched[partition] = self._segment(table, partition, now)
                        touched[partition].append(part)
                    row_count += len(batch)
            for segment in touched.values():
                segment.sync()
        except BaseException:
            for segment in touched.values():
                segment.roll_back()
                self._finish(segment)
            raise
        for segment in touched.values():
            segment.commit()
        return row_count

    def rotate(self, now: float) -> None:
        """Finish the segments that are old, large or of another day than `now`."""
        today = _partition(now)
        for segment in list(self._open.values()):
            fresh = 0 <= now - segment.opened_at < self._segment_s
            if not fresh or segment.size_bytes >= self._segment_limit_bytes or segment.path.parent.name != today:
                self._finish(segment)

    def close(self) -> None:
        """Finish every segment; what then waits for `compact_step` may also wait for the next start."""
        for segment in list(self._open.values()):
            self._finish(segment)

    def recover(self) -> int:
        """Put what earlier processes left unfinished on the backlog: how many segments."""
        leftovers = sorted(self._root.glob("*/date=*/_*.arrows"))
        self._backlog.extend(leftovers)
        for path in self._root.glob("*/date=*/_*.tmp"):
            if not path.with_suffix(".arrows").exists():
                path.unlink(missing_ok=True)
        return len(leftovers)

    @property
    def backlog_count(self) -> int:
        """Finished segments that are not Parquet yet."""
        return len(self._backlog)

    def compact_step(self) -> Compacted | None:
        """Write the next row group of the backlog; what came of a segment where that was its last.

        After an error, mostly an `OSError`, the segment goes to the end of the backlog as it was.
        """
        if not self._backlog:
            return None
        if self._compaction is None:
            self._compaction = _compact(self._backlog[0])
        try:
            done = next(self._compaction)
        except BaseException:
            self._compaction = None
            self._backlog.rotate(-1)
            raise
        if done is not None:
            self._compaction = None
            self._backlog.popleft()
        return done

    def prune(self, now: float, retention_days: int) -> list[Path]:
        """Remove the partitions whose last moment is `retention_days` ago or more: those removed."""
        first = (datetime.fromtimestamp(now, UTC) - timedelta(days=retention_days)).date()
        removed = []
        for path in sorted(self._root.glob("*/date=*")):
            with suppress(ValueError):  # not a date: not ours
                if date.fromisoformat(path.name.removeprefix("date=")) < first:
                    shutil.rmtree(path, ignore_errors=True)
                    if not path.exists():
                        removed.append(path)
        return removed

    def _segment(self, table: Table, partition: str, now: float) -> "_Segment":
        segment = self._open.get((table, partition))
        if segment is not None:
            if not segment.is_removed():
                return segment
            self._finish(segment)
        directory = self._root / table / partition
        try:
            segment = _Segment(directory, SCHEMAS[table], now)
        except FileNotFoundError:  # a process that starts took it for a leftover before it was locked
            segment = _Segment(directory, SCHEMAS[table], now)
        self._open[table, partition] = segment
        return segment

    def _finish(self, segment: "_Segment") -> None:
        self._open = {key: other for key, other in self._open.items() if other is not segment}
        if segment.close():
            self._backlog.append(segment.path)


class _Segment:
    """An open, locked file of rows of one table and one UTC date: an Arrow IPC stream without an end mark.

    What was appended since the last `commit` can be rolled back. Raises `OSError`.
    """

    def __init__(self, directory: Path, schema: pa.Schema, now: float) -> None:
        self.opened_at = now
        self.size_bytes = 0
        self._end_bytes = 0
        directory.mkdir(parents=True, exist_ok=True)
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        self.path = directory / f"_{stamp}-{secrets.token_hex(8)}.arrows"
        self._file = FileIO(self.path, "x", opener=_open_private)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self.path.stat()
            self._write(schema.serialize())
            for parent in (directory, directory.parent, directory.parent.parent):
                _sync_directory(parent)
        except BaseException:
            self.close()
            raise

    def append(self, batch: pa.RecordBatch) -> None:
        self._write(batch.serialize())

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        self.size_bytes = self._end_bytes

    def roll_back(self) -> None:
        with suppress(OSError):  # where even this fails, readers stop at the last whole batch
            self._file.truncate(self.size_bytes)

    def is_removed(self) -> bool:
        return os.fstat(self._file.fileno()).st_nlink == 0

    def close(self) -> bool:
        """Unlock the file; whether it holds rows. One without is removed."""
        with suppress(OSError):
            if not self.size_bytes:
                self.path.unlink()
        with suppress(OSError):
            self._file.close()
        return self.size_bytes > 0

    def _write(self, message: pa.Buffer) -> None:
        rest = memoryview(_sealed(memoryview(message)))
        while rest:
            count = self._file.write(rest)
            self._end_bytes += count
            rest = rest[count:]


def _compact(path: Path) -> Iterator[Compacted | None]:
    """Turn a segment into Parquet: None after each row group, then what came of it."""
    target = path.with_name(path.stem.removeprefix("_") + ".parquet")
    temporary = path.with_suffix(".tmp")
    done = Compacted(target, 0, 0)
    # Passed over: what another process has, and what someone removed together with its partition.
    with suppress(BlockingIOError, FileNotFoundError), _claimed(path) as source:
        if not target.exists():  # else a crash came between the renaming and the removal
            stream = _Stream(source)
            try:
                for _ in _write_parquet(temporary, stream):
                    yield None
                done = Compacted(target, stream.row_count, stream.size_bytes - stream.whole_bytes)
                if done.row_count:
                    temporary.rename(target)
                    _sync_directory(target.parent)
            finally:
                temporary.unlink(missing_ok=True)
        path.unlink()
    yield done


def _write_parquet(path: Path, stream: "_Stream") -> Iterator[None]:
    """Write and sync a Parquet file, a row group a step."""
    path.touch(mode=0o600)
    strings = {field.name for field in stream.schema if field.type == "string"}
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": sorted(strings - _UNIQUE)}
    with pa.OSFile(str(path), "wb") as sink, pq.ParquetWriter(sink, stream.schema, **options) as writer:
        for group in stream.row_groups():
            writer.write_table(group)
            yield
    with path.open("rb") as written:
        os.fsync(written.fileno())


class _Stream:
    """Reads a segment up to where a crash cut it off: so far `row_count` rows, `whole_bytes` of `size_bytes`."""

    def __init__(self, source: BinaryIO) -> None:
        self.size_bytes = os.fstat(source.fileno()).st_size
        self.whole_bytes = 0
        self.row_count = 0
        self._source = source
        message = self._next_message()
        self.schema = pa.ipc.read_schema(pa.py_buffer(message)) if message else pa.schema([])

    def row_groups(self) -> Iterator[pa.Table]:
        batches: list[pa.RecordBatch] = []
        while self.schema and (message := self._next_message()):
            batches.append(pa.ipc.read_record_batch(pa.py_buffer(message), self.schema))
            self.row_count += len(batches[-1])
            if sum(map(len, batches)) >= _ROW_GROUP_ROWS:
                yield pa.Table.from_batches(batches)
                batches.clear()
        if batches:
            yield pa.Table.from_batches(batches)

    def _next_message(self) -> bytes | None:
        head = self._source.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        metadata = self._source.read(min(_HEAD.unpack(head)[1], self.size_bytes))
        if len(metadata) < _SEAL.size:
            return None
        body_bytes, checksum = _SEAL.unpack(metadata[-_SEAL.size :])
        body = self._source.read(min(body_bytes, self.size_bytes))
        if len(body) != body_bytes or _checksum(head, metadata[: -_SEAL.size], body) != checksum:
            return None
        self.whole_bytes += len(head) + len(metadata) + len(body)
        return head + metadata + body


def _sealed(message: memoryview) -> bytes:
    """An Arrow IPC message with its length and checksum, so that no damaged one reaches Arrow, which could crash.

    They stand in padding after its metadata, where readers of the stream pass over them.
    """
    mark, metadata_bytes = _HEAD.unpack_from(message)
    head = _HEAD.pack(mark, metadata_bytes + _SEAL.size)
    metadata, body = message[_HEAD.size :][:metadata_bytes], message[_HEAD.size + metadata_bytes :]
    seal = _SEAL.pack(len(body), _checksum(head, metadata, body))
    return b"".join((head, metadata, seal, body))


def _checksum(*parts: bytes | memoryview) -> int:
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    return checksum


def _batches(schema: pa.Schema, rows: Sequence[Row]) -> Iterator[pa.RecordBatch]:
    """The rows as columns; where some do not fit, halves of halves, without these."""
    try:
        columns = zip(schema, zip(*rows, strict=True), strict=True)
        yield pa.RecordBatch.from_arrays([_column(field, values) for field, values in columns], schema=schema)
    except (ValueError, TypeError, OverflowError):
        if len(rows) > 1:
            middle = len(rows) // 2
            yield from _batches(schema, rows[:middle])
            yield from _batches(schema, rows[middle:])


def _column(field: Any, values: Sequence[Any]) -> Any:
    if field.type == _TIME:
        column = _times(values)
    elif field.name == "decision":
        digits = [None if value is None else bytes.hex(value) for value in values]
        column = pa.array(digits, type=field.type)
    else:
        column = pa.array(values, type=field.type)
    if column.null_count and not field.nullable:
        raise ValueError(f"{field.name} has no value")
    return column


def _times(values: Sequence[Any]) -> Any:
    """Timestamps from seconds; null where there is none, or one that readers could not show."""
    seconds = pa.array(values, type=pa.float64()).to_numpy(zero_copy_only=False)
    known = (seconds >= _FIRST_S) & (seconds < _END_S)
    micros = np.rint(np.where(known, seconds, 0) * 1e6).astype(np.int64)
    return pa.array(micros, mask=~known).view(_TIME)


def _by_date(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Runs of rows of one UTC date, in order, each with the name of its partition."""
    days = batch.column(0).view(pa.int64()).to_numpy() // (_DAY_S * 1_000_000)
    starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for start, stop in pairwise(starts):
        yield _partition(float(days[start]) * _DAY_S), batch.slice(start, stop - start)


def _partition(now: float) -> str:
    return f"date={datetime.fromtimestamp(now, UTC).date().isoformat()}"


@contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO]:
    """Open and lock a segment. Raises `BlockingIOError` where another holds it; its holder's crash frees it."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(path: Path) -> None:
    """Make the names in it survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
