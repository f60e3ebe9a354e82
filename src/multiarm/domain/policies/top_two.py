"""Top-two Thompson sampling: as much traffic to the challengers as to the leader, to find the best arm sooner."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, I64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Observation, Observations, Policy, Situation, Traits, choose
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.gaussian import ThompsonGaussian, ThompsonGaussianKnownSd
from multiarm.domain.policies.rates import ThompsonExponential, ThompsonPoisson
from multiarm.domain.policies.revenue import ThompsonRevenue
from multiarm.domain.policies.softmax import beside_unknown
from multiarm.domain.policies.thompson import Thompson, among_unready
from multiarm.domain.probability import EXTREME

RESAMPLINGS = 50
TINY = 1e-300

AnyThompson = (
    Thompson | ThompsonGaussian | ThompsonGaussianKnownSd | ThompsonPoisson | ThompsonExponential | ThompsonRevenue
)


class TopTwo(Policy, frozen=True, tag="top_two"):
    """Thompson sampling that gives the leader no more than about β of the traffic, and the challengers the rest.

    Draw an arm as Thompson sampling does; with probability 1 − β draw again until another one comes. In closed form
    ψ_i = p_i [β + (1 − β) Σ_{j≠i} p_j / (1 − p_j)], p the probability of being best.
    Parameters: `beta` in (0, 1], default 0.5 (1 is Thompson sampling); `model`: the Thompson policy that says what the
    rewards are like, default {"type": "thompson"}.
    Evidence: that of the model.
    Cost: as for the model, with wider panels; one bisection a draw.
    Finds the best arm in far fewer draws than Thompson sampling, which starves its challengers; pays for that with
    regret that grows linearly: meant for an experiment that ends.
    Source: Russo (2016), Simple Bayesian algorithms for best-arm identification, §3.3 (top-two Thompson sampling).
    """

    beta: Annotated[float, Meta(gt=0, le=1, description="Share of draws that stay with the first arm sampled.")] = 0.5
    model: Annotated[AnyThompson, Meta(description="What the rewards are like: a Thompson policy.")] = Thompson()

    @property
    def traits(self) -> Traits:
        return self.model.traits

    @property
    def name(self) -> str:
        return f"top_two of {self.model.name}"

    def check_reward(self, reward: float) -> None:
        self.model.check_reward(reward)

    def increment(self, observation: Observation) -> tuple[float, ...]:
        return self.model.increment(observation)

    def increments(self, observations: Observations) -> F64:
        return self.model.increments(observations)

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        best, unready = self.model.among_ready(evidence, situation, EXTREME)
        return beside_unknown(shared_with_challengers(best, ~unready, self.beta), unready)

    def sample(self, evidence: Evidence, rng: np.random.Generator, situation: Situation = NOTHING_ELSE) -> I64:
        """As described; challengers that 50 draws did not bring are drawn from the closed form."""
        values, unready = self.model.values(evidence, rng, situation)
        leader = np.asarray(np.argmax(values, axis=-1))
        winner = leader.copy()
        waiting = (rng.random(leader.shape) >= self.beta) & ((~unready).sum(axis=-1) > 1)
        for _ in range(RESAMPLINGS):
            if not waiting.any():
                break
            again = np.argmax(self.model.values(evidence, rng, situation)[0], axis=-1)
            found = waiting & (again != leader)
            winner[found] = again[found]
            waiting &= ~found
        if waiting.any():
            best, unready_there = self.model.among_ready(evidence.at(waiting), situation, EXTREME)
            winner[waiting] = choose(challengers(best, ~unready_there, leader[waiting]), rng)
        return among_unready(winner, unready, rng)

    def probability_best(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64 | None:
        return self.model.probability_best(evidence, situation)

    def interval(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        return self.model.interval(evidence, situation)

    def expected_cost_s(self, arm_count: int) -> float:
        return 2 * self.model.expected_cost_s(arm_count)


def shared_with_challengers(best: F64, ready: Booleans, beta: float) -> F64:
    """ψ, float64[..., K], from the probabilities of being best."""
    count = ready.sum(axis=-1, keepdims=True)
    others = others_sum(best)
    reached = others > 0
    weight = np.where(reached, best / np.where(reached, others, 1.0), 0.0)
    share = best * (beta + (1 - beta) * others_sum(weight))
    # a leader whose challengers are all below 1e-300 leaves them its part evenly: nothing tells them apart
    alone = ready & ~reached & (best > 0)
    lost = (1 - beta) * np.where(alone, best, 0.0).sum(axis=-1, keepdims=True)
    share = share + np.where(ready & ~alone, lost / np.maximum(count - 1, 1), 0.0)
    share = np.where(count > 1, share, np.where(ready, 1.0, 0.0))
    return np.asarray(share / np.maximum(share.sum(axis=-1, keepdims=True), TINY))


def challengers(best: F64, ready: Booleans, leader: I64) -> F64:
    """P(arm is the second), given which is first: float64[..., K]; evenly where nothing tells them apart."""
    allowed = ready.copy()
    np.put_along_axis(allowed, leader[..., None], False, axis=-1)
    share = np.where(allowed, best, 0.0)
    total = share.sum(axis=-1, keepdims=True)
    even = allowed / np.maximum(allowed.sum(axis=-1, keepdims=True), 1)
    return np.where(total > 0, share / np.where(total > 0, total, 1.0), even)


def others_sum(values: F64) -> F64:
    """Σ_{j≠i} of values ≥ 0, float64[..., K], by sums from both ends: never one minus something."""
    before = np.cumsum(values, axis=-1)
    after = np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
    sums = np.zeros_like(values)
    sums[..., 1:] += before[..., :-1]
    sums[..., :-1] += after[..., 1:]
    return sums
