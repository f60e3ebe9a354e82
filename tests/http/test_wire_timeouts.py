"""How long a head and a body may take to come, and how long an idle connection is kept."""

import sqlite3
import time
from contextlib import closing

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, assert_refused, get, lane_server, many, new_experiment, post, pulls, request

HEAD_S = 0.6
BODY_S = 0.7
IDLE_S = 0.8
SLACK_S = 5.0  # of a busy machine

server = lane_server(head_timeout_s=HEAD_S, body_timeout_s=BODY_S, keep_alive_timeout_s=IDLE_S)

UPDATE = {"arm_id": "a", "reward": 1}


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


@pytest.fixture
def clock() -> float:
    return time.monotonic()


def assert_within(begin: float, least_s: float) -> None:
    took_s = time.monotonic() - begin
    assert least_s * 0.9 <= took_s <= least_s + SLACK_S


class TestHead:
    def test_one_that_is_never_whole_is_408(self, server: RunningServer, experiment_id: str, clock: float) -> None:
        draw, update = get(f"/v1/{experiment_id}/draw"), post(f"/v1/{experiment_id}/update", UPDATE)
        starts = [b"G", draw[:-1], draw[:-2], draw[:20], update[:60], get("/v1/ping")[:-1], b"\r\nGET"]
        with many(server, len(starts)) as wires:
            for wire, start in zip(wires, starts, strict=True):
                wire.send(start)
            for wire in wires:
                assert_refused(wire.answer(), 408, "request-timeout")
                assert_within(clock, HEAD_S)
                wire.assert_closed()

    def test_its_time_counts_from_its_first_byte(self, server: RunningServer, clock: float) -> None:
        """However steadily the others follow."""
        with Wire(server) as wire:
            wire.socket.settimeout(0.05)
            wire.send(b"GET /v1/ping HTTP/1.1\r\n")
            trickle(wire, b"X: y\r\n")
            wire.socket.settimeout(15)
            assert_refused(wire.answer(), 408, "request-timeout")
            assert_within(clock, HEAD_S)

    def test_the_second_of_a_connection_has_its_own_time(self, server: RunningServer, experiment_id: str) -> None:
        draw = get(f"/v1/{experiment_id}/draw")
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(draw)
                assert wire.answer().status == 200
                time.sleep(HEAD_S / 2)
            wire.send(draw + draw[:-2])
            begin = time.monotonic()
            assert wire.answer().status == 200
            assert_refused(wire.answer(), 408, "request-timeout")
            assert_within(begin, HEAD_S)
            wire.assert_closed()

    def test_one_that_comes_slowly_but_in_time_is_answered(self, server: RunningServer, experiment_id: str) -> None:
        draw = get(f"/v1/{experiment_id}/draw")
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(draw[:20])
                time.sleep(HEAD_S / 3)
                wire.send(draw[20:])
                assert wire.answer().status == 200


class TestBody:
    @pytest.mark.parametrize("operation", ["update", "update_batch", "add_arm"])
    def test_one_that_is_never_whole_is_408(self, server: RunningServer, clock: float, operation: str) -> None:
        experiment_id = new_experiment(server)
        data = post(f"/v1/{experiment_id}/{operation}", UPDATE)
        draw = get(f"/v1/{experiment_id}/draw")
        start = data.index(b"\r\n\r\n") + 4
        line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
        chunked = request(line, HOST, JSON, "Transfer-Encoding: chunked")
        expecting = request(line, HOST, JSON, "Content-Length: 28", "Expect: 100-continue")
        starts = [data[:start], data[:-1], chunked, chunked + b"5\r\n", chunked + b"1\r\n{\r\n0\r\n", draw + data[:-5]]
        with many(server, len(starts) + 1) as wires:
            for wire, piece in zip(wires, [*starts, expecting], strict=True):
                wire.send(piece)
            assert wires[len(starts) - 1].answer().status == 200
            assert wires[-1].answer().status == 100
            for wire in wires:
                assert_refused(wire.answer(), 408, "request-timeout")
                assert_within(clock, BODY_S)
                wire.assert_closed()
        assert pulls(server, experiment_id) == 0

    def test_its_time_counts_from_the_end_of_its_head(self, server: RunningServer, experiment_id: str) -> None:
        for operation in ("update", "add_arm"):
            begin = time.monotonic()
            with Wire(server) as wire:
                wire.socket.settimeout(0.05)
                line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
                wire.send(request(line, HOST, JSON, "Content-Length: 1000000"))
                trickle(wire, b" ")
                wire.socket.settimeout(15)
                assert_refused(wire.answer(), 408, "request-timeout")
                assert_within(begin, BODY_S)

    def test_what_was_declared_and_never_sent_is_408(self, server: RunningServer, experiment_id: str) -> None:
        body = b'{"arm_id": "a", "reward": 1}'
        for operation in ("update", "update_batch"):
            line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
            for _ in range(2):
                with Wire(server) as wire:
                    wire.send(request(line, HOST, JSON, f"Content-Length: {len(body) + 1}", body=body))
                    assert_refused(wire.answer(), 408, "request-timeout")
                    wire.assert_closed()


def trickle(wire: Wire, piece: bytes) -> None:
    """Again and again, until something comes back."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            wire.socket.sendall(piece)
            if wire.socket.recv(1, 2):  # MSG_PEEK
                return
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return


class TestIdle:
    def test_it_is_closed_without_a_word(self, server: RunningServer, experiment_id: str, clock: float) -> None:
        """Whether or not anything was ever asked on it."""
        asked = [
            [],
            [get(f"/v1/{experiment_id}/draw")],
            [get(f"/v1/{experiment_id}/draw")] * 3,
            [post(f"/v1/{experiment_id}/update", UPDATE)],
            [get("/v1/ping")],
            [get("/nowhere"), get(f"/v1/{experiment_id}/draw")],
        ]
        with many(server, len(asked)) as wires:
            for wire, requests in zip(wires, asked, strict=True):
                for data in requests:
                    wire.send(data)
                    wire.answer()
            for wire in wires:
                wire.assert_closed()
                assert_within(clock, IDLE_S)

    def test_requests_keep_it_open(self, server: RunningServer, experiment_id: str) -> None:
        draw = get(f"/v1/{experiment_id}/draw")
        end = time.monotonic() + 2 * IDLE_S
        with Wire(server) as wire:
            while time.monotonic() < end:
                wire.send(draw)
                assert wire.answer().status == 200
                time.sleep(IDLE_S / 8)
            wire.assert_open()


@pytest.mark.parametrize("operation", ["update", "update_batch", "reset"])
def test_none_of_them_counts_while_the_server_owes_the_answer(
    server: RunningServer, experiment_id: str, operation: str
) -> None:
    bodies = {"update": UPDATE, "update_batch": {"updates": [UPDATE]}}
    if operation == "reset":
        data = request(f"PUT /v1/{experiment_id}/reset HTTP/1.1", HOST)
    else:
        data = post(f"/v1/{experiment_id}/{operation}", bodies[operation])
    draw = get(f"/v1/{experiment_id}/draw")
    with closing(sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)) as other, Wire(server) as wire:
        other.execute("BEGIN IMMEDIATE")
        wire.send(data + draw + draw[:-10])
        time.sleep(max(HEAD_S, BODY_S, IDLE_S) * 2)
        wire.send(draw[-10:])
        wire.assert_silent()
        other.execute("ROLLBACK")
        assert wire.answer().status in (200, 204)
        assert [wire.answer().status for _ in range(2)] == [200, 200]
