"""ε-greedy: explore evenly with probability ε, otherwise show the arm with the best mean so far."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Policy, Situation, lifetime, pooled_mean
from multiarm.domain.policies.schedule import AnyDecay, scheduled

TIE_TOLERANCE = 1e-12

Booleans = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class EpsilonGreedy(Policy, frozen=True, tag="epsilon_greedy"):
    """With probability ε any arm, otherwise the arm whose mean reward is best.

    Parameters: `epsilon` in [0, 1], default 0.1; `decay`: how ε falls with the rewards counted, default not at all.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Ties (within 1e-12, relative) share equally. An arm without evidence stands by its prior where it has
    one; without either it is tried first: while there are such arms, they share the greedy part equally.
    Assumes bounded |reward| ≤ 1e12 and means that do not drift, unless there is a half-life. Fails slowly: a
    constant ε never stops exploring, so its regret grows linearly, with slope ε × the mean gap; a fall that is faster
    than `inverse` may stop exploring too soon.
    Source: Sutton and Barto, Reinforcement Learning, 2nd ed. (2018), §2.2 and equation 2.2; Auer, Cesa-Bianchi and
    Fischer (2002), theorem 3, for the inverse decay.
    """

    epsilon: Annotated[float, Meta(ge=0, le=1, description="Share of traffic that explores evenly.")] = 0.1
    decay: Annotated[AnyDecay | None, Meta(description="How ε falls; null: it stays.")] = None

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        epsilon = scheduled(self.epsilon, self.decay, lifetime(evidence, situation))
        return explored(greedy(evidence, situation), epsilon)


def greedy(evidence: Evidence, situation: Situation) -> F64:
    """All traffic to the best mean, float64[..., K]; arms of which nothing is known come first; ties share equally."""
    _, mean = pooled_mean(evidence, situation)
    value = np.where(np.isnan(mean), np.inf, -mean if situation.minimize else mean)
    best = is_best(value)
    return np.asarray(best / best.sum(axis=-1, keepdims=True))


def explored(probabilities: F64, epsilon: F64) -> F64:
    """The share ε, float64[..., 1], of the traffic split evenly, the rest as it was."""
    mixed: F64 = epsilon / probabilities.shape[-1] + (1 - epsilon) * probabilities
    return mixed


def is_best(value: F64) -> Booleans:
    """Which of the K indices float64[..., K] equal the largest, within 1e-12 relative; +inf equals itself alone."""
    top = value.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # inf − inf, where both are the largest
        gap = top - value
    tolerance = TIE_TOLERANCE * np.maximum(np.abs(top), np.abs(value))
    return np.asarray((value == top) | (np.isfinite(top) & (gap <= tolerance)))
