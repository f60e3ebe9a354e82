"""The posterior of the mean of hurdle log-normal rewards: mostly zeros, and the others log-normal, as revenue is.

The mean is V = θ·exp(μ + σ²/2), and its posterior lives on the axis x = ln V = ln θ + (μ + σ²/2): the sum of two
independent parts. Of each the log-density is known; that of their sum is tabulated, once for each arm's own numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from multiarm.domain.hurdle_table import Table, look_up, tabulate
from multiarm.domain.posterior_base import (
    Floats,
    Indices,
    Mirrored,
    Posterior,
    require_positive,
    require_same_shape,
    tail_probability,
    tail_ratio,
)

LEAST_LOG_COUNT = 5.0

# A sum of squares that stands still to a relative 1e-12 cannot show a spread below this share of itself. The second
# term, a standard deviation of 1e-6, is for logs that are all 0.
_ROUNDING = 1e-12

_TINY = 1e-300


class Logs(NamedTuple):
    """How many logarithms each arm has, what they and their squares add up to: [..., K]; are they enough: [...]."""

    number: Floats
    total: Floats
    square_total: Floats
    ready: NDArray[np.bool_]


def pooled_logs(positives: Floats, log_sum: Floats, log_square_sum: Floats) -> Logs:
    """An arm with fewer than 5 positives borrows the missing ones, at the mean and variance of all arms' positives.

    So an arm that never converts has a posterior too, and its share of the pulls falls like any other's. The other
    arms stay as they are. Ready: all arms together have 5 positives.
    """
    count, total, square_total = (a.sum(axis=-1, keepdims=True) for a in (positives, log_sum, log_square_sum))
    divisor = np.where(count > 0, count, 1.0)
    mean = total / divisor
    spread = square_total - mean * total
    variance = np.maximum(spread, 0.0) / divisor
    missing = np.maximum(LEAST_LOG_COUNT - positives, 0.0)
    ready = count >= LEAST_LOG_COUNT
    return Logs(
        np.maximum(positives, LEAST_LOG_COUNT),
        log_sum + missing * mean,
        log_square_sum + missing * (variance + mean * mean),
        ready[..., 0],
    )


@dataclass(frozen=True, slots=True, eq=False)
class HurdlePosterior:
    """Posteriors of the means of hurdle log-normal rewards, on the axis of their logarithm.

    `pulls` (effective), `positives` (of them), and of the positives' logarithms `log_sum`, `log_square_sum`: [..., K].
    `log_count`: how many logarithms those are, if some were borrowed (`pooled_logs`); at least 5, else ValueError.
    θ ~ Beta(1 + positives, 1 + pulls - positives). Of m logs with mean l and S = Σ(ln r - l)², under the prior
    (σ²)^(-1-a), a = -1: (σ²)^(-m/2) exp(-(S + m(μ - l)²) / 2σ²) is the likelihood, and integrating μ out multiplies it
    by σ; so σ² has the density (σ²)^(-(m-3)/2 - 1) exp(-S/2σ²), and μ | σ² ~ N(l, σ²/m). The prior is that of Honda
    and Takemura (2014), for which Thompson sampling is asymptotically optimal where a < 0.
    `log_variance_limit`: σ² ends there. Without an end E V would be infinite, however many the rewards.
    """

    pulls: Floats
    positives: Floats
    log_sum: Floats
    log_square_sum: Floats
    log_variance_limit: float
    log_count: Floats | None = None

    def __post_init__(self) -> None:
        require_same_shape(self.pulls, self.positives, self.log_sum, self.log_square_sum, self._count)
        require_positive(log_variance_limit=np.array(self.log_variance_limit))
        if not all(np.isfinite(a).all() for a in (self.pulls, self.positives, self.log_sum, self.log_square_sum)):
            raise ValueError("the parameters must be finite")
        if self.positives.min() < 0 or not LEAST_LOG_COUNT <= self._count.min() <= self._count.max() < np.inf:
            raise ValueError(f"positives must be at least 0, and logs finite and at least {LEAST_LOG_COUNT:g}")

    @property
    def mode(self) -> Floats:
        """To within a hundredth of the standard deviation."""
        modes = np.array([table.shift + table.mode for table in self._tables()])
        return np.asarray(self._log_mean + modes.reshape(self.pulls.shape))

    def edges(self, below: Floats, above: Floats) -> Floats:
        """The tables end at a drop of 40: a probability below 1e-17 may come out as 0, whatever was asked for."""
        tables = self._tables()
        edges = np.array([table.edges for table in tables])
        falls = np.array([table.edge_falls for table in tables])
        within = falls <= np.where(edges < 0, below[-1], above[-1])
        low, high = np.where(within, edges, 0.0).min(axis=1), np.where(within, edges, 0.0).max(axis=1)
        return edges.clip(low[:, None], high[:, None])

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return look_up(self._tables(), arms, distance)[0]

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        """To a relative 2e-3 below the mode; above it, where the tail may be heavy, only of the right size."""
        _, slope, curvature = look_up(self._tables(), arms, distance)
        return tail_ratio(slope, np.minimum(curvature, -_TINY), np.zeros_like(slope))

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        pulls, positives, log_count = self.pulls[index], self.positives[index], self._count[index]
        logs = self.log_sum[index], self.log_square_sum[index]
        return type(self)(pulls, positives, *logs, self.log_variance_limit, log_count)

    def mirrored(self) -> Posterior:
        return Mirrored(self)

    def sample(self, rng: np.random.Generator) -> Floats:
        """Exact, without the tables."""
        converted = rng.standard_gamma(1 + self.positives)
        failed = rng.standard_gamma(1 + self._failures)
        spread = self._spread
        precision = _gamma_above((self._count - 3) / 2, spread / (2 * self.log_variance_limit), rng)
        variance = spread / (2 * precision)
        noise = rng.standard_normal(variance.shape) * np.sqrt(variance / self._count)
        return np.asarray(self._log_mean + variance / 2 + noise - np.log1p(failed / converted))

    def interval(self, confidence: float = 0.95) -> Floats:
        """Equal-tailed, in units of the value: [..., K, 2]."""
        tail = tail_probability(confidence)
        ends = np.array([table.quantiles(np.array([tail, 1 - tail])) for table in self._tables()])
        return np.asarray(np.exp(self._log_mean[..., None] + ends.reshape(*self.pulls.shape, 2)))

    @property
    def _count(self) -> Floats:
        return self.positives if self.log_count is None else self.log_count

    @property
    def _failures(self) -> Floats:
        return np.maximum(self.pulls - self.positives, 0.0)  # rounding alone can take it below zero

    @property
    def _log_mean(self) -> Floats:
        return self.log_sum / self._count

    @property
    def _spread(self) -> Floats:
        spread = self.log_square_sum - self._log_mean * self.log_sum
        return np.maximum(spread, _least_spread(self._count, self.log_square_sum))

    def _tables(self) -> list[Table]:
        """One for each arm, those of leading dimensions in a row."""
        numbers = (self.positives, self._failures, self._count, self._spread)
        limit = float(self.log_variance_limit)
        return [tabulate(*arm, limit) for arm in zip(*(a.ravel().tolist() for a in numbers), strict=True)]


def _least_spread(count: Floats, square_total: Floats) -> Floats:
    return _ROUNDING * (square_total + count)


def _gamma_above(shape: Floats, least: Floats, rng: np.random.Generator) -> Floats:
    """Gamma(shape, 1) draws given that they are at least `least`; by rejection, with at worst one in eight accepted.

    For a `least` in the upper tail the proposals are exponential from there on, at the rate at which the tail falls.
    """
    shape, least = np.broadcast_arrays(shape, least)
    draws = rng.standard_gamma(shape)
    again = np.flatnonzero(draws < least)
    while again.size:
        k, g = shape.flat[again], least.flat[again]
        in_tail = g > k + np.sqrt(k)
        excess = (k - 1) / g  # at least 0, since k is at least 1
        beyond = g + rng.standard_exponential(len(again)) / np.where(in_tail, 1 - excess, 1.0)
        refused = (k - 1) * np.log(beyond / g) - excess * (beyond - g) < -rng.standard_exponential(len(again))
        proposals = np.where(in_tail, beyond, rng.standard_gamma(k))
        draws.flat[again] = proposals
        again = again[np.where(in_tail, refused, proposals < g)]
    return draws
