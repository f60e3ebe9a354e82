"""Beta posteriors of success probabilities."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from multiarm.domain.posterior_base import (
    Floats,
    Indices,
    Mirrored,
    Posterior,
    both_sides,
    log_gamma,
    require_positive,
    require_same_shape,
    tail_probability,
    tail_ratio,
)

# Below this, a parameter makes a tail so long that it hides the knee of the density from the panels by drops.
_FLAT = 0.1
_FAR = 300.0  # e^300 is finite, and log(1 + p (e^d - 1)) grows as d from there on, even for p = 1e-20


@dataclass(frozen=True, slots=True, eq=False)
class BetaPosterior:
    """Beta posteriors of success probabilities, on the logit axis.

    `alpha`, `beta`: [..., K], finite, above 0, of one shape (else ValueError); tested from 1e-3 to 1e12.
    At a distance d from the mode log(α/β), the log-density is α·d - (α+β)·log(1 + p·(e^d - 1)), p = α/(α+β).
    """

    alpha: Floats
    beta: Floats

    def __post_init__(self) -> None:
        require_same_shape(self.alpha, self.beta)
        require_positive(alpha=self.alpha, beta=self.beta)

    @property
    def mode(self) -> Floats:
        logits: Floats = np.log(self.alpha / self.beta)  # log α - log β would lose the digits that tell arms apart
        return logits

    def edges(self, below: Floats, above: Floats) -> Floats:
        # Both sides in one go: seen from below, failures and successes change places.
        sizes, sides = [len(below), len(above)], np.stack([self.beta, self.alpha], axis=-1)
        drops = np.concatenate([below, above])
        distances = _distances(sides.repeat(sizes, axis=1), sides[:, ::-1].repeat(sizes, axis=1), drops)
        edges = both_sides(distances[:, : len(below)], distances[:, len(below) :])
        flat = np.minimum(self.alpha, self.beta) < _FLAT
        if flat.any():
            knees = np.where(flat[:, None], _knees(self.mode[:, None]), 0.0)
            edges = np.sort(np.concatenate([edges, knees.clip(edges[:, :1], edges[:, -1:])], axis=1), axis=1)
        return edges

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return _log_density(self.alpha[arms], self.beta[arms], distance)

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        return tail_ratio(*_derivatives(self.alpha[arms], self.beta[arms], distance))

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.alpha[index], self.beta[index])

    def mirrored(self) -> Posterior:
        return Mirrored(self)

    def sample(self, rng: np.random.Generator) -> Floats:
        """Logits: with parameters of 1e-3 the probabilities themselves would tie at 0 and 1."""
        return log_gamma(self.alpha, rng) - log_gamma(self.beta, rng)

    def interval(self, confidence: float = 0.95) -> Floats:
        """Of the probability: [..., K, 2]."""
        from scipy.special import betainccinv, betaincinv  # here: only intervals need it, and it takes 20 MB

        tail = tail_probability(confidence)
        return np.stack([betaincinv(self.alpha, self.beta, tail), betainccinv(self.alpha, self.beta, tail)], axis=-1)


def _log_density(alpha: Floats, beta: Floats, distance: Floats) -> Floats:
    """Seen from the side of the smaller parameter, so that p <= 1/2: near 1 its few last digits would decide."""
    smaller, total = np.minimum(alpha, beta), alpha + beta
    p = smaller / total
    distance = distance * np.where(alpha <= beta, 1.0, -1.0)
    near = np.minimum(distance, _FAR)
    return smaller * distance - total * (np.log1p(p * np.expm1(near)) + (distance - near))


def _derivatives(alpha: Floats, beta: Floats, distance: Floats) -> tuple[Floats, Floats, Floats]:
    """Three of the log-density, on the axis that rises towards the side of the larger parameter."""
    smaller, total = np.minimum(alpha, beta), alpha + beta
    p, peak = smaller / total, smaller * (np.maximum(alpha, beta) / total)
    rise = np.expm1(np.minimum(distance * np.where(alpha <= beta, 1.0, -1.0), _FAR))
    growth = 1 + p * rise
    weight = -peak / growth
    share = (rise + 1) / growth
    curvature = weight * share
    return weight * rise, curvature, curvature * (1 - 2 * p * share)


def _distances(alpha: Floats, beta: Floats, drops: Floats) -> Floats:
    """How far above the mode the log-density has fallen by each of `drops`, or by up to a fifth more: [K, drops].

    The first guess is good where the log-density falls as -α(e^d - 1 - d) or, for α > β, as a normal's. A tail is
    reached by one step of Newton's method, which on a convex function never ends short of the root.
    """
    total = alpha + beta
    p, q = alpha / total, beta / total
    ratio = drops / alpha
    root = np.sqrt(2 * ratio)
    guess = np.where(alpha > beta, root / np.sqrt(q), np.log1p(ratio + root))
    near = np.minimum(guess, _FAR)
    rise = np.expm1(near)
    growth = p * rise
    fallen = total * (np.log1p(growth) + (guess - near)) - alpha * guess
    distances: Floats = guess + (drops - fallen) / (alpha * q * rise) * (1 + growth)
    return distances


def _knees(mode: Floats) -> Floats:
    """Ends of short panels about logit 0, where the density bends from e^(αy) to e^(-βy) within a few units: [K, 5].

    Relative to the mode. They reach so far past the mode and past 0 that a few millionths of the bend are left.
    """
    lower, upper = np.minimum(mode, 0.0) - mode, np.maximum(mode, 0.0) - mode
    return np.concatenate([lower - 13.0, lower - 5.0, -mode, upper + 5.0, upper + 13.0], axis=1)
