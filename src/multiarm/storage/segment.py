"""One file of the ledger: written as an Arrow IPC stream, then turned into Parquet."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from multiarm.storage.data_directory import sync

_ROW_GROUP_ROWS = 65_536
_UNIQUE = {"decision", "key", "request_id", "trace_id"}  # a dictionary of them would only grow
_HEAD = Struct("<II")  # of an Arrow IPC message: a mark and the length of its metadata
_SEAL = Struct("<QQ")  # of ours: the length of the message's body and a checksum


class Compacted(NamedTuple):
    """What came of a segment. No rows, no file: it was empty, or another process has it.

    `lost_bytes` at its end were not a whole batch.
    """

    path: Path
    row_count: int
    lost_bytes: int


class Segment:
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
                sync(parent)
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


def compact(path: Path) -> Iterator[Compacted | None]:
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
                    sync(target.parent)
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
    sync(path)


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


@contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO]:
    """Open and lock a segment. Raises `BlockingIOError` where another holds it; its holder's crash frees it."""
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
