"""GET history and PUT restore, through a real server; and kill -9 while snapshots are being written."""

import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from multiarm.storage.check import check_directory
from support import RunningServer, assert_faults, assert_problem, create, reward, stats

FIELDS = ["share", "probability_best", "mean_reward", "pulls", "effective_pulls", "draws", "interval"]
EARLY = 1.0


def points(client: httpx.Client, experiment_id: str, **query: object) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/{experiment_id}/history", params={key: str(value) for key, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["points"]
    return found


def restored(client: httpx.Client, experiment_id: str, **body: object) -> dict[str, Any]:
    answer = client.put(f"/v1/{experiment_id}/restore", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.fixture
def experiment_id(client: httpx.Client) -> str:
    """With four snapshots: of its creation, before it was disabled, enabled and reset."""
    name = create(client, "a", "b")
    reward(client, name, arm_id="a", reward=1)
    for verb in ("disable", "enable", "reset"):
        assert client.put(f"/v1/{name}/{verb}").status_code == 204
    return name


class TestHistory:
    def test_points_in_order_of_time(self, client: httpx.Client, experiment_id: str) -> None:
        found = points(client, experiment_id)
        assert [point["reason"] for point in found] == ["create", "disable", "enable", "reset"]
        assert all(list(point) == ["snapshot_id", "taken_at", "reason", "epoch", "arms"] for point in found)
        assert all(list(arm) == FIELDS for point in found for arm in point["arms"].values())
        assert sorted(found, key=lambda point: (point["taken_at"], point["snapshot_id"])) == found
        assert [point["arms"]["a"]["pulls"] for point in found] == [0, 1, 1, 1]
        arm = found[-1]["arms"]["a"]
        assert (arm["mean_reward"], arm["effective_pulls"], arm["draws"]) == (1.0, 1.0, 0)
        assert arm["share"] == pytest.approx(2 / 3)

    def test_times_are_seconds_or_rfc_3339(self, client: httpx.Client, experiment_id: str) -> None:
        times = [point["taken_at"] for point in points(client, experiment_id)]
        assert len(points(client, experiment_id, **{"from": times[1], "to": times[-1]})) == 3
        assert points(client, experiment_id, to=times[0] - 1) == []
        written = datetime.fromtimestamp(times[0] - 1, UTC).isoformat().replace("+00:00", "Z")
        assert len(points(client, experiment_id, **{"from": written, "to": "2100-01-01T00:00:00Z"})) == 4

    def test_few_of_many_and_always_the_last(self, client: httpx.Client, experiment_id: str) -> None:
        every = points(client, experiment_id)
        assert points(client, experiment_id, points=1) == every[-1:]
        few = points(client, experiment_id, points=2)
        assert len(few) <= 2
        assert few[-1] == every[-1]

    def test_head_works_too(self, client: httpx.Client, experiment_id: str) -> None:
        assert client.head(f"/v1/{experiment_id}/history").status_code == 200

    @pytest.mark.parametrize(
        ("query", "paths"),
        [
            ("points=0", ["points"]),
            ("points=1001", ["points"]),
            ("points=", ["points"]),
            ("points=1.5", ["points"]),
            ("points=3&points=4", ["points"]),
            ("from=yesterday", ["from"]),
            ("from=2026-01-01T00:00:00", ["from"]),
            ("from=nan", ["from"]),
            ("to=inf", ["to"]),
            ("from=1e999", ["from"]),
            ("from=2&to=1", ["from"]),
            ("from=1772366400000&to=1772366500000", ["from"]),  # milliseconds
            ("until=1", ["until"]),
            ("start=1", ["start"]),
            ("from=x&to=y&points=z&zz", ["from", "points", "to", "zz"]),
            ("%ff=1", ["\xff"]),
        ],
    )
    def test_what_does_not_fit_is_listed(
        self, client: httpx.Client, experiment_id: str, query: str, paths: list[str]
    ) -> None:
        document = client.get(f"/v1/{experiment_id}/history?{query}")
        if paths == ["\xff"]:
            assert document.status_code == 422
        else:
            assert_faults(document, *paths)

    def test_an_unknown_experiment_is_404_whatever_is_asked(self, client: httpx.Client) -> None:
        for query in ("", "?points=0"):
            assert_problem(client.get(f"/v1/nobody/history{query}"), 404, "experiment-not-found")


class TestRestore:
    def test_by_number(self, client: httpx.Client, experiment_id: str) -> None:
        last = points(client, experiment_id)[-1]
        assert stats(client, experiment_id)["a"]["pulls"] == 0
        assert restored(client, experiment_id, snapshot_id=last["snapshot_id"]) == {
            "snapshot_id": last["snapshot_id"],
            "taken_at": last["taken_at"],
            "epoch": 2,
        }
        assert stats(client, experiment_id)["a"]["pulls"] == 1
        assert points(client, experiment_id)[-1]["reason"] == "restore"

    def test_by_time(self, client: httpx.Client, experiment_id: str) -> None:
        found = points(client, experiment_id)
        assert restored(client, experiment_id, at=found[0]["taken_at"])["taken_at"] == found[0]["taken_at"]
        assert restored(client, experiment_id, at=datetime.now(UTC).isoformat())["epoch"] == 3

    def test_decisions_of_before_are_gone(self, client: httpx.Client, experiment_id: str) -> None:
        decision_id = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
        restored(client, experiment_id, at=time.time())
        answer = client.post(f"/v1/{experiment_id}/update", json={"decision_id": decision_id, "reward": 1})
        assert_problem(answer, 410, "stale-epoch")

    def test_none_of_that_time_or_number(self, client: httpx.Client, experiment_id: str) -> None:
        for body in ({"at": EARLY}, {"snapshot_id": 10**15}):
            answer = client.put(f"/v1/{experiment_id}/restore", json=body)
            assert_problem(answer, 404, "snapshot-not-found")

    def test_another_policy_is_409_and_says_what_to_do(self, client: httpx.Client, experiment_id: str) -> None:
        change = {"policy": {"type": "exp3"}, "restart": True}
        assert client.put(f"/v1/{experiment_id}/policy", json=change).status_code == 204
        problem = assert_problem(
            client.put(f"/v1/{experiment_id}/restore", json={"at": time.time()}), 409, "not-restored"
        )
        assert '"type":"thompson"' in problem["detail"]

    @pytest.mark.parametrize(
        ("body", "paths"),
        [
            ({}, [""]),
            ({"snapshot_id": 1, "at": 1}, [""]),
            ({"snapshot_id": 0}, ["snapshot_id"]),
            ({"snapshot_id": "1"}, ["snapshot_id"]),
            ({"snapshot_id": 1 << 63}, ["snapshot_id"]),
            ({"at": "now"}, ["at"]),
            ({"at": True, "x": 1}, ["at", "x"]),
            ({"at": 1772366400000}, ["at"]),  # milliseconds
            ({"at": "2100-01-01T00:00:00Z"}, ["at"]),
        ],
    )
    def test_what_does_not_fit_is_listed(
        self, client: httpx.Client, experiment_id: str, body: dict[str, object], paths: list[str]
    ) -> None:
        assert_faults(client.put(f"/v1/{experiment_id}/restore", json=body), *paths)

    def test_an_unknown_experiment_is_404(self, client: httpx.Client) -> None:
        assert_problem(client.put("/v1/nobody/restore", json={}), 404, "experiment-not-found")


SETTINGS = {"snapshot_interval_s": 0.05, "draw_count_interval_s": 0.05}


def test_kill_9_while_snapshots_are_written(tmp_path: Path) -> None:
    """Each is there wholly or not at all, the books balance, and any can be restored."""
    with RunningServer(tmp_path / "data", settings=SETTINGS) as server:
        name = create(server.client(), "a", "b", experiment_id="x")
        for _ in range(3):
            counted = kill_under_load(server, name)
            assert check_directory(tmp_path / "data").good
            server.restart()
            client = server.client()
            pulls = sum(arm["pulls"] for arm in stats(client, name).values())
            found = points(client, name, points=1_000)
            assert len(found) > 3
            assert pulls >= counted
            before = [sum(arm["pulls"] for arm in point["arms"].values()) for point in found if not point["epoch"]]
            assert before == sorted(before)
        middle = found[len(found) // 2]
        restored(client, name, snapshot_id=middle["snapshot_id"])
        assert {arm_id: arm["pulls"] for arm_id, arm in stats(client, name).items()} == {
            arm_id: arm["pulls"] for arm_id, arm in middle["arms"].items()
        }
        assert server.terminate() == 0
        assert check_directory(tmp_path / "data").good


def kill_under_load(server: RunningServer, name: str) -> int:
    """Rewards without pause until a few snapshots are there; then SIGKILL. How many rewards were acknowledged."""
    client = server.client()
    counted = 0

    def load() -> None:
        nonlocal counted
        with suppress(httpx.TransportError):
            while True:
                batch = {"updates": [{"arm_id": arm_id, "reward": 1} for arm_id in "ab" * 10]}
                if client.post(f"/v1/{name}/update_batch", json=batch).status_code == 200:
                    counted += 20

    thread = threading.Thread(target=load)
    thread.start()
    watching = server.client()
    known = len(points(watching, name, points=1_000))
    while len(points(watching, name, points=1_000)) < known + 4:
        time.sleep(0.01)  # leaves the server time for those who send
    server.kill()
    thread.join(30)
    return counted
