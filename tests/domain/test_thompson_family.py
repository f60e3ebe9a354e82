"""Thompson sampling beyond Bernoulli: posteriors by hand, units that do not matter, arms that are not ready."""

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from multiarm.domain.errors import InvalidReward
from multiarm.domain.evidence import Evidence
from multiarm.domain.policies import (
    GaussianPrior,
    MeanPrior,
    Observation,
    Policy,
    PseudoCounts,
    RatePrior,
    Situation,
    Thompson,
    ThompsonExponential,
    ThompsonGaussian,
    ThompsonGaussianKnownSd,
    ThompsonPoisson,
    ThompsonRevenue,
    TopTwo,
)
from multiarm.domain.policies.top_two import others_sum, shared_with_challengers

law = settings(deadline=None, derandomize=True, max_examples=40)
FIRST = [4.0, 5.5, 6.0, 4.5, 7.0, 5.0, 6.5]
SECOND = [3.0, 6.0, 5.0, 8.0, 2.5, 5.5]


def evidence_of(policy: Policy, *arms: list[float], origin: float = 0.0, **fields: list[float]) -> Evidence:
    """The rewards of each arm; `exposure` and `events` are those of every arm's first, second … reward."""
    rows = []
    for arm in arms:
        others = [{name: values[place] for name, values in fields.items()} for place in range(len(arm))]
        numbers = [policy.increment(Observation(r, origin, **more)) for r, more in zip(arm, others, strict=True)]
        rows.append(np.sum(numbers, axis=0) if numbers else np.zeros(len(policy.traits.columns)))
    counts = np.array([len(arm) for arm in arms])
    return Evidence(np.array(rows), np.zeros(len(arms)), counts, origin)


def second_beats_first(first: Any, second: Any) -> float:
    return float(second.expect(first.cdf, epsabs=1e-12, limit=500))


class TestGaussian:
    def test_the_posterior_is_student_t_with_n_minus_3_degrees_of_freedom(self) -> None:
        policy = ThompsonGaussian()
        known = []
        for arm in (FIRST, SECOND):
            squares = float(np.var(arm)) * len(arm)
            known.append(stats.t(len(arm) - 3, np.mean(arm), math.sqrt(squares / (len(arm) * (len(arm) - 3)))))
        best = second_beats_first(*known)
        evidence = evidence_of(policy, FIRST, SECOND)
        assert policy.allocate(evidence) == pytest.approx([1 - best, best], abs=1e-8)
        expected = [family.interval(0.95) for family in known]
        assert policy.interval(evidence) == pytest.approx(np.array(expected), rel=1e-9)

    def test_a_proper_prior_by_hand(self) -> None:
        """κ = 2 + 7, ν = 3 + 7; SS = 3·1.5² + S + 2·7/9·(mean − 4)²."""
        policy = ThompsonGaussian(prior=GaussianPrior(mean=4.0, sd=1.5, pulls=2.0, sd_pulls=3.0))
        mean, squares = float(np.mean(FIRST)), 7 * float(np.var(FIRST))
        total = 3 * 1.5**2 + squares + 2 * 7 / 9 * (mean - 4) ** 2
        first = stats.t(10, (2 * 4 + 7 * mean) / 9, math.sqrt(total / 10 / 9))
        second = stats.t(3, 4.0, math.sqrt(1.5**2 / 2))
        evidence = evidence_of(policy, FIRST, [], origin=3.0)
        best = second_beats_first(first, second)
        assert policy.allocate(evidence) == pytest.approx([1 - best, best], abs=1e-7)
        assert policy.interval(evidence) == pytest.approx(np.array([first.interval(0.95), second.interval(0.95)]))

    @law
    @given(
        shift=st.floats(-1e4, 1e4),
        scale=st.one_of(st.floats(1e-6, 1e-3), st.floats(0.5, 2), st.floats(1e3, 1e9)),
        seed=st.integers(0, 2**32),
        size=st.integers(5, 60),
    )
    def test_rewards_a_plus_b_r_give_the_same_allocation(
        self, shift: float, scale: float, seed: int, size: int
    ) -> None:
        rng = np.random.default_rng(seed)
        arms = [rng.normal(mean, sd, size).tolist() for mean, sd in ((0.0, 1.0), (0.4, 2.0), (-0.2, 0.5))]
        moved = [[scale * (shift + r) for r in arm] for arm in arms]
        policy, origin = ThompsonGaussian(), scale * shift
        plain = policy.allocate(evidence_of(policy, *arms))
        assert policy.allocate(evidence_of(policy, *moved, origin=origin)) == pytest.approx(plain, abs=1e-7)
        turned = [[-r for r in arm] for arm in arms]
        least = policy.allocate(evidence_of(policy, *turned), Situation(minimize=True))
        assert least == pytest.approx(plain, abs=1e-9)

    def test_below_five_pulls_an_arm_gets_an_equal_share(self) -> None:
        policy = ThompsonGaussian()
        assert policy.allocate(evidence_of(policy, FIRST[:4], SECOND[:1], [])).tolist() == [1 / 3] * 3
        mixed = policy.allocate(evidence_of(policy, FIRST, SECOND, [9.0] * 4))
        among = policy.allocate(evidence_of(policy, FIRST, SECOND))
        assert mixed == pytest.approx([*(among * 2 / 3), 1 / 3])
        assert policy.probability_best(evidence_of(policy, FIRST, SECOND[:4])) is None
        interval = policy.interval(evidence_of(policy, FIRST, SECOND[:4]))
        assert np.isfinite(interval).all(axis=-1).tolist() == [True, False]

    def test_an_arm_that_never_varied_borrows_the_others_variance(self) -> None:
        policy = ThompsonGaussian()
        few = policy.allocate(evidence_of(policy, FIRST, [0.0] * 6))
        many = policy.allocate(evidence_of(policy, FIRST, [0.0] * 6000))
        assert few[1] > 1e-4
        assert many[1] < few[1]
        assert policy.allocate(evidence_of(policy, [2.0] * 9, [2.0] * 9)) == pytest.approx([0.5, 0.5])
        assert policy.allocate(evidence_of(policy, [2.0] * 99, [3.0] * 99))[1] > 0.999

    def test_an_arms_own_prior_stands_for_pulls_of_the_common_variance(self) -> None:
        policy = ThompsonGaussian()
        prior = PseudoCounts(np.array([0.0, 5.0]), np.array([0.0, 5.0]))
        share = policy.allocate(evidence_of(policy, FIRST, []), Situation(prior=prior))
        assert 0.2 < share[1] < 0.5


class TestGaussianKnownSd:
    def test_by_hand(self) -> None:
        policy = ThompsonGaussianKnownSd(sd=2.0)
        evidence = evidence_of(policy, [1.0, 3.0], [2.0, 4.0, 6.0])
        best = stats.norm.cdf(2.0 / math.sqrt(4 / 2 + 4 / 3))
        assert policy.allocate(evidence) == pytest.approx([1 - best, best], abs=1e-12)
        low, high = policy.interval(evidence)[0]
        assert (low, high) == pytest.approx((2 - 1.959964 * math.sqrt(2), 2 + 1.959964 * math.sqrt(2)), abs=1e-5)

    def test_a_prior_of_the_mean_is_worth_sd_squared_by_its_own(self) -> None:
        policy = ThompsonGaussianKnownSd(sd=2.0, prior=MeanPrior(mean=10.0, sd=1.0))  # worth 4 rewards
        evidence = evidence_of(policy, [1.0, 3.0], [], origin=1.0)
        gap = 10.0 - (2 * 2.0 + 4 * 10.0) / 6
        best = stats.norm.cdf(gap / math.sqrt(4 / 6 + 1))
        assert policy.allocate(evidence) == pytest.approx([1 - best, best], abs=1e-12)

    def test_the_flat_prior_waits_for_one_reward(self) -> None:
        policy = ThompsonGaussianKnownSd()
        assert policy.allocate(evidence_of(policy, [5.0], [], [])).tolist() == pytest.approx([1 / 3] * 3)


class TestRates:
    def test_poisson_counts_events_over_exposure(self) -> None:
        policy = ThompsonPoisson()
        evidence = evidence_of(policy, [3.0, 1.0], [2.0, 0.0], exposure=[2.0, 1.0])
        best = second_beats_first(stats.gamma(4.5, scale=1 / 3), stats.gamma(2.5, scale=1 / 3))
        assert policy.allocate(evidence) == pytest.approx([1 - best, best], abs=1e-9)
        assert policy.interval(evidence)[0] == pytest.approx(stats.gamma(4.5, scale=1 / 3).interval(0.95))
        assert policy.allocate(evidence, Situation(minimize=True)) == pytest.approx([best, 1 - best], abs=1e-9)

    def test_the_unit_of_exposure_does_not_matter(self) -> None:
        policy = ThompsonPoisson()
        hours = evidence_of(policy, [3.0, 1.0], [2.0, 4.0], exposure=[2.0, 1.0])
        seconds = evidence_of(policy, [3.0, 1.0], [2.0, 4.0], exposure=[7200.0, 3600.0])
        assert policy.allocate(hours) == pytest.approx(policy.allocate(seconds), abs=1e-12)

    def test_the_longest_mean_wait_is_the_lowest_rate(self) -> None:
        policy = ThompsonExponential(prior=RatePrior(events=1.0, exposure=2.0))
        evidence = evidence_of(policy, [10.0, 20.0], [4.0, 1.0], events=[1.0, 1.0])
        slow, quick = stats.gamma(3.0, scale=1 / 32), stats.gamma(3.0, scale=1 / 7)
        longest = 1 - second_beats_first(quick, slow)
        assert policy.allocate(evidence) == pytest.approx([longest, 1 - longest], abs=1e-9)
        assert policy.allocate(evidence, Situation(minimize=True)) == pytest.approx([1 - longest, longest], abs=1e-9)
        low, high = policy.interval(evidence)[0]
        assert (low, high) == pytest.approx((1 / slow.ppf(0.975), 1 / slow.ppf(0.025)))

    def test_a_wait_that_goes_on_counts_its_time_and_no_event(self) -> None:
        policy = ThompsonExponential()
        ended = evidence_of(policy, [10.0, 10.0], events=[1.0, 1.0])
        censored = evidence_of(policy, [10.0, 10.0], events=[1.0, 0.0])
        assert ended.sums[0, 3:].tolist() == [2.0, 20.0]
        assert censored.sums[0, 3:].tolist() == [1.0, 20.0]

    @pytest.mark.parametrize("policy", [ThompsonPoisson(), ThompsonExponential()])
    def test_without_exposure_an_arm_gets_an_equal_share(self, policy: Policy) -> None:
        assert policy.allocate(evidence_of(policy, [2.0, 3.0], [])).tolist() == pytest.approx([0.5, 0.5])
        assert policy.allocate(evidence_of(policy, [2.0, 3.0], [], []))[1:].tolist() == pytest.approx([1 / 3, 1 / 3])


class TestRevenue:
    def test_clt_is_gaussian_thompson_on_the_raw_reward(self) -> None:
        rewards = [[0.0, 0.0, 30.0, 0.0, 12.0, 0.0], [0.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0]]
        revenue, gaussian = ThompsonRevenue(), ThompsonGaussian()
        assert revenue.allocate(evidence_of(revenue, *rewards)).tolist() == (
            gaussian.allocate(evidence_of(gaussian, *rewards)).tolist()
        )

    @pytest.mark.parametrize("model", ["clt", "hurdle_lognormal"])
    def test_the_cap_is_part_of_the_metric(self, model: Literal["clt", "hurdle_lognormal"]) -> None:
        policy = ThompsonRevenue(model=model, reward_cap=50.0)
        assert policy.increment(Observation(80.0)) == policy.increment(Observation(50.0))
        assert policy.increment(Observation(49.0)) != policy.increment(Observation(50.0))

    def test_the_hurdle_adds_logarithms_of_what_was_paid(self) -> None:
        policy = ThompsonRevenue(model="hurdle_lognormal")
        assert policy.increment(Observation(0.0)) == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        assert policy.increment(Observation(math.e)) == pytest.approx((1.0, math.e, math.e**2, 1.0, 1.0, 1.0))
        with pytest.raises(InvalidReward, match="not negative"):
            policy.check_reward(-1.0)
        ThompsonRevenue().check_reward(-1.0)

    def test_the_hurdle_splits_evenly_until_five_were_paid_and_then_follows_the_money(self) -> None:
        policy = ThompsonRevenue(model="hurdle_lognormal")
        poor, rich = [0.0] * 95 + [1.0, 2.0, 1.5, 0.5, 1.0], [0.0] * 90 + [2.0, 4.0, 3.0, 1.0, 2.5] * 2
        assert policy.allocate(evidence_of(policy, poor[:97], [0.0] * 50)).tolist() == [0.5, 0.5]
        assert policy.allocate(evidence_of(policy, poor, rich))[1] > 0.9

    def test_shares_do_not_depend_on_the_currency(self) -> None:
        policy = ThompsonRevenue(model="hurdle_lognormal")
        arms = [[0.0] * 20 + [1.0, 2.0, 1.5, 0.5, 1.0], [0.0] * 30 + [2.0, 4.0, 3.0, 1.0, 2.5]]
        cents = [[100 * r for r in arm] for arm in arms]
        assert policy.allocate(evidence_of(policy, *cents)) == pytest.approx(
            policy.allocate(evidence_of(policy, *arms)), abs=1e-7
        )


class TestTopTwo:
    def test_by_hand(self) -> None:
        best = np.array([0.6, 0.3, 0.1])
        expected = [
            0.6 * (0.7 + 0.3 * (0.3 / 0.7 + 0.1 / 0.9)),
            0.3 * (0.7 + 0.3 * (0.6 / 0.4 + 0.1 / 0.9)),
            0.1 * (0.7 + 0.3 * (0.6 / 0.4 + 0.3 / 0.7)),
        ]
        ready = np.ones(3, dtype=np.bool_)
        assert shared_with_challengers(best, ready, 0.7) == pytest.approx(expected, rel=1e-14)
        assert sum(expected) == pytest.approx(1)

    def test_beta_1_is_thompson_sampling(self) -> None:
        policy = TopTwo(beta=1.0)
        evidence = evidence_of(policy, [1.0, 0.0, 1.0], [0.0], [1.0])
        assert policy.allocate(evidence) == pytest.approx(Thompson().allocate(evidence), abs=1e-12)

    @pytest.mark.parametrize(("worse", "far_worse"), [(0.3, 0.29), (0.2, 0.19), (0.1, 0.09)])
    def test_the_challengers_share_in_proportion_however_small_they_are(self, worse: float, far_worse: float) -> None:
        """Among challengers of 1e-40 or 1e-100 the better one still gets what it ought to."""
        pulls = 2000.0
        means = np.array([0.5, worse, far_worse])
        evidence = Evidence(
            np.stack([np.full(3, pulls), pulls * means, pulls * means], axis=-1), np.zeros(3), np.full(3, 2000)
        )
        share = TopTwo().allocate(evidence)
        best, _ = TopTwo().model.among_ready(evidence, Situation(), 1e-300)
        assert best[1] < 1e-30
        assert share[0] == pytest.approx(0.5, abs=1e-9)
        assert share[1] / share[2] == pytest.approx(best[1] / best[2], rel=1e-9)
        assert share[1] + share[2] == pytest.approx(0.5, abs=1e-9)

    def test_a_leader_without_a_rival_that_can_be_told_leaves_its_part_evenly(self) -> None:
        ready = np.ones(3, dtype=np.bool_)
        assert shared_with_challengers(np.array([1.0, 0.0, 0.0]), ready, 0.5).tolist() == [0.5, 0.25, 0.25]
        assert shared_with_challengers(np.array([1.0]), ready[:1], 0.5).tolist() == [1.0]

    def test_sums_of_the_others_keep_the_small_ones(self) -> None:
        assert others_sum(np.array([1.0, 1e-200, 3e-200])).tolist() == [4e-200, 1.0, 1.0]
