"""Evidence worked out by hand: decay weights, merging with a half-life, the origin, mean and variance."""

import math
from typing import Any

import numpy as np
import pytest

from multiarm.domain.evidence import Evidence, Row, decay_weight
from multiarm.domain.policies import EpsilonGreedy, Observation, Policy, Thompson

HALF_LIFE_S = 100.0


def one(reward: float, origin: float = 0.0) -> tuple[float, float, float]:
    deviation = reward - origin
    return 1.0, deviation, deviation**2


def evidence_of(*rewards: float, origin: float = 0.0) -> Evidence:
    """One arm's evidence, without forgetting."""
    row = Row().plus([(one(reward, origin), 0.0) for reward in rewards], None)
    return Evidence.from_rows([row], origin=origin)


class TestDecayWeight:
    @pytest.mark.parametrize(
        ("age_s", "weight"), [(0, 1), (100, 0.5), (200, 0.25), (50, math.sqrt(0.5)), (1000, 2**-10)]
    )
    def test_halves_with_every_half_life(self, age_s: float, weight: float) -> None:
        assert decay_weight(age_s, HALF_LIFE_S) == pytest.approx(weight, rel=1e-15)

    def test_is_one_without_a_half_life_however_old(self) -> None:
        assert decay_weight(1e300, None) == 1.0

    @pytest.mark.parametrize("age_s", [-1e-9, -100.0, -1e12])
    def test_never_inflates_what_lies_ahead(self, age_s: float) -> None:
        assert decay_weight(age_s, HALF_LIFE_S) == 1.0

    def test_of_a_very_old_row_is_zero_and_no_overflow(self) -> None:
        assert decay_weight(1e300, 60.0) == 0.0


class TestRow:
    def test_of_two_rewards_at_one_time_is_their_plain_sum(self) -> None:
        row = Row().plus([(one(0.25), 7.0), (one(0.5), 7.0)], HALF_LIFE_S)
        assert row == Row((2.0, 0.75, 0.3125), 7.0, 2, 0)

    def test_a_later_reward_halves_what_was_there_a_half_life_ago(self) -> None:
        row = Row((4.0, 2.0, 1.0), 1000.0, 4).plus([(one(1.0), 1100.0)], HALF_LIFE_S)
        assert row == Row((3.0, 2.0, 1.5), 1100.0, 5, 0)

    def test_a_reward_that_comes_late_is_decayed_itself_and_the_row_stays_as_of_its_time(self) -> None:
        row = Row((4.0, 2.0, 1.0), 1000.0, 4).plus([(one(1.0), 800.0)], HALF_LIFE_S)
        assert row == Row((4.25, 2.25, 1.25), 1000.0, 5, 0)

    def test_a_batch_is_decayed_reward_by_reward_before_it_is_summed(self) -> None:
        row = Row().plus([(one(1.0), 1000.0), (one(1.0), 1200.0), (one(0.0), 1100.0)], HALF_LIFE_S)
        assert row == Row((1.75, 1.25, 1.25), 1200.0, 3, 0)

    def test_without_a_half_life_every_reward_weighs_the_same(self) -> None:
        row = Row((4.0, 2.0, 1.0), 1000.0, 4).plus([(one(1.0), 5.0), (one(0.5), 9e9)], None)
        assert row == Row((6.0, 3.5, 2.25), 9e9, 6, 0)

    def test_keeps_its_draw_count(self) -> None:
        assert Row(draw_count=17).plus([(one(1.0), 0.0)], None).draw_count == 17


class TestMerging:
    def test_decays_both_rows_to_the_later_time_then_adds(self) -> None:
        old = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        new = Evidence.from_rows([Row((1.0, 1.0, 1.0), 1100.0, 1)], half_life_s=HALF_LIFE_S)
        for merged in (old + new, new + old):
            assert merged.sums.tolist() == [[3.0, 2.0, 1.5]]
            assert merged.as_of.tolist() == [1100.0]
            assert merged.pull_count.tolist() == [5]

    def test_is_arm_by_arm(self) -> None:
        left = Evidence.from_rows([Row((8.0, 8.0, 8.0), 1000.0, 8), Row((1.0, 0.0, 0.0), 1300.0, 1)], half_life_s=100.0)
        right = Evidence.from_rows(
            [Row((1.0, 1.0, 1.0), 1300.0, 1), Row((8.0, 0.0, 0.0), 1000.0, 8)], half_life_s=100.0
        )
        merged = left + right
        assert merged.pulls.tolist() == [2.0, 2.0]
        assert merged.mean.tolist() == [1.0, 0.0]
        assert merged.pull_count.tolist() == [9, 9]

    def test_with_an_arm_never_rewarded_changes_nothing(self) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        merged = row + Evidence.from_rows([Row()], half_life_s=HALF_LIFE_S)
        assert merged.sums.tolist() == row.sums.tolist()
        assert merged.as_of.tolist() == [1000.0]

    @pytest.mark.parametrize("other", [{"origin": 1.0}, {"half_life_s": 60.0}])
    def test_refuses_another_origin_or_half_life(self, other: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="same origin and half-life"):
            Evidence.from_rows([Row()]) + Evidence.from_rows([Row()], **other)


class TestDecayed:
    def test_weighs_less_later_and_pull_count_never_does(self) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        later = row.decayed(1200.0)
        assert later.sums.tolist() == [[1.0, 0.5, 0.25]]
        assert later.pull_count.tolist() == [4]
        assert later.mean.tolist() == row.mean.tolist() == [0.5]

    def test_in_two_steps_is_the_same_as_in_one(self) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        assert row.decayed(1050.0).decayed(1170.0).sums == pytest.approx(row.decayed(1170.0).sums, rel=1e-15)

    @pytest.mark.parametrize("now", [1000.0, 999.0, 0.0])
    def test_at_or_before_its_own_time_it_is_unchanged(self, now: float) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        back = row.decayed(now)
        assert back.sums.tolist() == row.sums.tolist()
        assert back.as_of.tolist() == [1000.0]
        assert back.decayed(1100.0).pulls.tolist() == [2.0]

    def test_without_a_half_life_time_does_nothing(self) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)])
        assert row.decayed(1e12).sums.tolist() == [[4.0, 2.0, 1.0]]

    def test_leaves_the_original_alone(self) -> None:
        row = Evidence.from_rows([Row((4.0, 2.0, 1.0), 1000.0, 4)], half_life_s=HALF_LIFE_S)
        row.decayed(5000.0)
        assert row.sums.tolist() == [[4.0, 2.0, 1.0]]


class TestMoments:
    def test_mean_and_unbiased_variance_of_one_two_three_four(self) -> None:
        evidence = evidence_of(1.0, 2.0, 3.0, 4.0)
        assert evidence.pulls.tolist() == [4.0]
        assert evidence.reward.tolist() == [10.0]
        assert evidence.mean.tolist() == [2.5]
        assert evidence.variance == pytest.approx([5 / 3], rel=1e-15)

    def test_without_pulls_there_is_no_mean(self) -> None:
        assert np.isnan(Evidence.from_rows([Row()]).mean).all()

    def test_below_two_pulls_there_is_no_variance(self) -> None:
        assert np.isnan(evidence_of(3.0).variance).all()
        assert evidence_of(3.0, 3.0).variance.tolist() == [0.0]

    def test_sums_are_kept_about_the_origin_and_read_about_zero(self) -> None:
        evidence = evidence_of(101.0, 102.0, 106.0, origin=100.0)
        assert evidence.sums.tolist() == [[3.0, 9.0, 41.0]]
        assert evidence.reward.tolist() == [309.0]
        assert evidence.mean.tolist() == [103.0]
        assert evidence.variance == pytest.approx([7.0])  # (4 + 1 + 9) / 2

    def test_an_origin_saves_a_variance_that_a_large_mean_would_swallow(self) -> None:
        rewards = [1e9 + 1, 1e9 + 2, 1e9 + 3]
        assert evidence_of(*rewards, origin=1e9).variance.tolist() == [1.0]

    def test_rounding_never_makes_a_variance_negative(self) -> None:
        evidence = evidence_of(*[0.1] * 1000)
        assert 0 <= evidence.variance[0] < 1e-15


@pytest.mark.parametrize("policy", [EpsilonGreedy(), Thompson()])
def test_an_increment_is_a_pull_the_deviation_and_its_square(policy: Policy) -> None:
    assert policy.increment(Observation(0.75, 0.25, 0.0)) == (1.0, 0.5, 0.25)
    assert policy.increment(Observation(0.0, 0.0, 0.0)) == (1.0, 0.0, 0.0)


class TestRowsAsArrays:
    def test_from_rows_fills_rows_never_rewarded_with_zeros(self) -> None:
        evidence = Evidence.from_rows([Row(), Row((1.0, 2.0, 4.0), 5.0, 1)])
        assert evidence.sums.tolist() == [[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]
        assert evidence.as_of.tolist() == [0.0, 5.0]
        assert evidence.pull_count.tolist() == [0, 1]

    def test_of_no_rows_has_the_shape_of_no_arms(self) -> None:
        assert Evidence.from_rows([]).sums.shape == (0, 3)

    def test_take_copies_the_chosen_rows_in_the_given_order(self) -> None:
        evidence = Evidence.from_rows([Row((float(n), 0.0, 0.0), float(n), n) for n in range(4)])
        taken = evidence.take([3, 1])
        assert taken.pulls.tolist() == taken.as_of.tolist() == taken.pull_count.tolist() == [3, 1]
        taken.sums[:] = 99.0
        assert evidence.pulls.tolist() == [0.0, 1.0, 2.0, 3.0]

    def test_stacked_keeps_the_order_of_its_parts(self) -> None:
        first, second = evidence_of(1.0), evidence_of(2.0, 2.0)
        assert Evidence.stacked([second, first]).pulls.tolist() == [2.0, 1.0]


class TestCorrected:
    def test_old_out_new_in(self) -> None:
        row = Row((2.0, 8.0, 34.0), 100.0, 2, 9)
        assert row.corrected((1.0, 3.0, 9.0), (1.0, 4.0, 16.0), 50.0, None) == Row((2.0, 9.0, 41.0), 100.0, 2, 9)
        assert row.corrected((1.0, 3.0, 9.0), None, 50.0, None) == Row((1.0, 5.0, 25.0), 100.0, 1, 9)
        assert row.corrected(None, (1.0, 1.0, 1.0), 50.0, None) == Row((3.0, 9.0, 35.0), 100.0, 3, 9)

    def test_both_weigh_what_their_age_left(self) -> None:
        row = Row((1.25, 3.0, 10.0), 120.0, 2)
        assert row.corrected((1.0, 4.0, 16.0), (1.0, 8.0, 64.0), 0.0, 60.0) == Row((1.25, 4.0, 22.0), 120.0, 2)

    def test_a_row_of_another_nodes_reward_goes_below_zero(self) -> None:
        assert Row().corrected((1.0, 3.0, 9.0), None, 50.0, None) == Row((-1.0, -3.0, -9.0), 50.0, -1)

    def test_what_rounding_leaves_is_nothing(self) -> None:
        """0.1 + 0.2 − 0.3 is not 0 in floats; and a row decayed twice is not one decayed once."""
        row = Row().plus([((1.0, 0.1, 0.01), 0.0), ((1.0, 0.2, 0.04), 0.0)], None)
        row = row.corrected((1.0, 0.1, 0.01), (1.0, -0.2, 0.04), 0.0, None)
        assert row.sums[1] == 0.0
        row = (
            Row((1.0, 0.3, 0.09), 0.0, 1)
            .plus([((1.0, 5.0, 25.0), 1003.0)], 977.0)
            .plus([((1.0, 7.0, 49.0), 5003.0)], 977.0)
        )
        for time, value in ((0.0, 0.3), (1003.0, 5.0), (5003.0, 7.0)):
            row = row.corrected((1.0, value, value * value), None, time, 977.0)
        assert row[:3] == ((0.0, 0.0, 0.0), 5003.0, 0)

    def test_evidence_of_no_rewards_is_zero(self) -> None:
        rows = [Row((1e-17, -3e-17, 1e-18), 0.0, 0), Row((-1e-17, 1.0, 1.0), 0.0, 3), Row((2.0, 1.0, 1.0), 0.0, 2)]
        assert Evidence.from_rows(rows).without_leftovers().sums.tolist() == [[0.0] * 3, [0.0] * 3, [2.0, 1.0, 1.0]]
