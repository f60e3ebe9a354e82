"""Tables of the log-density of ln θ + μ + σ²/2, the logarithm of a hurdle log-normal mean: one for each arm's numbers.

The sum has two independent parts, whose log-densities are known; that of the sum is their convolution.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from multiarm.domain.posterior_base import Floats, Indices

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
_SMALLEST = 1e-300
_CLIFF = 12.0  # with fewer failures, how ln θ ends at 0 matters


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


class Table(NamedTuple):
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


def look_up(tables: list[Table], arms: Indices, distance: Floats) -> tuple[Floats, Floats, Floats]:
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
def tabulate(positives: float, failures: float, count: float, spread: float, limit: float) -> Table:
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
    return Table(curve, rate.centre + amount.centre, mode, edges - mode, falls)


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
        room = np.maximum(-np.expm1(distance - end), _SMALLEST)
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
    left = np.minimum(np.log1p(below + np.sqrt(2 * below)), _NEGLIGIBLE_DROP / np.maximum(slope, _SMALLEST))
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
