"""EXP3 and EXP3-IX: for rewards that nobody promises to be random."""

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
    lifetime,
    with_columns,
)
from multiarm.domain.policies.epsilon_greedy import explored
from multiarm.domain.policies.softmax import softmax

SUM = 3


class ExponentialWeights(Policy, frozen=True):
    """Base of both: softmax(η_t · S), S the sums of estimated rewards; t the rewards counted by all arms.

    An arm that joins later begins with the mean of the others' sums, weighted by their allocation: it can neither win
    nor lose by having been away.
    """

    def weights(self, evidence: Evidence, situation: Situation) -> F64:
        """softmax(η_t · S), float64[..., K]."""
        raise NotImplementedError

    def head_start(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> float:
        return float((self.weights(evidence, situation) * sums(evidence, situation)).sum())


class EXP3(ExponentialWeights, frozen=True, tag="exp3"):
    """Weights exponential in the estimated sums of rewards, mixed with an even split.

    p = (1 − γ) softmax(η_t · S) + γ/K, where a reward r of a draw of propensity p adds r/p to the arm's S, and
    η_t = min(γ/K, √(ln K / (K t))).
    Parameters: `gamma` in (0, 1], default 0.1.
    Evidence: effective pulls, reward, reward², Σ r/p.
    Cost: O(K) a recompute, one bisection a draw, four additions an update.
    Assumes rewards in [0, 1], from anywhere, even an adversary's hand. The signed propensity of the decision is used,
    however late the reward comes; updates without a decision are refused. No half-life, no prior of an arm: neither
    means anything to a sum. γ/K of the traffic goes to every arm for ever, so against rewards that are random its
    regret is far larger than Thompson sampling's.
    Source: Auer, Cesa-Bianchi, Freund and Schapire (2002), figure 1; Bubeck and Cesa-Bianchi (2012), theorem 3.1 (η_t).
    """

    own_traits = Traits(
        columns=(*BASE_COLUMNS, "weighted_reward"),
        reward_min=0.0,
        reward_max=1.0,
        can_forget=False,
        takes_prior=False,
        needs_decision=True,
    )

    gamma: Annotated[float, Meta(gt=0, le=1, description="Share of traffic that explores evenly.")] = 0.1

    def increment(self, observation: Observation) -> tuple[float, ...]:
        return (*super().increment(observation), observation.reward / (observation.propensity or 1.0))

    def increments(self, observations: Observations) -> F64:
        return with_columns(super().increments(observations), observations.reward / observations.propensity)

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        return explored(self.weights(evidence, situation), np.asarray(self.gamma))

    def weights(self, evidence: Evidence, situation: Situation) -> F64:
        count = evidence.pulls.shape[-1]
        rate = np.minimum(learning_rate(evidence, situation), self.gamma / count)
        return softmax((-1 if situation.minimize else 1) * sums(evidence, situation), 1 / rate)


class EXP3IX(ExponentialWeights, frozen=True, tag="exp3_ix"):
    """Weights exponential in the estimated sums of losses, which implicit exploration keeps from growing too large.

    p = softmax(−η_t · L), where a reward r of a draw of propensity p adds (1 − r) / (p + γ) to the arm's L, and
    η_t = √(2 ln K / (K t)).
    Parameters: `gamma` in (0, 1], default 0.01; constant, so that a reward adds the same whenever it comes.
    Evidence: effective pulls, reward, reward², Σ (1 − r)/(p + γ).
    Cost: O(K) a recompute, one bisection a draw, four additions an update.
    Assumes rewards in [0, 1], from anywhere; its regret is small with high probability, not only on average. Updates
    without a decision are refused. No half-life, no prior of an arm; to minimize is refused, for what is summed up are
    losses already: send 1 − r.
    Source: Neu (2015), Explore no more, algorithm 1 and theorem 1.
    """

    own_traits = Traits(
        columns=(*BASE_COLUMNS, "weighted_loss"),
        reward_min=0.0,
        reward_max=1.0,
        can_minimize=False,
        can_forget=False,
        takes_prior=False,
        needs_decision=True,
    )

    gamma: Annotated[float, Meta(gt=0, le=1, description="Bias that bounds the estimated losses.")] = 0.01

    def increment(self, observation: Observation) -> tuple[float, ...]:
        loss = (1.0 - observation.reward) / ((observation.propensity or 1.0) + self.gamma)
        return (*super().increment(observation), loss)

    def increments(self, observations: Observations) -> F64:
        loss = (1 - observations.reward) / (observations.propensity + self.gamma)
        return with_columns(super().increments(observations), loss)

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        return self.weights(evidence, situation)

    def weights(self, evidence: Evidence, situation: Situation) -> F64:
        rate = np.sqrt(2.0) * learning_rate(evidence, situation)
        return softmax(-sums(evidence, situation), 1 / rate)


def sums(evidence: Evidence, situation: Situation) -> F64:
    """S of each arm, float64[..., K], with what it began with."""
    sums: F64 = evidence.sums[..., SUM]
    return sums if situation.head_start is None else sums + situation.head_start


def learning_rate(evidence: Evidence, situation: Situation) -> F64:
    """√(ln K / (K t)), float64[..., 1]; of a single arm all but 0, for which it does not matter."""
    count = evidence.pulls.shape[-1]
    t = np.maximum(lifetime(evidence, situation), 1)[..., None]
    return np.asarray(np.sqrt(max(np.log(count), 1e-9) / (count * t)))
