"""Thompson sampling for rewards in [0, 1]: traffic in proportion to the probability of being best."""

from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, I64, Evidence
from multiarm.domain.inference import beta_interval
from multiarm.domain.policies.base import Policy, PseudoCounts, pooled
from multiarm.domain.probability import BetaPosterior, probability_best

Shape = Annotated[float, Meta(ge=1e-3, le=1e9)]


class BetaPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Beta distribution that every arm starts from; 1, 1 is the uniform one."""

    alpha: Annotated[Shape, Meta(description="Imagined successes, 0.001 to 1e9.")] = 1.0
    beta: Annotated[Shape, Meta(description="Imagined failures, 0.001 to 1e9.")] = 1.0


class Thompson(Policy, frozen=True, tag="thompson"):
    """Show each arm with the probability that it is the best one, computed exactly.

    Parameters: `prior` = {alpha, beta}, each in [0.001, 1e9], default 1, 1.
    Evidence: effective pulls, reward, reward²; a reward r in [0, 1] adds r to α and 1 − r to β.
    Cost: one quadrature a recompute (0.3 ms for 2 arms, 0.5 ms for 10, 50 ms for 1,000), one bisection a draw,
    three additions an update.
    Assumes rewards in [0, 1] and, without a half-life, rates that stand still. For fractional rewards the Beta
    posterior is wider than the truth, so it is cautious; for 0 and 1 it is exact.
    Source: Thompson (1933); Agrawal and Goyal (2012), algorithm 1; the allocation is
    P(arm k is best) = ∫ f_k ∏_{j≠k} F_j, the distribution that algorithm 1 samples from.
    """

    reward_min: ClassVar[float] = 0.0
    reward_max: ClassVar[float] = 1.0

    prior: BetaPrior = BetaPrior()

    def posterior(self, evidence: Evidence, prior: PseudoCounts | None = None) -> tuple[F64, F64]:
        """(α, β) of each arm, float64[..., K]."""
        pulls, reward = pooled(evidence, prior)
        failures = np.maximum(pulls - reward, 0.0)  # rounding alone can take it below zero
        return self.prior.alpha + np.maximum(reward, 0.0), self.prior.beta + failures

    def allocate(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        return probability_best(BetaPosterior(*self.posterior(evidence, prior)))

    def sample(self, evidence: Evidence, rng: np.random.Generator, prior: PseudoCounts | None = None) -> I64:
        """In logit coordinates: with shapes below 1, Beta draws themselves would tie at 0 and 1."""
        alpha, beta = self.posterior(evidence, prior)
        return np.asarray(np.argmax(log_gamma(alpha, rng) - log_gamma(beta, rng), axis=-1), dtype=np.int64)

    def probability_best(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        return self.allocate(evidence, prior)

    def interval(self, evidence: Evidence, prior: PseudoCounts | None = None) -> F64:
        """Equal-tailed 95 % credible interval."""
        return beta_interval(*self.posterior(evidence, prior))

    def expected_cost_s(self, arm_count: int) -> float:
        return 2e-4 + 4.5e-5 * arm_count


def log_gamma(shape: F64, rng: np.random.Generator) -> F64:
    """Logarithms of Gamma(shape, 1) draws, by G(a) = G(a + 1)·U^(1/a): exact where G itself would be 0."""
    uniform = -rng.standard_exponential(shape.shape)
    return np.asarray(np.log(rng.standard_gamma(shape + 1)) + uniform / shape)
