"""Upper confidence bounds from Hoeffding's, Bernstein's and their like: UCB1, UCB1-tuned, UCB-V, MOSS."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64
from multiarm.domain.policies.index import IndexPolicy, Standing

MOST_VARIANCE = 0.25  # of rewards in [0, 1]


class UCB1(IndexPolicy, frozen=True, tag="ucb1"):
    """Draw the arm with the largest mean + √(α ln t / n).

    Parameters: `alpha` ≥ 0, default 2; `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1]. Explores far more than it need: its bonus forgets that a rate of 2 % varies little.
    Source: Auer, Cesa-Bianchi and Fischer (2002), figure 1, with α = 2; Garivier and Moulines (2011) with a half-life.
    """

    alpha: Annotated[float, Meta(ge=0, le=1e6, description="Width of the bonus.")] = 2.0

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        return np.asarray(arms.mean + np.sqrt(self.alpha * np.log(t) / pulls))


class UCB1Tuned(IndexPolicy, frozen=True, tag="ucb1_tuned"):
    """Draw the arm with the largest mean + √(ln t / n · min(1/4, V)), V = variance + √(2 ln t / n).

    Parameters: `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1]. Does well in practice; no bound on its regret is proved.
    Source: Auer, Cesa-Bianchi and Fischer (2002), §4.
    """

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        scale = np.log(t) / pulls
        bound = arms.variance + np.sqrt(2 * scale)
        return np.asarray(arms.mean + np.sqrt(scale * np.minimum(MOST_VARIANCE, bound)))


class UCBV(IndexPolicy, frozen=True, tag="ucb_v"):
    """Draw the arm with the largest mean + √(2 V ζ ln t / n) + 3 c ζ ln t / n, V its variance.

    Parameters: `zeta` > 0, default 1.2; `c` ≥ 0, default 1: the values of the regret bound, theorem 4; `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1]. Good where variances are small; slow to begin, because of its second bonus.
    Source: Audibert, Munos and Szepesvári (2009), equation 1 with ε_t = ζ ln t.
    """

    zeta: Annotated[float, Meta(gt=0, le=1e6, description="Factor of ln t.")] = 1.2
    c: Annotated[float, Meta(ge=0, le=1e6, description="Factor of the second bonus.")] = 1.0

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        scale = self.zeta * np.log(t) / pulls
        return np.asarray(arms.mean + np.sqrt(2 * arms.variance * scale) + 3 * self.c * scale)


class MOSS(IndexPolicy, frozen=True, tag="moss"):
    """Draw the arm with the largest mean + √((1 + α)/2 · ln⁺(t / (K n)) / n): MOSS without a horizon.

    Parameters: `alpha` > 0, default 1.35, as the paper recommends; `batch_draws`. K counts the enabled arms.
    Evidence: effective pulls, reward, reward².
    Cost: O(K) a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1] (sub-Gaussian at that scale). Optimal in the worst case; where gaps are large it may lose
    the best arm for long, for its bonus vanishes after t/K pulls.
    Source: Degenne and Perchet (2016), Anytime optimal algorithms in stochastic multi-armed bandits, algorithm 1.
    """

    alpha: Annotated[float, Meta(gt=0, le=1e6, description="Width of the bonus.")] = 1.35

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        explored = np.log(np.maximum(t / (arms.arm_count * pulls), 1.0))
        return np.asarray(arms.mean + np.sqrt((1 + self.alpha) / 2 * explored / pulls))
