"""What a hostile client tried: each of these once confused, stalled or filled the server."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from support import RunningServer, create
from wire import HOST, JSON, Wire, assert_refused, get, post, request
from wire_servers import lane_server

MEGABYTE = 1_000_000

server = lane_server(body_limit_bytes=100_000, keep_alive_timeout_s=1, answer_timeout_s=2)


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return create(server.client(), "a")


def memory_bytes(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("size", [90_000, 2 * MEGABYTE])
@pytest.mark.parametrize(
    "what", ["PUT /v1/{id}/draw", "POST /v1/nobody/add_arm", "POST /v1/{id}/update", "GET /nowhere"]
)
def test_the_body_of_a_request_that_was_refused_early_does_not_stall_the_next(
    server: RunningServer, experiment_id: str, what: str, size: int
) -> None:
    line = f"{what.replace('{id}', experiment_id)} HTTP/1.1"
    with Wire(server) as wire:
        wire.send(request(line, HOST, JSON, f"Content-Length: {size}", body=b"x" * size) + get("/v1/ping"))
        assert wire.answer().status in (400, 404, 405, 413)
        assert wire.answer().status == 200


@pytest.mark.parametrize("trailer", [b"a:b\r\n" * 50_000, b"a:" + b"b" * 250_000])
def test_trailers_have_a_limit(server: RunningServer, experiment_id: str, trailer: bytes) -> None:
    before = memory_bytes(server)
    with Wire(server) as wire:
        line = f"POST /v1/{experiment_id}/update HTTP/1.1"
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.send(request(line, HOST, JSON, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n"))
            for _ in range(40):
                wire.socket.sendall(trailer)
        with suppress(ConnectionResetError):
            assert_refused(wire.answer(), 431, "head-too-large")
    assert memory_bytes(server) - before < 20 * MEGABYTE


def test_trailers_are_no_headers(server: RunningServer) -> None:
    chunked = "Transfer-Encoding: chunked"
    with Wire(server) as wire:
        body = b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n"
        wire.send(request("POST /v1/create HTTP/1.1", HOST, "Content-Type: text/plain", chunked, body=body))
        assert wire.answer().status == 415
        wire.assert_open()


def test_the_head_of_another_protocol_does_not_hide_a_request(server: RunningServer, experiment_id: str) -> None:
    draw = get(f"/v1/{experiment_id}/draw")
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(draw)
            assert wire.answer().status == 200
        wire.send(b"PRI * HTTP/2.0\r\n\r\n")
        assert_refused(wire.answer(), 400, "malformed-request")
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.send(draw)
        wire.assert_closed()


def test_empty_lines_cost_nothing_and_keep_nothing_open(server: RunningServer) -> None:
    with Wire(server) as wire, Wire(server) as other:
        wire.send(b"\r\n" * MEGABYTE)
        start = time.monotonic()
        other.assert_open()
        assert time.monotonic() - start < 3
        deadline = time.monotonic() + 8
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                wire.socket.sendall(b"\r\n")
                time.sleep(0.1)
        assert time.monotonic() < deadline, "empty lines keep it open"


def test_an_answer_that_is_left_unread_holds_no_connection(server: RunningServer, experiment_id: str) -> None:
    """Also where what waits is too little to stop the server from writing."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(10)
        deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        for _ in range(400):
            deaf.sendall(post(f"/v1/{experiment_id}/update", {"reward": 1}))
        deadline = time.monotonic() + 10
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < deadline:
                time.sleep(0.1)
                deaf.sendall(b"\r\n")
        assert time.monotonic() < deadline, "it is kept"


@pytest.mark.parametrize("expectation", ["100-continue", "something"])
def test_an_expectation_goes_to_the_application(server: RunningServer, experiment_id: str, expectation: str) -> None:
    for _ in range(3):
        with Wire(server) as wire:
            wire.send(get(f"/v1/{experiment_id}/draw", f"Expect: {expectation}"))
            answer = wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            wire.assert_closed()
