"""Policies that measure surprise by the divergence of Bernoulli distributions: KL-UCB, KL-UCB+, IMED."""

import numpy as np

from multiarm.domain.evidence import F64
from multiarm.domain.policies.index import IndexPolicy, Standing

NEWTON_STEPS = 30
CONVERGED = 1e-13
ROUNDING = 4e-16
BELOW_ONE = 1 - 2.0**-53
FARTHEST = 1e6  # a divergence that only 1 is as far as
NONE = 1e-300  # a mean below it is as good as 0, and nothing can be divided by it


class KLUCB(IndexPolicy, frozen=True, tag="kl_ucb"):
    """Draw the arm with the largest q such that n · kl(mean, q) ≤ ln t.

    Parameters: `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: a few steps of Newton's method an arm and a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1]; for 0 and 1 its regret is the least possible asymptotically (Lai and Robbins).
    Source: Garivier and Cappé (2011), algorithm 1 with c = 0.
    """

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        return upper_bound(arms.mean, np.log(t) / pulls)


class KLUCBPlus(IndexPolicy, frozen=True, tag="kl_ucb_plus"):
    """Draw the arm with the largest q such that n · kl(mean, q) ≤ ln⁺(t / n).

    Parameters: `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: as for kl_ucb.
    Assumes rewards in [0, 1]. Explores less than kl_ucb, and does as well as Thompson sampling on Bernoulli arms.
    Source: Garivier and Cappé (2011), §5 (KL-UCB+); Kaufmann (2018), equation 3, for its analysis.
    """

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        return upper_bound(arms.mean, np.log(np.maximum(t / pulls, 1.0)) / pulls)


class IMED(IndexPolicy, frozen=True, tag="imed"):
    """Draw the arm with the least n · kl(mean, largest mean) + ln n: indexed minimum empirical divergence.

    Parameters: `batch_draws`.
    Evidence: effective pulls, reward, reward².
    Cost: two logarithms an arm and a recompute, one bisection a draw, three additions an update.
    Assumes rewards in [0, 1]; asymptotically optimal like kl_ucb, cheaper, and no t: it does not ask how long it runs.
    Source: Honda and Takemura (2015), Non-asymptotic analysis of a new bandit algorithm (IMED), algorithm 1.
    """

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        del t
        arm_axis = -1 if arms.mean.shape == pulls.shape else -2
        return -(pulls * divergence(arms.mean, arms.mean.max(axis=arm_axis, keepdims=True)) + np.log(pulls))


def divergence(p: F64, q: F64) -> F64:
    """kl(p, q) of Bernoulli distributions, for p ≤ q in [0, 1]; +inf for p < q = 1. Exact also where p ≈ q."""
    rise = q - p
    fall = 1 - p
    of_success = p * np.log1p(rise / np.where(p > NONE, p, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        of_failure = np.where(fall > 0, fall * np.log1p(-rise / np.where(fall > 0, fall, 1.0)), 0.0)
    return np.asarray(np.maximum(-of_success - of_failure, 0.0))


def upper_bound(mean: F64, limit: F64) -> F64:
    """The largest q in [mean, 1] with kl(mean, q) ≤ limit, float64 of the common shape; mean in [0, 1], limit ≥ 0.

    Newton's method on a convex function from above: each of the bounds that it starts from is one of kl from below.
    """
    mean, limit = np.broadcast_arrays(mean, np.minimum(limit, FARTHEST))
    room = 1 - mean
    at_most = room * BELOW_ONE
    some = np.where(mean > NONE, mean, 1.0)
    open_room = np.where(room > 0, room, 1.0)
    entropy = -mean * np.log(some) - room * np.log(open_room)
    rise = np.minimum(limit + np.sqrt(limit * (limit + 2 * mean)), np.sqrt(limit * np.minimum(0.5, 2 * room)))
    rise = np.minimum(np.minimum(rise, room - np.exp(-(limit + entropy) / open_room)), at_most)
    rise = np.maximum(rise, 0.0)
    for _ in range(NEWTON_STEPS):
        excess = -mean * np.log1p(rise / some) - room * np.log1p(-rise / open_room) - limit
        slope = rise / ((mean + rise) * np.where(room > rise, room - rise, 1.0) + (rise == 0))
        step = excess / np.where(slope > 0, slope, 1.0)
        step = np.where(slope > 0, step, 0.0)
        rise = np.clip(rise - step, 0.0, at_most)
        if (np.abs(step) <= CONVERGED * rise + ROUNDING * mean).all():
            break
    return np.asarray(mean + rise)
