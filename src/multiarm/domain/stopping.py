"""When an experiment may stop: from pulls and successes to a winner, or none yet. Every rule says what it guarantees.

All take `pulls`, `successes` float64[..., K]: rewards counted and their sum, rewards in [0, 1], K ≥ 2 arms; leading
dimensions broadcast. A winner is int64[...]: the position of the arm declared best, NO_WINNER where there is none yet.
Sums that were decayed (a half-life) are none of theirs: no guarantee outlives forgetting.
"""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, ndtr, xlog1py, xlogy

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

NO_WINNER = -1


class BetaPart(NamedTuple):
    """A part of a mixture: Beta(alpha, beta) with a weight; the weights of a mixture sum to 1."""

    weight: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0


UNIFORM = (BetaPart(),)


def informed(rate: float, spread: float) -> tuple[BetaPart, ...]:
    """Half the uniform prior, half a Beta with mean `rate` in (0, 1) and standard deviation about `spread` > 0.

    Its evidence is never less than that of the uniform prior alone by more than 2 ln 2 for a pair, and far more where
    the rates are near `rate`.
    """
    pulls = max(rate * (1 - rate) / spread**2, 2.0)
    return (BetaPart(0.5), BetaPart(0.5, pulls * rate, pulls * (1 - rate)))


def log_marginal(pulls: F64, successes: F64, prior: Sequence[BetaPart] = UNIFORM) -> F64:
    """ln ∫ p^s (1−p)^(n−s) dπ(p), float64[..., K]: the Beta-binomial probability of one order of the rewards."""
    parts = [
        log(part.weight) + betaln(part.alpha + successes, part.beta + pulls - successes) - betaln(part.alpha, part.beta)
        for part in prior
    ]
    total = parts[0]
    for part_log in parts[1:]:
        total = np.logaddexp(total, part_log)
    return np.asarray(total)


def log_likelihood(pulls: F64, successes: F64) -> F64:
    """max_p ln p^s (1−p)^(n−s), float64[..., K]; 0 where there are no pulls."""
    mean = successes / np.where(pulls > 0, pulls, 1.0)
    return np.asarray(xlogy(successes, mean) + xlog1py(pulls - successes, -mean))


def leader(pulls: F64, successes: F64) -> I64:
    """The arm with the largest mean, int64[...]; arms without pulls come last, the first of equals wins."""
    mean = np.where(pulls > 0, successes / np.where(pulls > 0, pulls, 1.0), -1.0)
    return np.asarray(np.argmax(mean, axis=-1), dtype=np.int64)


def mixture_statistic(pulls: F64, successes: F64, prior: Sequence[BetaPart] = UNIFORM) -> F64:
    """Evidence that the leading arm i is the best, float64[...], in nats: the least over the other arms j of

        ln m_i + ln m_j − max_{p_i ≤ p_j} (ln L_i + ln L_j),

    m the marginal of `log_marginal`, L the likelihood. As mean_i ≥ mean_j, the maximum lies at their pooled rate. Of
    any other arm than the leader the evidence is at most 0.

    For p_i ≤ p_j, m_i m_j / (L_i(p_i) L_j(p_j)) is a mixture of likelihood ratios: each reward multiplies its mean by
    1 whatever chose the arm (by at most 1 for rewards in [0, 1], as the ratio is convex in the reward), so it is a
    test martingale, and the statistic is at most its logarithm. Ville (1939): it ever reaches x with probability at
    most e^−x. Rewards may come late, in an order that does not depend on their values. Wasserman, Ramdas and
    Balakrishnan (2020), Universal inference, §8 (maximum under the null); Robbins (1970), mixtures.
    """
    best = leader(pulls, successes)[..., None]
    n_best, s_best = (np.take_along_axis(sums, best, axis=-1) for sums in (pulls, successes))
    marginal = log_marginal(pulls, successes, prior)
    evidence = (
        np.take_along_axis(marginal, best, axis=-1) + marginal - log_likelihood(pulls + n_best, successes + s_best)
    )
    np.put_along_axis(evidence, best, np.inf, axis=-1)
    return np.asarray(evidence.min(axis=-1))


def mixture_winner(pulls: F64, successes: F64, alpha: float, prior: Sequence[BetaPart] = UNIFORM) -> I64:
    """The leader where `mixture_statistic` ≥ ln(K/α).

    Guarantee: an arm that is not the best (one as good as another is not) is ever declared with probability at most
    α, however often one looks, under any allocation and any prior, K = 2 or more. A wrong arm i must beat a best arm j:
    a union over the at most K such pairs, each α/K by Ville's inequality; when all are equal, any winner is wrong.
    """
    statistic = mixture_statistic(pulls, successes, prior)
    return declared(pulls, successes, statistic >= log(pulls.shape[-1] / alpha))


def glr_statistic(pulls: F64, successes: F64) -> F64:
    """The leader's generalised likelihood ratio against its nearest rival, float64[...], in nats, at least 0.

    min over j of n_i kl(μ_i, μ_ij) + n_j kl(μ_j, μ_ij), μ_ij the pooled mean. Garivier and Kaufmann (2016), §3.2.
    """
    best = leader(pulls, successes)[..., None]
    n_best, s_best = (np.take_along_axis(sums, best, axis=-1) for sums in (pulls, successes))
    apart = log_likelihood(pulls, successes)
    ratio = np.take_along_axis(apart, best, axis=-1) + apart - log_likelihood(pulls + n_best, successes + s_best)
    np.put_along_axis(ratio, best, np.inf, axis=-1)
    return np.asarray(np.maximum(ratio.min(axis=-1), 0.0))


def glr_winner(pulls: F64, successes: F64, alpha: float) -> I64:
    """The leader where `glr_statistic` > ln(2 t (K−1)/α), t the rewards counted: Garivier and Kaufmann (2016), thm 10.

    Guarantee: where one arm is the best, another is ever declared with probability at most α, under any allocation;
    where all are equal, any is with probability at most α K/(K−1). By the redundancy of the Krichevsky-Trofimov mixture
    Beta(½, ½), ln m ≥ ln L − ½ ln n − ln 2: beyond this threshold the mixture statistic with that prior is beyond
    ln((K−1)/α), as √(n_i n_j) ≤ t/2.
    """
    t = np.maximum(pulls.sum(axis=-1), 1.0)
    threshold = np.log(2 * t * (pulls.shape[-1] - 1) / alpha)
    return declared(pulls, successes, glr_statistic(pulls, successes) > threshold)


def probability_winner(probability_best: F64, threshold: float) -> I64:
    """The arm whose P(best) float64[..., K] is above `threshold` in (½, 1).

    Guarantee: none when looked at repeatedly. With two equal arms that share the traffic it declares a winner sooner or
    later with probability 1, by the law of the iterated logarithm.
    """
    best = np.argmax(probability_best, axis=-1)
    top = probability_best.max(axis=-1)
    return np.asarray(np.where(top > threshold, best, NO_WINNER), dtype=np.int64)


def pair_z(pulls: F64, successes: F64) -> F64:
    """Two-proportion z of arm i over arm j, pooled variance, float64[..., K, K]; 0 where neither varies."""
    n_i, n_j = pulls[..., :, None], pulls[..., None, :]
    s_i, s_j = successes[..., :, None], successes[..., None, :]
    some_i, some_j = np.where(n_i > 0, n_i, 1.0), np.where(n_j > 0, n_j, 1.0)
    pooled = (s_i + s_j) / np.maximum(n_i + n_j, 1.0)
    variance = pooled * (1 - pooled) * (1 / some_i + 1 / some_j)
    known = (variance > 0) & (n_i > 0) & (n_j > 0)
    return np.where(known, (s_i / some_i - s_j / some_j) / np.sqrt(np.where(known, variance, 1.0)), 0.0)


def holm(p_values: F64, alpha: float) -> Flags:
    """Which of m hypotheses to reject, bool[..., m]: the step-down method of Holm (1979), familywise error ≤ α.

    The smallest p-value is held against α/m, the next against α/(m−1) and so on, until one fails.
    """
    count = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1, kind="stable")
    passed = np.take_along_axis(p_values, order, axis=-1) <= alpha / np.arange(count, 0, -1)
    rejected = np.empty_like(passed)
    np.put_along_axis(rejected, order, np.logical_and.accumulate(passed, axis=-1), axis=-1)
    return rejected


def best_p_values(z: F64) -> F64:
    """p-value of "arm i is not the one best arm", float64[..., K], from `pair_z`: its largest against any other arm.

    An intersection-union test (Berger 1982): i is the best only if it beats every other arm, so each comparison may
    spend the whole level.
    """
    off_diagonal = np.where(np.eye(z.shape[-1], dtype=bool), np.inf, z)
    return np.asarray(ndtr(-off_diagonal.min(axis=-1)))


def fixed_winner(pulls: F64, successes: F64, alpha: float) -> I64:
    """The arm whose hypothesis "not the one best arm" Holm's method rejects, of the K such, at one look.

    An arm is declared if it beats each of the K−1 others in a one-sided two-proportion z-test at α/K (two arms cannot
    both do so, hence Holm stops after its first step; K = 2: the usual two-sided test at α).
    Guarantee: P(declared although not the best) ≤ α by the normal approximation, at one look fixed in advance, and
    under an allocation that does not depend on the rewards.
    """
    rejected = holm(best_p_values(pair_z(pulls, successes)), alpha)
    return declared(pulls, successes, np.asarray(rejected.any(axis=-1)))


def declared(pulls: F64, successes: F64, sure: Flags) -> I64:
    """The leader where `sure`, else NO_WINNER."""
    return np.where(sure, leader(pulls, successes), NO_WINNER)
