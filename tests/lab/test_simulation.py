"""The lab plays the code that serves, and tells it no more and no less than a server would."""

from typing import ClassVar

import msgspec
import numpy as np
import pytest

from multiarm.domain.evidence import I64, Evidence
from multiarm.domain.policies import EXP3, KLUCB, UCB1, VDBE, AnyPolicy, FixedSplit, Softmax, Thompson, ThompsonGaussian
from multiarm.domain.policies.base import NOTHING_ELSE, Observation, Policy, Situation
from multiarm.lab import Bernoulli, Change, Entry, Gaussian, Poisson, Study, simulate
from multiarm.lab.environments import AnyEnvironment
from multiarm.lab.simulation import Curves, Runs, play, runs_at_once

TWO = Bernoulli(means=(0.9, 0.1))


def study(
    environment: AnyEnvironment, *policies: AnyPolicy, horizon: int = 200, runs: int = 20, seed: int = 1
) -> Study:
    return Study(
        environment=environment,
        policies=tuple(Entry(policy=policy) for policy in policies),
        horizon=horizon,
        runs=runs,
        seed=seed,
    )


class Spy(FixedSplit, frozen=True, tag="spy"):
    """Splits evenly, and writes down what it was told."""

    seen: ClassVar[list[tuple[Evidence, Situation]]] = []

    def sample(self, evidence: Evidence, rng: np.random.Generator, situation: Situation = NOTHING_ELSE) -> I64:
        copies = Evidence(evidence.sums.copy(), evidence.as_of.copy(), evidence.pull_count.copy())
        pending = None if situation.pending is None else situation.pending.copy()
        self.seen.append((copies, Situation(pending=pending, minimize=situation.minimize)))
        return super().sample(evidence, rng, situation)


class WaitingSpy(Spy, frozen=True, tag="waiting_spy"):
    own_traits = UCB1.own_traits


def spied(
    environment: AnyEnvironment, policy: Policy, horizon: int = 30, runs: int = 5, half_life_draws: float | None = None
) -> list[tuple[Evidence, Situation]]:
    """What the policy was told before each draw."""
    Spy.seen.clear()
    played = study(environment, FixedSplit(), horizon=horizon, runs=runs)
    entry = msgspec.structs.replace(
        Entry(policy=FixedSplit(), half_life_draws=half_life_draws), policy=policy
    )  # type by type: it is no AnyPolicy
    play(played, entry, runs, np.random.SeedSequence(1))
    return list(Spy.seen)


class TestWhatPoliciesAreTold:
    def test_without_delay_every_reward_is_known_at_the_next_draw(self) -> None:
        for step, (evidence, situation) in enumerate(spied(TWO, WaitingSpy())):
            assert (evidence.pull_count.sum(axis=-1) == step).all()
            assert (evidence.pulls == evidence.pull_count).all()
            assert situation.pending is None

    def test_a_reward_comes_when_so_many_more_draws_were_made(self) -> None:
        for step, (evidence, situation) in enumerate(spied(msgspec.structs.replace(TWO, delay=10), WaitingSpy())):
            assert (evidence.pulls.sum(axis=-1) == max(step - 10, 0)).all()
            assert situation.pending is not None
            assert (situation.pending.sum(axis=-1) == min(step, 10)).all()

    def test_pending_draws_are_told_only_to_those_that_ask(self) -> None:
        seen = spied(msgspec.structs.replace(TWO, delay=10), Spy())
        assert all(situation.pending is None for _, situation in seen)

    def test_geometric_delays_have_their_mean(self) -> None:
        environment = msgspec.structs.replace(TWO, delay=20, delay_kind="geometric")
        seen = spied(environment, WaitingSpy(), horizon=400, runs=50)
        pending = [
            float(situation.pending.sum(axis=-1).mean()) for _, situation in seen if situation.pending is not None
        ]
        assert np.mean(pending[200:]) == pytest.approx(20, rel=0.05)  # Little's law
        assert all((e.pulls.sum(axis=-1) + p >= 0).all() for (e, _), p in zip(seen, pending, strict=True))

    def test_a_reward_that_is_missing_never_counts_and_is_not_waited_for_for_ever(self) -> None:
        environment = msgspec.structs.replace(TWO, delay=10, missing=0.5)
        evidence, situation = spied(environment, WaitingSpy(), horizon=400, runs=50)[-1]
        assert evidence.pulls.sum(axis=-1).mean() == pytest.approx(389 / 2, rel=0.05)
        assert situation.pending is not None
        assert (situation.pending.sum(axis=-1) == 10).all()

    def test_sums_are_of_the_rewards_of_the_arm(self) -> None:
        evidence, _ = spied(Gaussian(means=(5.0, -5.0), sds=(0.0, 0.0)), Spy())[-1]
        assert np.allclose(evidence.reward, evidence.pulls * [5.0, -5.0])
        assert np.allclose(evidence.sums[..., 2], evidence.pulls * 25)

    def test_the_goal(self) -> None:
        assert not spied(TWO, Spy())[0][1].minimize
        assert spied(msgspec.structs.replace(TWO, goal="minimize"), Spy())[0][1].minimize

    @pytest.mark.parametrize("delay", [0, 7])
    def test_a_half_life_forgets_by_the_time_of_the_draw(self, delay: float) -> None:
        constant = Gaussian(means=(1.0, 1.0), sds=(0.0, 0.0), delay=delay)
        for step, (evidence, _) in enumerate(spied(constant, Spy(), half_life_draws=8.0)):
            drawn = np.arange(step - delay)
            expected = (2.0 ** (-(step - 1 - drawn) / 8)).sum() / 2 ** (1 / 8)
            assert np.allclose(evidence.pulls.sum(axis=-1), expected)


class TestLateArms:
    def test_an_arm_that_is_not_there_is_never_drawn(self) -> None:
        environment = Bernoulli(means=(0.9, 0.2, 0.3), arrivals=(100, 0, 50))
        outcome = simulate(study(environment, UCB1(), Thompson(), EXP3(), horizon=150)).outcomes
        for each in outcome:
            steps = each.study.steps
            assert each.curves.shown[steps <= 100, 0].sum() == 0
            assert each.curves.shown[steps <= 50, 2].sum() == 0
            assert each.curves.shown[steps > 100, 0].sum() > 0
            assert each.curves.shown.sum() == 150 * 20

    def test_they_are_not_among_the_arms_that_a_policy_sees(self) -> None:
        seen = spied(Bernoulli(means=(0.9, 0.2, 0.3), arrivals=(20, 0, 10)), Spy())
        assert [evidence.pulls.shape[-1] for evidence, _ in seen] == [1] * 10 + [2] * 10 + [3] * 10

    def test_a_late_arm_of_exp3_gets_its_head_start(self) -> None:
        environment = Bernoulli(means=(0.9, 0.8, 0.7), arrivals=(0, 0, 500))
        played = study(environment, EXP3(), horizon=501, runs=10)
        runs = Runs(played, played.policies[0], 10, np.random.default_rng(1))
        before = runs.play()
        head_start, sums = runs._head_start, runs._sums[3]
        assert (head_start[:2] == 0).all()
        low, high = sums[:2].min(axis=0), sums[:2].max(axis=0)
        assert (low - 2 <= head_start[2]).all()
        assert (head_start[2] <= high).all()
        assert len(set(head_start[2].tolist())) > 1
        assert before.shown[:, 2].sum() < 10  # it did not win all the traffic, as a sum of 0 would not and a mean might

    def test_regret_counts_from_their_arrival(self) -> None:
        environment = Bernoulli(means=(0.5, 0.5, 0.9), arrivals=(0, 0, 100))
        regret = simulate(study(environment, FixedSplit(), horizon=150)).outcomes[0].curves.regret
        steps = study(environment, FixedSplit(), horizon=150).steps
        assert (regret[:, steps <= 100] == 0).all()
        assert regret[:, -1].mean() == pytest.approx(50 * 0.8 / 3, rel=0.15)


class TestRegret:
    def test_a_policy_that_cannot_err_has_none(self) -> None:
        result = simulate(study(Bernoulli(means=(0.5, 0.5)), Thompson(), UCB1()))
        assert [row.regret_mean for row in result.rows] == [0.0, 0.0]
        assert [row.best_arm_share for row in result.rows] == [1.0, 1.0]

    def test_that_of_an_equal_split_is_the_horizon_times_the_mean_gap(self) -> None:
        result = simulate(study(Bernoulli(means=(0.75, 0.5, 0.25)), FixedSplit(), horizon=400, runs=100))
        row = result.rows[0]
        assert result.equal.regret == 400 * 0.25
        assert result.equal.reward == 400 * 0.5
        assert row.regret_se is not None
        assert abs(row.regret_mean - 100) < 4 * row.regret_se
        assert row.reward_gain == 100 - row.regret_mean

    def test_it_is_what_the_draws_of_each_arm_cost(self) -> None:
        result = simulate(study(Bernoulli(means=(0.9, 0.5, 0.4)), Thompson(), horizon=300))
        outcome = result.outcomes[0]
        cost = (outcome.curves.shown.sum(axis=0) * [0.0, 0.4, 0.5]).sum() / 20
        assert outcome.regret_mean == pytest.approx(cost)
        assert outcome.best_arm_share == pytest.approx(outcome.curves.shown[:, 0].sum() / (300 * 20))

    def test_to_minimize_the_smallest_mean_is_the_best(self) -> None:
        environment = Poisson(means=(3.0, 1.0), goal="minimize")
        row = simulate(study(environment, ThompsonGaussian(), horizon=400)).rows[0]
        assert row.best_arm_share > 0.9
        assert row.reward_gain > 0

    def test_after_a_change_another_arm_is_the_best(self) -> None:
        environment = Gaussian(means=(1, 0), sds=(0.1, 0.1), changes=(Change(at=100, means=(0, 1)),))
        outcome = simulate(study(environment, FixedSplit(), horizon=200, runs=50)).outcomes[0]
        assert outcome.regret_mean == pytest.approx(100, rel=0.05)
        assert outcome.found_at is None

    def test_when_the_best_arm_is_found(self) -> None:
        outcome = simulate(study(Gaussian(means=(1, 0), sds=(0, 0)), FixedSplit(), horizon=200, runs=200)).outcomes[0]
        assert outcome.found_at is not None
        assert outcome.found_at <= 6  # one reward of the best arm is enough: P(none in 5) = 3 %
        never = simulate(study(Gaussian(means=(0.01, 0), sds=(1, 1)), FixedSplit(), horizon=20)).outcomes[0]
        assert never.found_at is None


class TestOrder:
    def test_vdbe_takes_the_rewards_of_an_arm_one_by_one(self) -> None:
        """Its ε, worked out reward by reward as an update of the server does."""
        policy, constant = VDBE(), Gaussian(means=(2.0, 3.0), sds=(0.0, 0.0), delay=4)
        played = study(constant, policy, horizon=40, runs=1)
        runs = Runs(played, played.policies[0], 1, np.random.default_rng(1))
        runs._arrive(2, 0)
        [segment] = constant.segments(40)
        drawn = [int(runs._step(step, segment)[0]) for step in range(40)]
        rows: list[tuple[float, ...]] = [(0.0,) * 5] * 2
        for arm in drawn[:-4]:
            new = policy.completed(policy.increment(Observation(2.0 + arm)), rows[arm], 2)
            rows[arm] = tuple(map(sum, zip(rows[arm], new, strict=True)))
        assert np.allclose(runs._sums[:, :, 0].T, rows)


class TestGuardrails:
    def test_random_share_and_floor_are_mixed_in(self) -> None:
        entry = Entry(policy=Softmax(temperature=1e-6), random_share=0.2, floor=0.1)
        certain = Gaussian(means=(1.0, 0.0), sds=(0.0, 0.0))
        played = Study(environment=certain, policies=(entry,), horizon=500, runs=100)
        shown = simulate(played).outcomes[0].curves.shown[50:].sum(axis=0)
        assert shown[1] / shown.sum() == pytest.approx(0.1 + 0.8 * 0.2 / 2, abs=0.01)

    def test_a_reward_is_weighed_by_the_propensity_that_its_draw_had(self) -> None:
        """Whatever the arm's share: what EXP3 adds up is then without bias the reward of each arm at every draw."""
        entry = Entry(policy=EXP3(gamma=0.5), random_share=0.2, floor=0.1)
        played = Study(environment=Bernoulli(means=(1.0, 0.5), delay=3), policies=(entry,), horizon=303, runs=400)
        runs = Runs(played, entry, 400, np.random.default_rng(1))
        runs.play()
        weighted = runs._sums[3]
        error = weighted.std(axis=1) / np.sqrt(400)
        assert (np.abs(weighted.mean(axis=1) - [300, 150]) < 4 * error).all()


class TestDeterminism:
    def test_the_same_seed_gives_the_same_figures_and_another_gives_others(self) -> None:
        first, again, other = (
            simulate(study(TWO, Thompson(), EXP3(), VDBE(), seed=seed)).outcomes for seed in (1, 1, 2)
        )
        for one, same, different in zip(first, again, other, strict=True):
            assert_equal(one.curves, same.curves)
            assert not np.array_equal(one.curves.regret, different.curves.regret)

    def test_a_policy_does_not_depend_on_those_that_come_after_it(self) -> None:
        alone, among = (simulate(study(TWO, Thompson(), *others)).outcomes[0] for others in ([], [UCB1()]))
        assert_equal(alone.curves, among.curves)

    def test_chunks_grow_smaller_where_rewards_wait_long(self) -> None:
        assert runs_at_once(study(TWO, UCB1(), horizon=10**6)) == 1000
        late = msgspec.structs.replace(TWO, delay=100_000)
        assert 10 <= runs_at_once(study(late, UCB1(), horizon=10**6)) < 30


@pytest.mark.parametrize("policy", [KLUCB(), UCB1(), Thompson()], ids=lambda each: type(each).__name__)
def test_at_first_each_arm_is_as_likely_as_any_other(policy: AnyPolicy) -> None:
    result = simulate(study(Bernoulli(means=(0.5,) * 4), policy, horizon=4, runs=1000))
    assert result.outcomes[0].shares[0] == pytest.approx([0.25] * 4, abs=0.05)


def assert_equal(one: Curves, other: Curves) -> None:
    for name, values in one._asdict().items():
        assert np.array_equal(values, getattr(other, name)), name
