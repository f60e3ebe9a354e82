"""Clients that do not read, read slowly, or only hold a connection: they cost little, and others are served."""

import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from support import RunningServer
from wire import (
    Wire,
    get,
    lane_server,
    many,
    memory_bytes,
    new_experiment,
    post,
    request,
    socket_count,
    wait_until,
    warm_up,
)

ANSWER_TIMEOUT_S = 1.5
MEGABYTE = 1_000_000
IDLE_CONNECTIONS = 10_000
SPARE_FILES = 200

server = lane_server(answer_timeout_s=ANSWER_TIMEOUT_S)


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    """Its answers are large."""
    warm_up(server)
    return new_experiment(server, arms=[{"arm_id": "a", "payload": "x" * 8000}])


def requests_of(experiment_id: str) -> dict[str, bytes]:
    return {
        "draw": get(f"/v1/{experiment_id}/draw"),
        "update": post(f"/v1/{experiment_id}/update", {"arm_id": "a", "reward": 1}),
        "describe": get(f"/v1/{experiment_id}"),
        "refused": post(f"/v1/{experiment_id}/update_batch", {"updates": [{}] * 100}),
    }


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
    wire.socket.settimeout(15)


@pytest.mark.parametrize("kind", ["draw", "describe"])
def test_who_does_not_read_is_cut_off(server: RunningServer, experiment_id: str, kind: str) -> None:
    before, sockets = memory_bytes(server), quiet_socket_count(server)
    with Wire(server) as other, Wire(server) as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        other.assert_open()
        begin = time.monotonic()
        send_for(deaf, requests_of(experiment_id)[kind], 0.5)
        other.send(get(f"/v1/{experiment_id}/draw"))
        assert other.answer().status == 200
        assert memory_bytes(server) - before < 30 * MEGABYTE
        assert socket_count(server) == sockets + 2
        wait_until(lambda: socket_count(server) <= sockets + 1, "it is still connected")
        assert ANSWER_TIMEOUT_S * 0.9 < time.monotonic() - begin < ANSWER_TIMEOUT_S + 5
        other.assert_open()


@pytest.mark.parametrize("kind", ["draw", "update", "describe", "refused"])
def test_who_sends_more_than_can_be_answered_is_made_to_wait(
    server: RunningServer, experiment_id: str, kind: str
) -> None:
    """What it sends waits in the kernel, not in the server's memory."""
    before = memory_bytes(server)
    with Wire(server) as greedy, Wire(server) as other:
        greedy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send_for(greedy, requests_of(experiment_id)[kind], 2)
        assert memory_bytes(server) - before < 30 * MEGABYTE
        other.send(get(f"/v1/{experiment_id}/draw"))
        assert other.answer().status == 200


def test_many_who_do_not_read_take_little_memory(server: RunningServer, experiment_id: str) -> None:
    before, sockets = memory_bytes(server), quiet_socket_count(server)
    data = requests_of(experiment_id)["draw"] * 2000
    with many(server, 50) as wires, Wire(server) as other:
        for wire in wires:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.send(data)
        other.send(get(f"/v1/{experiment_id}/draw"))
        assert other.answer().status == 200
        assert memory_bytes(server) - before < 50 * MEGABYTE
        wait_until(lambda: socket_count(server) <= sockets + 1, "some are still connected")
        other.assert_open()


def test_who_reads_slowly_gets_everything(server: RunningServer, experiment_id: str) -> None:
    """4 MB at 64 KB every 40 ms: longer than an answer may lie unread, but none of them does."""
    count = 500
    with Wire(server) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.send(requests_of(experiment_id)["draw"] * count)
        begin, size, data = time.monotonic(), 0, b""
        while data.count(b"HTTP/1.1 200 OK") < count:
            time.sleep(0.04)
            piece = wire.socket.recv(65_536)
            assert piece, f"cut off after {size} bytes and {time.monotonic() - begin:.1f} s"
            size += len(piece)
            data += piece
        assert time.monotonic() - begin > ANSWER_TIMEOUT_S
        assert size > count * 8000


def test_who_rests_and_then_reads_gets_everything(server: RunningServer, experiment_id: str) -> None:
    with Wire(server) as wire:
        wire.send(requests_of(experiment_id)["draw"] * 1000)
        time.sleep(ANSWER_TIMEOUT_S / 3)
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


def test_ten_thousand_idle_connections(server: RunningServer, experiment_id: str) -> None:
    before, sockets = memory_bytes(server), quiet_socket_count(server)
    draw = request(f"GET /v1/{experiment_id}/draw HTTP/1.1", "Host: 127.0.0.1")
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
        wait_until(lambda: socket_count(server) <= sockets + 1, "some are still there", 30)
        other.assert_open()
        other.send(draw * 100)
        assert [other.answer().status for _ in range(100)] == [200] * 100
