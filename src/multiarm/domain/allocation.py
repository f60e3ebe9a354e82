"""From a policy's probabilities to an arm: guardrails, a cumulative vector, one random number, one bisection."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Self

import numpy as np

from multiarm.domain.arm import Arm
from multiarm.domain.errors import FloorTooHigh
from multiarm.domain.evidence import F64

FLOOR_TOLERANCE = 1e-12  # ten arms with a floor of 0.1 each fill the traffic, rounding or not


class Share:
    """One arm's part of an allocation, from which draws are answered.

    number: of the arm, here because each draw needs it: with many arms, each object that a draw looks at lies somewhere
    else. random_below: a random number that fell to this arm, below this one, came from the random share. rendered: for
    whoever shows the same share many times.
    """

    __slots__ = ("arm", "number", "propensity", "random_below", "rendered")

    def __init__(self, arm: Arm, propensity: float, random_below: float) -> None:
        self.arm = arm
        self.number = arm.number
        self.propensity = propensity
        self.random_below = random_below
        self.rendered: Any = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """Probabilities over the K enabled arms, ready to draw from.

    random_mass: the part of each arm's probability that the random share put there. version: of arms, policy,
    guardrails and epoch; evidence_version and computed_at (seconds since the epoch): what it was computed from.
    """

    arms: tuple[Arm, ...]
    probabilities: tuple[float, ...]
    random_mass: float
    version: int
    evidence_version: int
    computed_at: float
    cumulative: tuple[float, ...]
    shares: tuple[Share, ...] = field(compare=False)

    @classmethod
    def over(
        cls,
        arms: Sequence[Arm],
        probabilities: Sequence[float],
        *,
        random_mass: float = 0.0,
        version: int = 0,
        evidence_version: int = 0,
        computed_at: float = 0.0,
    ) -> Self:
        cumulative = cumulate(probabilities)
        starts = (0.0, *cumulative[:-1])
        shares = [Share(arm, p, start + random_mass) for arm, p, start in zip(arms, probabilities, starts, strict=True)]
        return cls(
            tuple(arms),
            tuple(probabilities),
            random_mass,
            version,
            evidence_version,
            computed_at,
            cumulative,
            tuple(shares),
        )

    def choose(self, us: Iterable[float]) -> list[Share]:
        """The arm for each u, uniform on [0, 1). An arm of probability 0 is never chosen."""
        shares, cumulative = self.shares, self.cumulative
        return [shares[bisect_right(cumulative, u)] for u in us]

    def restricted(self, enabled: Sequence[Arm], version: int) -> Self | None:
        """A stand-in until the allocation of `version` is there: arms not enabled masked, the rest renormalised.

        None where no probability is left.
        """
        probability = {arm.number: p for arm, p in zip(self.arms, self.probabilities, strict=True)}
        kept = [probability.get(arm.number, 0.0) for arm in enabled]
        total = sum(kept)
        if total <= 0:
            return None
        return self.over(
            enabled,
            [p / total for p in kept],
            random_mass=self.random_mass / total,
            version=version,
            evidence_version=self.evidence_version,
            computed_at=self.computed_at,
        )


def cumulate(probabilities: Sequence[float]) -> tuple[float, ...]:
    """Running sums; from the last arm with any probability on exactly 1, so that no u < 1 falls past it."""
    sums = list(accumulate(probabilities))
    last = max(index for index, p in enumerate(probabilities) if p > 0)
    sums[last:] = [1.0] * (len(sums) - last)
    return tuple(sums)


def guarded(probabilities: F64, random_share: float, floor: float) -> tuple[F64, float]:
    """Mix in the random share s, then the floor f, over n arms: p ← s/n + (1−s)p, then p ← f + (1−nf)p.

    Returns the probabilities, float64[n], and the part s(1−nf)/n of each that the random share put there.
    """
    count = probabilities.shape[-1]
    require_room(floor, count)
    above_floor = max(1 - count * floor, 0.0)
    mixed = random_share / count + (1 - random_share) * probabilities
    return floor + above_floor * mixed, above_floor * random_share / count


def require_room(floor: float, enabled_count: int) -> None:
    """FloorTooHigh where a floor under each of the enabled arms is more than the whole traffic."""
    if enabled_count * floor > 1 + FLOOR_TOLERANCE:
        raise FloorTooHigh(
            f"{enabled_count} enabled arms × a floor of {floor:g} is more than the whole traffic; "
            "disable or delete an arm first."
        )


def checked(probabilities: F64, count: int) -> F64:
    """`probabilities` if they are what a policy owes: n finite numbers, none negative, of sum 1 within 1e-9."""
    if probabilities.shape != (count,) or not np.isfinite(probabilities).all():
        raise ArithmeticError(f"the policy's probabilities are not {count} finite numbers: {probabilities}")
    if probabilities.min() < 0 or abs(float(probabilities.sum()) - 1) > 1e-9:
        raise ArithmeticError(f"the policy's probabilities do not form a distribution: {probabilities}")
    return probabilities
