"""The probability that each arm is the best, from log-densities alone.

`P(arm k is best) = ∫ f_k(y) ∏_{j≠k} F_j(y) dy`, where `f_k` is the density of arm k's value on some axis and `F_k`
its distribution function. The integral is taken on panels of 16 Gauss-Legendre nodes, everywhere as short as the
narrowest posterior nearby asks for. A density need be known only up to a factor: its integral over the panels
normalises it, and its integral up to a node is its distribution function there.

A probability is a sum of positive terms, never one minus something, so small ones are right as well: to a relative
1e-3 down to 1e-12. Below about 1e-17, where the posteriors' windows no longer meet, it is 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_NODE_COUNT = 16

# A family's panels end at these distances from the mode, in standard deviations of a normal; in another family, where
# the log-density has fallen as far as a normal's has there. Beyond the last one lies a mass of e^-40.
_DEVIATIONS = np.array([1.2, 2.6, 4.3, 6.5, 9.0])
_DROPS = _DEVIATIONS**2 / 2

# Below this, a Beta parameter makes a tail so long that it hides the knee of the density from the panels by drops.
_FLAT = 0.1
_FAR = 300.0  # e^300 is finite, and log(1 + p (e^d - 1)) grows as d from there on, even for p = 1e-20

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


class Posterior(Protocol):
    """Independent posteriors of one family, one for each of K arms, on an axis where their densities are smooth.

    The axis rises with the value that makes an arm good: say, the logit of a probability, the logarithm of a rate.
    """

    @property
    def mode(self) -> Floats:
        """Where each density is largest, on the axis: [..., K]."""

    def edges(self) -> Floats:
        """Where the panels that each arm asks for end, as distances from its mode, rising: [K, E].

        Within a panel a polynomial of degree 15 follows the density to about 1e-12 of the arm's mass; outside the
        first and the last edge there is no more than 1e-17 of it. A panel may be empty (two equal edges).
        """

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        """Of those arms, at a distance from their modes, less the log-density at the mode; `arms` broadcasts."""

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        """Some of K arms; or, where there are leading dimensions, the K arms at one index of them."""


@dataclass(frozen=True, slots=True, eq=False)
class BetaPosterior:
    """Beta posteriors of success probabilities, on the logit axis.

    `alpha`, `beta`: [..., K], finite, above 0, of one shape (else ValueError); tested from 1e-3 to 1e12.
    At a distance d from the mode log(α/β), the log-density is α·d - (α+β)·log(1 + p·(e^d - 1)), p = α/(α+β).
    """

    alpha: Floats
    beta: Floats

    def __post_init__(self) -> None:
        _require_same_shape(self.alpha, self.beta)
        _require_positive(alpha=self.alpha, beta=self.beta)

    @property
    def mode(self) -> Floats:
        logits: Floats = np.log(self.alpha / self.beta)  # log α - log β would lose the digits that tell arms apart
        return logits

    def edges(self) -> Floats:
        below, above = _beta_distances(np.array([self.beta, self.alpha]), np.array([self.alpha, self.beta]))
        edges = np.concatenate([-below[:, ::-1], np.zeros_like(below[:, :1]), above], axis=1)
        flat = np.minimum(self.alpha, self.beta) < _FLAT
        if flat.any():
            knees = np.where(flat[:, None], _beta_knees(self.mode[:, None]), 0.0)
            edges = np.sort(np.concatenate([edges, knees.clip(edges[:, :1], edges[:, -1:])], axis=1), axis=1)
        return edges

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return _beta_log_density(self.alpha[arms], self.beta[arms], distance)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.alpha[index], self.beta[index])


@dataclass(frozen=True, slots=True, eq=False)
class NormalPosterior:
    """Normal posteriors of means, on the line itself.

    `mean`, `scale` (the standard deviation): [..., K], finite, of one shape; `scale` above 0 (else ValueError).
    """

    mean: Floats
    scale: Floats

    def __post_init__(self) -> None:
        _require_same_shape(self.mean, self.scale)
        _require_positive(scale=self.scale)
        if not np.isfinite(self.mean).all():
            raise ValueError("mean must be finite")

    @property
    def mode(self) -> Floats:
        return self.mean

    def edges(self) -> Floats:
        edges: Floats = self.scale[:, None] * np.concatenate([-_DEVIATIONS[::-1], [0.0], _DEVIATIONS])
        return edges

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        deviations = distance / self.scale[arms]
        return -0.5 * deviations * deviations

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.mean[index], self.scale[index])


def probability_best(posterior: Posterior) -> Floats:
    """P(arm k has the largest value), for every arm: [..., K], the shape of `posterior.mode`; at least one arm.

    Never negative; sums to 1 over the arms, within 1e-14; absolute error below 1e-10 for any mixture of scales.
    """
    mode = posterior.mode
    if mode.ndim == 1:
        return _probability_best(posterior)
    best = np.empty_like(mode)
    for index in np.ndindex(mode.shape[:-1]):
        best[index] = _probability_best(posterior[index])
    return best


def _probability_best(posterior: Posterior) -> Floats:
    """For K arms. One whose window ends below the beginning of another's cannot be best: only the others contend."""
    mode, distances = posterior.mode, posterior.edges()
    best = np.zeros(len(mode))
    contenders = np.flatnonzero(mode + distances[:, -1] >= (mode + distances[:, 0]).max())
    if len(contenders) < len(best):
        posterior, mode, distances = posterior[contenders], mode[contenders], distances[contenders]
    # The windows of contenders meet, so from the mode of the narrowest no mode is more than a few of its own scales
    # away. Measured from there, however unlike the scales are, no distance loses its digits.
    mode = mode - mode[np.argmin(distances[:, -1] - distances[:, 0])]
    best[contenders] = _integrate(posterior, mode, mode[:, None] + distances)
    best /= best.sum()
    return best


class _Rows(NamedTuple):
    """Some arms, each on the panels of its window: a row is one arm on one panel; an arm's rows stand together."""

    arms: slice
    begin: Indices  # [arms]: the first row of each arm
    arm: Indices  # [rows]
    panel: Indices  # [rows]


def _integrate(posterior: Posterior, mode: Floats, edges: Floats) -> Floats:
    """P(k is best) = ∫ (f_k / F_k) ∏_j F_j: one product, shared by all arms. F_j is 0 below arm j's window, 1 above."""
    mesh = _mesh(edges)
    first = mesh.searchsorted(edges[:, 0], "right") - 1
    stop = mesh.searchsorted(edges[:, -1], "left")
    product = np.ones((len(mesh) - 1, _NODE_COUNT))
    blocks = []
    for rows in _blocks(first, stop):
        growth, cdf = _evaluate(posterior, mode, mesh, rows)
        for arm, row in enumerate(rows.begin.tolist(), rows.arms.start):
            product[first[arm] : stop[arm]] *= cdf[row : row + stop[arm] - first[arm]]
        blocks.append((rows, growth))
    product[: first.max()] = 0.0
    best = np.empty(len(mode))
    for rows, growth in blocks:
        best[rows.arms] = np.add.reduceat((growth * product[rows.panel]) @ _WEIGHTS, rows.begin)
    return best


def _evaluate(posterior: Posterior, mode: Floats, mesh: Floats, rows: _Rows) -> tuple[Floats, Floats]:
    """Density / distribution function, times the panel's length; and the distribution function: both [rows, N]."""
    arm, panel = rows.arm, rows.panel
    length = (mesh[1:] - mesh[:-1])[panel, None]
    # The mode is taken off the panel's end, not off each node: near the mode that is exact.
    distance = (mesh[panel] - mode[arm])[:, None] + length * _NODES
    density = np.exp(posterior.log_density(arm[:, None], distance)) * length
    row_of_block = arm - rows.arms.start
    mass = np.zeros((len(rows.begin), len(mesh)))
    mass[row_of_block, panel + 1] = density @ _WEIGHTS
    total = mass.sum(axis=1)
    density /= total[row_of_block, None]
    cdf = density @ _RUNNING
    cdf += (mass.cumsum(axis=1) / total[:, None])[row_of_block, panel, None]
    np.maximum(cdf, _TINY, out=cdf)
    return density / cdf, cdf


def _mesh(edges: Floats) -> Floats:
    """One row of panel ends for all arms: nowhere are its panels longer than the shortest that an arm asks for there.

    1 / (the shortest length) is a density of panels; its integral is cut into equal steps of at most 1.
    """
    cuts = np.sort(edges, axis=None)
    left, right = edges[:, :-1].ravel(), edges[:, 1:].ravel()
    longest_first = np.argsort(left - right)
    lengths = (right - left)[longest_first]
    starts, stops = cuts.searchsorted(left)[longest_first], cuts.searchsorted(right)[longest_first]
    shortest = np.full(len(cuts) - 1, np.inf)
    for start, stop, length in zip(starts.tolist(), stops.tolist(), lengths.tolist(), strict=True):
        shortest[start:stop] = length
    panels = np.zeros(len(cuts))
    np.cumsum((cuts[1:] - cuts[:-1]) / shortest, out=panels[1:])
    panel_count = np.ceil(panels[-1] - 1e-9)
    steps = np.arange(panel_count + 1) / panel_count * panels[-1]
    before, after = shortest[:-1], shortest[1:]
    jumps = cuts[1:-1][(after > _JUMP * before) | (before > _JUMP * after)]
    return np.sort(np.concatenate([np.interp(steps, panels, cuts), jumps]))


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


def _beta_log_density(alpha: Floats, beta: Floats, distance: Floats) -> Floats:
    """Seen from the side of the smaller parameter, so that p <= 1/2: near 1 its few last digits would decide."""
    smaller, total = np.minimum(alpha, beta), alpha + beta
    p = smaller / total
    distance = distance * np.where(alpha <= beta, 1.0, -1.0)
    near = np.minimum(distance, _FAR)
    return smaller * distance - total * (np.log1p(p * np.expm1(near)) + (distance - near))


def _beta_distances(alpha: Floats, beta: Floats) -> Floats:
    """How far above the mode the log-density has fallen by each of `_DROPS`, or by up to a fifth more: [..., drops].

    The first guess is good where the log-density falls as -α(e^d - 1 - d) or, for α > β, as a normal's. A tail is
    reached by one step of Newton's method, which on a convex function never ends short of the root.
    """
    alpha, beta = alpha[..., None], beta[..., None]
    p, q = alpha / (alpha + beta), beta / (alpha + beta)
    ratio = _DROPS / alpha
    guess = np.where(alpha > beta, np.sqrt(2 * ratio / q), np.log1p(ratio + np.sqrt(2 * ratio)))
    rise = np.expm1(np.minimum(guess, _FAR))
    slope = alpha * q * rise / (1 + p * rise)
    return guess + (_DROPS + _beta_log_density(alpha, beta, guess)) / slope


def _beta_knees(mode: Floats) -> Floats:
    """Ends of short panels about logit 0, where the density bends from e^(αy) to e^(-βy) within a few units: [K, 5].

    Relative to the mode. They reach so far past the mode and past 0 that a few millionths of the bend are left.
    """
    lower, upper = np.minimum(mode, 0.0) - mode, np.maximum(mode, 0.0) - mode
    return np.concatenate([lower - 13.0, lower - 5.0, -mode, upper + 5.0, upper + 13.0], axis=1)


def _require_same_shape(first: Floats, second: Floats) -> None:
    if first.shape != second.shape or first.ndim == 0 or first.size == 0:
        raise ValueError(f"the parameters must have one shape, [..., arms]; got {first.shape} and {second.shape}")


def _require_positive(**parameters: Floats) -> None:
    for name, values in parameters.items():
        if not 0 < values.min() <= values.max() < np.inf:
            raise ValueError(f"{name} must be finite and above 0")
