"""A token bucket, as one number."""


class Pace:
    """The generic cell rate algorithm (ITU-T I.371): the bucket is kept as the time at which it would be full again.

    rate_per_s: what flows in. burst: what it holds. fill_s: how long it takes to fill when it is empty. Times are of a
    monotonic clock, and rounded: half of one too few is none too few.
    """

    __slots__ = ("_full_at", "_interval_s", "burst", "fill_s")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self.burst = burst
        self._interval_s = 1 / rate_per_s
        self.fill_s = burst / rate_per_s
        self._full_at = -float("inf")

    def take(self, now: float) -> float:
        """0 and one is taken, or the seconds until there is one."""
        missing_s = self._full_at - now
        if missing_s <= 0:
            self._full_at = now + self._interval_s
            return 0.0
        wait_s = missing_s + self._interval_s - self.fill_s
        if wait_s > self._interval_s / 2:
            return wait_s
        self._full_at += self._interval_s
        return 0.0

    def has_one(self, now: float) -> bool:
        return self._full_at - now + self._interval_s / 2 <= self.fill_s

    def queue(self, now: float, limit_s: float) -> float:
        """Take one in any case; how long to wait, at most `limit_s`, so that they leave at the rate."""
        wait_s = max(self._full_at, now) + self._interval_s - now - self.fill_s
        self._full_at = min(max(self._full_at, now) + self._interval_s, now + self.fill_s + limit_s)
        return min(max(wait_s, 0.0), limit_s)
