"""What the ledger holds of what was answered: every draw, reward and request, after a clean stop."""

import asyncio
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

from auth.tokens_for_tests import BY_SECRET, bearing, token
from multiarm.http.templates import Templates
from multiarm.http.transport import JoinedWrites
from support import RunningServer
from wire import Wire, ask, get, post
from wire_servers import LANES, settings_of

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
        ("PUT", DRAW, 405, "x"),
        ("GET", "/docs", 200, None),
    ]
    assert all(0 < duration_s < 60 for (duration_s,) in rows(ledger, "requests", "duration_s"))


@pytest.mark.parametrize("lane", LANES.values(), ids=list(LANES))
def test_what_is_refused_at_the_gate_has_its_route(tmp_path: Path, lane: bool) -> None:
    settings = settings_of(lane) | BY_SECRET | {"token_burst_limit_requests": 1, "token_rate_limit_per_s": 0.01}
    with RunningServer(tmp_path, settings=settings) as server:
        reads, draws = bearing(token("read")), bearing(token("draw", jti="fast"))
        stranger = "Authorization: Bearer no.token.atall"
        for said, status in (
            (get("/v1/x/draw"), 401),
            (get("/v1/x/draw", stranger), 401),
            (post("/v1/x/update_batch", {}, stranger), 401),
            (get("/v1/x/stats", stranger), 401),
            (get("/v1/x/delete_arm/red", stranger), 401),
            (get("/v1/%78/draw", stranger), 401),
            (get("/v1/x/./draw", stranger), 401),
            (get("/v1/x/nothing", stranger), 401),
            (get("/v1/x/draw/more", stranger), 401),
            (get("/v1/-/draw", stranger), 401),
            (post("/v1/create", {}, reads), 403),
            (get("/v1/x/draw", draws), 404),
            (get("/v1/x/draw", draws), 429),
            (get("/v1/x/stats", draws), 429),
        ):
            assert ask(server, said).status == status, said
        assert server.terminate() == 0
    draw, stats = (f"/v1/{{experiment_id}}/{name}" for name in ("draw", "stats"))
    found = rows(tmp_path / "ledger", "requests", "route, status, experiment_id")
    assert found[-14:] == [
        (draw, 401, "x"),
        (draw, 401, "x"),
        ("/v1/{experiment_id}/update_batch", 401, "x"),
        (stats, 401, "x"),
        ("/v1/{experiment_id}/delete_arm/{arm_id}", 401, "x"),
        *[("unmatched", 401, None)] * 4,
        (draw, 401, None),
        ("/v1/create", 403, None),
        (draw, 404, "x"),
        (draw, 429, "x"),
        (stats, 429, "x"),
    ]


def test_a_large_body_that_is_refused_has_its_route(tmp_path: Path) -> None:
    """Both that are too much together: the one that waits holds the room of the one that comes."""
    with RunningServer(tmp_path, settings={"bodies_limit_bytes": 100_000}) as server:
        server.client().post("/v1/create", json={"experiment_id": "x", "arms": ["a"]}).raise_for_status()
        head = post("/v1/x/update", b"x" * 90_000).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        with Wire(server) as first, Wire(server) as second:
            first.send(head)
            assert ask(server, get("/v1/ping")).status == 200  # it was read by now
            second.send(head)
            assert second.answer().status == 503
        assert server.terminate() == 0
    refused = ("POST", "/v1/{experiment_id}/update", 503, "x")
    assert refused in rows(tmp_path / "ledger", "requests", "method, route, status, experiment_id")


def test_only_what_fits_a_template_has_one() -> None:
    templates = Templates(["/v1/list", "/v1/{experiment_id}", "/v1/{experiment_id}/draw", "/v1/{a}/reward/key/{key}"])
    for path, template in {
        b"/v1/list": "/v1/list",
        b"/v1/x": "/v1/{experiment_id}",
        b"/v1/list/draw": "/v1/{experiment_id}/draw",
        b"/v1/x/reward/key/k": "/v1/{a}/reward/key/{key}",
        b"/v1/x/reward/key": "unmatched",
        b"/v1/x/draw/k": "unmatched",
        b"/v1": "unmatched",
        b"*": "unmatched",
        b"/": "unmatched",
    }.items():
        assert templates.of(path) == template, path


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
