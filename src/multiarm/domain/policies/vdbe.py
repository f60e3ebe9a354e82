"""VDBE: ε-greedy whose ε follows how much the rewards still surprise."""

from math import expm1
from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import BASE_COLUMNS, F64, Evidence
from multiarm.domain.policies.base import (
    NOTHING_ELSE,
    Observation,
    Observations,
    Policy,
    Situation,
    Traits,
    with_columns,
)
from multiarm.domain.policies.epsilon_greedy import explored, greedy

FIRST, SURPRISES, VALUE = 1.0, 3, 4


class VDBE(Policy, frozen=True, tag="vdbe"):
    """ε-greedy with an ε that grows while the estimates move and falls as they settle.

    A reward that moves the mean of its arm by Δ surprises by f = (1 − e^(−|Δ|/σ)) / (1 + e^(−|Δ|/σ)), and moves the
    arm's own ε_k from 1 on: ε_k ← δ·f + (1 − δ)·ε_k. One chain for all arms would depend on how they take turns; so
    the ε of an allocation is where such a chain comes to rest, given each arm's surprise and its share of the traffic:
    ε = g / (1 − a + g), with `a` the mean of the ε_k over all arms and g that over the greedy ones.

    Parameters: `sigma` > 0, in units of reward, default 1: the less, the more it explores; `delta` in (0, 1], default
    null: 1 / (the number of enabled arms when the reward comes).
    Evidence: effective pulls, reward, reward², surprises counted, and their sum of ε_k weighted so that their ratio is
    ε_k. Not commutative: ε_k depends on the order in which the rewards of an arm come (and, where several nodes count,
    is their mean, weighted by rewards). What a change of order can cost is bounded: 0 ≤ ε_k ≤ 1 always, and two orders
    of the same n rewards differ by at most (1 − δ)^m + the largest surprise after the first n − m rewards. These two
    columns are left out when the books are balanced, and start at 1 again when the policy is changed.
    Cost: O(K) a recompute, one bisection a draw; an update needs the arm's row as it stands, inside the transaction.
    Assumes that σ fits the unit of the rewards: where rewards are far smaller than σ it soon stops exploring.
    Source: Tokic (2010), Adaptive ε-greedy exploration in reinforcement learning based on value differences, eq. 4, 5.
    """

    own_traits = Traits(columns=(*BASE_COLUMNS, "surprises", "surprise_weighted"), path_columns=2)

    sigma: Annotated[float, Meta(gt=0, le=1e12, description="Inverse sensitivity, in units of reward.")] = 1.0
    delta: Annotated[float, Meta(gt=0, le=1, description="Weight of the newest surprise; null: 1 / arms.")] | None = (
        None
    )

    def increment(self, observation: Observation) -> tuple[float, ...]:
        return (*super().increment(observation), 1.0, 0.0)

    def increments(self, observations: Observations) -> F64:
        base = super().increments(observations)
        return with_columns(base, np.ones_like(observations.reward), np.zeros_like(observations.reward))

    def completed(self, numbers: tuple[float, ...], sums: tuple[float, ...], arm_count: int) -> tuple[float, ...]:
        pulls, reward, _, surprises, weighted = sums or (0.0,) * len(numbers)
        pulls = max(pulls, 0.0)  # corrections of what other nodes counted can take a row below zero
        mean = reward / pulls if pulls > 0 else 0.0
        moved = abs(numbers[1] - mean) / (pulls + 1.0)  # the first reward moves the mean from the origin
        fall = expm1(-moved / self.sigma)
        delta = self.delta or 1.0 / max(arm_count, 1)
        epsilon = weighted / surprises if surprises > 0 else FIRST
        epsilon += delta * (-fall / (2.0 + fall) - epsilon)
        return (*numbers[:SURPRISES], 1.0, (surprises + 1.0) * epsilon - weighted)

    def completed_many(self, numbers: F64, sums: F64, arm_count: int) -> F64:
        pulls, reward, surprises, weighted = (sums[..., column] for column in (0, 1, SURPRISES, VALUE))
        mean = reward / np.where(pulls > 0, pulls, 1.0)
        fall = np.expm1(-np.abs(numbers[..., 1] - mean) / (pulls + 1.0) / self.sigma)
        delta = self.delta or 1.0 / max(arm_count, 1)
        epsilon = np.where(surprises > 0, weighted / np.where(surprises > 0, surprises, 1.0), FIRST)
        epsilon = epsilon + delta * (-fall / (2.0 + fall) - epsilon)
        return with_columns(numbers[..., :VALUE], (surprises + 1.0) * epsilon - weighted)

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        surprises, weighted = evidence.sums[..., SURPRISES], evidence.sums[..., VALUE]
        known = surprises > 0
        epsilon = np.where(known, weighted / np.where(known, surprises, 1.0), FIRST)
        best = greedy(evidence, situation)
        mean = epsilon.mean(axis=-1, keepdims=True)
        of_greedy = (epsilon * best).sum(axis=-1, keepdims=True)
        rest = 1 - mean + of_greedy
        share = np.where(rest > 0, of_greedy / np.where(rest > 0, rest, 1.0), FIRST)
        return explored(best, np.clip(share, 0.0, 1.0))
