"""The ledger: every decision, reward and request, appended as Arrow and kept as Parquet.

    <root>/<table>/date=YYYY-MM-DD/_<segment>.arrows     rows as they come, synced at every write
    <root>/<table>/date=YYYY-MM-DD/<segment>.parquet     the same rows, once the segment is full or old

Spark, pyarrow and others that are pointed at a whole table pass over names that begin with "_". No threads
and no clock: one caller at a time passes `now`, in seconds since the epoch. Many processes may share a root,
because a segment is locked while it is written or compacted.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from multiarm.storage.columns import SCHEMAS, Run, Table, batches, pieces
from multiarm.storage.segment import Compacted, Segment, compact

_BATCH_ROWS = 4_096  # about a millisecond and a half
_DAY_S = 86_400


class Ledger:
    """The three tables under one root.

    `segment_s`: an older segment is finished, to become Parquet. `segment_limit_bytes`: so is a larger one.
    `pause` is called after each batch of rows: to convert one holds the interpreter, and others wait for it.
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_s: float = 300.0,
        segment_limit_bytes: int = 64 << 20,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        self._root = root
        self._segment_s = segment_s
        self._segment_limit_bytes = segment_limit_bytes
        self.pause = pause
        self._open: dict[tuple[Table, str], Segment] = {}
        self._backlog: deque[Path] = deque()
        self._compaction: Iterator[Compacted | None] | None = None

    def write(self, table: Table, runs: Sequence[Run], now: float) -> int:
        """Append rows, each to the partition of its own UTC date, and sync them: how many are now on disk.

        Rows that do not fit the columns are left out. Raises `OSError`, and then no row is kept.
        """
        touched: dict[str, Segment] = {}
        count = 0
        try:
            for piece in pieces(runs, _BATCH_ROWS):
                for batch in batches(table, piece):
                    for partition, part in _by_date(batch):
                        if partition not in touched:
                            touched[partition] = self._segment(table, partition, now)
                        touched[partition].append(part)
                    count += len(batch)
                self.pause()
            for segment in touched.values():
                segment.sync()
        except BaseException:
            for segment in touched.values():
                segment.roll_back()
                self._finish(segment)
            raise
        for segment in touched.values():
            segment.commit()
        return count

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
            self._compaction = compact(self._backlog[0])
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

    def _segment(self, table: Table, partition: str, now: float) -> Segment:
        segment = self._open.get((table, partition))
        if segment is not None:
            if not segment.is_removed():
                return segment
            self._finish(segment)
        directory = self._root / table / partition
        try:
            segment = Segment(directory, SCHEMAS[table], now)
        except FileNotFoundError:  # a process that starts took it for a leftover before it was locked
            segment = Segment(directory, SCHEMAS[table], now)
        self._open[table, partition] = segment
        return segment

    def _finish(self, segment: Segment) -> None:
        self._open = {key: other for key, other in self._open.items() if other is not segment}
        if segment.close():
            self._backlog.append(segment.path)


def _by_date(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Runs of rows of one UTC date, in order, each with the name of its partition."""
    days = batch.column(0).view(pa.int64()).to_numpy() // (_DAY_S * 1_000_000)
    starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for start, stop in pairwise(starts):
        yield _partition(float(days[start]) * _DAY_S), batch.slice(start, stop - start)


def _partition(now: float) -> str:
    return f"date={datetime.fromtimestamp(now, UTC).date().isoformat()}"
