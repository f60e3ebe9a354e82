"""Stopping rules against direct maximisation, textbook examples and their own promises under continuous looking."""

from collections.abc import Callable, Sequence
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

from multiarm.domain.stopping import (
    NO_WINNER,
    BetaPart,
    best_p_values,
    fixed_winner,
    glr_statistic,
    glr_winner,
    holm,
    informed,
    leader,
    log_likelihood,
    log_marginal,
    mixture_statistic,
    mixture_winner,
    pair_z,
    probability_winner,
)

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

COUNTS = [((10, 12), (7, 2)), ((200, 900), (9, 30)), ((5, 5), (5, 0)), ((1000, 1000), (30, 29)), ((3, 0), (2, 0))]


def floats(pulls: Sequence[float], successes: Sequence[float]) -> tuple[F64, F64]:
    return np.asarray(pulls, dtype=np.float64), np.asarray(successes, dtype=np.float64)


class TestMixture:
    def test_marginal_of_one_success_in_two(self) -> None:
        # ∫ p (1 − p) dp = 1/6
        assert log_marginal(*floats([2.0], [1.0]))[0] == pytest.approx(log(1 / 6))

    @pytest.mark.parametrize("prior", [(BetaPart(),), (BetaPart(1.0, 0.5, 0.5),), informed(0.2, 0.05)])
    def test_marginal_by_quadrature(self, prior: tuple[BetaPart, ...]) -> None:
        def integrand(p: float) -> float:
            density = sum(part.weight * float(stats.beta.pdf(p, part.alpha, part.beta)) for part in prior)
            return density * p**7 * (1 - p) ** 25

        expected = integrate.quad(integrand, 0, 1, epsabs=0, epsrel=1e-9, limit=200)[0]
        assert log_marginal(*floats([32.0], [7.0]), prior)[0] == pytest.approx(log(expected), rel=1e-7)

    @pytest.mark.parametrize(("pulls", "successes"), COUNTS)
    def test_statistic_by_direct_maximisation_under_the_null(
        self, pulls: tuple[int, int], successes: tuple[int, int]
    ) -> None:
        """The maximum over p_i ≤ p_j on the whole triangle, by a search that knows nothing of pooling."""
        n, s = floats(pulls, successes)
        i = int(leader(n, s))
        j = 1 - i

        def negative(x: F64) -> float:
            high, ratio = x
            p_i, p_j = ratio * high, high
            return -float(
                s[i] * log(p_i) + (n[i] - s[i]) * log(1 - p_i) + s[j] * log(p_j) + (n[j] - s[j]) * log(1 - p_j)
            )

        edge = (1e-9, 1 - 1e-9)
        starts = [(0.02, 0.9), (0.3, 0.5), (0.7, 0.9)]
        best = min(optimize.minimize(negative, start, bounds=[edge, edge], tol=1e-13).fun for start in starts)
        expected = float(log_marginal(n, s).sum()) + best
        assert mixture_statistic(n, s) == pytest.approx(expected, abs=2e-4)

    def test_of_three_arms_the_nearest_rival_decides(self) -> None:
        n, s = floats([50.0, 60.0, 70.0], [30.0, 20.0, 2.0])
        pairs = [mixture_statistic(n[[0, j]], s[[0, j]]) for j in (1, 2)]
        assert mixture_statistic(n, s) == pytest.approx(min(pairs))

    def test_never_above_the_likelihood_ratio(self) -> None:
        rng = np.random.default_rng(3)
        n = rng.integers(0, 500, (2000, 4)).astype(float)
        s = rng.binomial(n.astype(int), 0.1).astype(float)
        assert (mixture_statistic(n, s) <= glr_statistic(n, s) + 1e-9).all()

    def test_the_informed_prior_costs_at_most_two_ln_two_and_gains_where_it_fits(self) -> None:
        rng = np.random.default_rng(4)
        n = rng.integers(1, 100_000, (1000, 2)).astype(float)
        for rate, gains in ((0.02, True), (0.4, False)):
            s = rng.binomial(n.astype(int), rate).astype(float)
            gained = mixture_statistic(n, s, informed(0.02, 0.002)) - mixture_statistic(n, s)
            assert gained.min() >= -2 * log(2) - 1e-9
            assert bool(np.median(gained) > 4) is gains

    def test_a_prior_of_weight_one_in_two_parts_is_the_prior(self) -> None:
        n, s = floats([100.0, 200.0], [10.0, 10.0])
        assert mixture_statistic(n, s, (BetaPart(0.5), BetaPart(0.5))) == pytest.approx(mixture_statistic(n, s))

    def test_threshold_is_ln_k_over_alpha(self) -> None:
        n, s = floats([100.0, 100.0], [60.0, 30.0])
        alpha = 2 * np.exp(-float(mixture_statistic(n, s)))
        assert mixture_winner(n, s, alpha * 1.001) == 0
        assert mixture_winner(n, s, alpha * 0.999) == NO_WINNER


class TestGLR:
    def test_by_hand(self) -> None:
        # 8 of 10 against 2 of 10, pooled ½: 10 · kl(.8, .5) · 2 = 20 · (.8 ln 1.6 + .2 ln .4)
        assert glr_statistic(*floats([10.0, 10.0], [8.0, 2.0])) == pytest.approx(20 * (0.8 * log(1.6) + 0.2 * log(0.4)))

    def test_equal_means_and_no_pulls_are_no_evidence(self) -> None:
        assert glr_statistic(*floats([10.0, 20.0], [3.0, 6.0])) == pytest.approx(0.0, abs=1e-12)
        assert glr_statistic(*floats([0.0, 0.0], [0.0, 0.0])) == 0.0
        assert glr_winner(*floats([0.0, 50.0], [0.0, 50.0]), 0.05) == NO_WINNER

    def test_past_its_threshold_the_krichevsky_trofimov_mixture_is_past_its_own(self) -> None:
        """The proof in the docstring, pathwise: it is what makes the guarantee hold under any allocation."""
        rng = np.random.default_rng(5)
        n = rng.integers(1, 3000, (50_000, 2)).astype(float)
        s = rng.binomial(n.astype(int), rng.random((50_000, 2))).astype(float)
        gained = mixture_statistic(n, s, (BetaPart(1.0, 0.5, 0.5),)) - glr_statistic(n, s)
        assert (gained >= -np.log(2 * n.sum(axis=-1)) - 1e-9).all()


class TestFixed:
    def test_holm_by_the_book(self) -> None:
        # .005 ≤ .05/4, .01 ≤ .05/3, .03 > .05/2: stop, although .04 ≤ .05
        assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == [True, False, False, True]
        assert holm(np.array([0.02, 0.02]), 0.05).tolist() == [True, True]
        assert holm(np.array([[0.03, 0.03], [0.001, 0.04]]), 0.05).tolist() == [[False, False], [True, True]]

    def test_z_by_hand(self) -> None:
        # 60 and 40 of 100: pooled ½, (.6 − .4) / √(.25 · .02) = 2.8284
        z = pair_z(*floats([100.0, 100.0], [60.0, 40.0]))
        assert z == pytest.approx(np.array([[0.0, 2.828427], [-2.828427, 0.0]]), abs=1e-6)

    def test_two_arms_are_the_two_sided_test(self) -> None:
        n = np.full(2, 10_000.0)
        for more, expected in ((41, 0), (40, NO_WINNER)):  # z = 1.974 and 1.928
            assert fixed_winner(n, np.array([200.0 + more, 200.0]), 0.05) == expected

    def test_an_arm_must_beat_every_other_at_alpha_over_k(self) -> None:
        n = np.full(3, 1000.0)
        z_limit = stats.norm.isf(0.05 / 3)
        for rival in range(100, 160):
            s = np.array([160.0, 60.0, float(rival)])
            z = float(pair_z(n, s)[0, 2])
            assert (fixed_winner(n, s, 0.05) == 0) == (z >= z_limit)

    def test_p_value_is_that_of_the_hardest_comparison(self) -> None:
        z = np.array([[0.0, 3.0, 1.0], [-3.0, 0.0, -2.0], [-1.0, 2.0, 0.0]])
        assert best_p_values(z) == pytest.approx(stats.norm.sf([1.0, -3.0, -1.0]))

    def test_arms_that_never_vary_are_no_evidence(self) -> None:
        assert fixed_winner(*floats([10.0, 10.0], [0.0, 0.0]), 0.05) == NO_WINNER


def test_log_likelihood_at_the_edges() -> None:
    assert log_likelihood(*floats([0.0, 4.0, 4.0, 2.0], [0.0, 0.0, 4.0, 1.0])) == pytest.approx(
        np.array([0.0, 0.0, 0.0, 2 * log(0.5)])
    )


def test_probability_winner() -> None:
    assert probability_winner(np.array([[0.96, 0.04], [0.05, 0.95], [0.5, 0.5]]), 0.95).tolist() == [0, -1, -1]


Rule = Callable[[F64, F64], I64]
ALPHA = 0.2
RUNS, VISITORS = 1200, 250


def even(pulls: F64, successes: F64, rng: np.random.Generator) -> I64:
    return rng.integers(0, pulls.shape[-1], len(pulls))


def greedy(pulls: F64, successes: F64, rng: np.random.Generator) -> I64:
    """Whatever looks best, a tenth at random: as adaptive as it gets."""
    best = np.argmax((successes + 1) / (pulls + 2) + 1e-6 * rng.random(pulls.shape), axis=-1)
    return np.where(rng.random(len(pulls)) < 0.1, even(pulls, successes, rng), best)


def doubting(pulls: F64, successes: F64, rng: np.random.Generator) -> I64:
    """The arm that looks worst: it feeds on what has fallen behind by chance."""
    worst = np.argmin((successes + 1) / (pulls + 2) + 1e-6 * rng.random(pulls.shape), axis=-1)
    return np.where(rng.random(len(pulls)) < 0.3, even(pulls, successes, rng), worst)


def false_winners(
    rule: Rule, choose: Callable[[F64, F64, np.random.Generator], I64], arms: int, delay: int, seed: int = 8
) -> float:
    """Share of A/A experiments at 30 % that ever declare a winner, looked at after each of 250 rewards."""
    rng = np.random.default_rng(seed)
    pulls, successes = np.zeros((RUNS, arms)), np.zeros((RUNS, arms))
    rows, declared, waiting = np.arange(RUNS), np.zeros(RUNS, dtype=bool), []
    for _ in range(VISITORS + delay):
        arm = choose(pulls, successes, rng)
        waiting.append((arm, rng.random(RUNS) < 0.3))
        if len(waiting) > delay:
            shown, rewards = waiting.pop(0)
            pulls[rows, shown] += 1
            successes[rows, shown] += rewards
            declared |= rule(pulls, successes) != NO_WINNER
    return float(declared.mean())


AT_MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5


class TestPromises:
    """Under A/A, looking after every reward, with 5 times the usual α, so that a broken rule would show."""

    @pytest.mark.parametrize("choose", [even, greedy, doubting])
    @pytest.mark.parametrize(("arms", "delay"), [(2, 0), (3, 40)])
    def test_the_mixture_rule_keeps_alpha(
        self, choose: Callable[[F64, F64, np.random.Generator], I64], arms: int, delay: int
    ) -> None:
        assert false_winners(lambda n, s: mixture_winner(n, s, ALPHA), choose, arms, delay) <= AT_MOST

    def test_the_mixture_rule_keeps_alpha_with_a_prior_at_the_truth(self) -> None:
        prior = informed(0.3, 0.1)
        found = false_winners(lambda n, s: mixture_winner(n, s, ALPHA, prior), greedy, 2, 0)
        assert found <= AT_MOST

    def test_the_glr_rule_keeps_its_bound(self) -> None:
        assert false_winners(lambda n, s: glr_winner(n, s, ALPHA), doubting, 2, 0) <= 2 * AT_MOST

    def test_these_experiments_would_catch_a_likelihood_ratio_without_a_price_for_looking(self) -> None:
        def naive(n: F64, s: F64) -> I64:
            return np.where(glr_statistic(n, s) >= log(2 / ALPHA), leader(n, s), NO_WINNER)

        assert false_winners(naive, even, 2, 0) > AT_MOST

    def test_and_the_fixed_test_when_it_is_looked_at_all_the_time(self) -> None:
        assert false_winners(lambda n, s: fixed_winner(n, s, ALPHA), even, 2, 0) > 0.4


def test_a_clear_winner_is_found() -> None:
    rng = np.random.default_rng(9)
    n = np.full((500, 3), 2000.0)
    s = rng.binomial(2000, [0.2, 0.3, 0.2], (500, 3)).astype(float)
    for winners in (mixture_winner(n, s, 0.05), glr_winner(n, s, 0.05), fixed_winner(n, s, 0.05)):
        assert (winners == 1).mean() > 0.95
        assert set(winners.tolist()) <= {1, NO_WINNER}
