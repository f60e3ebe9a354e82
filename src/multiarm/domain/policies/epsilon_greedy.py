"""ε-greedy: explore evenly with probability ε, otherwise show the arm with the best mean so far."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import Policy, PseudoCounts, pooled

TIE_TOLERANCE = 1e-12


class EpsilonGreedy(Policy, frozen=True, tag="epsilon_greedy"):
    """With probability ε any arm, otherwise the arm whose mean reward is highest.

    Parameters: `epsilon` in [0, 1], default 0.1.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Ties (within 1e-12, relative) share equally. An arm without evidence stands by its prior where it has
    one; without either it is tried first: while there are such arms, they share the greedy part equally.
    Assumes bounded |reward| ≤ 1e12 and means that do not drift, unless there is a half-life. Fails slowly: a
    constant ε never stops exploring, so its regret grows linearly, with slope ε × the mean gap.
    Source: Sutton and Barto, Reinforcement Learning, 2nd ed. (2018), §2.2 and equation 2.2.
    """

    epsilon: Annotated[float, Meta(ge=0, le=1, description="Share of traffic that explores evenly.")] = 0.1

    def allocate(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        pulls, reward = pooled(evidence, prior)
        known = pulls > 0
        value = np.where(known, reward / np.where(known, pulls, 1.0), np.inf)
        best = is_best(value)
        greedy = best / best.sum(axis=-1, keepdims=True)
        probabilities: F64 = self.epsilon / value.shape[-1] + (1 - self.epsilon) * greedy
        return probabilities


def is_best(value: F64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which of the K indices float64[..., K] equal the largest, within 1e-12 relative; +inf equals itself alone."""
    top = value.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # inf − inf, where both are the largest
        gap = top - value
    tolerance = TIE_TOLERANCE * np.maximum(np.abs(top), np.abs(value))
    return np.asarray((value == top) | (np.isfinite(top) & (gap <= tolerance)))
