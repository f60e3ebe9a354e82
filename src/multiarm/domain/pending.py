"""Draws that wait for their reward, counted by arm. In memory alone: a start forgets them."""

from collections import defaultdict

BUCKETS = 64  # of the window: what a count may be late by when a draw has waited too long


class Pending:
    """Counts draws younger than `window_s` seconds that are not rewarded yet. Bounded: 65 numbers an arm."""

    def __init__(self, window_s: float) -> None:
        self._width_s = window_s / BUCKETS
        self._buckets: dict[int, dict[int, int]] = {}  # number of the bucket in time → arm number → draws

    def drawn(self, number: int, now: float, count: int = 1) -> None:
        bucket = self._buckets.setdefault(int(now // self._width_s), defaultdict(int))
        bucket[number] += count

    def rewarded(self, number: int, drawn_at: float | None) -> None:
        """One reward less to wait for: of the draw at that time, or, where nobody says which, of the oldest."""
        if drawn_at is None:
            candidates = [time for time, bucket in self._buckets.items() if number in bucket]
            index = min(candidates, default=None)
        else:
            index = int(drawn_at // self._width_s)
        bucket = self._buckets.get(index) if index is not None else None
        if bucket is None or number not in bucket:
            return
        bucket[number] -= 1
        if not bucket[number]:
            del bucket[number]

    def counts(self, now: float) -> dict[int, int]:
        """Draws pending by arm number; those that have waited for the whole window are forgotten."""
        oldest = int(now // self._width_s) - BUCKETS
        for index in [index for index in self._buckets if index < oldest]:
            del self._buckets[index]
        totals: dict[int, int] = defaultdict(int)
        for bucket in self._buckets.values():
            for number, count in bucket.items():
                totals[number] += count
        return totals
