"""How large a head and a body may be."""

from collections.abc import Callable

import pytest

from support import RunningServer
from wire import HOST, JSON, TIMEOUT_S, Wire, assert_problem_of_the_app, assert_refused, batch, get, many, post, request
from wire_servers import lane_server, memory_bytes, new_experiment, pulls, warm_up

HEAD_LIMIT = 2000
BODY_LIMIT = 4096
BOMBERS = 100
MEGABYTE = 1_000_000

server = lane_server(head_limit_bytes=HEAD_LIMIT, body_limit_bytes=BODY_LIMIT, allowed_hosts="*")


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


def requests_of(experiment_id: str) -> list[bytes]:
    update = {"arm_id": "a", "reward": 1}
    return [
        get(f"/v1/{experiment_id}/draw"),
        post(f"/v1/{experiment_id}/update", update),
        post(f"/v1/{experiment_id}/update_batch", batch(2)),
        get("/v1/ping"),
        post("/v1/create", {"experiment_id": experiment_id}),
    ]


def with_one_header(data: bytes, size: int) -> bytes:
    """The same with a head of exactly `size` bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\nX: ".ljust(size - len(head) - 4, b"x") + b"\r\n\r\n" + body


def with_many_headers(data: bytes, size: int) -> bytes:
    head, _, body = data.partition(b"\r\n\r\n")
    count, left = divmod(size - len(head) - 4, 5)
    return head + b"\r\nX:x" * (count - 1) + b"\r\nX:x" + b"x" * left + b"\r\n\r\n" + body


class TestHead:
    @pytest.mark.parametrize("enlarged", [with_one_header, with_many_headers])
    def test_the_limit_itself_is_allowed(
        self, server: RunningServer, experiment_id: str, enlarged: Callable[[bytes, int], bytes]
    ) -> None:
        with Wire(server) as wire:
            for data in requests_of(experiment_id) * 3:
                large = enlarged(data, HEAD_LIMIT)
                assert large.index(b"\r\n\r\n") + 4 == HEAD_LIMIT
                wire.send(large)
                assert wire.answer().status in (200, 409)
                cut = 1500
                wire.send(large[:cut], large[cut:])
                assert wire.answer().status in (200, 409)
            wire.assert_open()

    @pytest.mark.parametrize("enlarged", [with_one_header, with_many_headers])
    def test_a_byte_more_is_431(
        self, server: RunningServer, experiment_id: str, enlarged: Callable[[bytes, int], bytes]
    ) -> None:
        for data in requests_of(experiment_id):
            large = enlarged(data, HEAD_LIMIT + 1)
            for pieces in ([large], [large[:1000], large[1000:]], [data + data + large]):
                with Wire(server) as wire:
                    wire.send(*pieces)
                    for _ in range(2 if pieces[0] not in large else 0):
                        assert wire.answer().status in (200, 409)
                    assert_refused(wire.answer(), 431, "head-too-large")
                    wire.assert_closed()

    def test_a_long_target_is_431_too(self, server: RunningServer, experiment_id: str) -> None:
        for path in (f"/v1/{experiment_id}/draw?{'q' * HEAD_LIMIT}", f"/v1/{'e' * HEAD_LIMIT}/draw"):
            with Wire(server) as wire:
                wire.send(get(path))
                assert_refused(wire.answer(), 431, "head-too-large")
                wire.assert_closed()

    def test_one_without_an_end_is_refused_when_it_passes_the_limit(self, server: RunningServer) -> None:
        start = b"GET /v1/ping HTTP/1.1\r\nX: "
        for pieces in ([start + b"x" * HEAD_LIMIT], [start, *[b"x" * 100] * 20], [b"G" * (HEAD_LIMIT + 1)]):
            with Wire(server) as wire:
                wire.send(*pieces)
                answer = wire.answer()
                if answer.status == 400:  # no method is that long
                    assert pieces[0].startswith(b"GG")
                else:
                    assert_refused(answer, 431, "head-too-large")
                wire.assert_closed()

    def test_a_body_behind_it_is_no_part_of_it(self, server: RunningServer, experiment_id: str) -> None:
        large = post(f"/v1/{experiment_id}/update", b'{"arm_id": "a", "reward": 1}'.ljust(BODY_LIMIT))
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(with_one_header(large, HEAD_LIMIT))
                assert wire.answer().status == 200
            wire.assert_open()

    @pytest.mark.parametrize("piece", [b"X: y\r\n" * 1000, b"x" * 10_000], ids=["headers", "one header"])
    def test_bombs_take_no_memory(self, server: RunningServer, piece: bytes) -> None:
        """100 connections at a time send headers without an end, until they are refused."""
        experiment_id = warm_up(server)
        draw = get(f"/v1/{experiment_id}/draw")
        with many(server, BOMBERS) as wires, Wire(server) as other:
            before = memory_bytes(server)
            for wire in wires:
                wire.send(b"GET /v1/ping HTTP/1.1\r\nX: y\r\nY: ")
            for wire in wires:
                bomb(wire, piece)
            for wire in wires:
                assert_refused(wire.answer(), 431, "head-too-large")
            other.send(draw)
            assert other.answer().status == 200
            assert memory_bytes(server) - before < 10 * MEGABYTE
            for wire in wires:
                wire.assert_closed()
            other.assert_open()


def bomb(wire: Wire, piece: bytes) -> None:
    """As much as it takes at once, up to 5 MB."""
    wire.socket.settimeout(0.005)
    try:
        for _ in range(5 * MEGABYTE // len(piece)):
            wire.socket.sendall(piece)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass
    finally:
        wire.socket.settimeout(TIMEOUT_S)


class TestBody:
    @pytest.mark.parametrize("operation", ["update", "update_batch", "add_arm"])
    def test_the_limit_itself_is_allowed_and_a_byte_more_is_not(self, server: RunningServer, operation: str) -> None:
        experiment_id = new_experiment(server)
        body = {
            "update": b'{"arm_id": "a", "reward": 1}',
            "update_batch": b'{"updates": [{"arm_id": "a", "reward": 1}]}',
        }
        path = f"/v1/{experiment_id}/{operation}"
        text = body.get(operation, b"{}")
        good, large = post(path, text.ljust(BODY_LIMIT)), post(path, text.ljust(BODY_LIMIT + 1))
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(good)
                assert wire.answer().status in (200, 201)
                wire.send(large)
                assert_problem_of_the_app(wire.answer(), 413, "body-too-large")
                wire.assert_open()
            wire.send(good + large + good)
            assert [wire.answer().status // 100 for _ in range(3)] == [2, 4, 2]
        if operation != "add_arm":
            assert pulls(server, experiment_id) == 5

    @pytest.mark.parametrize("operation", ["update", "update_batch", "add_arm"])
    def test_chunks_are_counted_as_they_come(self, server: RunningServer, experiment_id: str, operation: str) -> None:
        line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
        start = request(line, HOST, JSON, "Transfer-Encoding: chunked")
        chunk = b"400\r\n%b\r\n" % (b" " * 1024)
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(start, chunk, chunk, chunk, chunk, chunk)
                answer = wire.answer()
                assert (answer.status, answer.json["type"].rpartition(":")[2]) == (413, "body-too-large")

    @pytest.mark.parametrize("operation", ["update", "add_arm"])
    def test_chunks_without_an_end_take_no_memory(self, server: RunningServer, operation: str) -> None:
        """They are passed over for as long as a body may take, or cut off."""
        experiment_id = warm_up(server)
        start = request(f"POST /v1/{experiment_id}/{operation} HTTP/1.1", HOST, JSON, "Transfer-Encoding: chunked")
        before = memory_bytes(server)
        for size in (100, 16_000, 200_000):
            with Wire(server) as wire:
                wire.send(start)
                bomb(wire, b"%x\r\n%b\r\n" % (size, b" " * size))
                assert wire.answer().status == 413
            assert memory_bytes(server) - before < 10 * MEGABYTE


class TestAnyHost:
    """allowed_hosts is `*` here."""

    def test_http_1_0_needs_no_host(self, server: RunningServer, experiment_id: str) -> None:
        for path in (f"/v1/{experiment_id}/draw", "/v1/ping"):
            for _ in range(3):
                with Wire(server) as wire:
                    wire.send(request(f"GET {path} HTTP/1.0"))
                    assert wire.answer().status == 200
                    wire.assert_closed()
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request(f"GET /v1/{experiment_id}/draw HTTP/1.0", "Connection: keep-alive"))
                assert (answer := wire.answer()).status == 200
                assert answer.headers["connection"] == "keep-alive"

    @pytest.mark.parametrize("hosts", [[], [HOST, HOST]])
    def test_http_1_1_needs_one(self, server: RunningServer, experiment_id: str, hosts: list[str]) -> None:
        for path in (f"/v1/{experiment_id}/draw", "/v1/ping"):
            for _ in range(3):
                with Wire(server) as wire:
                    wire.send(request(f"GET {path} HTTP/1.1", *hosts))
                    assert_refused(wire.answer(), 400, "malformed-request")
                    wire.assert_closed()

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "x", "[::2]"])
    def test_any_will_do(self, server: RunningServer, experiment_id: str, host: str) -> None:
        with Wire(server) as wire:
            for target in (f"/v1/{experiment_id}/draw", f"http://{host}/v1/{experiment_id}/draw"):
                for _ in range(3):
                    wire.send(request(f"GET {target} HTTP/1.1", f"Host: {host}"))
                    assert wire.answer().status == 200
