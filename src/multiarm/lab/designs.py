"""Tests planned beforehand: how many visitors an arm needs, and where the boundaries of a group-sequential test lie.

Boundaries are one-sided, in z: an arm that is compared with another at `level` is declared better when its z reaches
them. Two arms, each at α/2, make the usual two-sided test at α.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, sqrt

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

F64 = NDArray[np.float64]

NODE_COUNT = 160  # per look; boundaries are then right to about 1e-8
REACH = 9.0  # standard deviations below which a path is taken for lost
LARGEST_Z = 37.0  # z of the smallest probability that is a double


@cache
def nodes_and_weights() -> tuple[F64, F64]:
    """Of Gauss and Legendre on [−1, 1]."""
    return legendre.leggauss(NODE_COUNT)


def normal_power(drift: float, limit: float, rivals: int) -> float:
    """P(all of `rivals` z-values with mean `drift` and correlation ½ reach `limit`): one arm against each other one.

    Correlation ½ because they share the arm; Dunnett (1955), by one integral over its deviation.
    """
    x, weights = nodes_and_weights()
    shared = REACH * x
    density = np.exp(-(shared**2) / 2) / sqrt(2 * np.pi)
    alone = ndtr((drift - limit + shared * sqrt(0.5)) * sqrt(2.0))
    return float(REACH * (weights * density * alone**rivals).sum())


def needed_drift(level: float, power: float, rivals: int) -> float:
    """The mean of each z with which an arm beats all `rivals` at one-sided `level` with probability `power`."""
    limit = float(-ndtri(level))
    return float(brentq(lambda drift: normal_power(drift, limit, rivals) - power, limit - REACH, limit + REACH))


def fixed_size(base_rate: float, better_rate: float, arms: int, alpha: float, power: float) -> int:
    """Visitors an arm, so that one arm at `better_rate` beats the K−1 others at `base_rate` with P = `power`.

    n = (z √(2 p̄ q̄) + z′ √(p₁q₁ + p₂q₂))² / (p₁ − p₂)², the two-proportion z-test with pooled variance (Fleiss, Levin
    and Paik 2003, eq. 4.14, without continuity correction); z of level α/K, z + z′ the drift of `needed_drift`: for two
    arms z_(α/2) and z_power. Rates in (0, 1).
    """
    level = alpha / arms
    limit = float(-ndtri(level))
    mean = (base_rate + better_rate) / 2
    pooled = sqrt(2 * mean * (1 - mean))
    apart = sqrt(base_rate * (1 - base_rate) + better_rate * (1 - better_rate))
    beyond = needed_drift(level, power, arms - 1) - limit
    return ceil(((limit * pooled + beyond * apart) / (better_rate - base_rate)) ** 2)


def obrien_fleming_spent(fraction: F64, level: float) -> F64:
    """Level spent when `fraction` in (0, 1] of the information is in: 2 − 2Φ(z_(level/2) / √fraction).

    Lan and DeMets (1983), the spending function α₁*, which approximates the boundary of O'Brien and Fleming (1979).
    """
    return np.asarray(2 * ndtr(ndtri(level / 2) / np.sqrt(fraction)))


@dataclass(slots=True)
class Paths:
    """Scores that have crossed no boundary yet: nodes, and the mass at each. Increments are Normal(drift, 1) a look."""

    drift: float
    nodes: F64
    mass: F64

    def crossing(self, score: float) -> float:
        """P(no boundary so far, and the next score is at least `score`)."""
        return float((self.mass * ndtr(self.nodes + self.drift - score)).sum())

    def beyond(self, score: float, look: int) -> "Paths":
        """The same after look number `look` (1, 2 …) with its boundary at `score`."""
        x, weights = nodes_and_weights()
        low = look * self.drift - REACH * sqrt(look)
        half = max(score - low, 0.0) / 2
        nodes = low + half * (x + 1)
        away = nodes[:, None] - self.nodes - self.drift
        density = (np.exp(-(away**2) / 2) / sqrt(2 * np.pi)) @ self.mass
        return Paths(self.drift, nodes, half * weights * density)


def beginning(drift: float) -> Paths:
    return Paths(drift, np.zeros(1), np.ones(1))


def spending_boundaries(looks: int, level: float) -> F64:
    """z boundaries float64[looks] that spend `level` as `obrien_fleming_spent` says, looks evenly spaced.

    Exact recursive integration (Armitage, McPherson and Rowe 1969; Jennison and Turnbull 2000, ch. 19), Gauss-Legendre.
    """
    spent = np.diff(obrien_fleming_spent(np.arange(looks + 1)[1:] / looks, level), prepend=0.0)
    paths, boundaries = beginning(0.0), np.empty(looks)
    for look in range(1, looks + 1):
        root = sqrt(look)
        boundaries[look - 1] = boundary_that_spends(paths, float(spent[look - 1]), level, look, looks)
        paths = paths.beyond(boundaries[look - 1] * root, look)
    return boundaries


def boundary_that_spends(paths: Paths, probability: float, level: float, look: int, looks: int) -> float:
    """z at which the next look crosses with `probability`; the first one by its formula, for it may be tiny."""
    if look == 1:
        log_spent = np.log(2) + log_ndtr(float(ndtri(level / 2)) * sqrt(looks))
        return float(min(-ndtri_exp(log_spent), LARGEST_Z))
    root = sqrt(look)
    if paths.crossing(LARGEST_Z * root) >= probability:
        return LARGEST_Z
    return float(brentq(lambda z: paths.crossing(z * root) / probability - 1, -REACH, LARGEST_Z, xtol=1e-12))


def crossing_probabilities(boundaries: F64, drift: float = 0.0) -> F64:
    """P(the first crossing is at look k), float64[looks], when z has mean drift · √k there."""
    paths, crossed = beginning(drift), np.empty(len(boundaries))
    for look, z in enumerate(boundaries, start=1):
        crossed[look - 1] = paths.crossing(float(z) * sqrt(look))
        paths = paths.beyond(float(z) * sqrt(look), look)
    return crossed


@dataclass(frozen=True, slots=True)
class GroupSequential:
    """boundaries: z float64[looks]; sizes: visitors an arm at each look, int64[looks]."""

    boundaries: F64
    sizes: NDArray[np.int64]


def group_sequential(
    base_rate: float, better_rate: float, *, arms: int, alpha: float, power: float, looks: int
) -> GroupSequential:
    """Each pair of arms at one-sided α/K, an arm being declared once it has crossed against each other one.

    The size is that of `fixed_size`, inflated so that a pair crosses with the same probability as in the fixed test.
    """
    level = alpha / arms
    boundaries = spending_boundaries(looks, level)
    fixed_drift = needed_drift(level, power, arms - 1)
    pair_power = float(ndtr(fixed_drift - float(-ndtri(level))))
    drift = sqrt(looks) * float(
        brentq(lambda each: crossing_probabilities(boundaries, each).sum() - pair_power, 0.0, fixed_drift + 1)
    )
    size = fixed_size(base_rate, better_rate, arms, alpha, power) * (drift / fixed_drift) ** 2
    sizes = np.array([ceil(size * look / looks) for look in range(1, looks + 1)], dtype=np.int64)
    return GroupSequential(boundaries, sizes)
