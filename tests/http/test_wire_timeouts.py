"""How long a head and a body may take to come, and how long an idle connection is kept."""

import select
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, assert_refused, get, post, request
from wire_servers import lane_servers, new_experiment, pulls

HEAD_S = 0.8  # a busy machine may hold up what must come in time by half of it
BODY_S = 0.9
IDLE_S = 1.2
SLACK_S = 5.0  # of a busy machine

servers = lane_servers(
    head_timeout_s=HEAD_S,
    body_timeout_s=BODY_S,
    keep_alive_timeout_s=IDLE_S,
    database_timeout_s=30,  # longer than a test locks it
)

UPDATE = {"arm_id": "a", "reward": 1}
DRAW = get("/v1/x/draw")
OPERATIONS = ("update", "update_batch", "add_arm")  # the last is the application's in any case


@pytest.fixture(scope="module", autouse=True)
def experiment(servers: list[RunningServer]) -> None:
    for server in servers:
        new_experiment(server, experiment_id="x")


@contextmanager
def wires_for(servers: list[RunningServer], starts: list[bytes]) -> Iterator[list[Wire]]:
    """A connection to each server for each of these, which it has been sent."""
    with ExitStack() as stack:
        wires = []
        for server in servers:
            for start in starts:
                wires.append(stack.enter_context(Wire(server)))
                if start:
                    wires[-1].send(start)
        yield wires


def assert_timed_out(wires: list[Wire], begin: float, least_s: float) -> None:
    for wire in wires:
        assert_refused(wire.answer(), 408, "request-timeout")
        assert_within(begin, least_s)
        wire.assert_closed()


def assert_within(begin: float, least_s: float) -> None:
    took_s = time.monotonic() - begin
    assert least_s * 0.9 <= took_s <= least_s + SLACK_S


def trickle(wires: list[Wire], piece: bytes, timeout_s: float) -> None:
    """To all of them, again and again until each has been answered."""
    end = time.monotonic() + timeout_s
    waiting = list(wires)
    while waiting and time.monotonic() < end:
        for wire in waiting:
            with suppress(BrokenPipeError, ConnectionResetError):
                wire.socket.sendall(piece)
        answered = select.select([wire.socket for wire in waiting], [], [], 0.05)[0]
        waiting = [wire for wire in waiting if wire.socket not in answered]
    assert not waiting


class TestHead:
    def test_one_that_is_never_whole_is_408(self, servers: list[RunningServer]) -> None:
        update = post("/v1/x/update", UPDATE)
        starts = [b"G", DRAW[:-1], DRAW[:-2], DRAW[:20], update[:60], get("/v1/ping")[:-1], b"\r\nGET"]
        begin = time.monotonic()
        with wires_for(servers, starts) as wires:
            assert_timed_out(wires, begin, HEAD_S)

    def test_its_time_counts_from_its_first_byte(self, servers: list[RunningServer]) -> None:
        """However steadily the others follow."""
        begin = time.monotonic()
        with wires_for(servers, [b"GET /v1/ping HTTP/1.1\r\n", DRAW + DRAW[:-2]]) as wires:
            for wire in wires[1::2]:
                assert wire.answer().status == 200
            trickle(wires, b"X: y\r\n", HEAD_S + SLACK_S)
            for wire in wires:
                assert_refused(wire.answer(), 408, "request-timeout")
                assert_within(begin, HEAD_S)

    def test_each_of_a_connection_has_its_own_time(self, servers: list[RunningServer]) -> None:
        with wires_for(servers, [b"", b""]) as wires:
            for _ in range(4):
                for wire in wires:
                    wire.send(DRAW[:30])
                time.sleep(HEAD_S / 3.5)  # four of them are more than it
                for wire in wires:
                    wire.send(DRAW[30:])
                    assert wire.answer().status == 200
            begin = time.monotonic()
            for wire in wires:
                wire.send(DRAW + DRAW[:-2])
                assert wire.answer().status == 200
            assert_timed_out(wires, begin, HEAD_S)


class TestBody:
    def test_one_that_is_never_whole_is_408(self, servers: list[RunningServer]) -> None:
        starts = [start for operation in OPERATIONS for start in halves(operation)]
        begin = time.monotonic()
        with wires_for(servers, starts) as wires:
            assert_timed_out(wires, begin, BODY_S)

    def test_one_that_was_asked_for_is_408_too(self, servers: list[RunningServer]) -> None:
        starts = [
            request(f"POST /v1/x/{operation} HTTP/1.1", HOST, JSON, "Content-Length: 28", "Expect: 100-continue")
            for operation in OPERATIONS
        ]
        begin = time.monotonic()
        with wires_for(servers, starts) as wires:
            for wire in wires:
                assert wire.answer().status == 100
            assert_timed_out(wires, begin, BODY_S)

    def test_its_time_counts_from_the_end_of_its_head(self, servers: list[RunningServer]) -> None:
        starts = [
            request(f"POST /v1/x/{operation} HTTP/1.1", HOST, JSON, "Content-Length: 1000000")
            for operation in OPERATIONS
        ]
        begin = time.monotonic()
        with wires_for(servers, starts) as wires:
            trickle(wires, b" ", BODY_S + SLACK_S)
            for wire in wires:
                assert_refused(wire.answer(), 408, "request-timeout")
                assert_within(begin, BODY_S)

    def test_nothing_of_it_was_counted(self, servers: list[RunningServer]) -> None:
        for server in servers:
            assert pulls(server, "x") == 0


def halves(operation: str) -> list[bytes]:
    """Requests whose bodies lack something."""
    path = f"/v1/x/{operation}"
    data = post(path, {"updates": [UPDATE]} if operation == "update_batch" else UPDATE)
    start = data.index(b"\r\n\r\n") + 4
    chunked = request(f"POST {path} HTTP/1.1", HOST, JSON, "Transfer-Encoding: chunked")
    longer = request(f"POST {path} HTTP/1.1", HOST, JSON, f"Content-Length: {len(data) - start + 1}", body=data[start:])
    return [data[:start], data[:-1], longer, chunked, chunked + b"5\r\n", chunked + b"1\r\n{\r\n0\r\n"]


class TestIdle:
    def test_it_is_closed_without_a_word(self, servers: list[RunningServer]) -> None:
        """Whether or not anything was ever asked on it."""
        update, nowhere = post("/v1/x/update", UPDATE), get("/nowhere")
        asked = [[], [DRAW], [DRAW] * 3, [update], [get("/v1/ping")], [nowhere, DRAW], [DRAW, nowhere, update]]
        begin = time.monotonic()
        with wires_for(servers, [b"".join(requests) for requests in asked]) as wires:
            for wire, requests in zip(wires, asked * len(servers), strict=True):
                for _ in requests:
                    wire.answer()
                wire.assert_closed()
                assert_within(begin, IDLE_S)

    def test_requests_keep_it_open(self, servers: list[RunningServer]) -> None:
        end = time.monotonic() + 2 * IDLE_S + 0.5
        with wires_for(servers, [b"", b""]) as wires:
            while time.monotonic() < end:
                for wire, data in zip(wires, [DRAW, get("/v1/ping")] * len(servers), strict=True):
                    wire.send(data)
                    assert wire.answer().status == 200
                time.sleep(IDLE_S / 8)


def test_none_of_them_counts_while_the_server_owes_the_answer(servers: list[RunningServer]) -> None:
    slow = [
        post("/v1/x/update", UPDATE),
        post("/v1/x/update_batch", {"updates": [UPDATE]}),
        request("PUT /v1/x/enable HTTP/1.1", HOST),
    ]
    with ExitStack() as stack:
        locked = [
            stack.enter_context(closing(sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)))
            for server in servers
        ]
        for database in locked:
            database.execute("BEGIN IMMEDIATE")
        wires = stack.enter_context(wires_for(servers, [data + DRAW + DRAW[:-10] for data in slow]))
        time.sleep(max(HEAD_S, BODY_S, IDLE_S) * 2 + 0.5)
        for wire in wires:
            wire.send(DRAW[-10:])
            wire.assert_silent()
        for database in locked:
            database.execute("ROLLBACK")
        for wire in wires:
            assert [wire.answer().status // 100 for _ in range(3)] == [2] * 3
