"""The posterior of the mean of hurdle log-normal rewards: mostly zeros, and the others log-normal, as revenue is.

The mean is V = θ·exp(μ + σ²/2), and its posterior lives on the axis x = ln V = ln θ + (μ + σ²/2): the sum of two
independent parts. Of each the log-density is known; that of their sum is tabulated, once for each arm's own numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

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

_TABLE_CACHE_ARM_COUNT = 4096  # of 6 kB each
_KNOT_COUNT = 112
_SCAN_COUNT = 48  # knots to find out with where the others should be
_EDGE_COUNT = 20
_PART_EDGE_COUNT = 10  # of each of the two parts; the panels of their sum end at both
_DROP = 40.0  # where a log-density has fallen as far as this, the panels end
_FAR_DROP = 52.0  # ... those of the parts; beside a narrow part's mode, the sum's density is low even at its own
_DEVIATION = 10.5  # a normal density's standard deviations to a drop of 55
_NEGLIGIBLE_DROP = 28.0  # in an integrand, beside its peak
_INSIDE = 0.98  # at the very ends of the sum of the windows no mass is left
_WIDER = 2.0  # than the standard deviation: so the knots are about as fine as needed at 0 and far from it
_CLIFF = 12.0  # with fewer failures, how ln θ ends at 0 matters
_TINY = 1e-300


def _unit_rule(count: int) -> tuple[Floats, Floats]:
    x, weights = legendre.leggauss(count)
    return (x + 1) / 2, weights / 2


def _derivative() -> Floats:
    """[knots, knots]: the derivative at each of evenly spaced knots, from the polynomial through the nearest seven."""
    matrix = np.zeros((_KNOT_COUNT, _KNOT_COUNT))
    for row in range(_KNOT_COUNT):
        start = min(max(row - 3, 0), _KNOT_COUNT - 7)
        matrix[row, start : start + 7] = np.linalg.inv(np.vander(np.arange(start, start + 7) - row, increasing=True))[1]
    return matrix


_NODES, _WEIGHTS = _unit_rule(8)
_VARIANCE_NODES, _VARIANCE_WEIGHTS = _unit_rule(18)
_DERIVATIVE = _derivative()


class Logs(NamedTuple):
    """How many logarithms each arm has, what they and their squares add up to: [..., K]; are they enough: [...]."""

    number: Floats
    total: Floats
    square_total: Floats
    ready: NDArray[np.bool_]


def pooled_logs(positives: Floats, log_sum: Floats, log_square_sum: Floats) -> Logs:
    """An arm with fewer than 5 positives borrows the missing ones, at the mean and variance of all arms' positives.

    So an arm that never converts has a posterior too, and its share of the pulls falls like any other's. The other
    arms stay as they are. Ready: all arms together have 5 positives, and these are not all the same.
    """
    count, total, square_total = (a.sum(axis=-1, keepdims=True) for a in (positives, log_sum, log_square_sum))
    divisor = np.where(count > 0, count, 1.0)
    mean = total / divisor
    spread = square_total - mean * total
    variance = np.maximum(spread, 0.0) / divisor
    missing = np.maximum(LEAST_LOG_COUNT - positives, 0.0)
    ready = (count >= LEAST_LOG_COUNT) & (spread > _least_spread(count, square_total))
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
        return _look_up(self._tables(), arms, distance)[0]

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        """To a relative 2e-3 below the mode; above it, where the tail may be heavy, only of the right size."""
        _, slope, curvature = _look_up(self._tables(), arms, distance)
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

    def _tables(self) -> list["_Table"]:
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


class _Curve(NamedTuple):
    """A log-density as cubics between knots that are even in t = asinh(x / scale): fine near 0, geometric far away."""

    scale: float
    first: float  # t at the first knot
    step: float  # of t
    knots: Floats
    cubics: Floats  # [4, knots], the value at the knot first; after the last knot, none

    def at(self, x: Floats) -> Floats:
        """Between the first and the last knot."""
        t = (np.arcsinh(x / self.scale) - self.first) / self.step
        below = t.astype(np.intp).clip(0, _KNOT_COUNT - 2)
        past = x - self.knots.take(below)
        value = self.cubics[3].take(below)
        for coefficients in self.cubics[2::-1]:
            value = value * past + coefficients.take(below)
        return np.asarray(value)


def _curve(low: float, high: float, scale: float, log_density: Callable[[Floats], Floats]) -> _Curve:
    """Its largest value at a knot is 0."""
    knots = _spaced(low, high, scale, _KNOT_COUNT)
    values = log_density(knots)
    values -= values.max()
    first, last = np.arcsinh(knots[[0, -1]] / scale).tolist()
    step = (last - first) / (_KNOT_COUNT - 1)
    slopes = _DERIVATIVE @ values / (step * np.hypot(knots, scale))
    length = np.diff(knots)
    chord = np.diff(values) / length
    squares = (3 * chord - 2 * slopes[:-1] - slopes[1:]) / length
    cubes = (slopes[:-1] + slopes[1:] - 2 * chord) / length**2
    return _Curve(scale, first, step, knots, np.array([values, slopes, np.append(squares, 0.0), np.append(cubes, 0.0)]))


class _Table(NamedTuple):
    """`shift` is what the curve's x is measured from, less the mean of the logs; `edges` are measured from the mode."""

    curve: _Curve
    shift: float
    mode: float
    edges: Floats
    edge_falls: Floats

    def quantiles(self, levels: Floats) -> Floats:
        """Less the mean of the logs. By Newton's method on the distribution function, from the knot below."""
        knots, length = self.curve.knots, np.diff(self.curve.knots)
        mass = np.exp(self.curve.at(knots[:-1, None] + length[:, None] * _NODES)) @ _WEIGHTS * length
        cdf = np.append(0.0, mass.cumsum())
        wanted = levels * cdf[-1]
        below = (cdf.searchsorted(wanted) - 1).clip(0, _KNOT_COUNT - 2)
        start, reach, wanted = knots[below], length[below], wanted - cdf[below]
        step = reach * wanted / mass[below]
        for _ in range(4):
            passed = np.exp(self.curve.at(start[:, None] + step[:, None] * _NODES)) @ _WEIGHTS * step
            step = np.clip(step + (wanted - passed) / np.exp(self.curve.at(start + step)), 0.0, reach)
        return np.asarray(self.shift + start + step)


def _look_up(tables: list[_Table], arms: Indices, distance: Floats) -> tuple[Floats, Floats, Floats]:
    """Log-densities at a distance from the mode, and two derivatives. Beyond the knots they fall by 1 a scale."""
    columns = [(table.mode, table.curve.scale, table.curve.first, table.curve.step) for table in tables]
    mode, scale, first, step = np.array(columns).T[:, arms]
    knots = np.array([table.curve.knots for table in tables])
    cubics = np.array([table.curve.cubics for table in tables])
    x = distance + mode
    inside = np.clip(x, knots[arms, 0], knots[arms, -1])
    below = ((np.arcsinh(inside / scale) - first) / step).astype(np.intp).clip(0, _KNOT_COUNT - 2)
    value, slope, square, cube = (cubics[arms, degree, below] for degree in range(4))
    past = inside - knots[arms, below]
    value = ((cube * past + square) * past + slope) * past + value - np.abs(x - inside) / scale
    return value, (3 * cube * past + 2 * square) * past + slope, 6 * cube * past + 2 * square


@lru_cache(maxsize=_TABLE_CACHE_ARM_COUNT)
def tabulate(positives: float, failures: float, count: float, spread: float, limit: float) -> _Table:
    """Of ln θ + (μ - l + σ²/2); where l is only shifts it, so rewards in another currency find the same table."""
    rate, amount = _rate_part(1 + positives, failures), _amount_part(count, spread, limit)
    scale = _WIDER * float(np.hypot(rate.scale, amount.scale))
    if failures < _CLIFF:  # only the amount makes a slope of the cliff
        scale = min(scale, 3 * amount.scale)
    low, high = _INSIDE * (rate.edges[[0, -1]] + amount.edges[[0, -1]])
    curve = _curve(low, high, scale, lambda x: _sum_log_density(x, rate, amount))
    mode = _mode(curve)
    curve.cubics[0] -= curve.at(np.array(mode))
    edges, falls = _edges(curve.knots, curve.cubics[0], scale, _DROP, _EDGE_COUNT)
    at_mode = int(edges.searchsorted(mode))
    edges, falls = np.insert(edges, at_mode, mode), np.insert(falls, at_mode, 0.0)
    return _Table(curve, rate.centre + amount.centre, mode, edges - mode, falls)


def _mode(curve: _Curve) -> float:
    """By one step of Newton's method from the highest knot."""
    top = int(curve.cubics[0].argmax().clip(1, _KNOT_COUNT - 2))
    _, slope, square, _ = curve.cubics[:, top].tolist()
    step = -slope / (2 * square) if square < 0 else 0.0
    return float(np.clip(curve.knots[top] + step, curve.knots[top - 1], curve.knots[top + 1]))


class _Part(NamedTuple):
    """One of two independent terms: the log-density at a distance from its centre, and ends of panels to follow it."""

    centre: float
    scale: float
    log_density: Callable[[Floats], Floats]
    edges: Floats


def _rate_part(alpha: float, failures: float) -> _Part:
    """ln θ, from the top of its density e^(αy) (1 - e^y)^failures; with few failures from its end at y = 0."""
    b = max(failures, 1e-12)
    highest = -float(np.log1p(b / alpha))
    centre = 0.0 if failures < _CLIFF else highest
    deviation = float(np.sqrt(b / (alpha * (alpha + b))))
    scale = max(deviation, 1 / (alpha + 1))
    top, end = highest - centre, -centre

    def log_density(distance: Floats) -> Floats:
        room = np.maximum(-np.expm1(distance - end), _TINY)
        return np.asarray(alpha * (distance - top) + b * (np.log(room) - np.log(-np.expm1(highest))))

    low, high = top - _DEVIATION * deviation - 55 / alpha, min(top + _DEVIATION * deviation, end)
    knots = _spaced(low, high, scale, _SCAN_COUNT)
    edges, _ = _edges(knots, log_density(knots), scale, _FAR_DROP, _PART_EDGE_COUNT)
    if failures < _CLIFF:  # a fractional power of the distance to the end is followed by ever shorter panels
        edges = np.sort(np.append(edges, end - (end - edges[-3]) * np.append(0.25 ** np.arange(1, 7), 0.0)))
    return _Part(centre, scale, log_density, edges)


def _amount_part(count: float, spread: float, limit: float) -> _Part:
    """μ - l + σ²/2, as a curve: mostly like a normal or Student's t, and for few rewards with a tail up to limit/2."""
    variance = min(spread / count, limit)
    centre = variance / 2
    scale = float(np.sqrt((variance + variance**2 / 2) / count))
    low = -1.5 * _DEVIATION * scale - 55 / count
    high = limit / 2 + _DEVIATION * np.sqrt(limit / count) - centre
    knots = _spaced(low, float(high), scale, _SCAN_COUNT)
    values = _amount_log_density(centre + knots, count, spread, limit)
    kept = np.flatnonzero(values > values.max() - _FAR_DROP)
    low, high = knots[max(kept[0] - 1, 0)], knots[min(kept[-1] + 1, _SCAN_COUNT - 1)]
    curve = _curve(low, high, scale, lambda x: _amount_log_density(centre + x, count, spread, limit))
    edges, _ = _edges(curve.knots, curve.cubics[0], scale, _FAR_DROP, _PART_EDGE_COUNT)
    return _Part(centre, scale, curve.at, edges)


def _amount_log_density(u: Floats, count: float, spread: float, limit: float) -> Floats:
    """ln ∫ over z = ln σ² up to ln limit, of e^(mu/2 - pz - A e^-z - B e^z), p = (m-2)/2, A = (S + mu²)/2, B = m/8.

    The integrand is log-concave in z. It is taken on either side of its top, as far as it falls by e^-28.
    """
    power, large_a, large_b = (count - 2) / 2, (spread + count * u * u) / 2, count / 8
    top = np.minimum(2 * large_a / (power + np.sqrt(power**2 + 4 * large_a * large_b)), limit)
    a, b = large_a / top, large_b * top
    slope = np.maximum(a - b - power, 0.0)  # above 0 where the limit cuts the top off
    below, above = _NEGLIGIBLE_DROP / a, _NEGLIGIBLE_DROP / b
    left = np.minimum(np.log1p(below + np.sqrt(2 * below)), _NEGLIGIBLE_DROP / np.maximum(slope, _TINY))
    right = np.minimum(below + np.sqrt(2 * below), np.log1p(above + np.sqrt(2 * above)))
    right = np.minimum(right, np.log(limit / top))
    z = np.concatenate([-left[:, None] * _VARIANCE_NODES, right[:, None] * _VARIANCE_NODES], axis=1)
    growth = np.expm1(z)
    heights = np.exp(a[:, None] * (growth / (1 + growth)) - b[:, None] * growth - power * z)
    count_left = len(_VARIANCE_NODES)
    mass = (heights[:, :count_left] @ _VARIANCE_WEIGHTS) * left + (heights[:, count_left:] @ _VARIANCE_WEIGHTS) * right
    return np.asarray(count * u / 2 - power * np.log(top * count / spread) - a - b + np.log(mass))


def _sum_log_density(x: Floats, rate: _Part, amount: _Part) -> Floats:
    """ln ∫ rate(y) amount(x - y) dy at each x, on panels that end where those of either part do."""
    low = np.maximum(rate.edges[0], x - amount.edges[-1])[:, None]
    high = np.minimum(rate.edges[-1], x - amount.edges[0])[:, None]
    ends = np.concatenate([np.tile(rate.edges, (len(x), 1)), x[:, None] - amount.edges], axis=1)
    ends = np.sort(np.clip(ends, low, high), axis=1)
    heights = rate.log_density(ends) + amount.log_density(x[:, None] - ends)
    counts = heights > heights.max(axis=1, keepdims=True) - _NEGLIGIBLE_DROP
    row, panel = np.nonzero((np.diff(ends) > 0) & (counts[:, 1:] | counts[:, :-1]))
    start, length = ends[row, panel], ends[row, panel + 1] - ends[row, panel]
    y = start[:, None] + length[:, None] * _NODES
    heights = np.exp(rate.log_density(y) + amount.log_density(x[row, None] - y))
    return np.asarray(np.log(np.bincount(row, (heights @ _WEIGHTS) * length, minlength=len(x))))


def _spaced(low: float, high: float, scale: float, count: int) -> Floats:
    return scale * np.sinh(np.linspace(np.arcsinh(low / scale), np.arcsinh(high / scale), count))


def _edges(knots: Floats, values: Floats, scale: float, drop: float, count: int) -> tuple[Floats, Floats]:
    """And the falls there, up to `drop`. Even in a normal's deviations at such a fall, plus asinh(x / scale)."""
    fall = values.max() - values
    top = int(fall.argmin())
    fall[top:] = np.maximum.accumulate(fall[top:])
    fall[: top + 1] = np.maximum.accumulate(fall[top::-1])[::-1]
    deviation = np.sqrt(2 * fall)
    deviation[:top] *= -1
    reach = float(np.sqrt(2 * drop))
    warped = deviation + np.arcsinh((knots - knots[top]) / scale)
    first, last = np.interp([-reach, reach], deviation, warped)
    edges = np.interp(np.linspace(first, last, count), warped, knots)
    return edges, np.interp(edges, knots, deviation) ** 2 / 2
