"""The probability that each arm is the best, from log-densities alone.

`P(arm k is best) = ∫ f_k(y) ∏_{j≠k} F_j(y) dy`, where `f_k` is the density of arm k's value on some axis and `F_k`
its distribution function. The integral is taken on panels of 16 Gauss-Legendre nodes, everywhere as short as the
narrowest posterior nearby asks for. A density need be known only up to a factor: its integral over the panels
normalises it, and its integral up to a node is its distribution function there.

A probability is a sum of positive terms, never one minus something, so small ones are right as well, down to what the
caller asks for. The windows of the posteriors reach as far as that needs. In the far tail below a posterior's core
its distribution function is the density times a known ratio; above the core it is 1.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from multiarm.domain.posterior_base import Density, Floats, Indices

_NODE_COUNT = 16

# The panels of a posterior's core end where its log-density has fallen as far as a normal's has at these deviations.
# Beyond the last one lies a mass of e^-40.
_DROPS = np.array([1.2, 2.6, 4.3, 6.5, 9.0]) ** 2 / 2
ORDINARY = 1e-17  # the largest `least`: what those windows can tell from 0

_SURE = 1e-12  # above this they give each probability to a relative 1e-3
_CLOSE_DROP = 30.0  # an arm whose log-density at the highest mode has fallen no further seldom has less

# For smaller probabilities a distribution function must be right relative to itself, not to 1. A polynomial does that
# as long as the density varies by no more than e^8 within a panel. Beyond the core the panels carry only products,
# whose integral bears e^45 (16 nodes integrate an exponential to 1e-8).
_FINE_DROPS = np.array([*_DROPS[:3], 17.0, 25.0, 33.0, _DROPS[-1]])
_FAR_DROP = 45.0
_SPARE_DROP = 12.0  # what lies beyond the windows is less than e^-12 of the smallest probability asked for
EXTREME = 1e-300  # the smallest `least`: not far above the smallest number that keeps its digits
_FAR_DROPS = np.arange(_DROPS[-1], _SPARE_DROP - np.log(EXTREME) + _FAR_DROP, _FAR_DROP)[1:]
_DEEP_BELOW, _DEEP_ABOVE = np.append(_FINE_DROPS, _FAR_DROPS), np.append(_DROPS, _FAR_DROPS)

# Around the peak of an arm's integrand, panels down to e^-25 of it matter; and the estimate of each distribution
# function may be wrong by e^2.
_TRIM_DROP, _TRIM_DROP_PER_ARM = 25.0, 2.0
_TRIM_POINT_COUNT = 40

_JUMP = 3.0  # where the wanted length of panels changes by more than this factor, a panel must end
_TINY = 1e-200  # stands in for a distribution function so small that rounding may have made it 0 or negative
_BLOCK_ROW_COUNT = 1 << 15  # pairs of an arm and a panel evaluated at once: temporary arrays of 4 MB each


def _unit_rule() -> tuple[Floats, Floats, Floats]:
    """Nodes[N] and weights[N] on [0, 1], and running[N, N]: `f @ running` is the integral from 0 up to each node."""
    x, weights = legendre.leggauss(_NODE_COUNT)
    antiderivatives = legendre.legint(np.eye(_NODE_COUNT), lbnd=-1)
    coefficients = np.linalg.inv(legendre.legvander(x, _NODE_COUNT - 1))
    running = coefficients.T @ legendre.legval(x, antiderivatives)
    return (x + 1) / 2, weights / 2, running / 2


_NODES, _WEIGHTS, _RUNNING = _unit_rule()


def probability_best(posterior: Density, least: float = ORDINARY) -> Floats:
    """P(arm k has the largest value), for every arm: [..., K], the shape of `posterior.mode`; at least one arm.

    Never negative; sums to 1 over the arms, within 1e-14; absolute error below 1e-9 (Beta: 1e-10) for any mixture of
    scales. Relative error below 1e-3 down to 1e-12; with `least` below its default, down to `least`. What is smaller
    than `least` may come out as 0. `least` lies in [1e-300, 1e-17] (else ValueError).

    The windows of Student t posteriors end at 1e13 scales: what they say of arms further than 1e10 away is less exact,
    and beyond 1e13 a small probability may come out as 0.
    """
    if not EXTREME <= least <= ORDINARY:
        raise ValueError(f"least must lie between {EXTREME} and {ORDINARY}, got {least}")
    mode = posterior.mode
    if mode.ndim == 1:
        return _of_row(posterior, least)
    best = np.empty_like(mode)
    for index in np.ndindex(mode.shape[:-1]):
        best[index] = _of_row(posterior[index], least)
    return best


def _of_row(posterior: Density, least: float) -> Floats:
    """For K arms. Where the ordinary windows are likely to be enough, they are tried first."""
    if least < ORDINARY and _close(posterior):
        best = _probability_best(posterior, ORDINARY)
        if best.min() > _SURE:
            return best
    return _probability_best(posterior, least)


def _close(posterior: Density) -> bool:
    """Whether no arm is so far behind the highest mode that it needs more than the ordinary windows."""
    mode = posterior.mode
    with np.errstate(over="ignore"):
        log_density = posterior.log_density(np.arange(len(mode)), mode.max() - mode)
    return bool(log_density.min() > -_CLOSE_DROP)


def _probability_best(posterior: Density, least: float) -> Floats:
    """For K arms. One whose window ends below the beginning of another's cannot be best: only the others contend."""
    mode = posterior.mode
    deep = least < ORDINARY
    distances, core = _windows(posterior, least) if deep else (posterior.edges(_DROPS, _DROPS), None)
    best = np.zeros(len(mode))
    contenders = np.flatnonzero(mode + distances[:, -1] >= (mode + distances[:, 0]).max())
    if len(contenders) < len(best):
        posterior, mode, distances = posterior[contenders], mode[contenders], distances[contenders]
        core = None if core is None else core[contenders]
    # The windows of contenders meet, so from the mode of the narrowest no mode is more than a few of its own scales
    # away. Measured from there, however unlike the scales are, no distance loses its digits.
    mode = mode - mode[np.argmin(distances[:, -1] - distances[:, 0])]
    edges = mode[:, None] + distances
    if core is None:
        best[contenders] = _integrate(posterior, mode, edges)
    else:
        core = mode[:, None] + core
        low, high = _bounds(posterior, mode, edges)
        edges = edges.clip(np.minimum(core[:, :1], low), np.maximum(core[:, 1:], high[:, None]))
        best[contenders] = _integrate(posterior, mode, edges, core[:, 0], low)
    best /= best.sum()
    return best


def _windows(posterior: Density, least: float) -> tuple[Floats, Floats]:
    """Edges that reach as far as `least` needs, [K, E]; and where each arm's core begins and ends, [K, 2]."""
    far = math.ceil((_SPARE_DROP - math.log(least) - _DROPS[-1]) / _FAR_DROP)
    below, above = _DEEP_BELOW[: len(_FINE_DROPS) + far], _DEEP_ABOVE[: len(_DROPS) + far]
    edges = posterior.edges(below, above)
    if edges.shape[1] == len(below) + 1 + len(above):  # only those by drops
        return edges, edges[:, [far, -1 - far]]
    return edges, posterior.edges(_DROPS[-1:], _DROPS[-1:])[:, [0, -1]]


def _bounds(posterior: Density, mode: Floats, edges: Floats) -> tuple[float, Floats]:
    """Where integrands begin to matter beside their own peaks, and above which point each no longer does: [K].

    Estimated at a few of the edges. An integrand has one peak: once negligible, it is so from there on.
    """
    points = np.sort(edges, axis=None)[:: -(-edges.size // _TRIM_POINT_COUNT)]
    distance = np.zeros((len(mode), len(points) + 1))
    (points - mode[:, None]).clip((edges[:, 0] - mode)[:, None], (edges[:, -1] - mode)[:, None], out=distance[:, 1:])
    arms = np.arange(len(mode))[:, None]
    log_density = posterior.log_density(arms, distance)
    tail = posterior.tail(arms, distance)
    below = np.where(distance < 0, log_density + np.log(tail / tail[:, :1]), 0.0)
    log_density, log_cdf = log_density[:, 1:], np.minimum(below, 0.0)[:, 1:]
    integrand = log_density - log_cdf + log_cdf.sum(axis=0)
    spared = integrand.max(axis=1) - (_TRIM_DROP + _TRIM_DROP_PER_ARM * len(mode))
    matters = integrand >= spared[:, None]
    low = max(points[max(matters.argmax(axis=1).min() - 1, 0)], edges[:, 0].max())
    after = len(points) - matters[:, ::-1].argmax(axis=1)
    return float(low), np.append(points, edges[:, -1].max())[after]


class _Rows(NamedTuple):
    """Some arms, each on the panels of its window: a row is one arm on one panel; an arm's rows stand together."""

    arms: slice
    begin: Indices  # [arms]: the first row of each arm
    arm: Indices  # [rows]
    panel: Indices  # [rows]


def _integrate(
    posterior: Density, mode: Floats, edges: Floats, core: Floats | None = None, low: float = -np.inf
) -> Floats:
    """P(k is best) = ∫ (f_k / F_k) ∏_j F_j: one product, shared by all arms. F_j is 0 below arm j's window, 1 above.

    `core`: where each arm's core begins, if its window reaches further down. Below `low` the product is left out.
    """
    mesh = _mesh(edges)
    first = mesh.searchsorted(edges[:, 0], "right") - 1
    stop = mesh.searchsorted(edges[:, -1], "left")
    inside = None if core is None else mesh.searchsorted(core, "left")
    product = np.ones((len(mesh) - 1, _NODE_COUNT))
    blocks = []
    for rows in _blocks(first, stop):
        growth, cdf = _evaluate(posterior, mode, mesh, rows, inside)
        for arm, row in enumerate(rows.begin.tolist(), rows.arms.start):
            product[first[arm] : stop[arm]] *= cdf[row : row + stop[arm] - first[arm]]
        blocks.append((rows, growth))
    product[: max(first.max(), mesh.searchsorted(low, "right") - 1)] = 0.0
    best = np.empty(len(mode))
    for rows, growth in blocks:
        best[rows.arms] = np.add.reduceat((growth * product[rows.panel]) @ _WEIGHTS, rows.begin)
    return best


def _evaluate(
    posterior: Density, mode: Floats, mesh: Floats, rows: _Rows, inside: Indices | None
) -> tuple[Floats, Floats]:
    """Density / distribution function, times the panel's length; and the distribution function: both [rows, N]."""
    arm, panel = rows.arm, rows.panel
    length = (mesh[1:] - mesh[:-1])[panel, None]
    # The mode is taken off the panel's end, not off each node: near the mode that is exact.
    distance = (mesh[panel] - mode[arm])[:, None] + length * _NODES
    density = np.exp(posterior.log_density(arm[:, None], distance)) * length
    row_of_block = arm - rows.arms.start
    mass = np.zeros((len(rows.begin), len(mesh)))
    mass[row_of_block, panel + 1] = density @ _WEIGHTS
    if inside is not None:
        below = np.flatnonzero(panel < inside[arm])
        start = inside[rows.arms]
        tail, below_core = _tails(posterior, rows.arms, mesh[start] - mode[rows.arms], arm[below], distance[below])
        mass[np.arange(len(mesh)) <= start[:, None]] = 0.0
        mass[np.arange(len(start)), start] = below_core
    total = mass.sum(axis=1)
    density /= total[row_of_block, None]
    cdf = density @ _RUNNING
    cdf += (mass.cumsum(axis=1) / total[:, None])[row_of_block, panel, None]
    np.maximum(cdf, _TINY, out=cdf)
    growth = density / cdf
    if inside is not None:
        growth[below] = ratio = length[below] / tail
        cdf[below] = density[below] / np.maximum(ratio, _TINY)  # a panel may be empty
    return growth, cdf


def _tails(posterior: Density, arms: slice, core: Floats, arm: Indices, distance: Floats) -> tuple[Floats, Floats]:
    """The tail ratios of these rows below cores, [rows, N]; and the mass below each arm's core, at distance `core`."""
    every = np.arange(arms.start, arms.stop)
    distance = np.concatenate([distance, core[:, None].repeat(_NODE_COUNT, axis=1)])
    tail = posterior.tail(np.concatenate([arm, every])[:, None], distance)
    return tail[: len(arm)], np.exp(posterior.log_density(every, core)) * tail[len(arm) :, 0]


def _mesh(edges: Floats) -> Floats:
    """One row of panel ends for all arms: nowhere are its panels longer than the shortest that an arm asks for there.

    1 / (the shortest length) is a density of panels; its integral is cut into equal steps of at most 1.
    """
    cuts = np.sort(edges, axis=None)
    left, right = edges[:, :-1].ravel(), edges[:, 1:].ravel()
    asked = right > left
    left, right = left[asked], right[asked]
    shortest = _shortest(cuts.searchsorted(left), cuts.searchsorted(right), right - left, len(cuts) - 1)
    panels = np.zeros(len(cuts))
    np.cumsum((cuts[1:] - cuts[:-1]) / shortest, out=panels[1:])
    panel_count = np.ceil(panels[-1] - 1e-9)
    steps = np.arange(panel_count + 1) / panel_count * panels[-1]
    before, after = shortest[:-1], shortest[1:]
    jumps = cuts[1:-1][(after > _JUMP * before) | (before > _JUMP * after)]
    return np.sort(np.concatenate([np.interp(steps, panels, cuts), jumps]))


def _shortest(starts: Indices, stops: Indices, lengths: Floats, count: int) -> Floats:
    """Of `count` places, the least of the lengths of the intervals that cover each.

    Each interval is the union of two, which may overlap, of the largest power of 2 that fits; these are then halved.
    """
    level = np.frexp(stops - starts)[1] - 1
    least = np.full((int(level.max()) + 1, count), np.inf)
    row = level * count
    ends = np.concatenate([row + starts, row + stops - (1 << level)])
    np.minimum.at(least.reshape(-1), ends, np.concatenate([lengths, lengths]))
    for i in range(len(least) - 1, 0, -1):
        half = 1 << (i - 1)
        np.minimum(least[i - 1], least[i], out=least[i - 1])
        np.minimum(least[i - 1, half:], least[i, :-half], out=least[i - 1, half:])
    shortest: Floats = least[0]
    return shortest


def _blocks(first: Indices, stop: Indices) -> Iterator[_Rows]:
    """Consecutive arms with their panels `first` to `stop`, as many at once as the temporary arrays have room for."""
    counts = stop - first
    block_of_arm = counts.cumsum() // _BLOCK_ROW_COUNT
    for start, end in pairwise([0, *(np.flatnonzero(np.diff(block_of_arm)) + 1).tolist(), len(counts)]):
        arms = slice(start, end)
        begin = counts[arms].cumsum() - counts[arms]
        arm = np.arange(start, end).repeat(counts[arms])
        panel = np.arange(len(arm)) - (begin - first[arms]).repeat(counts[arms])
        yield _Rows(arms, begin, arm, panel)
