"""What lasts is said once a minute: a full disk fails every request, and the log may lie on the same disk."""

import time

import structlog

from multiarm.storage.columns import Table

REPORT_INTERVAL_S = 60.0
QUIET_S = 10.0  # without a drop, before the drops are over

log = structlog.get_logger()


class DropReport:
    """Says that a table loses rows: at once, every minute while it lasts, and when it is over."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._seen_count = 0
        self._count_before: int | None = None  # None: nothing is being dropped
        self._report_at = self._dropped_at = 0.0
        self._writes_again = False

    def observe(self, dropped_count: int, written_count: int, reason: str, now: float) -> None:
        """After each flush: all that was dropped so far, and what this flush wrote. `now` is monotonic."""
        before, self._seen_count = self._seen_count, dropped_count
        if dropped_count > before:
            if self._count_before is None:
                self._count_before, self._report_at = before, now
            self._dropped_at, self._writes_again = now, False
            if now >= self._report_at:
                self._report_at = now + REPORT_INTERVAL_S
                count = dropped_count - self._count_before
                log.warning("ledger_rows_dropped", table=self._table, dropped_count=count, reason=reason)
        elif self._count_before is not None:
            self._writes_again = self._writes_again or written_count > 0
            if self._writes_again and now >= self._dropped_at + QUIET_S:
                count, self._count_before = dropped_count - self._count_before, None
                log.info("ledger_rows_kept_again", table=self._table, dropped_count=count)


class FailureReport:
    """Says why the database fails, and how often it did since."""

    def __init__(self) -> None:
        self._count = 0
        self._report_at = 0.0

    def note(self, error: Exception) -> None:
        self._count += 1
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_INTERVAL_S
            log.error("database_failed", error=repr(error.__cause__ or error), failure_count=self._count)
            self._count = 0
