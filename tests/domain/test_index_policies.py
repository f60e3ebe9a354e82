"""Index policies: indices worked out by hand, draws that wait for their reward, and the mix over the next draws."""

import math
import random

import numpy as np
import pytest
from scipy import optimize, stats

from multiarm import Experiment, ExperimentSpec, Update
from multiarm.domain.arm import Arm
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.policies import (
    IMED,
    KLUCB,
    MOSS,
    UCB1,
    UCBV,
    BayesUCB,
    BetaPrior,
    KLUCBPlus,
    PseudoCounts,
    Situation,
    UCB1Tuned,
)
from multiarm.domain.policies.index import IndexPolicy, Standing
from multiarm.domain.policies.kl_ucb import divergence, upper_bound

MEANS, PULLS, T = np.array([0.6, 0.5, 0.02]), np.array([40.0, 10.0, 100.0]), np.array(150.0)
VARIANCES = np.array([0.2, 0.1, 0.0196])
STANDING = Standing(MEANS, VARIANCES, 3, False)


def evidence_of(*arms: tuple[float, float]) -> Evidence:
    """(pulls, mean) of rewards 0 and 1."""
    return Evidence.from_rows([Row((n, n * m, n * m), 0.0, int(n)) for n, m in arms])


def kl(p: float, q: float) -> float:
    terms = (0.0 if x == 0 else x * math.log(x / y) for x, y in ((p, q), (1 - p, 1 - q)))
    return sum(terms)


def by_root(mean: float, limit: float) -> float:
    if kl(mean, 1 - 1e-15) < limit:
        return 1.0
    return float(optimize.brentq(lambda q: kl(mean, q) - limit, mean, 1 - 1e-15, xtol=1e-15))


class TestIndices:
    def test_ucb1(self) -> None:
        expected = [m + math.sqrt(2 * math.log(150) / n) for m, n in zip(MEANS, PULLS, strict=True)]
        assert UCB1().index(STANDING, PULLS, T) == pytest.approx(expected)
        assert UCB1(alpha=0.0).index(STANDING, PULLS, T).tolist() == MEANS.tolist()

    def test_ucb1_tuned(self) -> None:
        expected = []
        for m, v, n in zip(MEANS, VARIANCES, PULLS, strict=True):
            bound = v + math.sqrt(2 * math.log(150) / n)
            expected.append(m + math.sqrt(math.log(150) / n * min(0.25, bound)))
        assert UCB1Tuned().index(STANDING, PULLS, T) == pytest.approx(expected)

    def test_ucb_v(self) -> None:
        expected = []
        for m, v, n in zip(MEANS, VARIANCES, PULLS, strict=True):
            exploration = 1.2 * math.log(150)
            expected.append(m + math.sqrt(2 * v * exploration / n) + 3 * exploration / n)
        assert UCBV().index(STANDING, PULLS, T) == pytest.approx(expected)

    def test_moss_has_no_bonus_left_after_its_part_of_the_draws(self) -> None:
        expected = [0.6 + math.sqrt(1.175 * math.log(150 / 120) / 40), 0.5 + math.sqrt(1.175 * math.log(5) / 10), 0.02]
        assert MOSS().index(STANDING, PULLS, T) == pytest.approx(expected)

    def test_kl_ucb_and_its_plus(self) -> None:
        wide = [by_root(m, math.log(150) / n) for m, n in zip(MEANS, PULLS, strict=True)]
        narrow = [by_root(m, math.log(150 / n) / n) for m, n in zip(MEANS, PULLS, strict=True)]
        assert KLUCB().index(STANDING, PULLS, T) == pytest.approx(wide, rel=1e-12)
        assert KLUCBPlus().index(STANDING, PULLS, T) == pytest.approx(narrow, rel=1e-12)

    def test_bayes_ucb(self) -> None:
        expected = stats.beta.isf(1 / 150, 0.5 + PULLS * MEANS, 2 + PULLS * (1 - MEANS))
        assert BayesUCB(prior=BetaPrior(alpha=0.5, beta=2.0)).index(STANDING, PULLS, T) == pytest.approx(expected)

    def test_imed_is_minimised(self) -> None:
        expected = [-math.log(40), -(10 * kl(0.5, 0.6) + math.log(10)), -(100 * kl(0.02, 0.6) + math.log(100))]
        assert IMED().index(STANDING, PULLS, T) == pytest.approx(expected)


class TestUpperBound:
    @pytest.mark.parametrize("mean", [0.0, 1e-9, 1e-4, 0.02, 0.5, 0.98, 1 - 1e-6, 1.0])
    @pytest.mark.parametrize("limit", [1e-12, 1e-6, 1e-3, 0.1, 1.0, 5.0])
    def test_is_where_the_divergence_reaches_the_limit(self, mean: float, limit: float) -> None:
        found = float(upper_bound(np.array(mean), np.array(limit)))
        assert mean <= found <= 1
        if mean < 1 and found < 1 - 1e-9:
            reached = float(divergence(np.array(mean), np.array(found)))
            assert reached == pytest.approx(limit, rel=1e-6)

    def test_closed_forms_at_the_ends(self) -> None:
        limits = np.array([1e-10, 0.01, 2.0, 40.0])
        assert upper_bound(np.zeros(4), limits) == pytest.approx(-np.expm1(-limits), rel=1e-12)
        assert upper_bound(np.ones(4), limits).tolist() == [1.0] * 4
        assert upper_bound(np.array([0.3]), np.zeros(1)).tolist() == [0.3]

    def test_a_difference_too_small_to_subtract(self) -> None:
        mean, rise = np.array([0.3]), np.array([1e-9])
        assert divergence(mean, mean + rise) == pytest.approx(rise**2 / (2 * 0.3 * 0.7), rel=1e-6)


@pytest.mark.parametrize("policy", [UCB1(), UCB1Tuned(), UCBV(), MOSS(), KLUCB(), KLUCBPlus(), BayesUCB(), IMED()])
class TestWhatAllShare:
    def test_arms_without_reward_or_draw_come_first_and_share_equally(self, policy: IndexPolicy) -> None:
        evidence = evidence_of((5, 0.8), (0, 0.0), (0, 0.0))
        assert policy.allocate(evidence).tolist() == [0.0, 0.5, 0.5]

    def test_an_arm_that_waits_for_its_first_reward_gets_an_equal_share(self, policy: IndexPolicy) -> None:
        evidence = evidence_of((5, 0.8), (5, 0.1), (0, 0.0), (0, 0.0))
        waiting = Situation(pending=np.array([0.0, 0.0, 3.0, 1000.0]))
        assert policy.allocate(evidence, waiting).tolist() == [0.5, 0.0, 0.25, 0.25]
        nothing = evidence_of((0, 0.0), (0, 0.0))
        assert policy.allocate(nothing, Situation(pending=np.array([2.0, 9.0]))).tolist() == [0.5, 0.5]

    def test_draws_that_wait_narrow_the_bonus_and_so_move_the_traffic_on(self, policy: IndexPolicy) -> None:
        evidence = evidence_of((100, 0.5), (100, 0.499))
        before = policy.allocate(evidence)
        after = policy.allocate(evidence, Situation(pending=np.array([60.0, 0.0])))
        assert before.tolist() == [1.0, 0.0]
        if not isinstance(policy, IMED | MOSS):  # whose bonus does not fall by as much
            assert after.tolist() == [0.0, 1.0]

    def test_to_minimize_is_to_maximize_one_minus_the_reward(self, policy: IndexPolicy) -> None:
        arms = [(30, 0.5), (12, 0.4), (60, 0.45), (8, 0.6)]
        least = policy.allocate(evidence_of(*arms), Situation(minimize=True))
        turned = Evidence.from_rows([Row((n, n * (1 - m), n * (1 - m)), 0.0, n) for n, m in arms])
        assert least.tolist() == policy.allocate(turned).tolist()

    def test_arms_that_look_alike_share_equally(self, policy: IndexPolicy) -> None:
        assert policy.allocate(evidence_of((9, 1 / 3), (9, 1 / 3), (9, 1 / 9))).tolist() == [0.5, 0.5, 0.0]


class TestTime:
    def test_other_arms_pulls_count_and_priors_do_not(self) -> None:
        """One pull of mean 0 against 9 of mean 1/3, α = 1/2: which one is drawn depends on t alone."""
        evidence, policy = evidence_of((1, 0.0), (9, 1 / 3)), UCB1(alpha=0.5)
        boundary = math.exp(2 * (1 / 3) ** 2 / (1 - 1 / 3) ** 2)  # of t: (1 − 1/3)·√(ln t / 2) = 1/3
        assert boundary < 10
        assert policy.allocate(evidence).tolist() == [1.0, 0.0]
        assert UCB1(alpha=0.05).allocate(evidence).tolist() == [0.0, 1.0]
        assert UCB1(alpha=0.05).allocate(evidence, Situation(other_pulls=1e6)).tolist() == [1.0, 0.0]

    def test_an_arms_prior_counts_in_its_pulls_and_mean(self) -> None:
        prior = PseudoCounts(np.array([9.0, 0.0]), np.array([1 / 3, 0.0]))
        evidence = evidence_of((0, 0.0), (9, 1 / 3))
        assert UCB1().allocate(evidence, Situation(prior=prior)).tolist() == [0.5, 0.5]

    def test_pulls_forgotten_leave_t_too(self) -> None:
        policy, row = UCB1(), Row((64.0, 32.0, 32.0), 0.0, 64)
        evidence = Evidence.from_rows([row, row], half_life_s=60.0).decayed(360.0)
        assert evidence.pulls.tolist() == [1.0, 1.0]
        by_hand = 0.5 + math.sqrt(2 * math.log(2) / 1)
        standing = Standing(evidence.mean, np.array([0.25, 0.25]), 2, False)
        assert policy.index(standing, evidence.pulls, np.array(2.0)) == pytest.approx([by_hand, by_hand])


class TestMix:
    @pytest.mark.parametrize("draws", [2, 7, 50, 64, 65, 300, 2000])
    @pytest.mark.parametrize("kind", [UCB1, UCB1Tuned, UCBV, MOSS, KLUCB, KLUCBPlus, IMED])
    def test_is_what_the_index_would_choose_draw_by_draw(self, kind: type[IndexPolicy], draws: int) -> None:
        rng = np.random.default_rng(draws)
        pulls, means = rng.integers(5, 400, 6).astype(np.float64), rng.uniform(0.3, 0.5, 6)
        evidence = evidence_of(*zip(pulls.tolist(), means.tolist(), strict=True))
        policy = kind(batch_draws=draws)
        standing = Standing(means, means * (1 - means), 6, False)
        counts = pulls.copy()
        for _ in range(draws):
            index = policy.index(standing, counts, np.array(pulls.sum() + draws - 1))
            counts[np.argmax(index)] += 1
        assert policy.allocate(evidence) == pytest.approx((counts - pulls) / draws, abs=max(2e-3, 1.01 / draws))

    def test_untried_arms_get_a_draw_each_first(self) -> None:
        policy = UCB1(batch_draws=10)
        assert policy.allocate(evidence_of((5, 0.5), (0, 0.0))).tolist() == pytest.approx([0.45, 0.55])
        assert policy.allocate(evidence_of((0, 0.0), (0, 0.0))).tolist() == [0.5, 0.5]
        assert UCB1(batch_draws=2).allocate(evidence_of((5, 0.5), *[(0, 0.0)] * 3)) == pytest.approx(
            [0, 1 / 3, 1 / 3, 1 / 3]
        )

    def test_broadcasts(self) -> None:
        policy, rng = KLUCB(batch_draws=100), np.random.default_rng(3)
        pulls, means = rng.integers(1, 50, (4, 5)) * 1.0, rng.random((4, 5))
        sums = np.stack([pulls, pulls * means, pulls * means], axis=-1)
        together = policy.allocate(Evidence(sums, np.zeros((4, 5)), pulls.astype(np.int64)))
        for row, alone in enumerate(sums):
            single = policy.allocate(Evidence(alone, np.zeros(5), pulls[row].astype(np.int64)))
            assert together[row] == pytest.approx(single, abs=1e-12)


class TestPendingDraws:
    def experiment(self, window_s: float = 640.0) -> Experiment:
        spec = ExperimentSpec(policy=UCB1(), attribution_window_s=window_s)
        return Experiment(arms=["a", "b"], spec=spec)

    def pending(self, experiment: Experiment, now: float) -> list[float]:
        waiting = experiment.snapshot(now).pending
        assert waiting is not None
        return [float(count) for count in waiting]

    def test_a_draw_waits_until_its_reward_comes(self) -> None:
        experiment, rng = self.experiment(), random.Random(1)
        first, second = experiment.draw(0.0, rng), experiment.draw(1.0, rng)
        assert {first.arm.arm_id, second.arm.arm_id} == {"a", "b"}  # the second saw that the first waits
        assert self.pending(experiment, 2.0) == [1.0, 1.0]
        experiment.update(Update(reward=1.0, decision_id=first.decision_id), 3.0)
        assert sum(self.pending(experiment, 3.0)) == 1.0

    def test_a_plain_reward_ends_the_longest_wait_of_its_arm(self) -> None:
        experiment, rng = self.experiment(), random.Random(1)
        for now in range(6):
            experiment.draw(float(now), rng)
        before = self.pending(experiment, 6.0)
        experiment.update(Update(reward=1.0, arm_id="a"), 6.0)
        experiment.update(Update(reward=1.0, arm_id="a"), 6.0)
        assert self.pending(experiment, 6.0) == [max(before[0] - 2, 0), before[1]]

    def test_none_waits_longer_than_the_window(self) -> None:
        experiment, rng = self.experiment(window_s=640.0), random.Random(1)
        experiment.draw(0.0, rng)
        assert sum(self.pending(experiment, 630.0)) == 1.0
        assert sum(self.pending(experiment, 660.0)) == 0.0

    def test_a_late_reward_of_a_forgotten_draw_takes_no_other_away(self) -> None:
        experiment, rng = self.experiment(window_s=64.0), random.Random(1)
        late = experiment.draw(0.0, rng)
        for _ in range(4):
            experiment.draw(100.0, rng)
        experiment.update(Update(reward=1.0, decision_id=late.decision_id), 101.0)
        assert sum(self.pending(experiment, 101.0)) == 4.0

    def test_other_policies_count_no_waits(self) -> None:
        experiment = Experiment(arms=["a"])
        experiment.draw(0.0, random.Random(1))
        assert experiment.pending is None
        assert experiment.snapshot(0.0).pending is None

    def test_a_reset_ends_all_waits(self) -> None:
        experiment = self.experiment()
        experiment.draw(0.0, random.Random(1))
        experiment.reset(1)
        assert self.pending(experiment, 0.0) == [0.0, 0.0]


def test_disabled_and_deleted_arms_count_in_t() -> None:
    """4 rewards each of `off` and `gone`, of which nothing is asked any more; one draw of `off` that still waits."""
    spec = ExperimentSpec(policy=UCB1())
    experiment = Experiment(arms=["on", "off", "gone"], spec=spec)
    for arm_id in ("on", "off", "gone") * 4:
        experiment.update(Update(reward=0.5, arm_id=arm_id), 0.0)
    experiment.put_arm(Arm(2, "off", enabled=False))
    experiment.put_arm(Arm(3, "gone", deleted=True))
    assert experiment.pending is not None
    experiment.pending.drawn(2, 0.0)
    experiment.pending.drawn(1, 0.0, 3)
    situation = experiment.snapshot(0.0).situation([0])
    assert situation.pending is not None
    assert situation.pending.tolist() == [3.0]
    assert (situation.other_pulls, situation.other_pull_count) == (9.0, 8)
