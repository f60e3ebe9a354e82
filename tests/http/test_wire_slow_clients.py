"""Clients that do not read, read slowly, or only hold a connection: they cost little, and others are served."""

import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from support import RunningServer
from wire import TIMEOUT_S, Wire, ask, get, many, post
from wire_servers import (
    LANES,
    lane_servers,
    memory_bytes,
    new_experiment,
    socket_count,
    wait_for_sockets,
    wait_until,
    warm_up,
)

ANSWER_TIMEOUT_S = 2.0
MEGABYTE = 1_000_000
IDLE_CONNECTIONS = 10_000
SPARE_FILES = 200
REQUESTS = {
    "draw": get("/v1/x/draw"),
    "update": post("/v1/x/update", {"arm_id": "a", "reward": 1}),
    "describe": get("/v1/x"),
    "refused": post("/v1/x/update_batch", {"updates": [{}] * 100}),
}

servers = lane_servers(answer_timeout_s=ANSWER_TIMEOUT_S)


@pytest.fixture(scope="module", autouse=True)
def experiment(servers: list[RunningServer]) -> None:
    """Its answers are large."""
    for server in servers:
        warm_up(server)
        new_experiment(server, experiment_id="x", arms=[{"arm_id": "a", "payload": "x" * 8000}])


def deaf(server: RunningServer) -> Wire:
    """A connection on which little fits that is not read."""
    wire = Wire(server)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return wire


def quiet_socket_count(server: RunningServer) -> int:
    """When those of the test before have gone."""
    counts = [-1]

    def same_as_before() -> bool:
        counts.append(socket_count(server))
        time.sleep(0.05)
        return counts[-1] == counts[-2]

    wait_until(same_as_before, "connections come and go")
    return counts[-1]


def send_for(wire: Wire, data: bytes, seconds: float) -> None:
    """As much as the other side takes in that time, or until it hangs up."""
    wire.socket.setblocking(False)
    stream = memoryview(data * (100_000 // len(data)))
    end = time.monotonic() + seconds
    sent = 0
    with suppress(BrokenPipeError, ConnectionResetError):
        while (left_s := end - time.monotonic()) > 0:
            if select.select([], [wire.socket], [], left_s)[1]:
                sent += wire.socket.send(stream[sent % len(stream) :])
    wire.socket.settimeout(TIMEOUT_S)


def test_who_does_not_read_is_cut_off(servers: list[RunningServer]) -> None:
    kinds = ["draw", "describe"]
    before = [(memory_bytes(server), quiet_socket_count(server)) for server in servers]
    with ExitStack() as stack:
        begin = time.monotonic()
        for server, (memory, sockets) in zip(servers, before, strict=True):
            for kind in kinds:
                send_for(stack.enter_context(deaf(server)), REQUESTS[kind], 0.3)
            assert socket_count(server) >= sockets + len(kinds)  # at once, before the first has waited too long
            assert ask(server, REQUESTS["draw"]).status == 200
            assert memory_bytes(server) - memory < 30 * MEGABYTE
        for server, (_, sockets) in zip(servers, before, strict=True):
            wait_for_sockets(server, sockets)
        assert ANSWER_TIMEOUT_S * 0.9 < time.monotonic() - begin < ANSWER_TIMEOUT_S + 6


@pytest.mark.parametrize("kind", ["draw", "update", "describe", "refused"])
def test_who_sends_more_than_can_be_answered_is_made_to_wait(servers: list[RunningServer], kind: str) -> None:
    """What it sends waits in the kernel, not in the server's memory."""
    for server in servers:
        before = memory_bytes(server)
        with deaf(server) as greedy:
            send_for(greedy, REQUESTS[kind], 0.5)
            assert memory_bytes(server) - before < 10 * MEGABYTE
            assert ask(server, REQUESTS["draw"]).status == 200


def test_many_who_do_not_read_take_little_memory(servers: list[RunningServer]) -> None:
    count = 10
    before = [(memory_bytes(server), quiet_socket_count(server)) for server in servers]
    with ExitStack() as stack:
        for server in servers:
            for _ in range(count):
                stack.enter_context(deaf(server)).send(REQUESTS["draw"] * 1200)
        for server, (memory, _) in zip(servers, before, strict=True):
            assert ask(server, REQUESTS["draw"]).status == 200
            assert memory_bytes(server) - memory < count * MEGABYTE
        for server, (_, sockets) in zip(servers, before, strict=True):
            wait_for_sockets(server, sockets)


def test_who_reads_slowly_gets_everything(servers: list[RunningServer]) -> None:
    """5 MB at 64 KB every 40 ms: longer than an answer may lie unread, but none of them does."""
    count = 600
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server)) for server in servers]
        for wire in wires:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            wire.send(REQUESTS["draw"] * count)
        begin = time.monotonic()
        said = dict.fromkeys(wires, b"")
        while any(data.count(b"HTTP/1.1 200 OK") < count for data in said.values()):
            time.sleep(0.04)
            for wire in wires:
                if select.select([wire.socket], [], [], 0)[0]:
                    piece = wire.socket.recv(65_536)
                    assert piece, f"cut off after {len(said[wire])} bytes and {time.monotonic() - begin:.1f} s"
                    said[wire] += piece
            assert time.monotonic() - begin < 20
        assert time.monotonic() - begin > ANSWER_TIMEOUT_S


def test_who_rests_and_then_reads_gets_everything(servers: list[RunningServer]) -> None:
    for server in servers:
        with Wire(server) as wire:
            wire.send(REQUESTS["draw"] * 1000)
            time.sleep(ANSWER_TIMEOUT_S / 4)
            for _ in range(1000):
                assert wire.answer().status == 200
            wire.assert_open()


# --- idle connections --------------------------------------------------------------------------------------------


@contextmanager
def files(count: int) -> Iterator[None]:
    """Leave to open so many; the test is skipped where that is not to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"no more than {hard} files may be open at a time (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("place", range(len(LANES)), ids=list(LANES))
def test_ten_thousand_idle_connections(servers: list[RunningServer], place: int) -> None:
    server = servers[place]
    before, sockets = memory_bytes(server), quiet_socket_count(server)
    draw = get("/v1/x/draw")
    with files(IDLE_CONNECTIONS + SPARE_FILES), Wire(server) as other:
        slowest_s = 0.0
        with many(server, 0) as idle:
            for number in range(IDLE_CONNECTIONS):
                idle.append(Wire(server))
                if number % 3 == 0:  # some have asked something before
                    idle[-1].send(draw)
                if number % 500 == 0:
                    begin = time.monotonic()
                    other.send(draw)
                    assert other.answer().status == 200
                    slowest_s = max(slowest_s, time.monotonic() - begin)
            try:
                for wire in idle[::3]:
                    assert wire.answer().status == 200
                wait_until(lambda: socket_count(server) >= sockets + IDLE_CONNECTIONS, "not all are accepted", 30)
                assert slowest_s < 5
                assert (memory_bytes(server) - before) / IDLE_CONNECTIONS < 30_000
                for wire in idle[:: IDLE_CONNECTIONS // 20]:
                    wire.assert_open()
            finally:
                for wire in idle:
                    wire.socket.close()
        wait_for_sockets(server, sockets + 1)
        other.assert_open()
        other.send(draw * 100)
        assert [other.answer().status for _ in range(100)] == [200] * 100
