"""Single rewards: what is taken, what is a duplicate, what is refused; and that a refusal changes nothing."""

import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from decisions import forged
from support import RunningServer, assert_faults, assert_problem, create, reward, stats

ONE = {"accepted": 1, "duplicates": 0}
NONE = {"accepted": 0, "duplicates": 1}


def send(client: httpx.Client, experiment_id: str, **update: Any) -> httpx.Response:
    return client.post(f"/v1/{experiment_id}/update", json=update)


def draw(client: httpx.Client, experiment_id: str) -> str:
    decision_id: str = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
    return decision_id


class TestTaken:
    def test_by_arm(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = send(client, experiment_id, arm_id="a", reward=0.25)
        assert (answer.status_code, answer.json()) == (200, ONE)
        assert reward(client, experiment_id, arm_id="a", reward=0.25) == ONE  # a plain one counts again
        arm = stats(client, experiment_id)["a"]
        assert (arm["pulls"], arm["mean_reward"]) == (2, 0.25)

    @pytest.mark.parametrize("key", ["k", "0", "...", "a" * 128, "_~:@!$&'()*+,;=.-"])
    def test_a_key_counts_once_whatever_the_reward_and_arm(self, client: httpx.Client, key: str) -> None:
        experiment_id = create(client, "a", "b")
        assert reward(client, experiment_id, arm_id="a", reward=1, key=key) == ONE
        assert reward(client, experiment_id, arm_id="a", reward=1, key=key) == NONE
        assert reward(client, experiment_id, arm_id="b", reward=0, key=key) == NONE
        assert reward(client, experiment_id, arm_id="b", reward=0, key=key[:-1] + "z") == ONE
        assert {arm_id: arm["pulls"] for arm_id, arm in stats(client, experiment_id).items()} == {"a": 1, "b": 1}

    def test_a_key_is_of_its_experiment_alone(self, client: httpx.Client) -> None:
        for experiment_id in (create(client, "a"), create(client, "a")):
            assert reward(client, experiment_id, arm_id="a", reward=1, key="shared") == ONE

    def test_keys_are_remembered_across_a_reset(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        client.put(f"/v1/{experiment_id}/reset")
        assert reward(client, experiment_id, arm_id="a", reward=1, key="k") == NONE
        assert stats(client, experiment_id)["a"]["pulls"] == 0

    @pytest.mark.parametrize(
        "ts",
        [
            None,
            0,
            -1e15,
            1.5e9,
            "1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "2024-02-29T23:59:59.123456+05:30",
            "2024-02-29t23:59:59z",
        ],
    )
    def test_any_time_past(self, client: httpx.Client, ts: object) -> None:
        experiment_id = create(client, "a", half_life_s=60)
        assert reward(client, experiment_id, arm_id="a", reward=1, ts=ts) == ONE
        assert reward(client, experiment_id, decision_id=draw(client, experiment_id), reward=1, ts=ts) == ONE
        assert stats(client, experiment_id)["a"]["pulls"] == 2

    def test_a_late_reward_weighs_what_its_age_gives(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", half_life_s=3600)
        reward(client, experiment_id, arm_id="a", reward=1, ts=time.time() - 7200)
        arm = stats(client, experiment_id)["a"]
        assert arm["pulls"] == 1
        assert arm["effective_pulls"] == pytest.approx(0.25, rel=0.01)

    def test_a_time_with_a_decision_does_not_weigh(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", half_life_s=3600)
        reward(client, experiment_id, decision_id=draw(client, experiment_id), reward=1, ts=time.time() - 7200)
        assert stats(client, experiment_id)["a"]["effective_pulls"] == pytest.approx(1, rel=0.01)

    @pytest.mark.parametrize("ahead_s", [1, 290])
    def test_up_to_five_minutes_ahead_counts_as_now(self, client: httpx.Client, ahead_s: float) -> None:
        experiment_id = create(client, "a", half_life_s=60)
        reward(client, experiment_id, arm_id="a", reward=1, ts=time.time() + ahead_s)
        soon = datetime.now(UTC) + timedelta(seconds=ahead_s)
        reward(client, experiment_id, arm_id="a", reward=1, ts=soon.isoformat())
        assert 1.2 < stats(client, experiment_id)["a"]["effective_pulls"] <= 2

    def test_a_decision_from_a_clock_far_ahead_counts_as_now(self, server: RunningServer, client: httpx.Client) -> None:
        experiment_id = create(client, "a", half_life_s=60)
        reward(client, experiment_id, decision_id=forged(server, experiment_id, age_s=-86_400), reward=1)
        assert 0.5 < stats(client, experiment_id)["a"]["effective_pulls"] <= 1


class TestRefused:
    @pytest.mark.parametrize(
        ("update", "path"),
        [
            ({"arm_id": "a"}, "reward"),
            ({"arm_id": "a", "reward": None}, "reward"),
            ({"arm_id": "a", "reward": True}, "reward"),
            ({"arm_id": "a", "reward": "1"}, "reward"),
            ({"arm_id": "a", "reward": [1]}, "reward"),
            ({"arm_id": "a", "reward": -0.001}, "reward"),
            ({"arm_id": "a", "reward": 1.001}, "reward"),
            ({"arm_id": "a", "reward": 10**400}, "reward"),
            ({"arm_id": "a", "reward": 1, "ts": True}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "yesterday"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "1700000000"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "2024-01-01"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "2024-01-01T00:00:00"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "2024-13-01T00:00:00Z"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": "9999-12-31T23:59:59Z"}, "ts"),
            ({"arm_id": "a", "reward": 1, "ts": 1e300}, "ts"),
            ({"arm_id": "a", "reward": 1, "key": ""}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "."}, "key"),
            ({"arm_id": "a", "reward": 1, "key": ".."}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "a/b"}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "a b"}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "a\n"}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "ä"}, "key"),
            ({"arm_id": "a", "reward": 1, "key": "a" * 129}, "key"),
            ({"arm_id": "a", "reward": 1, "key": 7}, "key"),
            ({"arm_id": 1, "reward": 1}, "arm_id"),
            ({"arm_id": "a", "reward": 1, "weight": 2}, "weight"),
            ({"reward": 1}, ""),
            ({"decision_id": "nonsense", "reward": 1}, "decision_id"),
            ({"decision_id": "", "reward": 1}, "decision_id"),
            ({"decision_id": "A" * 92, "reward": 1}, "decision_id"),
            ({"decision_id": "ä" * 92, "reward": 1}, "decision_id"),
            ({"decision_id": "A" * 5000, "reward": 1}, "decision_id"),
            ({"decision_id": 5, "reward": 1}, "decision_id"),
        ],
    )
    def test_what_does_not_fit_is_named_and_changes_nothing(
        self, client: httpx.Client, update: dict[str, Any], path: str
    ) -> None:
        experiment_id = create(client, "a")
        assert_faults(send(client, experiment_id, **update), path)
        assert stats(client, experiment_id)["a"]["pulls"] == 0

    def test_more_than_five_minutes_ahead(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        for ts in (time.time() + 310, (datetime.now(UTC) + timedelta(seconds=310)).isoformat()):
            assert_problem(send(client, experiment_id, arm_id="a", reward=1, ts=ts), 422, "invalid-timestamp")
        assert stats(client, experiment_id)["a"]["pulls"] == 0

    @pytest.mark.parametrize("value", ["1e400", "-1e400"])
    def test_numbers_beyond_every_range(self, client: httpx.Client, value: str) -> None:
        experiment_id = create(client, "a", policy={"type": "epsilon_greedy"})
        answer = client.post(
            f"/v1/{experiment_id}/update",
            content=f'{{"arm_id":"a","reward":{value}}}',
            headers={"content-type": "application/json"},
        )
        assert_faults(answer, "reward")
        assert stats(client, experiment_id)["a"]["pulls"] == 0

    def test_all_faults_are_named(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = send(client, experiment_id, reward=True, key="a b", ts="now", weight=1)
        assert_faults(answer, "reward", "key", "ts", "weight")

    def test_all_faults_are_named_also_where_their_types_fit(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        answer = send(client, experiment_id, arm_id="a", reward=7, ts=time.time() + 3600)
        assert_faults(answer, "reward", "ts")

    def test_types_of_the_errors_of_a_reward_and_a_decision(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        assert_problem(send(client, experiment_id, arm_id="a", reward=2), 422, "invalid-reward")
        assert_problem(send(client, experiment_id, decision_id="x", reward=1), 422, "invalid-decision")
        assert_problem(send(client, experiment_id, arm_id="a", reward="1"), 422, "invalid")

    def test_an_unbounded_policy_takes_a_trillion_and_no_more(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", policy={"type": "epsilon_greedy"})
        reward(client, experiment_id, arm_id="a", reward=1e12)
        reward(client, experiment_id, arm_id="a", reward=-1e12)
        assert_problem(send(client, experiment_id, arm_id="a", reward=1.001e12), 422, "invalid-reward")
        assert stats(client, experiment_id)["a"]["pulls"] == 2

    def test_a_decision_goes_with_neither_arm_nor_key(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)
        for extra in ({"arm_id": "a"}, {"key": "k"}, {"arm_id": "a", "key": "k"}):
            assert_problem(send(client, experiment_id, decision_id=decision_id, reward=1, **extra), 422, "invalid")
        assert reward(client, experiment_id, decision_id=decision_id, reward=1) == ONE

    def test_an_unknown_arm_or_experiment_is_404(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        assert_problem(send(client, experiment_id, arm_id="b", reward=1), 404, "arm-not-found")
        assert_problem(send(client, "nobody", arm_id="a", reward=1), 404, "experiment-not-found")


class TestDecisions:
    def test_any_bit_changed_is_refused(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        token = urlsafe_b64decode(draw(client, experiment_id))
        for position in range(len(token)):
            changed = bytearray(token)
            changed[position] ^= 1 << position % 8
            answer = send(client, experiment_id, decision_id=urlsafe_b64encode(changed).decode(), reward=1)
            assert_problem(answer, 422, "invalid-decision")
        assert stats(client, experiment_id)["a"]["pulls"] == 0

    def test_another_spelling_is_no_second_decision(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)
        reward(client, experiment_id, decision_id=decision_id, reward=1)
        for spelling in (f"{decision_id}=", f"{decision_id}\n", f" {decision_id}", decision_id.replace("_", "/")):
            send(client, experiment_id, decision_id=spelling, reward=1)
        assert stats(client, experiment_id)["a"]["pulls"] == 1

    def test_one_of_another_live_experiment_is_422(self, client: httpx.Client) -> None:
        mine, other = create(client, "a"), create(client, "a")
        decision_id = draw(client, other)
        assert_problem(send(client, mine, decision_id=decision_id, reward=1), 422, "invalid-decision")
        assert reward(client, other, decision_id=decision_id, reward=1) == ONE

    def test_one_of_a_deleted_experiment_is_410(self, client: httpx.Client) -> None:
        mine, other = create(client, "a"), create(client, "a")
        decision_id = draw(client, other)
        client.delete(f"/v1/{other}/delete")
        assert_problem(send(client, mine, decision_id=decision_id, reward=1), 410, "experiment-gone")
        assert_problem(send(client, other, decision_id=decision_id, reward=1), 404, "experiment-not-found")
        create(client, "a", experiment_id=other)
        assert_problem(send(client, other, decision_id=decision_id, reward=1), 410, "experiment-gone")
        assert stats(client, other)["a"]["pulls"] == 0

    def test_one_from_before_a_reset_is_410(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)
        client.put(f"/v1/{experiment_id}/reset")
        assert_problem(send(client, experiment_id, decision_id=decision_id, reward=1), 410, "stale-epoch")
        assert stats(client, experiment_id)["a"]["pulls"] == 0
        assert reward(client, experiment_id, decision_id=draw(client, experiment_id), reward=1) == ONE

    def test_one_past_retention_is_410(self, server: RunningServer, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        day_s = 86_400
        too_old = forged(server, experiment_id, age_s=30.01 * day_s)
        assert_problem(send(client, experiment_id, decision_id=too_old, reward=1), 410, "decision-expired")
        assert reward(client, experiment_id, decision_id=forged(server, experiment_id, age_s=29.9 * day_s), reward=1)
        assert stats(client, experiment_id)["a"]["pulls"] == 1

    def test_one_for_an_arm_that_never_was_is_422(self, server: RunningServer, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        token = forged(server, experiment_id, age_s=0, arm_number=2)
        assert_problem(send(client, experiment_id, decision_id=token, reward=1), 422, "invalid-decision")
