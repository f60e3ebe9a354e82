"""503: the database does not answer, or too much waits for it. Draws go on, nothing is half done."""

import json
import selectors
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from support import PROBLEM_PREFIX, RunningServer, assert_problem, create, read_answer, reward, stats


@contextmanager
def locked(server: RunningServer) -> Iterator[None]:
    """Another process writes to its database, and does not finish."""
    with closing(sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None, timeout=20)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")


def assert_retry(answer: httpx.Response, type_: str) -> None:
    assert_problem(answer, 503, type_)
    assert int(answer.headers["retry-after"]) >= 1


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "data", settings={"database_timeout_s": 0.05}) as server:
        yield server
        assert server.terminate() == 0


def test_while_the_database_is_locked_draws_go_on_and_changes_are_503(impatient: RunningServer) -> None:
    client = impatient.client()
    experiment_id = create(client, "a", "b")
    path = f"/v1/{experiment_id}"
    keyed = {"arm_id": "a", "reward": 1, "key": "k"}
    with locked(impatient):
        decision_id = client.get(f"{path}/draw").json()["decision_id"]
        by_decision = {"decision_id": decision_id, "reward": 1}
        for method, route, document in (
            ("POST", f"{path}/update", keyed),
            ("POST", f"{path}/update", by_decision),
            ("POST", f"{path}/update_batch", {"updates": [keyed, by_decision]}),
            ("POST", f"{path}/add_arm", None),
            ("PUT", f"{path}/disable_arm/a", None),
            ("DELETE", f"{path}/delete_arm/a", None),
            ("PUT", f"{path}/disable", None),
            ("PUT", f"{path}/reset", None),
            ("DELETE", f"{path}/delete", None),
            ("POST", "/v1/create", None),
            ("DELETE", "/v1/clear", None),
        ):
            assert_retry(client.request(method, route, json=document), "store-unavailable")
        assert_retry(client.get("/health/ready"), "unavailable")
        assert client.get("/health/live").status_code == 200
        assert client.get(f"{path}/draw").status_code == 200
        assert {arm_id: arm["pulls"] for arm_id, arm in stats(client, experiment_id).items()} == {"a": 0, "b": 0}
        assert_problem(client.post(f"{path}/update", json={"arm_id": "a", "reward": 2}), 422, "invalid-reward")

    assert reward(client, experiment_id, **keyed) == {"accepted": 1, "duplicates": 0}
    assert reward(client, experiment_id, **by_decision) == {"accepted": 1, "duplicates": 0}
    assert client.get("/health/ready").status_code == 200
    view = client.get(path).json()
    assert (view["status"], view["epoch"], view["counts"]["arms"], view["counts"]["pulls"]) == ("enabled", 0, 2, 2)
    assert client.get("/v1/list").json() == {"experiment_ids": [experiment_id]}


def test_more_updates_than_may_wait_are_told_at_once_that_it_is_busy(tmp_path: Path) -> None:
    sent = 8
    settings = {"database_timeout_s": 30, "store_mailbox_size_updates": 2}
    with RunningServer(tmp_path / "data", settings=settings) as server, ExitStack() as stack:
        experiment_id = create(server.client(), "a")
        request = (
            f"POST /v1/{experiment_id}/update HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f'Content-Length: 27\r\n\r\n{{"arm_id": "a", "reward":1}}'
        ).encode()
        connections = [stack.enter_context(server.connect()) for _ in range(sent)]
        answered = stack.enter_context(selectors.DefaultSelector())
        for connection in connections:
            answered.register(connection, selectors.EVENT_READ)
        with locked(server):
            for connection in connections:
                connection.sendall(request)
            # one is with the database and two may wait: of eight some are refused while all others still wait
            assert answered.select(timeout=20)
        answers = [read_answer(connection, "POST") for connection in connections]

        refused = [answer for answer in answers if answer.status != 200]
        assert refused
        for answer in refused:
            assert answer.status == 503
            assert json.loads(answer.body)["type"] == f"{PROBLEM_PREFIX}busy"
            assert int(answer.headers["retry-after"]) >= 1
        assert stats(server.client(), experiment_id)["a"]["pulls"] == sent - len(refused)
