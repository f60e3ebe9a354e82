"""Create, list, describe, reset, enable, disable, delete, clear: what each answers, and what it does."""

import time
import uuid
from typing import Any

import httpx
import pytest

from multiarm import __version__
from support import assert_faults, assert_problem, create, reward, stats


def unique_id(prefix: str = "e") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class TestServer:
    def test_ping_says_ok_and_the_version(self, client: httpx.Client) -> None:
        answer = client.get("/v1/ping")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"status": "ok", "version": __version__}

    @pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
    def test_health(self, client: httpx.Client, path: str) -> None:
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


class TestCreate:
    def test_without_a_body_it_is_thompson_sampling_without_arms_under_a_made_up_uuid(
        self, client: httpx.Client
    ) -> None:
        answer = client.post("/v1/create")
        assert answer.status_code == 201
        assert list(answer.json()) == ["experiment_id"]
        experiment_id = answer.json()["experiment_id"]
        assert str(uuid.UUID(experiment_id)) == experiment_id
        view = client.get(f"/v1/{experiment_id}").json()
        assert view["policy"] == {"type": "thompson", "prior": {"alpha": 1.0, "beta": 1.0}}
        assert view["arms"] == []

    def test_with_an_empty_object_likewise(self, client: httpx.Client) -> None:
        answer = client.post("/v1/create", json={})
        assert answer.status_code == 201
        uuid.UUID(answer.json()["experiment_id"])

    def test_everything_that_was_asked_for_is_shown(self, client: httpx.Client) -> None:
        experiment_id = unique_id()
        before = time.time()
        asked: dict[str, Any] = {
            "experiment_id": experiment_id,
            "description": "Which button? Größe µ",
            "policy": {
                "type": "epsilon_greedy",
                "epsilon": 0.25,
                "decay": {"type": "inverse", "pulls": 9, "floor": 0.5},
            },
            "goal": "minimize",
            "attribution_window_s": 60,
            "random_share": 0.1,
            "floor": 0.05,
            "half_life_s": 3600,
            "reward_origin": 100.5,
            "arms": ["red", {"arm_id": "green", "payload": {"hex": "#0f0"}, "prior": {"pulls": 3, "mean_reward": 99}}],
        }
        assert client.post("/v1/create", json=asked).json() == {"experiment_id": experiment_id}
        view = client.get(f"/v1/{experiment_id}").json()
        assert {name: view[name] for name in asked if name != "arms"} == {n: v for n, v in asked.items() if n != "arms"}
        assert view["arms"] == [
            {"arm_id": "red", "payload": None, "prior": None, "enabled": True},
            {
                "arm_id": "green",
                "payload": {"hex": "#0f0"},
                "prior": {"pulls": 3.0, "mean_reward": 99.0},
                "enabled": True,
            },
        ]
        assert (view["status"], view["epoch"]) == ("enabled", 0)
        assert view["counts"] == {"arms": 2, "enabled_arms": 2, "draws": 0, "pulls": 0}
        assert view["health"] == {"status": "running", "failure_count": 0, "last_error": None}
        assert before - 1 <= view["created_at"] <= time.time() + 1

    def test_arms_without_ids_are_numbered_around_those_that_are_taken(self, client: httpx.Client) -> None:
        experiment_id = client.post("/v1/create", json={"arms": [{}, "arm-2", {}]}).json()["experiment_id"]
        arm_ids = [arm["arm_id"] for arm in client.get(f"/v1/{experiment_id}").json()["arms"]]
        assert arm_ids[0] == "arm-1"
        assert arm_ids[1] == "arm-2"
        assert len(set(arm_ids)) == 3

    @pytest.mark.parametrize("experiment_id", ["a", "0", "A.b_c-d", "x" * 64, "PING", "draw", "stats"])
    def test_ids_that_are_allowed(self, client: httpx.Client, experiment_id: str) -> None:
        assert client.post("/v1/create", json={"experiment_id": experiment_id}).status_code == 201
        assert client.get(f"/v1/{experiment_id}").json()["experiment_id"] == experiment_id
        assert client.delete(f"/v1/{experiment_id}/delete").status_code == 204

    @pytest.mark.parametrize(
        "experiment_id",
        ["ping", "list", "clear", "create", "", ".", "..", "-a", "_a", ".a", "a b", "a/b", "a\n", "ä", "a%", "x" * 65],
    )
    def test_ids_that_are_reserved_or_malformed(self, client: httpx.Client, experiment_id: str) -> None:
        assert_faults(client.post("/v1/create", json={"experiment_id": experiment_id}), "experiment_id")

    def test_a_taken_id_is_409_and_changes_nothing(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = client.post("/v1/create", json={"experiment_id": experiment_id, "arms": ["b"]})
        assert_problem(answer, 409, "experiment-exists")
        assert list(stats(client, experiment_id)) == ["a"]

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"policy": {"type": "thompson", "prior": {"alpha": 0}}}, "policy.prior.alpha"),
            ({"policy": {"type": "thompson", "prior": {"beta": 1e10}}}, "policy.prior.beta"),
            ({"policy": {"type": "thompson", "epsilon": 0.1}}, "policy.epsilon"),
            ({"policy": {"type": "epsilon_greedy", "epsilon": 1.01}}, "policy.epsilon"),
            ({"policy": {"type": "epsilon_greedy", "epsilon": -0.01}}, "policy.epsilon"),
            ({"policy": {"type": "epsilon_greedy", "epsilon": True}}, "policy.epsilon"),
            ({"policy": {"type": "epsilon_greedy", "epsilon": "0.1"}}, "policy.epsilon"),
            ({"policy": {"type": "nonsense"}}, "policy.type"),
            ({"policy": {}}, "policy"),
            ({"policy": "thompson"}, "policy"),
            ({"random_share": 1.5}, "random_share"),
            ({"floor": -0.1}, "floor"),
            ({"floor": 0.6, "arms": ["a", "b"]}, "floor"),
            ({"half_life_s": 59.9}, "half_life_s"),
            ({"reward_origin": 2}, "reward_origin"),
            ({"reward_origin": 2e12, "policy": {"type": "epsilon_greedy"}}, "reward_origin"),
            ({"description": 7}, "description"),
            ({"arms": "a"}, "arms"),
            ({"arms": ["a", "b", "a"]}, "arms[2]"),
            ({"arms": ["a", "b/c"]}, "arms[1]"),
            ({"arms": [{"arm_id": "a", "prior": {"pulls": 1, "mean_reward": 1.5}}]}, "arms[0].prior.mean_reward"),
            ({"arms": [{"arm_id": "a", "prior": {"pulls": 0, "mean_reward": 0.5}}]}, "arms[0].prior.pulls"),
            ({"arms": [{"arm_id": "a", "weight": 1}]}, "arms[0].weight"),
            ({"arms": [{"payload": "x" * 8191}]}, "arms[0].payload"),
            ({"colour": "red"}, "colour"),
        ],
    )
    def test_a_field_that_does_not_fit_is_named(self, client: httpx.Client, fields: dict[str, Any], path: str) -> None:
        experiment_id = unique_id()
        assert_faults(client.post("/v1/create", json={"experiment_id": experiment_id, **fields}), path)
        assert_problem(client.get(f"/v1/{experiment_id}"), 404, "experiment-not-found")

    def test_all_fields_that_do_not_fit_are_named(self, client: httpx.Client) -> None:
        asked = {"experiment_id": "-", "floor": 2, "colour": "red", "arms": ["ok", "-", {"prior": {"pulls": -1}}]}
        paths = ["experiment_id", "floor", "colour", "arms[1]", "arms[2].prior.pulls", "arms[2].prior.mean_reward"]
        assert_faults(client.post("/v1/create", json=asked), *paths)

    def test_all_fields_are_named_also_where_their_types_fit(self, client: httpx.Client) -> None:
        asked = {"experiment_id": "list", "reward_origin": 5, "floor": 0.8, "arms": ["a", "a"]}
        paths = ["experiment_id", "reward_origin", "floor", "arms[1]"]
        assert_faults(client.post("/v1/create", json=asked), *paths)

    def test_more_experiments_than_the_limit_are_409(self, small_client: httpx.Client) -> None:
        for _ in range(4):
            create(small_client)
        assert_problem(small_client.post("/v1/create"), 409, "limit-reached")
        assert len(small_client.get("/v1/list").json()["experiment_ids"]) == 4


class TestListAndClear:
    def test_list_is_in_order_of_creation(self, client: httpx.Client) -> None:
        created = [create(client, experiment_id=unique_id(prefix)) for prefix in ("zebra", "ant", "Moose", "7")]
        answer = client.get("/v1/list")
        assert answer.status_code == 200
        assert list(answer.json()) == ["experiment_ids"]
        assert [e for e in answer.json()["experiment_ids"] if e in created] == created

    def test_clear_deletes_everything_and_frees_the_ids(self, small_client: httpx.Client) -> None:
        for experiment_id in ("b", "a"):
            create(small_client, "x", experiment_id=experiment_id)
        decision_id = small_client.get("/v1/a/draw").json()["decision_id"]
        reward(small_client, "a", arm_id="x", reward=1, key="k")
        assert small_client.get("/v1/list").json() == {"experiment_ids": ["b", "a"]}

        answer = small_client.delete("/v1/clear")
        assert (answer.status_code, answer.content) == (204, b"")
        assert small_client.get("/v1/list").json() == {"experiment_ids": []}
        assert_problem(small_client.get("/v1/a/draw"), 404, "experiment-not-found")

        create(small_client, "x", experiment_id="a")
        assert stats(small_client, "a")["x"]["pulls"] == 0
        late = small_client.post("/v1/a/update", json={"decision_id": decision_id, "reward": 1})
        assert_problem(late, 410, "experiment-gone")
        assert reward(small_client, "a", arm_id="x", reward=1, key="k") == {"accepted": 1, "duplicates": 0}

    def test_clear_of_nothing_is_204(self, small_client: httpx.Client) -> None:
        assert small_client.delete("/v1/clear").status_code == 204


class TestLifecycle:
    def test_reset_forgets_the_evidence_and_keeps_arms_and_settings(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", {"arm_id": "b", "payload": [1]}, floor=0.25)
        client.put(f"/v1/{experiment_id}/disable_arm/b")
        client.get(f"/v1/{experiment_id}/draw")
        reward(client, experiment_id, arm_id="a", reward=1)
        before = client.get(f"/v1/{experiment_id}").json()
        assert before["counts"] == {"arms": 2, "enabled_arms": 1, "draws": 1, "pulls": 1}

        answer = client.put(f"/v1/{experiment_id}/reset")
        assert (answer.status_code, answer.content) == (204, b"")
        after = client.get(f"/v1/{experiment_id}").json()
        assert after["epoch"] == before["epoch"] + 1
        assert after["counts"] == {"arms": 2, "enabled_arms": 1, "draws": 0, "pulls": 0}
        assert (after["arms"], after["floor"]) == (before["arms"], before["floor"])
        assert {(arm["pulls"], arm["draws"]) for arm in stats(client, experiment_id).values()} == {(0, 0)}

    def test_a_disabled_experiment_draws_409_takes_rewards_and_can_be_enabled(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
        for _ in range(2):  # repeating it changes nothing
            answer = client.put(f"/v1/{experiment_id}/disable")
            assert (answer.status_code, answer.content) == (204, b"")
        assert client.get(f"/v1/{experiment_id}").json()["status"] == "disabled"
        assert_problem(client.get(f"/v1/{experiment_id}/draw"), 409, "experiment-disabled")
        reward(client, experiment_id, decision_id=decision_id, reward=1)
        reward(client, experiment_id, arm_id="a", reward=0)
        assert stats(client, experiment_id)["a"]["pulls"] == 2

        answer = client.put(f"/v1/{experiment_id}/enable")
        assert (answer.status_code, answer.content) == (204, b"")
        assert client.get(f"/v1/{experiment_id}").json()["status"] == "enabled"
        assert client.get(f"/v1/{experiment_id}/draw").status_code == 200

    def test_delete_frees_the_id_at_once(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = client.delete(f"/v1/{experiment_id}/delete")
        assert (answer.status_code, answer.content) == (204, b"")
        assert experiment_id not in client.get("/v1/list").json()["experiment_ids"]
        assert_problem(client.delete(f"/v1/{experiment_id}/delete"), 404, "experiment-not-found")
        create(client, "b", experiment_id=experiment_id)
        assert list(stats(client, experiment_id)) == ["b"]
