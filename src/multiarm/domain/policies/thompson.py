"""Thompson sampling: traffic in proportion to the probability of being best. For rewards in [0, 1], and the base."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, I64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Policy, Situation, Traits, pooled
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.softmax import beside_unknown
from multiarm.domain.posteriors import BetaPosterior, Posterior
from multiarm.domain.probability import ORDINARY, probability_best

Shape = Annotated[float, Meta(ge=1e-3, le=1e9)]


class PosteriorPolicy(Policy, frozen=True):
    """Base of the policies that know a posterior of each arm's value.

    Where the posterior is improper until an arm has had some rewards, the arm gets an equal share, 1/K, of the traffic
    until then, however long its rewards take.
    """

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        """Of the values of the K arms, rising with them; any proper one for an arm that is not ready."""
        raise NotImplementedError

    def posterior(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> Posterior:
        """The same, turned round where the smallest value is the best."""
        known = self.known(evidence, situation)
        return known.mirrored() if situation.minimize else known

    def unready(self, evidence: Evidence, situation: Situation) -> Booleans:
        """Arms whose posterior is not proper yet, bool[..., K]."""
        del situation
        return np.zeros(evidence.pulls.shape, dtype=np.bool_)

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        return beside_unknown(*self.among_ready(evidence, situation))

    def among_ready(self, evidence: Evidence, situation: Situation, least: float = ORDINARY) -> tuple[F64, Booleans]:
        """P(best) among the arms that are ready, float64[..., K], 0 for the others; and which these are.

        least: see probability_best.
        """
        posterior, unready = self.posterior(evidence, situation), self.unready(evidence, situation)
        if not unready.any():
            return probability_best(posterior, least), unready
        best = np.zeros(unready.shape)
        for index in np.ndindex(unready.shape[:-1]):
            ready = np.flatnonzero(~unready[index])
            if len(ready):
                arms = posterior[index] if index else posterior
                best[(*index, ready)] = probability_best(arms[ready], least)
        return best, unready

    def sample(self, evidence: Evidence, rng: np.random.Generator, situation: Situation = NOTHING_ELSE) -> I64:
        """A value an arm from its posterior, and the arm with the largest."""
        values, unready = self.values(evidence, rng, situation)
        return among_unready(np.argmax(values, axis=-1), unready, rng)

    def values(self, evidence: Evidence, rng: np.random.Generator, situation: Situation) -> tuple[F64, Booleans]:
        """A value an arm, float64[..., K], −inf for those that are not ready; and which these are."""
        unready = self.unready(evidence, situation)
        values = self.posterior(evidence, situation).sample(rng)
        return (np.where(unready, -np.inf, values) if unready.any() else values), unready

    def probability_best(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64 | None:
        """P(arm is best) float64[K]; None while the posterior of some arm is improper."""
        if self.unready(evidence, situation).any():
            return None
        return probability_best(self.posterior(evidence, situation))

    def interval(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        """Equal-tailed 95 % credible interval."""
        interval = self.credible(evidence, situation)
        return np.where(self.unready(evidence, situation)[..., None], np.nan, interval)

    def credible(self, evidence: Evidence, situation: Situation) -> F64:
        """The interval of each arm's mean, float64[..., K, 2], whether it is ready or not."""
        return self.known(evidence, situation).interval()

    def expected_cost_s(self, arm_count: int) -> float:
        return 2e-4 + 4.5e-5 * arm_count


class BetaPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Beta distribution that every arm starts from; 1, 1 is the uniform one."""

    alpha: Annotated[Shape, Meta(description="Imagined successes, 0.001 to 1e9.")] = 1.0
    beta: Annotated[Shape, Meta(description="Imagined failures, 0.001 to 1e9.")] = 1.0


class Thompson(PosteriorPolicy, frozen=True, tag="thompson"):
    """Show each arm with the probability that it is the best one, computed exactly.

    Parameters: `prior` = {alpha, beta}, each in [0.001, 1e9], default 1, 1.
    Evidence: effective pulls, reward, reward²; a reward r in [0, 1] adds r to α and 1 − r to β.
    Cost: one quadrature a recompute (0.3 ms for 2 arms, 0.5 ms for 10, 50 ms for 1,000), one bisection a draw,
    three additions an update.
    Assumes rewards in [0, 1] and rates that stand still, or a half-life (discounted Thompson sampling, Raj and Kalyani
    2017: the evidence is forgotten, the prior is not). For fractional rewards the Beta posterior is wider than the
    truth, so it is cautious; for 0 and 1 it is exact.
    Source: Thompson (1933); Agrawal and Goyal (2012), algorithm 1; the allocation is
    P(arm k is best) = ∫ f_k ∏_{j≠k} F_j, the distribution that algorithm 1 samples from.
    """

    own_traits = Traits(reward_min=0.0, reward_max=1.0)

    prior: Annotated[BetaPrior, Meta(description="Where every arm starts.")] = BetaPrior()

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        pulls, reward = pooled(evidence, situation)
        failures = np.maximum(pulls - reward, 0.0)  # rounding alone can take it below zero
        return BetaPosterior(self.prior.alpha + np.maximum(reward, 0.0), self.prior.beta + failures)


def among_unready(winner: I64, unready: Booleans, rng: np.random.Generator) -> I64:
    """The winner int64[...], but with 1/K each the arms that are not ready."""
    if not unready.any():
        return winner
    any_arm = rng.integers(0, unready.shape[-1], winner.shape)
    picked = np.take_along_axis(unready, any_arm[..., None], axis=-1)[..., 0]
    return np.where(picked, any_arm, winner)
