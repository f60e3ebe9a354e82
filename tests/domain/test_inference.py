"""Intervals and P(best) against closed forms, scipy.stats and mpmath."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.inference import normal_probability_best, student_t_interval
from multiarm.domain.policies import EpsilonGreedy, Thompson
from multiarm.domain.policies.base import PseudoCounts, Situation
from multiarm.domain.posteriors import BetaPosterior

mp: Any = importlib.import_module("mpmath")  # it has no types


def evidence_of(*arms: list[float], origin: float = 0.0) -> Evidence:
    rows = [
        Row((float(len(rewards)), sum(r - origin for r in rewards), sum((r - origin) ** 2 for r in rewards)))
        for rewards in arms
    ]
    return Evidence.from_rows(rows, origin=origin)


class TestStudentT:
    def test_of_one_two_three_four_by_hand(self) -> None:
        # mean 2.5, s² = 5/3, t(0.975; 3) = 3.182446: half width 3.182446 · √(5/12) = 2.054260
        low, high = student_t_interval(evidence_of([1.0, 2.0, 3.0, 4.0]))[0]
        assert (low, high) == pytest.approx((0.445740, 4.554260), abs=1e-6)

    @pytest.mark.parametrize(
        "rewards", [[0.0, 1.0], [3.5, -2.0, 7.25], [0.0] * 40 + [1.0] * 3, [1e6 + 0.1 * n for n in range(1000)]]
    )
    def test_agrees_with_scipy(self, rewards: list[float]) -> None:
        sample = np.array(rewards)
        expected = stats.t.interval(0.95, len(sample) - 1, sample.mean(), stats.sem(sample))
        assert student_t_interval(evidence_of(rewards, origin=rewards[0]))[0] == pytest.approx(expected, rel=1e-9)

    def test_is_nan_below_two_pulls_for_that_arm_alone(self) -> None:
        interval = student_t_interval(evidence_of([1.0, 2.0], [5.0], []))
        assert np.isfinite(interval).all(axis=-1).tolist() == [True, False, False]

    def test_takes_fractions_of_a_pull_after_forgetting(self) -> None:
        evidence = Evidence.from_rows([Row((10.0, 5.0, 5.0), 0.0, 10)], half_life_s=100.0).decayed(200.0)
        # 2.5 effective pulls, mean 1/2, s² = 2.5·(1/4)/1.5 = 5/12; 1.5 degrees of freedom
        half_width = stats.t.ppf(0.975, 1.5) * math.sqrt(5 / 12 / 2.5)
        assert student_t_interval(evidence)[0] == pytest.approx([0.5 - half_width, 0.5 + half_width])

    def test_is_the_interval_of_epsilon_greedy(self) -> None:
        evidence = evidence_of([1.0, 2.0, 3.0, 4.0])
        assert EpsilonGreedy().interval(evidence).tolist() == student_t_interval(evidence).tolist()


class TestBeta:
    def test_of_the_uniform_prior_is_the_middle_95_percent(self) -> None:
        assert BetaPosterior(np.array([1.0]), np.array([1.0])).interval()[0] == pytest.approx([0.025, 0.975], rel=1e-14)

    def test_of_one_success_is_the_square_root(self) -> None:
        # the distribution function of Beta(2, 1) is x²
        interval = BetaPosterior(np.array([2.0]), np.array([1.0])).interval()[0]
        assert interval == pytest.approx([math.sqrt(0.025), math.sqrt(0.975)], rel=1e-13)

    @pytest.mark.parametrize(("alpha", "beta"), [(2.0, 5.0), (0.5, 0.5), (31.0, 971.0), (1e5, 3e5)])
    def test_agrees_with_scipy(self, alpha: float, beta: float) -> None:
        expected = stats.beta.ppf([0.025, 0.975], alpha, beta)
        assert BetaPosterior(np.array([alpha]), np.array([beta])).interval()[0] == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(("alpha", "beta"), [(2.0, 5.0), (0.5, 0.5), (40.5, 3.25)])
    def test_leaves_a_fortieth_on_either_side_by_mpmath(self, alpha: float, beta: float) -> None:
        low, high = BetaPosterior(np.array([alpha]), np.array([beta])).interval()[0].tolist()
        assert float(mp.betainc(alpha, beta, 0, low, regularized=True)) == pytest.approx(0.025, rel=1e-10)
        assert float(mp.betainc(alpha, beta, high, 1, regularized=True)) == pytest.approx(0.025, rel=1e-10)

    def test_is_the_interval_of_thompson_with_all_priors_counted(self) -> None:
        evidence = evidence_of([1.0, 0.0, 1.0])
        prior = PseudoCounts(np.array([4.0]), np.array([0.25]))
        # α = 1 + 2 + 4·¼, β = 1 + 1 + 4·¾
        expected = stats.beta.ppf([0.025, 0.975], 4.0, 5.0)
        assert Thompson().interval(evidence, Situation(prior=prior))[0] == pytest.approx(expected, rel=1e-9)


class TestNormalAnalogue:
    def test_of_two_arms_is_the_normal_of_the_gap(self) -> None:
        first, second = [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 6.0]
        gap = np.mean(second) - np.mean(first)
        spread = math.sqrt(np.var(first, ddof=1) / 4 + np.var(second, ddof=1) / 4)
        better = stats.norm.cdf(gap / spread)
        assert normal_probability_best(evidence_of(first, second)) == pytest.approx([1 - better, better], abs=1e-10)

    def test_of_equal_arms_is_even(self) -> None:
        arm = [0.0, 1.0, 1.0]
        assert normal_probability_best(evidence_of(arm, arm, arm)) == pytest.approx([1 / 3] * 3, abs=1e-10)

    def test_is_none_until_every_arm_has_two_pulls(self) -> None:
        assert normal_probability_best(evidence_of([1.0, 0.0], [1.0])) is None
        assert EpsilonGreedy().probability_best(evidence_of([1.0, 0.0], [])) is None
        assert normal_probability_best(evidence_of([1.0, 0.0], [1.0, 0.0])) is not None

    def test_of_arms_that_never_varied_names_the_larger(self) -> None:
        assert normal_probability_best(evidence_of([0.0, 0.0], [1.0, 1.0])) == pytest.approx([0.0, 1.0])
        assert normal_probability_best(evidence_of([1.0, 1.0], [1.0, 1.0])) == pytest.approx([0.5, 0.5])
        assert normal_probability_best(evidence_of([0.0, 0.0], [0.0, 0.0])) == pytest.approx([0.5, 0.5])

    def test_a_far_origin_costs_no_digits(self) -> None:
        for origin in (1e9, 1e12):
            low = [origin + r for r in (0.0, 0.125)] * 500
            high = [origin + 1 + r for r in (0.0, 0.125)] * 500
            best = normal_probability_best(evidence_of(low, high, origin=origin))
            assert best is not None
            assert best.tolist() == pytest.approx([0.0, 1.0], abs=1e-12)

    def test_an_outlier_does_not_blur_the_others(self) -> None:
        low, high = [1e-7, 1.01e-7] * 50, [2e-7, 2.01e-7] * 50
        best = normal_probability_best(evidence_of([-1000.0, -1001.0] * 50, low, high))
        assert best is not None
        assert best.tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-12)
