"""The experiment: when it recomputes, what it adopts, its arms, its epochs and its clock."""

import random
from dataclasses import replace

import pytest

from multiarm import DecisionSigner, EpsilonGreedy, Experiment, ExperimentSpec, Thompson, Update
from multiarm.domain.allocation import Allocation
from multiarm.domain.arm import Arm
from multiarm.domain.errors import ArmNotFound, ExperimentDisabled, FloorTooHigh, NoEnabledArms, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import recompute
from multiarm.domain.records import Decision, ExperimentState

NOW = 1.7e9
HALF_LIFE_S = 6000.0


class Recomputing:
    """A `refresh` that remembers when it was asked."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, experiment: Experiment, now: float) -> Allocation:
        self.times.append(now)
        return recompute(experiment, now)


def experiment_of(
    *arm_ids: str, half_life_s: float | None = None, refresh: Recomputing | None = None, floor: float = 0.0
) -> Experiment:
    spec = ExperimentSpec(policy=EpsilonGreedy(epsilon=0.5), half_life_s=half_life_s, floor=floor)
    return Experiment(spec=spec, arms=arm_ids, refresh=refresh or Recomputing())


def draw(experiment: Experiment, now: float = NOW, seed: int = 0) -> Decision:
    return experiment.draw(now, random.Random(seed))


def draw_arm(experiment: Experiment, arm_id: str) -> Decision:
    return next(d for d in (draw(experiment, seed=seed) for seed in range(100)) if d.arm.arm_id == arm_id)


def reward(experiment: Experiment, arm_id: str, value: float, now: float = NOW, ts: float | None = None) -> None:
    experiment.update(Update(reward=value, arm_id=arm_id, ts=ts), now)


class TestFreshness:
    def test_nothing_new_means_nothing_to_compute_however_late_without_a_half_life(self) -> None:
        refresh = Recomputing()
        experiment = experiment_of("a", "b", refresh=refresh)
        for age in (0.0, 1.0, 1e9):
            draw(experiment, NOW + age)
        assert refresh.times == [NOW]

    def test_many_at_once_are_those_that_come_one_after_another(self) -> None:
        signer = DecisionSigner.random()
        together, apart = (Experiment(EpsilonGreedy(epsilon=0.5), ["red", "green"], signer=signer) for _ in range(2))
        rng, same = random.Random(5), random.Random(5)
        many = together.draw_many(50, NOW, rng)
        one_by_one = [apart.draw(NOW, same) for _ in range(50)]
        assert [(d.arm, d.propensity, d.random) for d in many] == [(d.arm, d.propensity, d.random) for d in one_by_one]
        assert together.draws == apart.draws
        assert len({d.unique for d in (*many, *one_by_one)}) == 100

    def test_many_at_once_count_all_or_none(self) -> None:
        experiment = Experiment(Thompson(), ["red", "green"])

        class Failing(random.Random):
            left = 7

            def random(self) -> float:
                self.left -= 1
                if not self.left:
                    raise RuntimeError("no more chance")
                return 0.5

        with pytest.raises(RuntimeError):
            experiment.draw_many(10, NOW, Failing())
        assert experiment.draw_count == 0

    def test_new_evidence_is_seen_by_the_next_draw(self) -> None:
        refresh = Recomputing()
        experiment = experiment_of("a", "b", refresh=refresh)
        assert draw(experiment).propensity == 0.5
        reward(experiment, "a", 1.0)
        reward(experiment, "b", 0.0)
        assert {draw(experiment, seed=seed).propensity for seed in range(20)} == {0.75, 0.25}
        assert refresh.times == [NOW, NOW]

    def test_one_percent_of_a_half_life_makes_it_out_of_date(self) -> None:
        refresh = Recomputing()
        experiment = experiment_of("a", "b", half_life_s=HALF_LIFE_S, refresh=refresh)
        for age in (0.0, 59.99, 60.0, 119.99, 120.0):
            draw(experiment, NOW + age)
        assert refresh.times == [NOW, NOW + 60, NOW + 120]

    @pytest.mark.parametrize("change", ["add", "disable", "delete", "reset", "load"])
    def test_a_change_of_arms_epoch_or_settings_makes_it_out_of_date(self, change: str) -> None:
        refresh = Recomputing()
        experiment = experiment_of("a", "b", refresh=refresh)
        draw(experiment)
        match change:
            case "add":
                experiment.put_arm(Arm(3, "c"))
            case "disable":
                experiment.put_arm(Arm(2, "b", enabled=False))
            case "delete":
                experiment.put_arm(Arm(2, "b", deleted=True))
            case "reset":
                experiment.reset(1)
            case "load":
                experiment.load(replace(experiment.state, spec=ExperimentSpec(random_share=1.0)))
        draw(experiment, NOW + 1)
        assert refresh.times == [NOW, NOW + 1]
        assert experiment.allocation is not None
        assert experiment.allocation.version == experiment.version


class TestAdopt:
    def test_a_result_of_an_older_version_is_thrown_away(self) -> None:
        experiment = experiment_of("a", "b")
        old = experiment.snapshot(NOW).allocate()
        experiment.put_arm(Arm(2, "b", enabled=False))
        current = recompute(experiment, NOW)
        assert experiment.adopt(old) is current
        assert experiment.allocation is current

    def test_even_where_there_is_no_current_one(self) -> None:
        experiment = experiment_of("a", "b")
        old = experiment.snapshot(NOW).allocate()
        experiment.reset(1)
        experiment.adopt(old)
        assert experiment.allocation is None

    def test_a_result_of_older_evidence_is_thrown_away(self) -> None:
        experiment = experiment_of("a", "b")
        old = experiment.snapshot(NOW).allocate()
        reward(experiment, "a", 1.0)
        current = recompute(experiment, NOW)
        assert experiment.adopt(old) is current
        assert experiment.allocation is current

    def test_a_later_result_is_taken(self) -> None:
        experiment = experiment_of("a", "b")
        recompute(experiment, NOW)
        reward(experiment, "a", 1.0)
        newer = experiment.snapshot(NOW).allocate()
        assert experiment.adopt(newer) is newer
        assert experiment.allocation is newer

    def test_a_result_of_a_new_version_replaces_one_of_more_evidence(self) -> None:
        experiment = experiment_of("a", "b")
        reward(experiment, "a", 1.0)
        recompute(experiment, NOW)
        experiment.put_arm(Arm(3, "c"))
        newer = replace(experiment.snapshot(NOW).allocate(), evidence_version=0)
        assert experiment.adopt(newer) is newer


class TestArms:
    def test_more_arms_than_the_floor_leaves_room_for_are_refused_at_the_latest_by_the_draw(self) -> None:
        """Or else each would be drawn with another probability than is stated."""
        with pytest.raises((FloorTooHigh, ArithmeticError)):
            draw(experiment_of("a", "b", floor=0.6))

    def test_without_enabled_arms_or_while_disabled_there_are_no_draws_but_rewards_count(self) -> None:
        experiment = experiment_of("a")
        experiment.put_arm(Arm(1, "a", enabled=False))
        with pytest.raises(NoEnabledArms):
            draw(experiment)
        experiment.put_arm(Arm(1, "a"))
        experiment.set_enabled(False)
        with pytest.raises(ExperimentDisabled):
            draw(experiment)
        reward(experiment, "a", 1.0)
        assert (experiment.pull_count, experiment.draw_count) == (1, 0)
        experiment.set_enabled(True)
        assert draw(experiment).arm.arm_id == "a"

    def test_a_disabled_arm_keeps_its_evidence(self) -> None:
        experiment = experiment_of("a", "b")
        reward(experiment, "a", 0.5)
        experiment.put_arm(Arm(1, "a", enabled=False))
        reward(experiment, "a", 0.25)
        statistics = experiment.snapshot(NOW).statistics()["a"]
        assert (statistics.pulls, statistics.mean_reward, statistics.share) == (2, 0.375, 0.0)

    def test_a_deleted_arm_takes_rewards_for_its_decisions_but_not_by_name(self) -> None:
        experiment = experiment_of("a", "b")
        decision = draw_arm(experiment, "b")
        experiment.put_arm(Arm(2, "b", deleted=True))
        increment = experiment.update(Update(reward=1.0, decision_id=decision.decision_id), NOW)
        assert (increment.arm.number, experiment.pull_count) == (2, 1)
        assert list(experiment.snapshot(NOW).statistics()) == ["a"]
        with pytest.raises(ArmNotFound):
            reward(experiment, "b", 1.0)

    def test_an_id_added_again_is_a_new_arm(self) -> None:
        experiment = experiment_of("a", "b")
        reward(experiment, "b", 1.0)
        decision = draw_arm(experiment, "b")
        experiment.put_arm(Arm(2, "b", deleted=True))
        experiment.put_arm(Arm(3, "b"))
        assert experiment.snapshot(NOW).statistics()["b"].pulls == 0
        assert experiment.update(Update(reward=1.0, decision_id=decision.decision_id), NOW).arm.number == 2
        reward(experiment, "b", 0.5)
        statistics = experiment.snapshot(NOW).statistics()["b"]
        assert (statistics.pulls, statistics.mean_reward, statistics.draws) == (1, 0.5, 0)


class TestEpochs:
    def test_reset_forgets_evidence_draws_and_the_allocation_and_keeps_arms(self) -> None:
        experiment = experiment_of("a", "b")
        reward(experiment, "a", 1.0)
        draw(experiment)
        experiment.reset(1)
        assert (experiment.pull_count, experiment.draw_count, experiment.allocation) == (0, 0, None)
        assert experiment.state.epoch == 1
        assert [arm.arm_id for arm in experiment.live_arms] == ["a", "b"]
        assert draw(experiment).propensity == 0.5

    def test_decisions_from_before_a_reset_are_refused_and_later_ones_are_not(self) -> None:
        experiment = experiment_of("a")
        old = draw(experiment)
        experiment.reset(1)
        with pytest.raises(StaleEpoch):
            experiment.update(Update(reward=1.0, decision_id=old.decision_id), NOW)
        experiment.update(Update(reward=1.0, decision_id=draw(experiment).decision_id), NOW)
        assert experiment.pull_count == 1


class TestLoad:
    def test_keeps_draws_counted_since_they_were_last_stored(self) -> None:
        experiment = experiment_of("a")
        for _ in range(5):
            draw(experiment)
        experiment.load(replace(experiment.state, rows={1: Row(draw_count=3)}))
        assert experiment.draw_count == 5
        experiment.load(replace(experiment.state, rows={1: Row(draw_count=9)}))
        assert experiment.draw_count == 9
        experiment.load(replace(experiment.state, rows={}))
        assert experiment.draw_count == 9

    @pytest.mark.parametrize(("uid", "epoch"), [(0, 1), (5, 0)])
    def test_of_another_epoch_or_experiment_starts_from_the_stored_draws(self, uid: int, epoch: int) -> None:
        experiment = experiment_of("a")
        for _ in range(5):
            draw(experiment)
        experiment.load(replace(experiment.state, uid=uid, epoch=epoch, rows={1: Row(draw_count=3)}))
        assert experiment.draw_count == 3

    def test_adds_the_rows_of_other_nodes_each_decayed_to_the_later_time(self) -> None:
        others = [(1, Row((2.0, 2.0, 2.0), NOW - HALF_LIFE_S, 2, 7)), (1, Row((1.0, 0.0, 0.0), NOW, 1, 1))]
        own = {1: Row((1.0, 0.0, 0.0), NOW, 1, 10)}
        experiment = Experiment(Thompson())
        spec = ExperimentSpec(policy=Thompson(), half_life_s=HALF_LIFE_S)
        experiment.load(ExperimentState(1, "x", spec, arms={1: Arm(1, "a")}, rows=own, other_rows=others))
        statistics = experiment.snapshot(NOW).statistics()["a"]
        # own row 1 pull, the others 2·½ and 1; Σr = 2·½
        assert statistics.effective_pulls == 3.0
        assert statistics.mean_reward == pytest.approx(1 / 3)
        assert (statistics.pulls, statistics.draws) == (experiment.pull_count, experiment.draw_count) == (4, 18)


class TestTime:
    def evidence_time(self, update: Update, experiment: Experiment | None = None, now: float = NOW) -> float:
        return (experiment or experiment_of("a")).credit(update, now).evidence_time

    def test_of_a_plain_update_is_its_ts_else_its_arrival(self) -> None:
        assert self.evidence_time(Update(reward=1.0, arm_id="a")) == NOW
        assert self.evidence_time(Update(reward=1.0, arm_id="a", ts=NOW - 5)) == NOW - 5
        assert self.evidence_time(Update(reward=1.0, arm_id="a", ts=-3.0)) == -3.0

    @pytest.mark.parametrize("ahead", [0.001, 299.0, 300.0])
    def test_up_to_five_minutes_ahead_counts_as_now(self, ahead: float) -> None:
        assert self.evidence_time(Update(reward=1.0, arm_id="a", ts=NOW + ahead)) == NOW

    def test_of_a_decision_is_its_own_and_a_ts_is_only_logged(self) -> None:
        experiment = experiment_of("a")
        decision = draw(experiment, NOW - 100)
        increment = experiment.credit(Update(reward=1.0, decision_id=decision.decision_id, ts=NOW - 50), NOW)
        assert (increment.evidence_time, increment.issued_at, increment.ts) == (NOW - 100, NOW - 100, NOW - 50)

    @pytest.mark.parametrize("ahead", [1.0, 301.0, 1e9])
    def test_a_decision_from_the_future_counts_as_now_however_far(self, ahead: float) -> None:
        experiment = experiment_of("a")
        decision = draw(experiment, NOW + ahead)
        assert self.evidence_time(Update(reward=1.0, decision_id=decision.decision_id), experiment) == NOW

    def test_a_clock_that_jumps_back_inflates_nothing(self) -> None:
        experiment = experiment_of("a", half_life_s=HALF_LIFE_S)
        reward(experiment, "a", 1.0, NOW)
        for now in (NOW - 1, NOW - HALF_LIFE_S, 0.0):
            assert experiment.snapshot(now).statistics()["a"].effective_pulls == 1.0
        reward(experiment, "a", 1.0, NOW - HALF_LIFE_S)
        assert experiment.snapshot(NOW - HALF_LIFE_S).statistics()["a"].effective_pulls == 1.5
        assert experiment.snapshot(NOW).statistics()["a"].effective_pulls == 1.5


def test_what_a_decision_says_is_what_its_increment_carries() -> None:
    experiment = Experiment(Thompson(), ["a", "b"], signer=DecisionSigner({1: bytes(32)}, current=1))
    decision = draw(experiment, NOW)
    increment = experiment.credit(Update(reward=0.25, decision_id=decision.decision_id), NOW + 9)
    assert (increment.arm, increment.propensity, increment.issued_at) == (decision.arm, decision.propensity, NOW)
    assert (increment.unique, increment.key) == (decision.unique, f"d:{decision.unique.hex()}")
    keyed = experiment.credit(Update(reward=0.25, arm_id="a", key="order-7"), NOW)
    assert (keyed.key, keyed.unique, keyed.propensity, keyed.issued_at) == ("k:order-7", None, None, None)
    assert experiment.credit(Update(reward=0.25, arm_id="a"), NOW).key is None
