"""Bayes-UCB: the arm with the highest upper quantile of its posterior."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64
from multiarm.domain.policies.index import IndexPolicy, Standing
from multiarm.domain.policies.thompson import BetaPrior


class BayesUCB(IndexPolicy, frozen=True, tag="bayes_ucb"):
    """Draw the arm whose Beta posterior has the largest 1 − 1/t quantile.

    Parameters: `prior` = {alpha, beta}, each in [0.001, 1e9], default 1, 1; `batch_draws`.
    Evidence: effective pulls, reward, reward²; a reward r in [0, 1] adds r to α and 1 − r to β.
    Cost: one inverse of the incomplete beta function an arm and a recompute (about 2 µs), one bisection a draw.
    Assumes rewards in [0, 1]; asymptotically optimal for 0 and 1, close to kl_ucb_plus in practice.
    Source: Kaufmann, Cappé and Garivier (2012), algorithm 1 with c = 0, without the horizon.
    """

    prior: Annotated[BetaPrior, Meta(description="Where every arm starts.")] = BetaPrior()

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        from scipy.special import betainccinv  # here: it takes 20 MB, and few experiments need it

        alpha, beta = self.prior.alpha, self.prior.beta
        if arms.minimize:
            alpha, beta = beta, alpha
        tail = np.minimum(1 / t, 1.0)
        return np.asarray(betainccinv(alpha + pulls * arms.mean, beta + pulls * (1 - arms.mean), tail))
