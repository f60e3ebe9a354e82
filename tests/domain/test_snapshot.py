"""Statistics of a snapshot, worked out by hand; null where nothing can be said."""

import math
from typing import Any

import pytest

from multiarm import EpsilonGreedy, Experiment, ExperimentSpec, Thompson, Update
from multiarm.domain.arm import Arm, Prior
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.snapshot import ArmStatistics, Snapshot

NOW = 1.7e9


def snapshot_of(policy: AnyPolicy, rewards: dict[str, list[float]], **spec: Any) -> Snapshot:
    experiment = Experiment(spec=ExperimentSpec(policy=policy, **spec), arms=rewards)
    for arm_id, each in rewards.items():
        for reward in each:
            experiment.update(Update(reward=reward, arm_id=arm_id), NOW)
    return experiment.snapshot(NOW)


def test_thompson_by_hand() -> None:
    statistics = snapshot_of(Thompson(), {"a": [], "b": [1.0]}).statistics()
    a, b = statistics["a"], statistics["b"]
    assert (a.pulls, a.mean_reward, a.effective_pulls, a.draws, a.enabled) == (0, None, 0.0, 0, True)
    assert (b.pulls, b.mean_reward, b.effective_pulls, b.draws, b.enabled) == (1, 1.0, 1.0, 0, True)
    assert (a.share, b.share) == pytest.approx((1 / 3, 2 / 3))
    assert (a.probability_best, b.probability_best) == pytest.approx((1 / 3, 2 / 3))
    assert a.interval == pytest.approx((0.025, 0.975))
    assert b.interval == pytest.approx((math.sqrt(0.025), math.sqrt(0.975)))  # of Beta(2, 1), whose CDF is x²


def test_shares_are_after_guardrails_and_probability_best_before_them() -> None:
    statistics = snapshot_of(Thompson(), {"a": [], "b": [1.0]}, random_share=0.3, floor=0.1).statistics()
    # 0.1 + 0.8·(0.15 + 0.7/3) and 0.1 + 0.8·(0.15 + 0.7·2/3)
    assert [s.share for s in statistics.values()] == pytest.approx(
        [0.1 + 0.8 * (0.15 + 0.7 / 3), 0.1 + 0.8 * (0.15 + 1.4 / 3)]
    )
    assert [s.probability_best for s in statistics.values()] == pytest.approx([1 / 3, 2 / 3])


def test_epsilon_greedy_says_nothing_of_probability_best_before_every_arm_has_two_pulls() -> None:
    few = snapshot_of(EpsilonGreedy(), {"a": [0.0, 1.0], "b": [1.0]}).statistics()
    assert [s.probability_best for s in few.values()] == [None, None]
    assert few["a"].interval is not None
    assert few["b"].interval is None
    enough = snapshot_of(EpsilonGreedy(), {"a": [0.0, 1.0], "b": [1.0, 0.0]}).statistics()
    assert [s.probability_best for s in enough.values()] == pytest.approx([0.5, 0.5])


def test_neither_pulls_nor_means_include_priors() -> None:
    experiment = Experiment(Thompson())
    experiment.put_arm(Arm(1, "a", prior=Prior(pulls=100.0, mean_reward=0.9)))
    experiment.put_arm(Arm(2, "b"))
    statistics = experiment.snapshot(NOW).statistics()["a"]
    assert (statistics.pulls, statistics.effective_pulls, statistics.mean_reward) == (0, 0.0, None)
    experiment.update(Update(reward=0.0, arm_id="a"), NOW)
    statistics = experiment.snapshot(NOW).statistics()["a"]
    assert (statistics.pulls, statistics.effective_pulls, statistics.mean_reward) == (1, 1.0, 0.0)
    # Beta(1 + 90, 1 + 10 + 1) beats a uniform arm with the probability of its mean
    assert statistics.share == pytest.approx(91 / 103)


def test_a_disabled_arm_has_a_share_of_zero_and_no_probability_best() -> None:
    experiment = Experiment(Thompson(), ["a", "b", "off"])
    experiment.update(Update(reward=1.0, arm_id="off"), NOW)
    experiment.put_arm(Arm(3, "off", enabled=False))
    statistics = experiment.snapshot(NOW).statistics()
    off = statistics["off"]
    assert (off.enabled, off.share, off.probability_best, off.pulls) == (False, 0.0, None, 1)
    assert off.interval == pytest.approx((math.sqrt(0.025), math.sqrt(0.975)))
    assert [statistics[arm_id].probability_best for arm_id in "ab"] == pytest.approx([0.5, 0.5])


def test_with_every_arm_disabled_shares_are_zero() -> None:
    experiment = Experiment(Thompson(), ["a"])
    experiment.put_arm(Arm(1, "a", enabled=False))
    statistics = experiment.snapshot(NOW).statistics()["a"]
    assert (statistics.share, statistics.probability_best) == (0.0, None)


def test_counts_only_asks_nothing_of_the_policy() -> None:
    statistics = snapshot_of(Thompson(), {"a": [0.5, 1.0], "b": []}).statistics(counts_only=True)
    assert statistics == {
        "a": ArmStatistics(2, 0.75, 2.0, 0, None, None, None, True),
        "b": ArmStatistics(0, None, 0.0, 0, None, None, None, True),
    }


def test_without_arms_there_are_no_statistics() -> None:
    assert Experiment(Thompson()).snapshot(NOW).statistics() == {}


def test_forgetting_shows_in_effective_pulls_and_not_in_pulls() -> None:
    experiment = Experiment(spec=ExperimentSpec(policy=EpsilonGreedy(), half_life_s=3600.0), arms=["a"])
    for reward in (1.0, 2.0, 3.0, 4.0):
        experiment.update(Update(reward=reward, arm_id="a"), NOW)
    later = experiment.snapshot(NOW + 7200).statistics()["a"]
    assert (later.pulls, later.effective_pulls, later.mean_reward, later.interval) == (4, 1.0, 2.5, None)


def test_an_origin_shows_nowhere_but_in_the_digits_kept() -> None:
    rewards = {"a": [101.0, 102.0, 106.0], "b": [99.0, 103.0]}
    plain = snapshot_of(EpsilonGreedy(), rewards).statistics()
    about_100 = snapshot_of(EpsilonGreedy(), rewards, reward_origin=100.0).statistics()
    for arm_id, expected in plain.items():
        actual = about_100[arm_id]
        assert (actual.mean_reward, actual.share) == (expected.mean_reward, expected.share)
        assert actual.probability_best == pytest.approx(expected.probability_best, abs=1e-9)
        assert actual.interval == pytest.approx(expected.interval, rel=1e-9)
