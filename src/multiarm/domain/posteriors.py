"""Families of posteriors of an arm's value: Beta, Normal, Student t, Gamma.

Each is frozen arrays of parameters, [..., K], and offers what `posterior_base.Posterior` says: what the quadrature of
`probability_best` needs, its mirror image, samples and intervals.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from multiarm.domain.posterior_base import (
    Density,
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
from multiarm.domain.posterior_beta import BetaPosterior

__all__ = [
    "BetaPosterior",
    "Density",
    "GammaPosterior",
    "Mirrored",
    "NormalPosterior",
    "Posterior",
    "StudentPosterior",
    "log_gamma",
]

# A Student t's panels grow by these factors at most, in units of log distance: first where a polynomial of degree 15
# must follow the density to 1e-12, then beyond a drop of 41, where its integral alone must be right to 1e-3.
_STEP, _LONG_STEP = 0.8, 2.0
_FURTHEST = 1e13  # scales; beyond, the mode and the end of the window could not both keep their digits
_FAR = 300.0  # e^300 is finite
_SMALLEST = 1e-300  # below lie the numbers that have lost digits
_MINUS_ONE, _ZERO = np.array(-1.0), np.array(0.0)

# A Gamma's shape below this makes a lower tail so long that it hides the knee by the mode: panels end there too.
_FLAT = 0.1
_KNEES = np.array([-13.0, -5.0])


@dataclass(frozen=True, slots=True, eq=False)
class NormalPosterior:
    """Normal posteriors of means, on the line itself.

    `mean`, `scale` (the standard deviation): [..., K], finite, of one shape; `scale` above 0 (else ValueError).
    """

    mean: Floats
    scale: Floats

    def __post_init__(self) -> None:
        require_same_shape(self.mean, self.scale)
        require_positive(scale=self.scale)
        _require_finite(mean=self.mean)

    @property
    def mode(self) -> Floats:
        return self.mean

    def edges(self, below: Floats, above: Floats) -> Floats:
        deviations = np.concatenate([-np.sqrt(2 * below[::-1]), [0.0], np.sqrt(2 * above)])
        edges: Floats = self.scale[:, None] * deviations
        return edges

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        deviations = distance / self.scale[arms]
        return -0.5 * deviations * deviations

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        scale = self.scale[arms]
        return scale * tail_ratio(distance / scale, _MINUS_ONE, _ZERO)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.mean[index], self.scale[index])

    def mirrored(self) -> Posterior:
        return Mirrored(self)

    def sample(self, rng: np.random.Generator) -> Floats:
        return self.mean + self.scale * rng.standard_normal(self.mean.shape)

    def interval(self, confidence: float = 0.95) -> Floats:
        """Of the mean: [..., K, 2]."""
        from scipy.special import ndtri  # here: only intervals need it, and it takes 20 MB

        half_width = -self.scale * ndtri(tail_probability(confidence))
        return np.stack([self.mean - half_width, self.mean + half_width], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class StudentPosterior:
    """Student t posteriors of means whose variance is not known either, on the line itself.

    `mean`, `scale`, `freedom` (degrees of freedom): [..., K], finite, of one shape; `scale` and `freedom` above 0
    (else ValueError); tested with freedoms from 1 to 1e8. At t scales from the mode the log-density is
    -(ν+1)/2·log(1 + t²/ν). With t = √ν·sinh u, the density of u is cosh(u)^-ν, which is concave in its logarithm.
    """

    mean: Floats
    scale: Floats
    freedom: Floats

    def __post_init__(self) -> None:
        require_same_shape(self.mean, self.scale, self.freedom)
        require_positive(scale=self.scale, freedom=self.freedom)
        _require_finite(mean=self.mean)

    @property
    def mode(self) -> Floats:
        return self.mean

    def edges(self, below: Floats, above: Floats) -> Floats:
        """By drops of the density of u, and in steps of u short enough. No further out than `_FURTHEST` scales."""
        freedom = self.freedom[:, None]
        falls = np.concatenate([below, above]) / freedom
        ends = falls + np.log1p(np.sqrt(-np.expm1(-2 * falls)))  # arcosh(e^falls)
        ends = np.minimum(ends, np.arcsinh(_FURTHEST / np.sqrt(freedom)))
        u = both_sides(ends[:, : len(below)], ends[:, len(below) :])
        counts = (u[:, 1:] - u[:, :-1]) / np.where(np.concatenate([below[::-1], above]) < 41, _STEP, _LONG_STEP)
        if counts.max() > 1:
            u = _split(u, np.ceil(counts))
        distances: Floats = self.scale[:, None] * np.sqrt(freedom) * np.sinh(u)
        return distances

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        deviations, freedom = distance / self.scale[arms], self.freedom[arms]
        return -(freedom + 1) / 2 * np.log1p(deviations * deviations / freedom)

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        """`tail_ratio` of the density of u, with derivatives by √ν·u, in units of t: for few freedoms it is t/ν."""
        scale, freedom = self.scale[arms], self.freedom[arms]
        deviations = distance / scale
        spread = 1 + deviations * deviations / freedom  # cosh² u
        slope = -deviations / np.sqrt(spread)
        ratio = tail_ratio(slope, -1 / spread, -2 / freedom * slope / spread)
        return scale * ratio * np.sqrt(spread)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.mean[index], self.scale[index], self.freedom[index])

    def mirrored(self) -> Posterior:
        return Mirrored(self)

    def sample(self, rng: np.random.Generator) -> Floats:
        return self.mean + self.scale * rng.standard_t(self.freedom)

    def interval(self, confidence: float = 0.95) -> Floats:
        """Of the mean: [..., K, 2]."""
        from scipy.special import stdtrit

        half_width = -self.scale * stdtrit(self.freedom, tail_probability(confidence))
        return np.stack([self.mean - half_width, self.mean + half_width], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class GammaPosterior:
    """Gamma posteriors of rates, on the axis of their logarithms.

    `shape`, `rate` (one over the scale): [..., K], finite, above 0, of one shape (else ValueError); tested with shapes
    from 1e-3 to 1e12. At a distance d from the mode log(shape/rate) the log-density is shape·(d - (e^d - 1)).
    """

    shape: Floats
    rate: Floats

    def __post_init__(self) -> None:
        require_same_shape(self.shape, self.rate)
        require_positive(shape=self.shape, rate=self.rate)

    @property
    def mode(self) -> Floats:
        with np.errstate(over="ignore", under="ignore"):
            mean = self.shape / self.rate  # log shape - log rate would lose the digits that tell arms apart
        safe = (mean > _SMALLEST) & (mean < np.inf)
        if safe.all():
            return np.log(mean)
        return np.where(safe, np.log(np.where(safe, mean, 1.0)), np.log(self.shape) - np.log(self.rate))

    def edges(self, below: Floats, above: Floats) -> Floats:
        shape = self.shape[:, None]
        edges = both_sides(_gamma_below(below / shape), _gamma_above(above / shape))
        flat = shape < _FLAT
        if flat.any():
            knees = np.where(flat, _KNEES, 0.0).clip(edges[:, :1], edges[:, -1:])
            edges = np.sort(np.concatenate([edges, knees], axis=1), axis=1)
        return edges

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return self.shape[arms] * (distance - np.expm1(np.minimum(distance, _FAR)))

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        shape = self.shape[arms]
        rise = np.expm1(np.minimum(distance, _FAR))
        curvature = -shape * (rise + 1)
        return tail_ratio(-shape * rise, curvature, curvature)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.shape[index], self.rate[index])

    def mirrored(self) -> Posterior:
        return Mirrored(self)

    def sample(self, rng: np.random.Generator) -> Floats:
        """Logarithms: with shapes of 1e-3 the rates themselves would tie at 0."""
        return log_gamma(self.shape, rng) - np.log(self.rate)

    def interval(self, confidence: float = 0.95) -> Floats:
        """Of the rate: [..., K, 2]."""
        from scipy.special import gammainccinv, gammaincinv

        tail = tail_probability(confidence)
        return np.stack([gammaincinv(self.shape, tail), gammainccinv(self.shape, tail)], axis=-1) / self.rate[..., None]


def _split(ends: Floats, counts: Floats) -> Floats:
    """Panels [K, E] between `ends` [K, e], each cut into so many equal ones: [K, e - 1]. E > e; the last are empty."""
    knots = np.zeros_like(ends)
    counts.cumsum(axis=1, out=knots[:, 1:])
    size = max(int(knots.max()) + 1, ends.shape[1] + 1)
    # All arms in one call: each on its own stretch of numbers.
    stretch = size * np.arange(len(ends))[:, None]
    panels = np.minimum(np.arange(size), knots[:, -1:]) + stretch
    split: Floats = np.interp(panels.ravel(), (knots + stretch).ravel(), ends.ravel()).reshape(panels.shape)
    return split


def _gamma_below(ratio: Floats) -> Floats:
    """Where e^-d - 1 + d is `ratio` or somewhat more: a guess good for small and large ones, and a step of Newton's."""
    guess = ratio + np.sqrt(2 * ratio)
    rise = -np.expm1(-guess)
    return guess - (guess - rise - ratio) / rise


def _gamma_above(ratio: Floats) -> Floats:
    """Where e^d - 1 - d is `ratio` or somewhat more, likewise."""
    rise = ratio + np.sqrt(2 * ratio)
    guess = np.log1p(rise)
    return guess - (rise - guess - ratio) / rise


def _require_finite(**parameters: Floats) -> None:
    for name, values in parameters.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite")
