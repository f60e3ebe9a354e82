"""Statistics: what stands there, and what is null (SEMANTICS.md §3)."""

from math import pi, tan
from statistics import NormalDist
from typing import Any

import httpx
import pytest

from support import assert_problem, create, reward, stats

FIELDS = {"pulls", "mean_reward", "effective_pulls", "draws", "share", "probability_best", "interval", "enabled"}
GREEDY = {"type": "epsilon_greedy", "epsilon": 0.1}
STUDENT_T_1 = tan(pi * 0.475)  # the 97.5 % quantile with one degree of freedom


def rewards(client: httpx.Client, experiment_id: str, arm_id: str, *values: float) -> None:
    updates = [{"arm_id": arm_id, "reward": value} for value in values]
    answer = client.post(f"/v1/{experiment_id}/update_batch", json={"updates": updates})
    assert answer.json() == {"accepted": len(values), "duplicates": 0}


def column(arms: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return {arm_id: arm[name] for arm_id, arm in arms.items()}


def test_every_arm_has_every_field_in_order_of_addition(client: httpx.Client) -> None:
    experiment_id = create(client, "zebra", "ant")
    answer = client.get(f"/v1/{experiment_id}/stats")
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["arms"]
    arms = answer.json()["arms"]
    assert list(arms) == ["zebra", "ant"]
    assert all(set(arm) == FIELDS for arm in arms.values())


def test_of_no_arms_there_are_none(client: httpx.Client) -> None:
    assert stats(client, create(client)) == {}


def test_an_unknown_experiment_is_404(client: httpx.Client) -> None:
    assert_problem(client.get("/v1/nobody/stats"), 404, "experiment-not-found")


class TestThompson:
    def test_without_evidence_only_the_mean_is_null(self, client: httpx.Client) -> None:
        arms = stats(client, create(client, "a", "b"))
        assert arms["a"] == {
            "pulls": 0,
            "mean_reward": None,
            "effective_pulls": 0.0,
            "draws": 0,
            "share": pytest.approx(0.5, abs=1e-12),
            "probability_best": pytest.approx(0.5, abs=1e-12),
            "interval": pytest.approx([0.025, 0.975], abs=1e-12),
            "enabled": True,
        }

    def test_intervals_are_those_of_the_beta_posterior(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", policy={"type": "thompson", "prior": {"alpha": 0.75, "beta": 3}})
        rewards(client, experiment_id, "a", 0, 0.25)
        arm = stats(client, experiment_id)["a"]
        assert arm["mean_reward"] == pytest.approx(0.125, abs=1e-15)
        beta = 3 + 1.75  # and α is 1, so that there is a closed form
        assert arm["interval"] == pytest.approx([1 - 0.975 ** (1 / beta), 1 - 0.025 ** (1 / beta)], abs=1e-9)

    def test_the_share_is_the_probability_of_being_best_after_guardrails(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b", random_share=0.2, floor=0.1)
        rewards(client, experiment_id, "a", 1)
        arms = stats(client, experiment_id)
        best = 2 / 3  # Beta(2, 1) beats Beta(1, 1): ∫ 2x · x dx
        assert column(arms, "probability_best") == pytest.approx({"a": best, "b": 1 - best}, abs=1e-10)
        expected = 0.1 + 0.8 * (0.2 / 2 + 0.8 * best)
        assert column(arms, "share") == pytest.approx({"a": expected, "b": 1 - expected}, abs=1e-10)

    def test_a_disabled_arm_has_no_share_and_no_probability(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        rewards(client, experiment_id, "b", 1, 1)
        client.put(f"/v1/{experiment_id}/disable_arm/b")
        arms = stats(client, experiment_id)
        assert column(arms, "enabled") == {"a": True, "b": False}
        assert column(arms, "share") == {"a": 1.0, "b": 0.0}
        assert column(arms, "probability_best") == {"a": 1.0, "b": None}
        assert column(arms, "mean_reward") == {"a": None, "b": 1.0}
        assert arms["b"]["interval"] == pytest.approx([0.025 ** (1 / 3), 0.975 ** (1 / 3)], abs=1e-9)  # Beta(3, 1)

    def test_with_all_arms_disabled_there_is_no_share(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        client.put(f"/v1/{experiment_id}/disable_arm/a")
        arm = stats(client, experiment_id)["a"]
        assert (arm["share"], arm["probability_best"], arm["enabled"]) == (0.0, None, False)

    def test_a_disabled_experiment_still_says_its_shares(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        client.put(f"/v1/{experiment_id}/disable")
        assert column(stats(client, experiment_id), "share") == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-12)


class TestEpsilonGreedy:
    def test_without_evidence_mean_interval_and_probability_are_null(self, client: httpx.Client) -> None:
        arms = stats(client, create(client, "a", "b", policy=GREEDY))
        for name in ("mean_reward", "interval", "probability_best"):
            assert column(arms, name) == {"a": None, "b": None}
        assert column(arms, "share") == pytest.approx({"a": 0.5, "b": 0.5}, abs=1e-12)

    def test_an_interval_needs_two_pulls_and_the_probability_two_of_each_enabled_arm(
        self, client: httpx.Client
    ) -> None:
        experiment_id = create(client, "a", "b", policy=GREEDY)
        rewards(client, experiment_id, "a", 10)
        assert column(stats(client, experiment_id), "interval") == {"a": None, "b": None}
        rewards(client, experiment_id, "a", 14)
        arms = stats(client, experiment_id)
        half_width = STUDENT_T_1 * 2  # s² = 8, n = 2
        assert arms["a"]["interval"] == pytest.approx([12 - half_width, 12 + half_width], rel=1e-9)
        assert arms["b"]["interval"] is None
        assert column(arms, "probability_best") == {"a": None, "b": None}

        rewards(client, experiment_id, "b", 10, 15)
        arms = stats(client, experiment_id)
        # N(12, 2²) beats N(12.5, 2.5²)
        best = NormalDist().cdf(-0.5 / (2**2 + 2.5**2) ** 0.5)
        assert column(arms, "probability_best") == pytest.approx({"a": best, "b": 1 - best}, abs=1e-9)
        assert column(arms, "share") == pytest.approx({"a": 0.05, "b": 0.95}, abs=1e-12)

    def test_a_disabled_arm_without_pulls_does_not_keep_the_probability_null(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b", "c", policy=GREEDY)
        rewards(client, experiment_id, "a", 1, 2)
        rewards(client, experiment_id, "b", 1, 2)
        assert column(stats(client, experiment_id), "probability_best") == {"a": None, "b": None, "c": None}
        client.put(f"/v1/{experiment_id}/disable_arm/c")
        best = column(stats(client, experiment_id), "probability_best")
        assert best == {"a": pytest.approx(0.5, abs=1e-9), "b": pytest.approx(0.5, abs=1e-9), "c": None}

    def test_variances_survive_a_large_mean_with_an_origin(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", policy=GREEDY, reward_origin=1e9)
        rewards(client, experiment_id, "a", 1e9 + 1, 1e9 + 3)
        arm = stats(client, experiment_id)["a"]
        assert arm["mean_reward"] == 1e9 + 2
        half_width = STUDENT_T_1  # s² = 2, n = 2
        assert arm["interval"][1] - arm["interval"][0] == pytest.approx(2 * half_width, rel=1e-6)


def test_effective_pulls_forget_and_pulls_do_not(client: httpx.Client) -> None:
    experiment_id = create(client, "a", half_life_s=60)
    reward(client, experiment_id, arm_id="a", reward=1, ts=0)
    arm = stats(client, experiment_id)["a"]
    assert arm["pulls"] == 1
    assert arm["effective_pulls"] < 1e-9
    reward(client, experiment_id, arm_id="a", reward=0.5)
    arm = stats(client, experiment_id)["a"]
    assert arm["pulls"] == 2
    assert arm["effective_pulls"] == pytest.approx(1, abs=0.2)
    assert arm["mean_reward"] == pytest.approx(0.5, abs=1e-6)


def test_where_everything_is_forgotten_the_mean_is_null(client: httpx.Client) -> None:
    experiment_id = create(client, "a", policy=GREEDY, half_life_s=60)
    for _ in range(2):
        reward(client, experiment_id, arm_id="a", reward=1, ts=0)
    arm = stats(client, experiment_id)["a"]
    assert (arm["pulls"], arm["effective_pulls"], arm["mean_reward"], arm["interval"]) == (2, 0.0, None, None)
