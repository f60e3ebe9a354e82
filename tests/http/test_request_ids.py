"""By what a request is known: the same in answer, problem document, log and ledger, through both doors."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from support import PROBLEM_PREFIX, RunningServer
from wire import Answer, Wire, ask, batch, get, post, request
from wire_servers import LANES, lane_server, settings_of

ID = "X-Request-Id: client/7.b:c@d=e+f_g-h"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
MADE = re.compile(r"[0-9a-f]{20}")

BROKEN = """
from multiarm.http import operations
def broken(*_): raise RuntimeError("nobody\\nforesaw this")
operations.drawn = operations.decode_update = broken
from multiarm.service.supervisor import Supervisor
Supervisor.stats = broken
from multiarm.cli import main
main()
"""

server = lane_server()


@pytest.fixture(scope="module", autouse=True)
def experiment(server: RunningServer) -> None:
    answer = ask(server, post("/v1/create", {"experiment_id": "ids", "arms": ["a"]}))
    assert answer.status in {201, 409}


def ids(answer: Answer) -> tuple[str | None, str | None]:
    return answer.headers.get("x-request-id"), answer.headers.get("traceparent")


HOT: dict[str, Callable[..., bytes]] = {
    "draw": lambda *headers: get("/v1/ids/draw", *headers),
    "update": lambda *headers: post("/v1/ids/update", {"arm_id": "a", "reward": 1}, *headers),
    "update_batch": lambda *headers: post("/v1/ids/update_batch", batch(2), *headers),
}


class TestWhatTheCallerSends:
    @pytest.mark.parametrize("operation", HOT)
    def test_comes_back_with_draws_and_rewards(self, server: RunningServer, operation: str) -> None:
        plain = HOT[operation]
        with Wire(server) as wire:
            for _ in range(3):  # the head without ids is soon known by its bytes
                assert ids(wire.answer_after(plain(ID, f"traceparent: {TRACEPARENT}"))) == (ID[14:], TRACEPARENT)
                assert ids(wire.answer_after(plain())) == (None, None)
                assert ids(wire.answer_after(plain("X-Request-Id: other"))) == ("other", None)
                made, trace = ids(wire.answer_after(plain(f"traceparent: {TRACEPARENT}")))
                assert trace == TRACEPARENT
                assert MADE.fullmatch(made or "")

    @pytest.mark.parametrize(
        ("line", "status"), [("GET /v1/list", 200), ("GET /docs", 200), ("OPTIONS /v1/list", 204), ("GET /no", 404)]
    )
    def test_comes_back_with_everything_else(self, server: RunningServer, line: str, status: int) -> None:
        said = request(f"{line} HTTP/1.1", "Host: 127.0.0.1", ID, f"Traceparent: {TRACEPARENT}")
        answer = ask(server, said)
        assert (answer.status, *ids(answer)) == (status, ID[14:], TRACEPARENT)

    @pytest.mark.parametrize(
        "headers",
        [
            ["X-Request-Id: two words"],
            ["X-Request-Id: "],
            ["X-Request-Id: \xe9"],
            ['X-Request-Id: {"a":1}'],
            [f"X-Request-Id: {'x' * 129}"],
            ["X-Request-Id: once", "X-Request-Id: twice"],
            [f"traceparent: {TRACEPARENT.upper()}"],
            [f"traceparent: {TRACEPARENT[:-1]}"],
            [f"traceparent: {TRACEPARENT}-more"],
            [f"traceparent: ff{TRACEPARENT[2:]}"],
            [f"traceparent: 01{TRACEPARENT[2:]}more"],
            [f"traceparent: 01{TRACEPARENT[2:-1]}"],
            [f"traceparent: 01{TRACEPARENT[2:]}-{'x' * 201}"],
            [f"traceparent: 00-{'0' * 32}-b7ad6b7169203331-01"],
            [f"traceparent: 00-{TRACE_ID}-{'0' * 16}-01"],
            [f"traceparent: {TRACEPARENT}", f"traceparent: {TRACEPARENT}"],
        ],
        ids=lambda headers: headers[0][:40],
    )
    def test_is_as_if_it_were_not_there_where_it_is_malformed(self, server: RunningServer, headers: list[str]) -> None:
        assert ids(ask(server, get("/v1/ids/draw", *headers))) == (None, None)
        made, trace = ids(ask(server, get("/v1/list", *headers)))
        assert MADE.fullmatch(made or "")
        assert trace is None

    @pytest.mark.parametrize("more", ["", "-", "-what-will-be"])
    def test_may_be_a_trace_of_a_later_version(self, server: RunningServer, more: str) -> None:
        later = f"01{TRACEPARENT[2:]}{more}"
        for path, status in (("/v1/ids/draw", 200), ("/v1/nobody", 404)):
            answer = ask(server, get(path, f"traceparent: {later}"))
            assert (answer.status, ids(answer)[1]) == (status, later)
        assert answer.json["trace_id"] == TRACE_ID

    def test_of_one_request_is_not_said_of_the_next(self, server: RunningServer) -> None:
        plain, tagged = get("/v1/ids/draw"), get("/v1/ids/draw", ID)
        app = get("/v1/list", "X-Request-Id: list")
        with Wire(server) as wire:
            wire.send(plain + tagged + plain + app + plain + tagged + plain)
            said = [ids(wire.answer())[0] for _ in range(7)]
        assert said == [None, ID[14:], None, "list", None, ID[14:], None]


class TestProblems:
    @pytest.mark.parametrize(
        ("path", "slug"),
        [("/v1/nobody/draw", "experiment-not-found"), ("/v1/nobody", "experiment-not-found"), ("/a//b", "not-found")],
    )
    def test_name_the_request(self, server: RunningServer, path: str, slug: str) -> None:
        traced = f"traceparent: {TRACEPARENT}"
        for headers in [[ID], [ID, traced], [traced], []]:
            answer = ask(server, get(path, *headers))
            request_id, traceparent = ids(answer)
            assert answer.json["type"] == PROBLEM_PREFIX + slug
            assert answer.json["request_id"] == request_id
            assert answer.json.get("trace_id") == (TRACE_ID if traceparent else None)
            assert request_id == ID[14:] if ID in headers else MADE.fullmatch(request_id or "")
            assert traceparent == (
                TRACEPARENT if len(headers) == 2 or headers[:1] == [f"traceparent: {TRACEPARENT}"] else None
            )

    @pytest.mark.parametrize("operation", ["update", "update_batch"])
    def test_of_bad_bodies(self, server: RunningServer, operation: str) -> None:
        answer = ask(server, post(f"/v1/ids/{operation}", b"{", ID))
        assert (answer.status, answer.json["request_id"], *ids(answer)) == (400, ID[14:], ID[14:], None)

    @pytest.mark.parametrize(
        ("said", "status", "known"),
        [
            (request("GET / HTTP/1.1", ID, "Host: a", "Host: b"), 400, True),
            (request("GET / HTTP/1.1", ID, "Host: a", "Transfer-Encoding: gzip, chunked"), 400, True),
            (request("CONNECT a:1 HTTP/1.1", ID, "Host: a:1"), 501, True),
            (request("no http", ID), 400, False),
            (request("GET / HTTP/1.1", ID, "X-Long: " + "x" * 20_000), 431, False),
        ],
        ids=["two hosts", "coding", "method", "no HTTP", "too large"],
    )
    def test_of_what_is_no_request(self, server: RunningServer, said: bytes, status: int, known: bool) -> None:
        """By the caller's id where the head could be read."""
        answer = ask(server, said)
        assert answer.status == status
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert (answer.headers["x-request-id"] == ID[14:]) is known

    def test_made_ids_are_never_the_same(self, server: RunningServer) -> None:
        with Wire(server) as wire:
            made = [wire.answer_after(get(path)).json["request_id"] for path in ["/v1/nobody/draw", "/no"] * 50]
        assert len(set(made)) == 100


@pytest.fixture(scope="module", params=LANES.values(), ids=list(LANES))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose draws and updates fail in a way that nobody foresaw, after its end."""
    command = (sys.executable, "-c", BROKEN)
    settings = settings_of(request.param) | {"log_format": "json"}
    with RunningServer(tmp_path_factory.mktemp("told"), settings=settings, command=command) as server:
        create = post("/v1/create", {"experiment_id": "x", "arms": ["a"]}, "X-Request-Id: creates")
        assert ask(server, create).status == 201
        for number, said in enumerate([get("/v1/nobody/draw", ID), get("/v1/nobody/draw")] * 2):
            assert ask(server, said).status == 404, number
        traced = f"traceparent: {TRACEPARENT}"
        assert ask(server, post("/v1/x/update", {}, "X-Request-Id: fails", traced)).json["request_id"] == "fails"
        assert ask(server, get("/v1/x/stats?secret", "X-Request-Id: stats")).status == 500
        assert ask(server, post("/v1/x/update_batch", batch(1), "X-Request-Id: counts", traced)).status == 200
        assert ask(server, post("/v1/x/update_batch", batch(1))).status == 200
        assert server.terminate() == 0
        yield server


def rows(server: RunningServer, where: str) -> list[tuple[Any, ...]]:
    files = f"read_parquet('{server.data_dir}/ledger/requests/**/*.parquet')"
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT status, request_id, trace_id FROM {files} WHERE {where} ORDER BY time"
        ).fetchall()


def test_the_ledger_has_them(told: RunningServer) -> None:
    assert rows(told, "route = '/v1/create'") == [(201, "creates", None)]
    draws = rows(told, "route LIKE '%/draw'")
    assert [(status, trace) for status, _, trace in draws] == [(404, None)] * 4
    assert [name for _, name, _ in draws][::2] == [ID[14:]] * 2
    assert all(MADE.fullmatch(name) for _, name, _ in draws[1::2])
    assert rows(told, "route LIKE '%/update'") == [(500, "fails", TRACE_ID)]
    assert rows(told, "route LIKE '%/update_batch'") == [(200, "counts", TRACE_ID), (200, None, None)]


def test_the_log_has_them(told: RunningServer) -> None:
    events = [json.loads(line) for line in told.log.splitlines()]
    failures = [event for event in events if event["event"] == "request_failed"]
    failure, other = failures
    assert (failure["request_id"], failure["trace_id"], failure["level"]) == ("fails", TRACE_ID, "error")
    assert (other["request_id"], other["method"]) == ("stats", "GET")
    for failure, name in zip(failures, ("update", "stats"), strict=True):
        assert (failure["route"], failure["experiment_id"]) == (f"/v1/{{experiment_id}}/{name}", "x")
        assert "RuntimeError: nobody\nforesaw this" in failure["exception"]
    assert "secret" not in told.log


def test_an_answer_that_fails_is_logged_with_them(tmp_path: Path) -> None:
    command = (sys.executable, "-c", BROKEN)
    settings = {"log_format": "json"}
    with RunningServer(tmp_path, settings=settings, command=command) as server, Wire(server) as wire:
        assert ask(server, post("/v1/create", {"experiment_id": "x", "arms": ["a"]})).status == 201
        wire.send(get("/v1/x/draw", ID))
        wire.assert_closed()
        server.wait_for_log("answer_failed")
        [event] = [json.loads(line) for line in server.log.splitlines() if "answer_failed" in line]
        assert event["request_id"] == ID[14:]
