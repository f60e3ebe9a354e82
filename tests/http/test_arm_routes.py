"""Arms: added, deleted, enabled, disabled; payloads, priors and the floor."""

from typing import Any

import httpx
import pytest

from support import assert_faults, assert_problem, create, reward, stats


def add(client: httpx.Client, experiment_id: str, **spec: Any) -> httpx.Response:
    return client.post(f"/v1/{experiment_id}/add_arm", json=spec)


class TestAdd:
    def test_without_a_body_ids_are_made_up_in_turn(self, client: httpx.Client) -> None:
        experiment_id = create(client)
        for number in (1, 2, 3):
            answer = client.post(f"/v1/{experiment_id}/add_arm")
            assert answer.status_code == 201
            assert answer.json() == {"arm_id": f"arm-{number}"}

    def test_a_made_up_id_avoids_one_that_is_taken(self, client: httpx.Client) -> None:
        experiment_id = create(client, "arm-2")
        assert add(client, experiment_id).json()["arm_id"] not in {"arm-2", None}
        assert len(stats(client, experiment_id)) == 2

    def test_with_an_id(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = add(client, experiment_id, arm_id="B.2_-")
        assert (answer.status_code, answer.json()) == (201, {"arm_id": "B.2_-"})
        assert list(stats(client, experiment_id)) == ["a", "B.2_-"]

    def test_a_taken_id_is_409(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        assert_problem(add(client, experiment_id, arm_id="a"), 409, "arm-exists")

    def test_more_arms_than_the_limit_are_409(self, small_client: httpx.Client) -> None:
        experiment_id = create(small_client, "a", "b", "c")
        assert_problem(small_client.post(f"/v1/{experiment_id}/add_arm"), 409, "limit-reached")

    @pytest.mark.parametrize(
        ("spec", "path"),
        [
            ({"arm_id": "a b"}, "arm_id"),
            ({"arm_id": "x" * 65}, "arm_id"),
            ({"arm_id": "a\n"}, "arm_id"),
            ({"arm_id": 7}, "arm_id"),
            ({"prior": {"pulls": 1, "mean_reward": -0.5}}, "prior.mean_reward"),
            ({"prior": {"pulls": True, "mean_reward": 0.5}}, "prior.pulls"),
            ({"prior": {"pulls": 1e10, "mean_reward": 0.5}}, "prior.pulls"),
            ({"prior": {"pulls": 1}}, "prior.mean_reward"),
            ({"prior": 5}, "prior"),
            ({"weight": 1}, "weight"),
        ],
    )
    def test_a_field_that_does_not_fit_is_named(self, client: httpx.Client, spec: dict[str, Any], path: str) -> None:
        experiment_id = create(client, "a")
        assert_faults(add(client, experiment_id, **spec), path)
        assert list(stats(client, experiment_id)) == ["a"]

    def test_a_prior_counts_in_the_share_and_not_in_the_pulls(self, client: httpx.Client) -> None:
        experiment_id = create(client, "plain")
        assert add(client, experiment_id, arm_id="favoured", prior={"pulls": 1000, "mean_reward": 0.99}).is_success
        arms = stats(client, experiment_id)
        assert arms["favoured"]["pulls"] == 0
        assert arms["favoured"]["effective_pulls"] == 0
        assert arms["favoured"]["mean_reward"] is None
        assert arms["favoured"]["share"] > 0.95


class TestPayload:
    @pytest.mark.parametrize(
        "payload",
        [None, True, 0, -1.5, "", "größer ≥", [], {}, [1, [2, {"a": None}]], {"colour": "#00ff00", "sizes": [1, 2.5]}],
    )
    def test_draw_returns_it_as_it_was_given(self, client: httpx.Client, payload: Any) -> None:
        experiment_id = create(client)
        add(client, experiment_id, arm_id="a", payload=payload)
        drawn = client.get(f"/v1/{experiment_id}/draw").json()
        assert drawn["payload"] == payload
        assert type(drawn["payload"]) is type(payload)
        assert client.get(f"/v1/{experiment_id}").json()["arms"][0]["payload"] == payload

    def test_without_one_draw_returns_null(self, client: httpx.Client) -> None:
        drawn = client.get(f"/v1/{create(client, 'a')}/draw").json()
        assert drawn["payload"] is None

    def test_8_kib_are_allowed_and_a_byte_more_is_not(self, client: httpx.Client) -> None:
        experiment_id = create(client)
        assert add(client, experiment_id, arm_id="full", payload="x" * 8190).status_code == 201
        assert_faults(add(client, experiment_id, arm_id="over", payload="x" * 8191), "payload")
        assert list(stats(client, experiment_id)) == ["full"]

    def test_the_limit_is_a_setting(self, small_client: httpx.Client) -> None:
        experiment_id = create(small_client)
        assert add(small_client, experiment_id, payload="x" * 14).status_code == 201
        assert_faults(add(small_client, experiment_id, payload="x" * 15), "payload")

    @pytest.mark.parametrize("depth", [50, 100, 200, 300, 400, 600, 800, 900, 950, 980, 1000, 2000, 4000])
    def test_a_deeply_nested_one_is_kept_or_refused_whole(self, client: httpx.Client, depth: int) -> None:
        experiment_id = create(client)
        nested = b"[" * depth + b"]" * depth
        answer = client.post(
            f"/v1/{experiment_id}/add_arm",
            content=b'{"arm_id":"a","payload":%b}' % nested,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code in {201, 400, 422}
        drawn = client.get(f"/v1/{experiment_id}/draw")
        if answer.status_code == 201:
            assert nested in drawn.content
            assert client.get(f"/v1/{experiment_id}").status_code == 200
        else:
            assert_problem(drawn, 409, "no-enabled-arms")


class TestDisable:
    def test_a_disabled_arm_is_never_drawn_and_takes_rewards(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        decision_ids: dict[str, str] = {}
        while len(decision_ids) < 2:
            drawn = client.get(f"/v1/{experiment_id}/draw").json()
            decision_ids[drawn["arm_id"]] = drawn["decision_id"]
        answer = client.put(f"/v1/{experiment_id}/disable_arm/b")
        assert (answer.status_code, answer.content) == (204, b"")

        draws = [client.get(f"/v1/{experiment_id}/draw").json() for _ in range(30)]
        assert {(drawn["arm_id"], drawn["propensity"]) for drawn in draws} == {("a", 1.0)}
        reward(client, experiment_id, decision_id=decision_ids["b"], reward=1)
        reward(client, experiment_id, arm_id="b", reward=1)
        arm = stats(client, experiment_id)["b"]
        assert (arm["pulls"], arm["mean_reward"], arm["enabled"]) == (2, 1.0, False)

        answer = client.put(f"/v1/{experiment_id}/enable_arm/b")
        assert (answer.status_code, answer.content) == (204, b"")
        arm = stats(client, experiment_id)["b"]
        assert (arm["pulls"], arm["enabled"]) == (2, True)
        assert arm["share"] > 0.5

    def test_without_an_enabled_arm_draws_are_409_and_rewards_are_taken(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        client.put(f"/v1/{experiment_id}/disable_arm/a")
        assert_problem(client.get(f"/v1/{experiment_id}/draw"), 409, "no-enabled-arms")
        reward(client, experiment_id, arm_id="a", reward=0.5)
        assert stats(client, experiment_id)["a"]["pulls"] == 1
        assert_problem(client.get(f"/v1/{create(client)}/draw"), 409, "no-enabled-arms")

    @pytest.mark.parametrize("operation", ["enable_arm", "disable_arm"])
    def test_an_unknown_arm_is_404(self, client: httpx.Client, operation: str) -> None:
        experiment_id = create(client, "a")
        assert_problem(client.put(f"/v1/{experiment_id}/{operation}/b"), 404, "arm-not-found")


class TestDelete:
    def test_stats_and_draws_omit_it_and_its_late_decisions_count(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
        add(client, experiment_id, arm_id="b")
        answer = client.delete(f"/v1/{experiment_id}/delete_arm/a")
        assert (answer.status_code, answer.content) == (204, b"")

        assert list(stats(client, experiment_id)) == ["b"]
        assert {client.get(f"/v1/{experiment_id}/draw").json()["arm_id"] for _ in range(10)} == {"b"}
        plain = client.post(f"/v1/{experiment_id}/update", json={"arm_id": "a", "reward": 1})
        assert_problem(plain, 404, "arm-not-found")
        assert reward(client, experiment_id, decision_id=decision_id, reward=1) == {"accepted": 1, "duplicates": 0}
        assert client.get(f"/v1/{experiment_id}").json()["counts"]["pulls"] == 1
        assert_problem(client.delete(f"/v1/{experiment_id}/delete_arm/a"), 404, "arm-not-found")

    def test_a_re_added_id_is_a_new_arm(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
        reward(client, experiment_id, arm_id="a", reward=1)
        client.delete(f"/v1/{experiment_id}/delete_arm/a")
        assert add(client, experiment_id, arm_id="a").status_code == 201
        reward(client, experiment_id, decision_id=decision_id, reward=1)
        arm = stats(client, experiment_id)["a"]
        assert (arm["pulls"], arm["draws"]) == (0, 0)

    def test_a_made_up_id_is_not_used_twice(self, client: httpx.Client) -> None:
        experiment_id = create(client)
        add(client, experiment_id)
        client.delete(f"/v1/{experiment_id}/delete_arm/arm-1")
        assert add(client, experiment_id).json() == {"arm_id": "arm-2"}


class TestFloor:
    def test_an_arm_more_than_the_floor_has_room_for_is_409(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b", floor=0.5)
        assert_problem(add(client, experiment_id, arm_id="c"), 409, "floor-too-high")
        assert list(stats(client, experiment_id)) == ["a", "b"]

        client.put(f"/v1/{experiment_id}/disable_arm/a")
        assert add(client, experiment_id, arm_id="c").status_code == 201
        assert_problem(client.put(f"/v1/{experiment_id}/enable_arm/a"), 409, "floor-too-high")
        assert client.put(f"/v1/{experiment_id}/enable_arm/b").status_code == 204  # it is enabled already
        assert {arm_id: arm["enabled"] for arm_id, arm in stats(client, experiment_id).items()} == {
            "a": False,
            "b": True,
            "c": True,
        }
        client.delete(f"/v1/{experiment_id}/delete_arm/c")
        assert client.put(f"/v1/{experiment_id}/enable_arm/a").status_code == 204
