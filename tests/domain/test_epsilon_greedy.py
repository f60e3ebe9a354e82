"""ε-greedy worked out by hand."""

import numpy as np
import pytest

from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.policies import EpsilonGreedy, PseudoCounts, Situation

Arm = tuple[float, float]  # pulls, mean reward


def evidence_of(*arms: Arm, origin: float = 0.0) -> Evidence:
    rows = [Row((n, n * (mean - origin), n * (mean - origin) ** 2), 0.0, int(n)) for n, mean in arms]
    return Evidence.from_rows(rows, origin=origin)


def allocation(epsilon: float, *arms: Arm, prior: PseudoCounts | None = None) -> list[float]:
    situation = Situation(prior=prior)
    probabilities: list[float] = EpsilonGreedy(epsilon=epsilon).allocate(evidence_of(*arms), situation).tolist()
    return probabilities


def test_the_best_mean_takes_all_but_the_exploring_share() -> None:
    assert allocation(0.1, (10, 0.5), (10, 0.25)) == pytest.approx([0.95, 0.05])
    assert allocation(0.3, (1, -5.0), (9, -4.0), (2, -7.0)) == pytest.approx([0.1, 0.8, 0.1])


def test_epsilon_zero_only_exploits() -> None:
    assert allocation(0.0, (10, 0.5), (10, 0.25), (1, 0.4)) == [1.0, 0.0, 0.0]


def test_epsilon_one_only_explores() -> None:
    assert allocation(1.0, (10, 0.5), (10, 0.25), (0, 0.0), (3, 0.9)) == [0.25] * 4


def test_the_mean_decides_and_not_the_sum() -> None:
    assert allocation(0.0, (1000, 0.5), (2, 0.75)) == [0.0, 1.0]


def test_the_mean_is_over_rewards_and_not_over_deviations_from_the_origin() -> None:
    evidence = evidence_of((10, 101.0), (2, 102.0), origin=100.0)
    prior = PseudoCounts(np.array([0.0, 2.0]), np.array([0.0, 99.0]))  # the second arm's mean is now 100.5
    assert EpsilonGreedy(epsilon=0.0).allocate(evidence, Situation(prior=prior)).tolist() == [1.0, 0.0]


class TestTies:
    def test_share_equally(self) -> None:
        assert allocation(0.1, (10, 0.5), (4, 0.5), (9, 0.1)) == pytest.approx(
            [0.1 / 3 + 0.45, 0.1 / 3 + 0.45, 0.1 / 3]
        )

    @pytest.mark.parametrize("scale", [1.0, -1.0, 1e12, -1e12, 1e-12])
    def test_reach_to_1e_12_relative(self, scale: float) -> None:
        near, far = scale * (1 - 5e-13), scale * (1 - 2e-12)
        assert allocation(0.0, (1, scale), (1, near)) == [0.5, 0.5]
        assert sorted(allocation(0.0, (1, scale), (1, far))) == [0.0, 1.0]

    def test_of_means_of_zero(self) -> None:
        assert allocation(0.0, (3, 0.0), (5, 0.0), (5, -1e-300)) == [0.5, 0.5, 0.0]


class TestArmsWithoutEvidence:
    def test_are_tried_first(self) -> None:
        assert allocation(0.2, (10, 0.9), (0, 0.0)) == pytest.approx([0.1, 0.9])

    def test_share_the_greedy_part_equally(self) -> None:
        assert allocation(0.3, (0, 0.0), (10, 1e12), (0, 0.0)) == pytest.approx([0.45, 0.1, 0.45])

    def test_are_even_where_no_arm_has_any(self) -> None:
        assert allocation(0.1, (0, 0.0), (0, 0.0), (0, 0.0), (0, 0.0)) == pytest.approx([0.25] * 4)

    def test_stand_by_their_prior_where_they_have_one(self) -> None:
        worse = PseudoCounts(np.array([0.0, 1.0]), np.array([0.0, 0.4]))
        better = PseudoCounts(np.array([0.0, 1.0]), np.array([0.0, 0.6]))
        assert allocation(0.0, (10, 0.5), (0, 0.0), prior=worse) == [1.0, 0.0]
        assert allocation(0.0, (10, 0.5), (0, 0.0), prior=better) == [0.0, 1.0]

    def test_without_a_prior_come_before_those_with_one(self) -> None:
        prior = PseudoCounts(np.array([0.0, 5.0]), np.array([0.0, 1e12]))
        assert allocation(0.0, (0, 0.0), (0, 0.0), prior=prior) == [1.0, 0.0]


def test_a_prior_counts_in_n_and_in_the_mean() -> None:
    # (2·0.9 + 6·0.5) / 8 = 0.6, which beats 0.59 and loses to 0.61
    prior = PseudoCounts(np.array([6.0, 0.0]), np.array([0.5, 0.0]))
    assert allocation(0.0, (2, 0.9), (50, 0.59), prior=prior) == [1.0, 0.0]
    assert allocation(0.0, (2, 0.9), (50, 0.61), prior=prior) == [0.0, 1.0]


def test_a_mean_outlives_forgetting() -> None:
    evidence = Evidence(
        evidence_of((10, 0.5), (10, 0.25)).sums, np.zeros(2), np.array([10, 10]), half_life_s=60.0
    ).decayed(60.0 * 500)
    assert EpsilonGreedy(epsilon=0.0).allocate(evidence).tolist() == [1.0, 0.0]
