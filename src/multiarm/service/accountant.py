"""The accountant: takes what happened from the event loop and keeps the ledger, on a thread of its own.

Whatever becomes of the disk, nobody waits for the ledger and nothing but the ledger suffers: rows that cannot be
kept are dropped, counted and reported.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

import structlog

from multiarm.service.reports import DropReport
from multiarm.storage.columns import DecisionRun, RequestRun, RewardRun, Table, row_count
from multiarm.storage.ledger import Ledger

__all__ = ["Accountant", "RequestRun"]  # what callers need

RunT = TypeVar("RunT", DecisionRun, RewardRun, RequestRun)

_RETRY_INTERVAL_S = 60.0
_PAUSE_S = 0.001
_PRUNE_INTERVAL_S = 3600.0
_MOST_NICENESS = 19
_NICENESS = 5  # a third of the loop's share where both want the processor: draws go first, and the ledger keeps up

log = structlog.get_logger()


class Accountant:
    """Records rows without ever blocking or raising; flushes them to the ledger every `flush_interval_s`.

    Args:
        ledger: used by this thread alone, once started.
        mailbox_size_rows: how many rows of each table may wait; more are dropped.
        flush_interval_s: > 0; a crash costs the rows of about this long.
        retention_days: ≥ 1; older dates are removed, at the start and then hourly.
        clock: seconds since the epoch.

    What records is for one thread, the event loop's. A row is a tuple, see `multiarm.storage.columns`.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        mailbox_size_rows: int,
        flush_interval_s: float,
        retention_days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        ledger.pause = self._pause
        self._flush_interval_s = flush_interval_s
        self._retention_days = retention_days
        self._clock = clock
        self._decisions: Tray[DecisionRun] = Tray(mailbox_size_rows)
        self._rewards: Tray[RewardRun] = Tray(mailbox_size_rows)
        self._requests: Tray[RequestRun] = Tray(mailbox_size_rows)
        self._books = (
            Book("decisions", self._decisions),
            Book("rewards", self._rewards),
            Book("requests", self._requests),
        )
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._prune_at = self._compact_at = self._flushed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="multiarm-accountant", daemon=True)

    def record_decisions(self, run: DecisionRun) -> None:
        self._decisions.put(run, run.row_count)

    def record_rewards(self, run: RewardRun) -> None:
        self._rewards.put(run, run.row_count)

    def record_requests(self, run: RequestRun) -> None:
        self._requests.put(run, run.row_count)

    def start(self) -> None:
        """Begin; what a crash left half-written is recovered beside the first flushes."""
        self._flushed_at = time.monotonic()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Flush, compact and close; whether the thread ended in time.

        Compaction that `timeout_s` leaves no room for is done at the next start. Rows recorded from now on are
        dropped.
        """
        self._give_up_at = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def dropped(self) -> Mapping[Table, int]:
        """Rows that are not in the ledger, since the start: of a full mailbox, a failing disk or a wrong type."""
        return {book.table: book.dropped_count for book in self._books}

    @property
    def written(self) -> Mapping[Table, int]:
        """Rows that are on disk, since the start."""
        return {book.table: book.written_count for book in self._books}

    @property
    def lag_s(self) -> float:
        """No row has waited longer than this: what a crash at this moment would cost."""
        return time.monotonic() - self._flushed_at

    def _run(self) -> None:
        self._attempt(self._give_way)
        self._attempt(self._recover)
        while not self._stopping.is_set():
            flush_at = time.monotonic() + self._flush_interval_s
            self._flush()
            self._attempt(self._prune)
            self._attempt(self._compact, flush_at)
            self._stopping.wait(flush_at - time.monotonic())
        for book in self._books:
            book.tray.limit_rows = 0
        self._flush()
        self._attempt(self._ledger.close)
        self._compact_at = 0.0
        self._attempt(self._compact, self._give_up_at)

    def _flush(self) -> None:
        began_at = time.monotonic()
        now = self._clock()
        for book in self._books:
            self._attempt(book.flush, self._ledger, now)
        self._flushed_at = began_at
        self._attempt(self._ledger.rotate, now)

    def _pause(self) -> None:
        """Draws must not wait for the ledger: it works a little at a time."""
        if not self._stopping.is_set():
            time.sleep(_PAUSE_S)

    def _give_way(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            thread = threading.get_native_id()
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _MOST_NICENESS))

    def _recover(self) -> None:
        if segment_count := self._ledger.recover():
            log.info("ledger_recovery_began", segment_count=segment_count)

    def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_INTERVAL_S
            for path in self._ledger.prune(self._clock(), self._retention_days):
                log.info("ledger_partition_removed", path=str(path))

    def _compact(self, deadline: float) -> None:
        """Until the deadline, a row group at a time: flushes must not wait for it."""
        while self._ledger.backlog_count and self._compact_at <= time.monotonic() < deadline:
            try:
                done = self._ledger.compact_step()
            except Exception:
                self._compact_at = time.monotonic() + _RETRY_INTERVAL_S
                raise
            if done is not None and done.lost_bytes:
                log.warning("ledger_tail_lost", path=str(done.path), lost_bytes=done.lost_bytes)

    def _attempt(self, step: Callable[..., None], *args: object) -> None:
        """One failed step, even of the log itself, must not end the thread."""
        try:
            step(*args)
        except Exception as error:
            with suppress(Exception):
                log.warning("ledger_step_failed", error=repr(error), backlog_count=self._ledger.backlog_count)


class Tray(Generic[RunT]):
    """Rows from one thread to another, without a lock or a wake-up: each use of the list is one atomic step.

    Each of the two counts for itself.
    """

    def __init__(self, limit_rows: int) -> None:
        self.limit_rows = limit_rows
        self.overflow_count = 0
        self._runs: list[RunT] = []
        self._put_count = 0
        self._taken_count = 0

    def put(self, run: RunT, count: int) -> None:
        """Leave a run of `count` rows; those that the mailbox has no room for are dropped and counted."""
        put_count = self._put_count + count
        excess = put_count - self._taken_count - self.limit_rows
        if excess > 0:
            excess = min(excess, count)
            self.overflow_count += excess
            if excess == count:
                return
            run = run.part(0, count - excess)
            put_count -= excess
        self._put_count = put_count
        self._runs.append(run)

    def take(self) -> list[RunT]:
        """All that is there; what arrives meanwhile stays for the next time."""
        runs = self._runs[:]
        del self._runs[: len(runs)]
        self._taken_count += row_count(runs)
        return runs


class Book(Generic[RunT]):
    """One table of the ledger: what waits for it and what became of the rows."""

    def __init__(self, table: Table, tray: Tray[RunT]) -> None:
        self.table: Table = table
        self.tray: Tray[RunT] = tray
        self.written_count = 0
        self._failed_count = 0
        self._report = DropReport(table)

    @property
    def dropped_count(self) -> int:
        return self.tray.overflow_count + self._failed_count

    def flush(self, ledger: Ledger, now: float) -> None:
        runs = self.tray.take()
        written_count, reason = 0, "a row does not fit the columns"
        if runs:
            try:
                written_count = ledger.write(self.table, runs, now)
            except Exception as error:
                reason = str(error)
        failed_count = row_count(runs) - written_count
        self.written_count += written_count
        self._failed_count += failed_count
        self._report.observe(
            self.dropped_count,
            written_count,
            reason if failed_count else "the mailbox is full",
            time.monotonic(),
        )
