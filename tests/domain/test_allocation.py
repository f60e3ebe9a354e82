"""Guardrails, the cumulative vector and the choice, worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiarm.domain.allocation import Allocation, checked, cumulate, guarded
from multiarm.domain.arm import Arm

JUST_BELOW_1 = math.nextafter(1.0, 0.0)


def arms(count: int) -> list[Arm]:
    return [Arm(number, f"arm-{number}") for number in range(1, count + 1)]


def over(*probabilities: float, random_mass: float = 0.0) -> Allocation:
    return Allocation.over(arms(len(probabilities)), probabilities, random_mass=random_mass, version=1)


class TestGuardrails:
    def test_by_hand(self) -> None:
        # s = 0.2 of two arms: 0.1 + 0.8·0.95 = 0.86 and 0.14; f = 0.1: 0.1 + 0.8·0.86 = 0.788 and 0.212
        probabilities, random_mass = guarded(np.array([0.95, 0.05]), random_share=0.2, floor=0.1)
        assert probabilities == pytest.approx([0.788, 0.212], abs=1e-15)
        assert random_mass == pytest.approx(0.08, abs=1e-15)  # (1 − 2·0.1)·0.2 / 2

    def test_random_share_alone(self) -> None:
        probabilities, random_mass = guarded(np.array([1.0, 0.0, 0.0, 0.0]), random_share=0.1, floor=0.0)
        assert probabilities == pytest.approx([0.925, 0.025, 0.025, 0.025])
        assert random_mass == pytest.approx(0.025)

    def test_floor_alone(self) -> None:
        probabilities, random_mass = guarded(np.array([1.0, 0.0, 0.0]), random_share=0.0, floor=0.05)
        assert probabilities == pytest.approx([0.9, 0.05, 0.05])
        assert random_mass == 0.0

    def test_none_change_nothing(self) -> None:
        raw = np.array([0.2, 0.3, 0.5])
        probabilities, random_mass = guarded(raw, random_share=0.0, floor=0.0)
        assert probabilities.tolist() == raw.tolist()
        assert random_mass == 0.0

    def test_a_random_share_of_one_is_even_and_all_random(self) -> None:
        probabilities, random_mass = guarded(np.array([1.0, 0.0]), random_share=1.0, floor=0.0)
        assert probabilities.tolist() == [0.5, 0.5]
        assert random_mass == 0.5

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
    def test_floors_that_fill_the_traffic_leave_nothing_to_the_policy(self, count: int) -> None:
        raw = np.zeros(count)
        raw[0] = 1.0
        probabilities, random_mass = guarded(raw, random_share=0.5, floor=1 / count)
        assert probabilities == pytest.approx([1 / count] * count, abs=1e-15)
        assert 0 <= random_mass <= 1e-15

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9), st.floats(0, 1), st.floats(0, 1))
    def test_keep_the_sum_and_the_floor(self, weights: list[float], share: float, of_room: float) -> None:
        floor = of_room / len(weights)
        raw = np.array(weights) / sum(weights)
        probabilities, random_mass = guarded(raw, share, floor)
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)
        assert probabilities.min() >= floor
        assert len(weights) * random_mass == pytest.approx(share * (1 - len(weights) * floor), abs=1e-12)


class TestChoose:
    def test_cuts_the_unit_interval_at_the_running_sums(self) -> None:
        allocation = over(0.25, 0.5, 0.25)
        chosen = [allocation.choose([u])[0].arm.number for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, JUST_BELOW_1)]
        assert chosen == [1, 1, 2, 2, 3, 3]

    def test_says_the_probability_of_the_arm_chosen(self) -> None:
        allocation = over(0.25, 0.75)
        assert allocation.choose([0.1])[0].propensity == 0.25
        assert allocation.choose([0.9])[0].propensity == 0.75

    def test_marks_as_random_the_first_part_of_each_arms_stretch(self) -> None:
        allocation = over(0.5, 0.5, random_mass=0.125)
        marks = [
            u < allocation.choose([u])[0].random_below
            for u in (0.0, 0.1249, 0.125, 0.4999, 0.5, 0.6249, 0.625, JUST_BELOW_1)
        ]
        assert marks == [True, True, False, False, True, True, False, False]

    def test_without_a_random_share_nothing_is_random(self) -> None:
        assert not any(u < over(0.5, 0.5).choose([u])[0].random_below for u in (0.0, 0.3, 0.5, JUST_BELOW_1))

    @pytest.mark.parametrize(
        "probabilities", [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.5, 0.0, 0.5, 0.0)]
    )
    def test_never_an_arm_of_probability_zero(self, probabilities: tuple[float, ...]) -> None:
        allocation = over(*probabilities)
        for u in (0.0, 5e-324, 0.25, math.nextafter(0.5, 0.0), 0.5, 0.75, JUST_BELOW_1):
            assert allocation.choose([u])[0].propensity > 0

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(
        weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1)), min_size=1, max_size=12).filter(any),
        u=st.one_of(st.floats(0, 1, exclude_max=True), st.just(JUST_BELOW_1)),
    )
    def test_always_some_arm_with_a_probability(self, weights: list[float], u: float) -> None:
        allocation = over(*(np.array(weights) / sum(weights)).tolist())
        assert allocation.choose([u])[0].propensity > 0

    def test_never_past_the_last_arm_where_rounding_leaves_the_sum_below_one(self) -> None:
        probabilities = [0.1] * 10
        assert sum(probabilities) < 1
        assert over(*probabilities).choose([JUST_BELOW_1])[0].arm.number == 10
        assert over(*probabilities, 0.0).choose([JUST_BELOW_1])[0].arm.number == 10


def test_cumulate_ends_on_exactly_one_from_the_last_arm_with_probability_on() -> None:
    assert cumulate([0.25, 0.75]) == (0.25, 1.0)
    assert cumulate([0.0, 0.25, 0.7499999999999, 0.0, 0.0]) == (0.0, 0.25, 1.0, 1.0, 1.0)
    assert cumulate([1.0]) == (1.0,)


class TestRestricted:
    def test_masks_the_arms_gone_and_renormalises_the_rest(self) -> None:
        allocation = over(0.5, 0.3, 0.2, random_mass=0.05)
        first, _, third = allocation.arms
        rest = allocation.restricted([first, third], version=7)
        assert rest is not None
        assert rest.arms == (first, third)
        assert rest.probabilities == pytest.approx((5 / 7, 2 / 7))
        assert rest.random_mass == pytest.approx(0.05 / 0.7)
        assert rest.version == 7
        assert rest.cumulative[-1] == 1.0

    def test_a_new_arm_gets_nothing_yet(self) -> None:
        allocation = over(0.5, 0.5)
        rest = allocation.restricted([Arm(9, "new"), *allocation.arms], version=2)
        assert rest is not None
        assert rest.probabilities == (0.0, 0.5, 0.5)
        assert rest.choose([0.0])[0].arm.number == 1

    def test_is_none_where_no_probability_is_left(self) -> None:
        allocation = over(0.0, 1.0)
        assert allocation.restricted([allocation.arms[0]], version=2) is None
        assert allocation.restricted([Arm(9, "new")], version=2) is None
        assert allocation.restricted([], version=2) is None

    def test_goes_by_number_and_not_by_id(self) -> None:
        allocation = over(0.5, 0.5)
        assert allocation.restricted([Arm(9, "arm-1")], version=2) is None

    def test_remembers_what_it_was_computed_from(self) -> None:
        allocation = Allocation.over(arms(2), [0.5, 0.5], version=1, evidence_version=4, computed_at=99.0)
        rest = allocation.restricted(allocation.arms[:1], version=2)
        assert rest is not None
        assert (rest.evidence_version, rest.computed_at) == (4, 99.0)


class TestChecked:
    def test_hands_on_a_distribution(self) -> None:
        probabilities = np.array([0.25, 0.75])
        assert checked(probabilities, 2) is probabilities

    @pytest.mark.parametrize(
        "wrong",
        [[1.0], [0.5, 0.25, 0.25], [math.nan, 1.0], [math.inf, 0.0], [-0.1, 1.1], [0.5, 0.5 + 1e-8], [0.0, 0.0]],
    )
    def test_refuses_anything_else(self, wrong: list[float]) -> None:
        with pytest.raises(ArithmeticError):
            checked(np.array(wrong), 2)
