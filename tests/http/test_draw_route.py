"""Draws: what they answer, and that what they say is true."""

import re
from collections import Counter

import httpx
import pytest

from support import assert_problem, create, reward, stats


def test_a_draw_names_arm_propensity_decision_and_payload_and_is_not_cached(client: httpx.Client) -> None:
    experiment_id = create(client, {"arm_id": "a", "payload": {"n": 1}})
    answer = client.get(f"/v1/{experiment_id}/draw")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    drawn = answer.json()
    assert set(drawn) == {"arm_id", "propensity", "decision_id", "payload"}
    assert (drawn["arm_id"], drawn["propensity"], drawn["payload"]) == ("a", 1.0, {"n": 1})
    assert re.fullmatch(r"[A-Za-z0-9_-]+", drawn["decision_id"])


def test_every_decision_id_is_another(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    assert len({client.get(f"/v1/{experiment_id}/draw").json()["decision_id"] for _ in range(100)}) == 100


def test_draws_are_counted(client: httpx.Client) -> None:
    experiment_id = create(client, "a", "b")
    drawn = Counter(client.get(f"/v1/{experiment_id}/draw").json()["arm_id"] for _ in range(40))
    arms = stats(client, experiment_id)
    assert {arm_id: arm["draws"] for arm_id, arm in arms.items()} == {"a": drawn["a"], "b": drawn["b"]}
    assert client.get(f"/v1/{experiment_id}").json()["counts"]["draws"] == 40


def test_the_propensity_is_the_share_and_the_newest_evidence_is_seen(client: httpx.Client) -> None:
    experiment_id = create(client, "a", "b", policy={"type": "epsilon_greedy", "epsilon": 0.2})
    fresh = client.get(f"/v1/{experiment_id}/draw").json()
    assert fresh["propensity"] == pytest.approx(0.5, abs=1e-12)  # neither arm has evidence: they tie
    reward(client, experiment_id, arm_id="a", reward=1)
    reward(client, experiment_id, arm_id="b", reward=0)
    seen: dict[str, float] = {}
    for _ in range(300):  # b comes with probability 0.1: missing it 300 times has a chance of 2e-14
        drawn = client.get(f"/v1/{experiment_id}/draw").json()
        seen[drawn["arm_id"]] = drawn["propensity"]
        if len(seen) == 2:
            break
    assert seen == pytest.approx({"a": 0.9, "b": 0.1}, abs=1e-12)
    assert seen == {arm_id: arm["share"] for arm_id, arm in stats(client, experiment_id).items()}


def test_guardrails_are_in_the_propensity(client: httpx.Client) -> None:
    policy = {"type": "epsilon_greedy", "epsilon": 0}
    experiment_id = create(client, "a", "b", policy=policy, random_share=0.2, floor=0.25)
    reward(client, experiment_id, arm_id="a", reward=1)
    reward(client, experiment_id, arm_id="b", reward=0)
    arms = stats(client, experiment_id)
    assert arms["a"]["share"] == pytest.approx(0.25 + 0.5 * 0.9, abs=1e-12)
    assert arms["b"]["share"] == pytest.approx(0.25 + 0.5 * 0.1, abs=1e-12)
    drawn = client.get(f"/v1/{experiment_id}/draw").json()
    assert drawn["propensity"] == pytest.approx(arms[drawn["arm_id"]]["share"], abs=1e-12)


def test_a_decision_can_be_rewarded_once(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    decision_id = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
    assert reward(client, experiment_id, decision_id=decision_id, reward=1) == {"accepted": 1, "duplicates": 0}
    assert reward(client, experiment_id, decision_id=decision_id, reward=1) == {"accepted": 0, "duplicates": 1}
    assert reward(client, experiment_id, decision_id=decision_id, reward=0) == {"accepted": 0, "duplicates": 1}
    arm = stats(client, experiment_id)["a"]
    assert (arm["pulls"], arm["mean_reward"]) == (1, 1.0)


def test_an_unknown_experiment_is_404(client: httpx.Client) -> None:
    assert_problem(client.get("/v1/nobody/draw"), 404, "experiment-not-found")


def test_a_query_is_ignored(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    assert client.get(f"/v1/{experiment_id}/draw?cache=%2Fno//x/").status_code == 200
