"""What is counted for whoever watches the server: plain numbers, each written by one thread."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many observations there were up to each bound, as Prometheus keeps them. bounds: ascending, in base units."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count
