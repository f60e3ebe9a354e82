"""What is measured: rows of values, one a run, and what the issue asks of them."""

import statistics
from collections.abc import Sequence

import msgspec

DURABLE_FSYNC_LIMIT_MS = 0.5  # floors of durable work hold where the disk syncs at least so fast


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A floor, or with `most` a ceiling: of the ratio to the yardstick, or of the value itself."""

    limit: float
    aim: float | None = None
    ratio: bool = True
    most: bool = False
    durable: bool = False

    def __str__(self) -> str:
        text = f"{'≤' if self.most else '≥'} {figure(self.limit)}"
        return text if self.aim is None else f"{text}, aim {self.aim:.2f}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of work: its value in each run, and the ratio of each to the yardstick of the same round.

    load_core_use, server_core_use: the shares of their cores that the two took; where only the load's is near 1, the
    server could do more. other_use: what others took of both cores meanwhile, in cores.
    """

    work: str
    unit: str
    values: list[float]
    ratios: list[float] = []
    bound: Bound | None = None
    load_core_use: float = 0.0
    server_core_use: float = 0.0
    other_use: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    def holds(self, fsync_ms: float) -> bool | None:
        """Whether it keeps its bound; None where none applies."""
        if self.bound is None or (self.bound.durable and fsync_ms > DURABLE_FSYNC_LIMIT_MS):
            return None
        value = self.ratio if self.bound.ratio else self.median
        if value is None:
            return None
        return value <= self.bound.limit if self.bound.most else value >= self.bound.limit


def ratios(values: Sequence[float], basis: Sequence[float]) -> list[float]:
    """Run by run, so that what slows a whole round hits both."""
    return [value / base for value, base in zip(values, basis, strict=True)]


def figure(value: float) -> str:
    """With as many digits as a reader needs: `81,300`, `12.3`, `0.42`, `0.0031`."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.2g}"
