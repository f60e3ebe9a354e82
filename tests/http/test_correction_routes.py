"""Rewards put right over HTTP: what is taken, what is refused, and that nothing is lost by a crash in between."""

import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from decisions import forged
from multiarm.storage.check import check_directory
from support import RunningServer, assert_faults, assert_problem, create, reward, stats

DAY_S = 86_400.0


def put(client: httpx.Client, experiment_id: str, path: str, value: float | None) -> httpx.Response:
    return client.put(f"/v1/{experiment_id}/reward/{path}", json={"reward": value})


def changes(client: httpx.Client, experiment_id: str, path: str, value: float | None) -> bool:
    answer = put(client, experiment_id, path, value)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert set(document) == {"corrected"}
    return bool(document["corrected"])


def draw(client: httpx.Client, experiment_id: str) -> dict[str, Any]:
    drawn: dict[str, Any] = client.get(f"/v1/{experiment_id}/draw").json()
    return drawn


def seen(client: httpx.Client, experiment_id: str, arm_id: str = "a") -> tuple[int, float | None]:
    arm = stats(client, experiment_id)[arm_id]
    return arm["pulls"], arm["mean_reward"]


class TestTaken:
    def test_a_decision_is_put_right_and_withdrawn(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)["decision_id"]
        path = f"decision/{decision_id}"
        reward(client, experiment_id, decision_id=decision_id, reward=1)
        assert changes(client, experiment_id, path, 0.25)
        assert not changes(client, experiment_id, path, 0.25)
        assert seen(client, experiment_id) == (1, 0.25)
        assert changes(client, experiment_id, path, None)
        assert not changes(client, experiment_id, path, None)
        assert seen(client, experiment_id) == (0, None)
        again = reward(client, experiment_id, decision_id=decision_id, reward=1)
        assert again == {"accepted": 0, "duplicates": 1}
        assert seen(client, experiment_id) == (0, None)
        assert changes(client, experiment_id, path, 0.5)
        assert seen(client, experiment_id) == (1, 0.5)

    @pytest.mark.parametrize("key", ["k", "...", "a" * 128, "_~:@!$&'()*+,;=.-", "k:x", "=", ";", "*"])
    def test_every_key_that_an_update_can_have(self, client: httpx.Client, key: str) -> None:
        experiment_id = create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key=key)
        target = f"/v1/{experiment_id}/reward/key/{key}".encode()
        request = httpx.Request("PUT", client.base_url, json={"reward": 0.5}, extensions={"target": target})
        answer = client.send(request)
        assert (answer.status_code, answer.json()) == (200, {"corrected": True})
        assert seen(client, experiment_id) == (1, 0.5)

    def test_a_draw_sees_it_at_once(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        for arm_id in ("a", "b"):
            for number in range(60):
                reward(client, experiment_id, arm_id=arm_id, reward=int(arm_id == "a"), key=f"{arm_id}{number}")
        assert stats(client, experiment_id)["a"]["share"] > 0.99
        for number in range(60):
            changes(client, experiment_id, f"key/a{number}", 0)
            changes(client, experiment_id, f"key/b{number}", 1)
        assert {draw(client, experiment_id)["arm_id"] for _ in range(20)} == {"b"}

    def test_a_disabled_experiment_and_a_deleted_arm_take_it(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a", "b")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        client.put(f"/v1/{experiment_id}/disable")
        assert changes(client, experiment_id, "key/k", 0)
        client.delete(f"/v1/{experiment_id}/delete_arm/a")
        assert changes(client, experiment_id, "key/k", None)
        assert client.get(f"/v1/{experiment_id}").json()["counts"]["pulls"] == 0


class TestRefused:
    def test_never_rewarded(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)["decision_id"]
        assert_problem(put(client, experiment_id, f"decision/{decision_id}", 1), 404, "reward-not-found")
        problem = assert_problem(put(client, experiment_id, "key/k", 1), 404, "reward-not-found")
        assert "reward_retention_days" in problem["detail"]

    def test_a_key_is_no_decision(self, client: httpx.Client) -> None:
        """And none of another experiment's."""
        experiment_id, other = create(client, "a"), create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        assert_problem(put(client, other, "key/k", 0), 404, "reward-not-found")
        assert_problem(put(client, experiment_id, "decision/k", 0), 422, "invalid-decision")

    def test_a_decision_of_another_experiment(self, client: httpx.Client) -> None:
        experiment_id, other = create(client, "a"), create(client, "a")
        decision_id = draw(client, other)["decision_id"]
        reward(client, other, decision_id=decision_id, reward=1)
        path = f"decision/{decision_id}"
        assert_problem(put(client, experiment_id, path, 0), 422, "invalid-decision")
        client.delete(f"/v1/{other}/delete")
        assert_problem(put(client, experiment_id, path, 0), 410, "experiment-gone")
        assert_problem(put(client, other, path, 0), 404, "experiment-not-found")

    @pytest.mark.parametrize("decision_id", ["x", "A" * 92, "A" * 3000])
    def test_what_is_no_decision_id(self, client: httpx.Client, decision_id: str) -> None:
        answer = put(client, create(client, "a"), f"decision/{decision_id}", 1)
        assert_faults(answer, "decision_id")

    def test_what_is_older_than_rewards_are_kept(self, client: httpx.Client, server: RunningServer) -> None:
        """Gone, for it may have been pruned; 404 within that time."""
        experiment_id = create(client, "a")
        old, young = (forged(server, experiment_id, age_s=days * DAY_S) for days in (31, 29))
        assert_problem(put(client, experiment_id, f"decision/{old}", 1), 410, "decision-expired")
        assert_problem(put(client, experiment_id, f"decision/{young}", 1), 404, "reward-not-found")

    def test_what_was_counted_before_a_reset(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        decision_id = draw(client, experiment_id)["decision_id"]
        reward(client, experiment_id, decision_id=decision_id, reward=1)
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        client.put(f"/v1/{experiment_id}/reset")
        for path in ("key/k", f"decision/{decision_id}"):
            assert_problem(put(client, experiment_id, path, 0), 410, "stale-epoch")

    def test_what_a_restore_began_with_counts_and_can_no_longer_be_corrected(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        client.put(f"/v1/{experiment_id}/reset").raise_for_status()
        client.put(f"/v1/{experiment_id}/restore", json={"at": time.time()}).raise_for_status()
        problem = assert_problem(put(client, experiment_id, "key/k", 0), 410, "stale-epoch")
        said = "The reward can no longer be corrected: it was counted before a reset or a restore."
        assert problem["detail"] == said
        assert seen(client, experiment_id) == (1, 1.0)

    @pytest.mark.parametrize("value", [2, -0.5, 1e300])
    def test_a_reward_out_of_range(self, client: httpx.Client, value: float) -> None:
        experiment_id = create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        assert_faults(put(client, experiment_id, "key/k", value), "reward")
        assert seen(client, experiment_id) == (1, 1.0)

    @pytest.mark.parametrize(
        ("body", "path"),
        [({}, "reward"), ({"reward": True}, "reward"), ({"reward": "1"}, "reward"), ({"reward": 1, "ts": 1}, "ts")],
    )
    def test_a_body_that_does_not_fit(self, client: httpx.Client, body: object, path: str) -> None:
        experiment_id = create(client, "a")
        reward(client, experiment_id, arm_id="a", reward=1, key="k")
        assert_faults(client.put(f"/v1/{experiment_id}/reward/key/k", json=body), path)

    def test_no_body_no_json_and_a_wrong_method(self, client: httpx.Client) -> None:
        path = f"/v1/{create(client, 'a')}/reward/key/k"
        assert_problem(client.put(path), 400, "malformed-body")
        answer = client.put(path, content=b'{"reward": NaN}', headers={"content-type": "application/json"})
        assert_problem(answer, 400, "malformed-body")
        assert_problem(client.put(path, content=b"{}"), 415, "unsupported-media-type")
        assert_problem(client.get(path), 405, "method-not-allowed")

    @pytest.mark.parametrize("key", ["a%20b", "", "..", ".", "a/b"])
    def test_paths_that_are_none(self, client: httpx.Client, key: str) -> None:
        experiment_id = create(client, "a")
        target = f"/v1/{experiment_id}/reward/key/{key}".encode()
        request = httpx.Request("PUT", client.base_url, json={"reward": 0.5}, extensions={"target": target})
        assert_problem(client.send(request), 404, "not-found")

    @pytest.mark.parametrize("key", ["a" * 129, 'a"b', "[a]"])
    def test_a_key_that_no_update_can_have(self, client: httpx.Client, key: str) -> None:
        target = f"/v1/{create(client, 'a')}/reward/key/{key}".encode()
        request = httpx.Request("PUT", client.base_url, json={"reward": 0.5}, extensions={"target": target})
        answer = client.send(request)
        assert answer.status_code in {400, 404, 422}, answer.text
        if answer.status_code == 422:
            assert_faults(answer, "key")


class TestCrashes:
    def test_no_acknowledged_correction_is_lost_by_kill_9(self, tmp_path: Path) -> None:
        """Each reward stands as it was last acknowledged, or as whoever had no answer yet asked for."""
        rng, key_count = random.Random(5), 40
        with RunningServer(tmp_path) as server:
            client = server.client()
            experiment_id = create(client, "a", experiment_id="x")
            updates = [{"arm_id": "a", "reward": 0.5, "key": f"{key}"} for key in range(key_count)]
            client.post(f"/v1/{experiment_id}/update_batch", json={"updates": updates}).raise_for_status()
            allowed: list[set[float | None]] = [{0.5} for _ in range(key_count)]
            for _ in range(4):
                threads = [threading.Thread(target=self.correct, args=(server, allowed, part)) for part in range(4)]
                for thread in threads:
                    thread.start()
                time.sleep(rng.uniform(0.05, 0.3))
                server.kill()
                for thread in threads:
                    thread.join()
                for key, value in enumerate(self.standing(tmp_path)):
                    assert value in allowed[key], key
                    allowed[key] = {value}
                server.restart()
            standing = [value for value in self.standing(tmp_path) if value is not None]
            pulls, mean = seen(server.client(), experiment_id)
            assert pulls == len(standing)
            assert mean == pytest.approx(sum(standing) / len(standing))
            assert server.terminate() == 0
        assert check_directory(tmp_path).good

    def correct(self, server: RunningServer, allowed: list[set[float | None]], part: int) -> None:
        rng = random.Random(part)
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            while True:
                key = rng.randrange(part, len(allowed), 4)
                value = rng.choice([None, rng.random()])
                allowed[key].add(value)
                try:
                    answer = put(client, "x", f"key/{key}", value)
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                allowed[key] = {value}

    def standing(self, directory: Path) -> list[float | None]:
        with closing(sqlite3.connect(directory / "multiarm.db")) as database:
            rows = database.execute(
                "SELECT key, iif(withdrawn_at IS NULL, reward, NULL) FROM reward ORDER BY CAST(substr(key, 3) AS INT)"
            ).fetchall()
        return [value for _, value in rows]


def test_the_ledger_keeps_both(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with RunningServer(tmp_path) as server:
        client = server.client()
        experiment_id = create(client, "a", policy={"type": "thompson_revenue", "reward_cap": 5.0})
        decision_id = draw(client, experiment_id)["decision_id"]
        reward(client, experiment_id, arm_id="a", reward=9, key="k")
        reward(client, experiment_id, decision_id=decision_id, reward=2)
        for value in (7, None, None, 1):
            put(client, experiment_id, "key/k", value)
        put(client, experiment_id, f"decision/{decision_id}", 3)
        assert server.terminate() == 0
    columns = "key, decision IS NOT NULL, propensity, reward, counted_reward, corrects, correction, accepted"
    query = f"SELECT {columns} FROM '{tmp_path}/ledger/rewards/**/*.parquet' ORDER BY time"
    assert duckdb.sql(query).fetchall() == [
        ("k", False, None, 9.0, 5.0, None, False, True),
        (None, True, 1.0, 2.0, 2.0, None, False, True),
        ("k", False, None, 7.0, 5.0, 9.0, True, True),
        ("k", False, None, None, None, 7.0, True, True),
        ("k", False, None, 1.0, 1.0, None, True, True),
        (None, True, 1.0, 3.0, 3.0, 2.0, True, True),
    ]
