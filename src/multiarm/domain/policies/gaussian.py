"""Thompson sampling for rewards of any size: normal ones, with a variance that is unknown or known."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import REWARD_LIMIT, Situation, moments, own_moments
from multiarm.domain.policies.epsilon_greedy import Booleans
from multiarm.domain.policies.thompson import PosteriorPolicy
from multiarm.domain.posteriors import NormalPosterior, Posterior, StudentPosterior

LEAST_PULLS = 5  # 3 − ⌊2a⌋ with a = −1: from there on the posterior of the scale-free prior is proper
LOST_FREEDOM = 3  # its degrees of freedom are n + 2a − 1 = n − 3

Mean = Annotated[float, Meta(ge=-REWARD_LIMIT, le=REWARD_LIMIT, description="Expected mean of an arm.")]
Deviation = Annotated[float, Meta(ge=1e-12, le=REWARD_LIMIT)]
Count = Annotated[float, Meta(ge=1e-3, le=1e9)]


class GaussianPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A normal-inverse-χ² prior: mean, given the variance, Normal(mean, σ²/pulls); σ² about sd², worth sd_pulls."""

    mean: Mean
    sd: Annotated[Deviation, Meta(description="Expected standard deviation of a single reward.")]
    pulls: Annotated[Count, Meta(description="How many rewards the expected mean is worth.")] = 1.0
    sd_pulls: Annotated[float, Meta(ge=1, le=1e9, description="How many rewards the expected sd is worth.")] = 1.0


class MeanPrior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A normal prior of an arm's mean."""

    mean: Mean
    sd: Annotated[Deviation, Meta(description="Standard deviation of the mean about it.")]


class ThompsonGaussian(PosteriorPolicy, frozen=True, tag="thompson_gaussian"):
    """Show each arm with the probability that its mean is the largest, rewards normal with unknown variance.

    Parameters: `prior`, null (default) or {mean, sd, pulls, sd_pulls}. Null is the scale-free prior, density of
    (μ, σ²) ∝ σ^(−2(1+a)) with a = −1: the posterior of the mean is Student-t with n − 3 degrees of freedom. It is
    proper from 5 pulls on, and until then an arm gets an equal share. Rewards a + b·r give the same allocation.
    Evidence: effective pulls, reward, reward².
    Cost: one quadrature a recompute, one bisection a draw, three additions an update.
    Assumes normal rewards, or enough of them for their mean to be so. An arm whose rewards never varied borrows the
    variance of the others: with none of its own it would never be tried again. Means far larger than the deviations
    lose digits: set `reward_origin` near them. With a half-life it is discounted Thompson sampling (Raj and Kalyani
    2017); an arm that falls below 5 effective pulls is explored again.
    Source: Honda and Takemura (2014), Optimality of Thompson sampling for Gaussian bandits depends on priors, eq. 5.
    """

    prior: Annotated[GaussianPrior | None, Meta(description="Where every arm starts; null: no unit is assumed.")] = None

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        return student_posterior(evidence, situation, self.prior)

    def unready(self, evidence: Evidence, situation: Situation) -> Booleans:
        return too_few(evidence, situation, self.prior)

    def credible(self, evidence: Evidence, situation: Situation) -> F64:
        return evidence.origin + super().credible(evidence, situation)


class ThompsonGaussianKnownSd(PosteriorPolicy, frozen=True, tag="thompson_gaussian_known_sd"):
    """Show each arm with the probability that its mean is the largest, rewards normal with a known deviation.

    Parameters: `sd` > 0, of a single reward, default 1; `prior`, null (default, flat) or {mean, sd} of the means.
    Evidence: effective pulls, reward, reward².
    Cost: one quadrature a recompute, one bisection a draw, three additions an update.
    Assumes that the deviation is right: too small and it settles too soon, too large and it explores too long. With
    the flat prior an arm gets an equal share until its first reward.
    Source: Agrawal and Goyal (2013), Further optimal regret bounds for Thompson sampling, algorithm 2, without its
    fixed variance; Korda, Kaufmann and Munos (2013), example 2.
    """

    sd: Annotated[Deviation, Meta(description="Standard deviation of a single reward.")] = 1.0
    prior: Annotated[MeanPrior | None, Meta(description="Where every arm starts; null: flat.")] = None

    def known(self, evidence: Evidence, situation: Situation) -> Posterior:
        pulls, mean, _ = moments(evidence, situation, 0.0)
        if self.prior is not None:
            worth = (self.sd / self.prior.sd) ** 2
            mean = (pulls * mean + worth * (self.prior.mean - evidence.origin)) / (pulls + worth)
            pulls = pulls + worth
        return NormalPosterior(mean, self.sd / np.sqrt(np.where(pulls > 0, pulls, 1.0)))

    def unready(self, evidence: Evidence, situation: Situation) -> Booleans:
        if self.prior is not None:
            return super().unready(evidence, situation)
        return np.asarray(moments(evidence, situation, 0.0)[0] <= 0)

    def credible(self, evidence: Evidence, situation: Situation) -> F64:
        return evidence.origin + super().credible(evidence, situation)


def too_few(evidence: Evidence, situation: Situation, prior: GaussianPrior | None) -> Booleans:
    """Arms with too few rewards for a proper posterior, bool[..., K]."""
    imagined = 0.0 if situation.prior is None else situation.prior.pulls
    return np.asarray((evidence.pulls + imagined < LEAST_PULLS) & (prior is None))


def student_posterior(evidence: Evidence, situation: Situation, prior: GaussianPrior | None) -> StudentPosterior:
    """Of the means, about the origin. An arm that is not ready gets some proper one."""
    if prior is not None:
        pulls, mean, squares = moments(evidence, situation, prior.sd**2)
        gap = mean - (prior.mean - evidence.origin)
        worth = pulls + prior.pulls
        freedom = prior.sd_pulls + pulls
        squares = squares + prior.sd_pulls * prior.sd**2 + prior.pulls * pulls / worth * gap * gap
        return StudentPosterior(mean - prior.pulls / worth * gap, np.sqrt(squares / freedom / worth), freedom)
    variance = common_variance(evidence)
    pulls, mean, squares = moments(evidence, situation, variance)
    unready = pulls < LEAST_PULLS
    pulls = np.where(unready, LEAST_PULLS, pulls)
    freedom = pulls - LOST_FREEDOM
    squares = np.where(unready | (squares <= 0), variance * freedom, squares)
    return StudentPosterior(mean, np.sqrt(squares) / np.sqrt(freedom * pulls), freedom)  # a quotient may be 0


def common_variance(evidence: Evidence) -> F64:
    """The variance within the arms that vary, float64[..., 1]; where none does, that of their means; else 1."""
    pulls, mean, squares = own_moments(evidence)
    varied = squares > 0
    freedom = np.where(varied, np.maximum(pulls - 1, 0.0), 0.0).sum(axis=-1, keepdims=True)
    within = squares.sum(axis=-1, keepdims=True) / np.where(freedom > 0, freedom, 1.0)
    seen = pulls > 0
    count = np.maximum(seen.sum(axis=-1, keepdims=True), 1)
    centre = np.where(seen, mean, 0.0).sum(axis=-1, keepdims=True) / count
    between = np.where(seen, (mean - centre) ** 2, 0.0).sum(axis=-1, keepdims=True) / count
    return np.where(within > 0, within, np.where(between > 0, between, 1.0))
