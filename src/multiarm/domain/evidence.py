"""Evidence: per arm, a row of numbers that are only ever added.

Columns 0, 1, 2 are always effective pulls Σ1, reward Σ(r−c) and reward² Σ(r−c)², about the origin c, so that
variances survive large means. With a half-life every row carries `as_of`, and a row read at a later time
weighs 2^(−age / half-life) of what it did.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ROUNDING = 1e-14  # of what was taken out of a sum: less than that is left of it by rounding alone
FORGOTTEN = 1e-200  # weights below count as none: sums so small would lose their digits, and means drift
BASE_COLUMNS = ("effective_pulls", "reward", "reward2")


def decay_weight(age_s: float, half_life_s: float | None) -> float:
    """What is left of 1 after `age_s` seconds, in [0, 1]; at an age below 0 (a clock that jumped back) all of it."""
    if half_life_s is None or age_s <= 0:
        return 1.0
    weight: float = 2.0 ** -(age_s / half_life_s)
    return weight if weight >= FORGOTTEN else 0.0


class Row(NamedTuple):
    """One arm's sums on one node, as the store keeps them.

    sums: C floats, or none before the first reward, decayed to `as_of`, seconds since the epoch; pull_count: rewards
    counted, never decayed; draw_count: decisions answered in this epoch.
    """

    sums: tuple[float, ...] = ()
    as_of: float = 0.0
    pull_count: int = 0
    draw_count: int = 0

    def plus(self, increments: Sequence[tuple[Sequence[float], float]], half_life_s: float | None) -> Self:
        """This row and `increments`, pairs (C numbers, evidence time), all decayed one by one to the latest time."""
        numbers, times = zip(*increments, strict=True)
        return self.plus_columns(numbers, times, half_life_s)

    def plus_columns(
        self,
        numbers: Sequence[Sequence[float]],
        times: Sequence[float],
        half_life_s: float | None,
        counts: Sequence[int] = (),
    ) -> Self:
        """The same, of increments whose numbers and evidence times come apart. counts: how often each; else once."""
        pull_count = self.pull_count + (sum(counts) if counts else len(numbers))
        weights: Sequence[float] = counts if counts and max(counts) > 1 else ()
        if self.sums:
            numbers, times = [self.sums, *numbers], [self.as_of, *times]
            weights = [1, *weights] if weights else ()
        as_of = max(self.as_of, *times)
        if half_life_s is not None:
            decay = [decay_weight(as_of - time, half_life_s) for time in times]
            weights = list(map(mul, weights, decay)) if weights else decay
        columns: Iterable[Iterable[float]] = zip(*numbers, strict=True)
        if weights:
            columns = (map(mul, weights, column) for column in columns)
        sums = tuple(map(math.fsum, columns))
        return type(self)(sums, as_of, pull_count, self.draw_count)

    def corrected(
        self, old: Sequence[float] | None, new: Sequence[float] | None, time: float, half_life_s: float | None
    ) -> Self:
        """This row with the increment `old` taken out and `new` put in, C numbers each, of the same evidence time.

        None: no reward. What was taken out may have been counted by another node: the row may go below zero.
        """
        less = () if old is None else tuple(-number for number in old)
        terms = [numbers for numbers in (less, new) if numbers]
        row = self.plus_columns(terms, [time] * len(terms), half_life_s)
        weight = ROUNDING * decay_weight(row.as_of - time, half_life_s)
        sums = tuple(
            0.0 if abs(value) <= weight * abs(gone) else value
            for value, gone in zip(row.sums, less or (0.0,) * len(row.sums), strict=True)
        )
        return row._replace(sums=sums, pull_count=self.pull_count + (new is not None) - (old is not None))


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rows of K arms; leading dimensions broadcast.

    sums: float64[..., K, C]; as_of: float64[..., K], seconds since the epoch; pull_count: int64[..., K].
    """

    sums: F64
    as_of: F64
    pull_count: I64
    origin: float = 0.0
    half_life_s: float | None = None

    @classmethod
    def from_rows(
        cls, rows: Iterable[Row], *, columns: int = 3, origin: float = 0.0, half_life_s: float | None = None
    ) -> Self:
        rows = list(rows)
        return cls(
            np.array([row.sums or (0.0,) * columns for row in rows], dtype=np.float64).reshape(len(rows), columns),
            np.array([row.as_of for row in rows], dtype=np.float64),
            np.array([row.pull_count for row in rows], dtype=np.int64),
            origin,
            half_life_s,
        )

    @classmethod
    def stacked(cls, parts: Sequence[Self]) -> Self:
        """The arms of all parts, in order; origins and half-lives must agree."""
        return replace(
            parts[0],
            sums=np.concatenate([part.sums for part in parts], axis=-2),
            as_of=np.concatenate([part.as_of for part in parts], axis=-1),
            pull_count=np.concatenate([part.pull_count for part in parts], axis=-1),
        )

    def decayed(self, now: float | F64) -> Self:
        """The same evidence read at `now`; rows that are as of `now` or later stay as they are."""
        if self.half_life_s is None:
            return self
        age_s = np.maximum(now - self.as_of, 0.0)
        weight = np.exp2(-age_s / self.half_life_s)
        weight = np.where(weight >= FORGOTTEN, weight, 0.0)
        return replace(self, sums=self.sums * weight[..., None], as_of=np.maximum(self.as_of, now))

    def __add__(self, other: Self) -> Self:
        """Both together, decayed to the later time of each row; origins and half-lives must agree."""
        if (self.origin, self.half_life_s) != (other.origin, other.half_life_s):
            raise ValueError("only evidence with the same origin and half-life can be added")
        as_of = np.maximum(self.as_of, other.as_of)
        mine, theirs = self.decayed(as_of), other.decayed(as_of)
        return replace(self, sums=mine.sums + theirs.sums, as_of=as_of, pull_count=self.pull_count + other.pull_count)

    def without_leftovers(self) -> Self:
        """The same, rows that hold no reward zero: where all were withdrawn, rounding may have left something."""
        left = (self.pull_count <= 0) | (self.pulls <= 0)
        return replace(self, sums=np.where(left[..., None], 0.0, self.sums)) if left.any() else self

    def take(self, arms: Sequence[int]) -> Self:
        """The rows of these arms only, by position, copied."""
        index = np.asarray(arms, dtype=np.intp)
        return replace(
            self,
            sums=self.sums[..., index, :],
            as_of=self.as_of[..., index],
            pull_count=self.pull_count[..., index],
        )

    def at(self, index: NDArray[np.bool_]) -> Self:
        """Those experiments of the leading dimensions, bool[...], one after the other."""
        return replace(self, sums=self.sums[index], as_of=self.as_of[index], pull_count=self.pull_count[index])

    @property
    def pulls(self) -> F64:
        """Effective pulls, float64[..., K]: rewards counted, after forgetting."""
        return self.sums[..., 0]

    @property
    def reward(self) -> F64:
        """Σr, float64[..., K], after forgetting, about zero and not about the origin."""
        return self.sums[..., 1] + self.origin * self.sums[..., 0]

    @property
    def mean(self) -> F64:
        """Mean reward, float64[..., K]; nan where there are no pulls."""
        return self.origin + self.mean_deviation

    @property
    def mean_deviation(self) -> F64:
        """The same, less the origin."""
        deviation: F64 = self.sums[..., 1] / np.where(self.pulls > 0, self.pulls, np.nan)
        return deviation

    @property
    def variance(self) -> F64:
        """Unbiased sample variance, float64[..., K]; nan below two effective pulls.

        From the sums about the origin; what rounding makes negative is zero.
        """
        pulls = np.where(self.pulls >= 2, self.pulls, np.nan)
        squares = self.sums[..., 2] - self.sums[..., 1] ** 2 / pulls
        variance: F64 = np.maximum(squares, 0.0) / (pulls - 1)
        return variance
