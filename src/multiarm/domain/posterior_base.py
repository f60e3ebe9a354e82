"""What a family of posteriors must offer, its mirror image, and what the families share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Density(Protocol):
    """Independent posteriors of one family, one for each of K arms, on an axis where their densities are smooth.

    The axis rises with the value that makes an arm good: say, the logit of a probability, the logarithm of a rate.
    Distances are measured from an arm's mode, so that centres far from 0 cost no digits.
    """

    @property
    def mode(self) -> Floats:
        """Where each density is largest, on the axis: [..., K]."""

    def edges(self, below: Floats, above: Floats) -> Floats:
        """Where the panels that each arm asks for end, as distances from its mode, rising: [K, E].

        At the mode; about where the log-density has fallen by each of those drops (positive, rising) on either side;
        and wherever else a polynomial of degree 15 needs it. Beyond the first and the last edge lies a mass of about
        e^-(the last drop). A panel may be empty (two equal edges). Where E is the number of drops and 1, they are the
        mode and the drops of every arm, in order.
        """

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        """Of those arms, at a distance from their modes, less the log-density at the mode; `arms` broadcasts."""

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        """The mass beyond a distance (further from the mode, on the same side) over the density there.

        Relative error below 1e-3 where the log-density has fallen by 40 or more; at the mode the right magnitude.
        """

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        """Some of K arms; or, where there are leading dimensions, the K arms at one index of them."""


class Posterior(Density, Protocol):
    """A family that can do all that a policy asks for."""

    def mirrored(self) -> "Posterior":
        """The same arms with the axis turned round: the best is the one with the smallest value."""

    def sample(self, rng: np.random.Generator) -> Floats:
        """One draw an arm, on the axis, so that the largest is the winner: [..., K]."""

    def interval(self, confidence: float = 0.95) -> Floats:
        """Equal-tailed credible interval of the value (not of the axis, never mirrored), rising: [..., K, 2].

        `confidence` lies in (0, 1); else ValueError.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Mirrored:
    """Another family with its axis turned round. Nothing is computed anew, so nothing loses digits."""

    posterior: Posterior

    @property
    def mode(self) -> Floats:
        return -self.posterior.mode

    def edges(self, below: Floats, above: Floats) -> Floats:
        return -self.posterior.edges(above, below)[:, ::-1]

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return self.posterior.log_density(arms, -distance)

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        return self.posterior.tail(arms, -distance)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.posterior[index])

    def mirrored(self) -> Posterior:
        return self.posterior

    def sample(self, rng: np.random.Generator) -> Floats:
        return -self.posterior.sample(rng)

    def interval(self, confidence: float = 0.95) -> Floats:
        return self.posterior.interval(confidence)


def log_gamma(shape: Floats, rng: np.random.Generator) -> Floats:
    """Logarithms of Gamma(shape, 1) draws, by G(a) = G(a + 1)·U^(1/a): exact where G itself would be 0."""
    uniform = -rng.standard_exponential(shape.shape)
    return np.asarray(np.log(rng.standard_gamma(shape + 1)) + uniform / shape)


def tail_ratio(slope: Floats, curvature: Floats, third: Floats) -> Floats:
    """Mass beyond a point over the density there, from three derivatives of a concave log-density.

    4 / (3x + sqrt(x² + 8)) for a normal (Sampford 1953); exact for an exponential; of the right size at the mode. In a
    tail the third derivative adds its term of Laplace's expansion.
    """
    ratio = 4 / (3 * np.abs(slope) + np.sqrt(slope * slope - 8 * curvature))
    cubed = ratio * ratio * np.copysign(ratio, slope)  # a power takes longer than all the rest
    corrected: Floats = ratio * (1 - (third * cubed).clip(-0.5, 0.5))
    return corrected


def both_sides(below: Floats, above: Floats) -> Floats:
    """Edges [K, m + 1 + n] about the mode from distances [K, m] below and [K, n] above it."""
    return np.concatenate([-below[:, ::-1], np.zeros_like(below[:, :1]), above], axis=1)


def tail_probability(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2


def require_same_shape(first: Floats, second: Floats, *others: Floats) -> None:
    shapes = [values.shape for values in (first, second, *others)]
    if len(set(shapes)) > 1 or first.ndim == 0 or first.size == 0:
        raise ValueError(f"the parameters must have one shape, [..., arms]; got {listed(shapes)}")


def require_positive(**parameters: Floats) -> None:
    for name, values in parameters.items():
        if not 0 < values.min() <= values.max() < np.inf:
            raise ValueError(f"{name} must be finite and above 0")


def listed(values: Iterable[object]) -> str:
    return " and ".join(map(str, values))
