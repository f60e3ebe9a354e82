"""Schedules, VDBE, softmax, EXP3 and the fixed split, worked out by hand."""

import itertools
import math
import random

import numpy as np
import pytest

from multiarm import Experiment, ExperimentSpec, Update
from multiarm.domain.arm import Arm
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.policies import (
    EXP3,
    EXP3IX,
    VDBE,
    EpsilonGreedy,
    ExponentialDecay,
    FixedSplit,
    InverseDecay,
    LinearDecay,
    Observation,
    Policy,
    Situation,
    Softmax,
)

NOW = 1.7e9


def evidence_of(*arms: tuple[float, ...]) -> Evidence:
    return Evidence.from_rows([Row(arm, 0.0, int(arm[0])) for arm in arms], columns=len(arms[0]))


class TestSchedules:
    @pytest.mark.parametrize(
        ("decay", "epsilon"),
        [
            (None, 0.8),
            (ExponentialDecay(pulls=20.0), 0.8 * math.exp(-1)),
            (InverseDecay(pulls=20.0), 0.4),
            (InverseDecay(pulls=5.0), 0.16),
            (LinearDecay(pulls=80.0), 0.6),
            (LinearDecay(pulls=20.0), 0.0),
            (LinearDecay(pulls=20.0, floor=0.05), 0.05),
            (ExponentialDecay(pulls=1.0, floor=0.9), 0.8),  # a floor above the start: it stays where it began
        ],
    )
    def test_epsilon_after_20_pulls(
        self, decay: ExponentialDecay | InverseDecay | LinearDecay | None, epsilon: float
    ) -> None:
        evidence = evidence_of((10.0, 5.0, 3.0), (10.0, 4.0, 3.0))
        share = EpsilonGreedy(epsilon=0.8, decay=decay).allocate(evidence)
        assert share == pytest.approx([1 - epsilon / 2, epsilon / 2])

    def test_time_is_every_reward_ever_counted_by_any_arm(self) -> None:
        row = Row((0.5, 0.25, 0.1), 0.0, 5)
        evidence = Evidence.from_rows([row, Row((0.5, 0.2, 0.1), 0.0, 5)])
        policy = EpsilonGreedy(epsilon=1.0, decay=InverseDecay(pulls=10.0))
        assert policy.allocate(evidence) == pytest.approx([0.75, 0.25])
        assert policy.allocate(evidence, Situation(other_pull_count=20)) == pytest.approx([0.875, 0.125])


class TestVDBE:
    def step(self, policy: VDBE, row: Row, reward: float, arms: int = 2) -> Row:
        numbers = policy.completed(policy.increment(Observation(reward)), row.sums, arms)
        return row.plus([(numbers, 0.0)], None)

    def epsilon(self, row: Row) -> float:
        return row.sums[4] / row.sums[3]

    def test_equation_4_by_hand(self) -> None:
        policy = VDBE(sigma=0.5, delta=0.25)
        row = self.step(policy, Row(), 1.0)  # the mean moves from 0 to 1
        first = (1 - math.exp(-2)) / (1 + math.exp(-2))
        assert self.epsilon(row) == pytest.approx(0.25 * first + 0.75)
        row = self.step(policy, row, 0.0)  # and on to 1/2
        second = (1 - math.exp(-1)) / (1 + math.exp(-1))
        assert self.epsilon(row) == pytest.approx(0.25 * second + 0.75 * (0.25 * first + 0.75))

    def test_delta_is_one_by_the_number_of_arms(self) -> None:
        one, four = VDBE(), VDBE(delta=0.25)
        assert self.step(one, Row(), 1.0, arms=4) == self.step(four, Row(), 1.0, arms=9)

    def test_the_allocation_is_where_tokics_chain_rests(self) -> None:
        """A single chain ε ← δf + (1 − δ)ε, fed by arms drawn from the allocation, keeps to the ε that it states."""
        surprises = np.array([0.1, 0.6, 0.3])
        evidence = evidence_of(
            *[(100.0, m, m, 50.0, 50.0 * s) for m, s in zip((60.0, 40.0, 20.0), surprises, strict=True)]
        )
        share = VDBE().allocate(evidence)
        epsilon = 3 * share[1]
        assert share == pytest.approx([1 - 2 * epsilon / 3, epsilon / 3, epsilon / 3])
        assert float(share @ surprises) == pytest.approx(epsilon)

    def test_everything_is_a_surprise_at_first_and_nothing_in_the_end(self) -> None:
        policy = VDBE(sigma=0.1)
        assert policy.allocate(evidence_of((0.0,) * 5, (0.0,) * 5)).tolist() == [0.5, 0.5]
        rng, rows = random.Random(4), [Row(), Row()]
        for _ in range(3000):
            rows = [
                self.step(policy, row, float(rng.random() < rate)) for row, rate in zip(rows, (0.4, 0.6), strict=True)
            ]
        share = policy.allocate(Evidence.from_rows(rows, columns=5))
        assert share[1] > 0.98

    @pytest.mark.parametrize("sigma", [0.05, 1.0])
    @pytest.mark.parametrize("delta", [0.1, 0.5, 1.0])
    def test_what_a_change_of_order_can_cost(self, sigma: float, delta: float) -> None:
        """At most (1 − δ)^m + the largest surprise left after n − m rewards, tanh(R / (2σ(n − m + 1))), for every m."""
        policy, rng, n = VDBE(sigma=sigma, delta=delta), random.Random(9), 40
        rewards = [float(rng.random() < 0.3) for _ in range(n)]
        bound = min((1 - delta) ** m + math.tanh(1 / (2 * sigma * (n - m + 1))) for m in range(n + 1))
        seen = []
        for order in (
            sorted(rewards),
            sorted(rewards, reverse=True),
            rewards,
            *(rng.sample(rewards, n) for _ in range(50)),
        ):
            row = Row()
            for reward in order:
                row = self.step(policy, row, reward)
            assert row.sums[:4] == pytest.approx((n, sum(rewards), sum(rewards), n))
            seen.append(self.epsilon(row))
        assert min(seen) >= 0
        assert max(seen) - min(seen) <= bound
        assert max(seen) != min(seen)  # the order does matter: that is what the bound is for

    def test_two_nodes_together_are_the_mean_of_both_by_their_rewards(self) -> None:
        both = evidence_of((4.0, 2.0, 2.0, 4.0, 2.0)) + evidence_of((6.0, 3.0, 3.0, 6.0, 1.8))
        assert both.sums[0, 4] / both.sums[0, 3] == pytest.approx((4 * 0.5 + 6 * 0.3) / 10)

    def test_an_experiment_completes_the_row(self) -> None:
        experiment = Experiment(VDBE(), ["a", "b"])
        for reward in (1.0, 0.0, 1.0):
            experiment.update(Update(reward=reward, arm_id="a"), NOW)
        row = Row()
        for reward in (1.0, 0.0, 1.0):
            row = self.step(VDBE(), row, reward)
        assert experiment.state.rows[1].sums == pytest.approx(row.sums)


class TestSoftmax:
    def test_by_hand(self) -> None:
        evidence = evidence_of((10.0, 5.0, 3.0), (10.0, 4.0, 3.0))
        weights = np.array([math.exp(2.5), math.exp(2.0)])
        assert Softmax(temperature=0.2).allocate(evidence) == pytest.approx(weights / weights.sum())
        least = Softmax(temperature=0.2).allocate(evidence, Situation(minimize=True))
        assert least == pytest.approx(weights[::-1] / weights.sum())

    def test_an_arm_without_evidence_gets_an_equal_share(self) -> None:
        evidence = evidence_of((10.0, 5.0, 3.0), (10.0, 5.0, 3.0), (0.0, 0.0, 0.0))
        assert Softmax().allocate(evidence) == pytest.approx([1 / 3] * 3)
        assert Softmax(temperature=1e-9).allocate(evidence_of((0.0, 0.0, 0.0))).tolist() == [1.0]

    def test_it_cools(self) -> None:
        evidence = evidence_of((10.0, 5.0, 3.0), (10.0, 4.0, 3.0))
        cooled = Softmax(temperature=0.2, decay=InverseDecay(pulls=20.0)).allocate(evidence)
        assert cooled == pytest.approx(Softmax(temperature=0.1).allocate(evidence))


class TestEXP3:
    def test_by_hand(self) -> None:
        """Three arms, 12 rewards: η = min(γ/K, √(ln 3 / (3·12))) = 0.1; p = 0.7·softmax(η·S) + 0.1."""
        evidence = evidence_of((4.0, 2.0, 2.0, 9.0), (4.0, 1.0, 1.0, 4.0), (4.0, 0.0, 0.0, 0.0))
        weights = np.array([math.exp(0.9), math.exp(0.4), 1.0])
        assert EXP3(gamma=0.3).allocate(evidence) == pytest.approx(0.1 + 0.7 * weights / weights.sum())
        least = EXP3(gamma=0.3).allocate(evidence, Situation(minimize=True))
        assert least == pytest.approx(0.1 + 0.7 / weights / (1 / weights).sum())

    def test_the_rate_falls_with_the_rewards_counted(self) -> None:
        evidence = evidence_of((4.0, 2.0, 2.0, 50.0), (4.0, 1.0, 1.0, 4.0))
        rate = math.sqrt(math.log(2) / (2 * 10_008))
        first = 1 / (1 + math.exp(-46 * rate))
        share = EXP3(gamma=0.2).allocate(evidence, Situation(other_pull_count=10_000))
        assert share == pytest.approx([0.1 + 0.8 * first, 0.1 + 0.8 * (1 - first)])

    def test_ix_by_hand(self) -> None:
        evidence = evidence_of((4.0, 2.0, 2.0, 3.0), (4.0, 1.0, 1.0, 5.0))
        rate = math.sqrt(2 * math.log(2) / (2 * 8))
        first = 1 / (1 + math.exp(-2 * rate))
        assert EXP3IX().allocate(evidence) == pytest.approx([first, 1 - first])

    def test_rewards_are_weighed_by_the_propensity_of_their_draw(self) -> None:
        seen = Observation(0.5, propensity=0.2)
        assert EXP3().increment(seen) == pytest.approx((1.0, 0.5, 0.25, 2.5))
        assert EXP3IX(gamma=0.05).increment(seen) == pytest.approx((1.0, 0.5, 0.25, 2.0))

    def test_the_signed_propensity_counts_however_late_the_reward_comes(self) -> None:
        experiment, rng = Experiment(EXP3(), ["a", "b"]), random.Random(2)
        early = experiment.draw(NOW, rng)
        for _ in range(200):
            decision = experiment.draw(NOW, rng)
            reward = float(decision.arm.arm_id == "a")
            experiment.update(Update(reward=reward, decision_id=decision.decision_id), NOW)
        assert experiment.draw(NOW, rng).propensity != early.propensity
        late = experiment.update(Update(reward=1.0, decision_id=early.decision_id), NOW + 9e5)
        assert late.numbers[3] == 1 / early.propensity == 2.0

    @pytest.mark.parametrize("policy", [EXP3(), EXP3IX()])
    def test_a_new_arm_begins_where_the_others_stand_by_their_allocation(self, policy: Policy) -> None:
        evidence = evidence_of((40.0, 20.0, 20.0, 90.0), (40.0, 10.0, 10.0, 60.0))
        start = policy.head_start(evidence)
        assert 60.0 < start < 90.0
        grown = Evidence(np.vstack([evidence.sums, np.zeros(4)]), np.zeros(3), np.array([40, 40, 0]))
        share = policy.allocate(grown, Situation(head_start=np.array([0.0, 0.0, start])))
        assert share[1] != share[2]
        assert min(share[0], share[1]) < share[2] < max(share[0], share[1])

    def test_an_experiment_keeps_it_until_a_reset(self) -> None:
        experiment, rng = Experiment(EXP3(), ["a", "b"]), random.Random(2)
        for _ in range(50):
            decision = experiment.draw(NOW, rng)
            experiment.update(Update(reward=1.0, decision_id=decision.decision_id), NOW)
        start = experiment.snapshot(NOW).head_start()
        experiment.put_arm(Arm(3, "c", head_start=start))
        assert start > 0
        assert experiment.snapshot(NOW).allocate().probabilities[2] > 0.2
        experiment.reset(1)
        assert experiment.state.arms[3].head_start == 0.0
        assert experiment.snapshot(NOW).allocate().probabilities == pytest.approx([1 / 3] * 3)


def test_a_fixed_split_never_learns() -> None:
    evidence = evidence_of((10.0, 9.0, 9.0), (90.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert FixedSplit().allocate(evidence).tolist() == [1 / 3] * 3
    experiment = Experiment(spec=ExperimentSpec(policy=FixedSplit()), arms=["a", "b"])
    rng = random.Random(3)
    for _, reward in zip(range(100), itertools.cycle([1.0, 0.0]), strict=False):
        decision = experiment.draw(NOW, rng)
        assert decision.propensity == 0.5
        experiment.update(Update(reward=reward, decision_id=decision.decision_id), NOW)
