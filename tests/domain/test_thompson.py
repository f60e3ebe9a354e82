"""Thompson sampling: posteriors and probabilities worked out by hand."""

import numpy as np
import pytest

from multiarm import Experiment, ExperimentSpec, Update
from multiarm.domain.arm import Arm, Prior
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.policies import BetaPrior, PseudoCounts, Situation, Thompson
from multiarm.domain.posteriors import BetaPosterior

HALF_LIFE_S = 3600.0


def evidence_of(*arms: list[float], origin: float = 0.0) -> Evidence:
    rows = [Row((float(len(r)), sum(x - origin for x in r), sum((x - origin) ** 2 for x in r))) for r in arms]
    return Evidence.from_rows(rows, origin=origin)


def posterior(policy: Thompson, evidence: Evidence, prior: PseudoCounts | None = None) -> list[tuple[float, float]]:
    known = policy.posterior(evidence, Situation(prior=prior))
    assert isinstance(known, BetaPosterior)
    return list(zip(known.alpha.tolist(), known.beta.tolist(), strict=True))


class TestPosterior:
    def test_counts_successes_and_failures_on_top_of_the_prior(self) -> None:
        policy = Thompson(prior=BetaPrior(alpha=2.0, beta=3.0))
        assert posterior(policy, evidence_of([1, 1, 0, 0, 0], [])) == [(4.0, 6.0), (2.0, 3.0)]

    def test_a_fractional_reward_adds_r_and_one_minus_r(self) -> None:
        assert posterior(Thompson(), evidence_of([0.25, 0.5])) == [(1.75, 2.25)]

    def test_an_arms_own_prior_adds_pseudo_counts(self) -> None:
        prior = PseudoCounts(np.array([10.0, 0.0]), np.array([0.3, 0.0]))
        assert posterior(Thompson(), evidence_of([1], [1]), prior) == [(5.0, 8.0), (2.0, 1.0)]

    def test_does_not_depend_on_the_origin(self) -> None:
        rewards = [0.75, 1.0, 0.25, 0.5]
        assert posterior(Thompson(), evidence_of(rewards, origin=0.5)) == posterior(Thompson(), evidence_of(rewards))

    @pytest.mark.parametrize(
        ("reward", "count", "origin"), [(0.0, 15, 0.1), (0.0, 6, 0.7), (1.0, 7, 0.1), (1.0, 40, 0.7)]
    )
    def test_never_falls_below_the_prior_where_rounding_takes_the_sums_below_zero(
        self, reward: float, count: int, origin: float
    ) -> None:
        evidence = evidence_of([reward] * count, origin=origin)
        assert evidence.reward[0] < 0 or evidence.reward[0] > evidence.pulls[0]
        ((alpha, beta),) = posterior(Thompson(prior=BetaPrior(alpha=1e-3, beta=1e-3)), evidence)
        assert min(alpha, beta) == 1e-3
        assert max(alpha, beta) == pytest.approx(count + 1e-3)


class TestAllocation:
    def test_one_success_against_nothing_is_two_to_one(self) -> None:
        assert Thompson().allocate(evidence_of([], [1])) == pytest.approx([1 / 3, 2 / 3], abs=1e-12)

    def test_one_failure_against_nothing_is_one_to_two(self) -> None:
        assert Thompson().allocate(evidence_of([], [0])) == pytest.approx([2 / 3, 1 / 3], abs=1e-12)

    def test_one_success_against_one_failure_is_five_to_one(self) -> None:
        # ∫ 2x·(1 − (1 − x)²) dx = ∫ 4x² − 2x³ dx = 4/3 − 1/2
        assert Thompson().allocate(evidence_of([1], [0])) == pytest.approx([5 / 6, 1 / 6], abs=1e-12)

    def test_two_successes_against_one_is_three_to_two(self) -> None:
        # ∫ 3x²·x² dx = 3/5
        assert Thompson().allocate(evidence_of([1, 1], [1])) == pytest.approx([3 / 5, 2 / 5], abs=1e-12)

    def test_one_success_against_two_uniform_arms(self) -> None:
        # ∫ 2x·x² dx = 1/2
        assert Thompson().allocate(evidence_of([1], [], [])) == pytest.approx([1 / 2, 1 / 4, 1 / 4], abs=1e-12)

    @pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
    def test_arms_that_look_alike_share_equally(self, count: int) -> None:
        evidence = evidence_of(*[[1.0, 0.0, 0.25]] * count)
        assert Thompson().allocate(evidence) == pytest.approx([1 / count] * count, abs=1e-12)

    def test_is_its_own_probability_best(self) -> None:
        evidence = evidence_of([1, 0], [1, 1], [])
        best = Thompson().probability_best(evidence)
        assert best is not None
        assert best.tolist() == Thompson().allocate(evidence).tolist()

    def test_an_arms_own_prior_stands_for_rewards_seen(self) -> None:
        situation = Situation(prior=PseudoCounts(np.array([0.0, 1.0]), np.array([0.0, 1.0])))
        assert Thompson().allocate(evidence_of([], []), situation) == pytest.approx([1 / 3, 2 / 3], abs=1e-12)


class TestForgetting:
    def experiment(self) -> Experiment:
        """Arm 2 has a prior worth one success; everything seen speaks for arm 1."""
        experiment = Experiment(spec=ExperimentSpec(policy=Thompson(), half_life_s=HALF_LIFE_S))
        experiment.put_arm(Arm(1, "one"))
        experiment.put_arm(Arm(2, "two", prior=Prior(pulls=1.0, mean_reward=1.0)))
        for _ in range(100):
            experiment.update(Update(reward=1.0, arm_id="one"), now=0.0)
            experiment.update(Update(reward=0.0, arm_id="two"), now=0.0)
        return experiment

    def test_half_as_much_counts_after_a_half_life(self) -> None:
        evidence = self.experiment().snapshot(HALF_LIFE_S).evidence
        assert posterior(Thompson(), evidence) == [(51.0, 1.0), (1.0, 51.0)]

    @pytest.mark.parametrize("half_lives", [1000, 1_000_000])
    def test_in_the_end_the_priors_alone_are_left(self, half_lives: int) -> None:
        experiment = self.experiment()
        assert experiment.snapshot(0.0).allocate().probabilities == pytest.approx([1.0, 0.0], abs=1e-12)
        later = experiment.snapshot(half_lives * HALF_LIFE_S).allocate()
        assert later.probabilities == pytest.approx([1 / 3, 2 / 3], abs=1e-12)

    def test_pulls_are_remembered_and_effective_pulls_are_not(self) -> None:
        statistics = self.experiment().snapshot(2 * HALF_LIFE_S).statistics()["one"]
        assert (statistics.pulls, statistics.effective_pulls, statistics.mean_reward) == (100, 25.0, 1.0)


class TestLogGammaSampling:
    def test_prefers_neither_of_two_arms_whose_beta_draws_would_tie_at_zero_and_one(self) -> None:
        policy = Thompson(prior=BetaPrior(alpha=1e-3, beta=1e-3))
        evidence = Evidence(np.zeros((40_000, 2, 3)), np.zeros((40_000, 2)), np.zeros((40_000, 2), dtype=np.int64))
        share = policy.sample(evidence, np.random.default_rng(5)).mean()
        assert abs(share - 0.5) < 4 * 0.5 / 200  # 200 = √40,000
