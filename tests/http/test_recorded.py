"""What the ledger holds of what was answered: every draw, reward and request, after a clean stop."""

import asyncio
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from multiarm.http.transport import JoinedWrites
from support import RunningServer

DRAW = "/v1/{experiment_id}/draw"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recorded")
    with RunningServer(directory) as server:
        client = server.client()
        client.post("/v1/create", json={"experiment_id": "x", "arms": ["a"], "random_share": 1.0}).raise_for_status()
        drawn = client.get("/v1/x/draw").json()
        for _ in range(2):
            client.post("/v1/x/update", json={"decision_id": drawn["decision_id"], "reward": 1, "ts": 1000})
        client.post("/v1/x/update", json={"arm_id": "a", "reward": 0.5, "key": "k"})
        client.post("/v1/x/update", json={"arm_id": "a", "reward": 7})
        client.get("/v1/nope/draw")
        client.get("/v1/x/stats/")
        client.head("/v1/list")
        client.put("/v1/x/draw")
        client.get("/docs")
        assert server.terminate() == 0
    return directory / "ledger"


def rows(ledger: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {columns} FROM '{ledger}/{table}/**/*.parquet' ORDER BY time").fetchall()


def test_every_request_with_its_route_and_status(ledger: Path) -> None:
    assert rows(ledger, "requests", "method, route, status, experiment_id")[-10:] == [
        ("GET", DRAW, 200, "x"),
        ("POST", "/v1/{experiment_id}/update", 200, "x"),
        ("POST", "/v1/{experiment_id}/update", 200, "x"),
        ("POST", "/v1/{experiment_id}/update", 200, "x"),
        ("POST", "/v1/{experiment_id}/update", 422, "x"),
        ("GET", DRAW, 404, "nope"),
        ("GET", "unmatched", 404, None),
        ("HEAD", "/v1/list", 200, None),
        ("PUT", "unmatched", 405, None),
        ("GET", "/docs", 200, None),
    ]
    assert all(0 < duration_s < 60 for (duration_s,) in rows(ledger, "requests", "duration_s"))


def test_every_draw(ledger: Path) -> None:
    [(experiment_id, epoch, arm_id, arm_number, propensity, random, decision)] = rows(
        ledger, "decisions", "experiment_id, epoch, arm_id, arm_number, propensity, random, decision"
    )
    assert (experiment_id, epoch, arm_id, arm_number, propensity, random) == ("x", 0, "a", 1, 1.0, True)
    assert len(decision) == 32


def test_every_reward_and_whether_it_counted(ledger: Path) -> None:
    [(decision,)] = rows(ledger, "decisions", "decision")
    assert rows(ledger, "rewards", "arm_id, reward, key, decision, propensity, epoch_ms(ts), accepted") == [
        ("a", 1.0, None, decision, 1.0, 1_000_000, True),
        ("a", 1.0, None, decision, 1.0, 1_000_000, False),
        ("a", 0.5, "k", None, None, None, True),
    ]


def test_head_and_body_of_an_answer_travel_together(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server, server.connect() as connection:
        connection.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = connection.recv(65_536)
        assert first.endswith(b'"}')
        connection.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        assert answer.endswith(b'"}')


class Gone:
    """A transport whose connection was lost."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.mark.parametrize("closing", [False, True])
def test_what_is_written_joins_and_is_dropped_where_the_client_has_gone(closing: bool) -> None:
    async def story() -> list[bytes]:
        transport = Gone()
        joined = JoinedWrites(cast("asyncio.Transport", transport), asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        transport.closing = closing
        await asyncio.sleep(0)
        return transport.written

    assert asyncio.run(story()) == ([] if closing else [b"headbody"])
