"""How many requests may be in the application at a time, and how many bytes of large bodies in all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, assert_problem_of_the_app, assert_refused, get, many, post, request
from wire_servers import lane_servers, memory_bytes, new_experiment, pulls, wait_until, warm_up

MEGABYTE = 1_000_000
REQUEST_LIMIT, BODIES_LIMIT = 4, 400_000
LARGE = 150_000  # two of them are within BODIES_LIMIT, three are not
SMALL = 60_000  # not counted
PIECE = 30_000  # what the server takes at once, so that it has read the one when the next is sent
BODIES = {
    "update": b'{"arm_id": "a", "reward": 1}',
    "update_batch": b'{"updates": [{"arm_id": "a", "reward": 1}]}',
    "add_arm": b"{}",  # the application's in any case
}

Begin = Callable[[Wire, str, str], bytes]
Leave = Callable[[Wire], None]

servers = lane_servers(request_limit=REQUEST_LIMIT, bodies_limit_bytes=BODIES_LIMIT)
hasty_servers = lane_servers(bodies_limit_bytes=BODIES_LIMIT, body_timeout_s=0.5)


# --- requests in the application -------------------------------------------------------------------------------


def begin_creating(wires: Sequence[Wire]) -> None:
    """Requests that are in the application, which waits for two bytes more."""
    for wire in wires:
        wire.send(request("POST /v1/create HTTP/1.1", HOST, JSON, "Content-Length: 2"))
        wire.settle()


@contextmanager
def busy(server: RunningServer) -> Iterator[tuple[list[Wire], Wire]]:
    """As many requests in the application as there may be; and another connection."""
    with many(server, REQUEST_LIMIT) as slow, Wire(server) as wire:
        begin_creating(slow)
        yield slow, wire


def lists(wire: Wire) -> bool:
    """Whether the application takes another request."""
    return wire.answer_after(get("/v1/list")).status == 200


def reset(wire: Wire) -> None:
    wire.reset()


def close(wire: Wire) -> None:
    wire.socket.close()


class TestRequests:
    def test_one_too_many_is_503_and_its_connection_stays_open(self, servers: list[RunningServer]) -> None:
        for server in servers:
            with busy(server) as (_, wire):
                for data in (get("/v1/list"), post("/v1/create", {}), get("/nowhere"), get("/v1/x/stats")):
                    answer = wire.answer_after(data)
                    assert_problem_of_the_app(answer, 503, "overloaded")
                    assert "request_limit" in answer.json["detail"]
                    assert int(answer.headers["retry-after"]) >= 1
                wire.assert_open()

    def test_those_inside_are_not_disturbed_and_make_room_when_they_are_done(
        self, servers: list[RunningServer]
    ) -> None:
        for server in servers:
            with busy(server) as (slow, wire):
                for one in slow:
                    assert not lists(wire)
                    assert one.answer_after(b"{}").status == 201
                    assert lists(wire)
                    begin_creating([one])

    @pytest.mark.parametrize("leave", [reset, close])
    def test_those_that_go_away_make_room(self, servers: list[RunningServer], leave: Leave) -> None:
        for server in servers:
            with busy(server) as (slow, wire):
                assert not lists(wire)
                leave(slow[0])
                wait_until(partial(lists, wire), "no room was made")

    def test_ping_and_health_answer_all_the_same(self, servers: list[RunningServer]) -> None:
        for server in servers:
            with busy(server) as (_, wire):
                for path in ("/v1/ping", "/health/live", "/health/ready") * 3:
                    assert wire.answer_after(get(path)).status == 200

    def test_the_express_lane_is_not_the_application(self, servers: list[RunningServer]) -> None:
        """What it takes is bounded by the connections and by the store's mailbox."""
        [lane] = [server for server in servers if server.settings["express_lane"] == "true"]
        experiment_id = new_experiment(lane)
        with busy(lane) as (_, wire):
            assert wire.answer_after(get(f"/v1/{experiment_id}/draw")).status == 200
            for operation in ("update", "update_batch"):
                assert wire.answer_after(post(f"/v1/{experiment_id}/{operation}", BODIES[operation])).status == 200
            assert not lists(wire)


# --- large bodies ----------------------------------------------------------------------------------------------


def begin_stated(wire: Wire, experiment_id: str, operation: str, size: int = LARGE) -> bytes:
    """All of a body but what is returned."""
    body = BODIES[operation].ljust(size)
    head = request(f"POST /v1/{experiment_id}/{operation} HTTP/1.1", HOST, JSON, f"Content-Length: {size}")
    wire.send(head, body[:-1])
    wire.settle()
    return body[-1:]


def begin_chunked(wire: Wire, experiment_id: str, operation: str, size: int = LARGE) -> bytes:
    body = BODIES[operation].ljust(size)
    head = request(f"POST /v1/{experiment_id}/{operation} HTTP/1.1", HOST, JSON, "Transfer-Encoding: chunked")
    pieces = [body[at : at + PIECE] for at in range(0, size, PIECE)]
    wire.send(head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces))
    wire.settle()
    return b"0\r\n\r\n"


def is_let_in(server: RunningServer, experiment_id: str, operation: str, begin: Begin) -> bool:
    """One more large body; it is gone afterwards, and what it was told where it is refused is right."""
    with Wire(server) as wire:
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.socket.sendall(begin(wire, experiment_id, operation))
        answer = wire.answer()
    if answer.status == 503:
        assert answer.json["type"].endswith(":overloaded")
        assert "bodies_limit_bytes" in answer.json["detail"]
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status in (200, 201)


@contextmanager
def two_large(
    server: RunningServer, experiment_id: str, operation: str, begin: Begin
) -> Iterator[list[tuple[Wire, bytes]]]:
    """Two large bodies under way, and what each lacks; a third is refused."""
    with many(server, 2) as wires:
        held = [(wire, begin(wire, experiment_id, operation)) for wire in wires]
        assert not is_let_in(server, experiment_id, operation, begin)
        yield held


@pytest.mark.parametrize("operation", list(BODIES))
@pytest.mark.parametrize("begin", [begin_stated, begin_chunked])
class TestLargeBodies:
    def test_those_inside_are_not_disturbed_and_make_room_when_they_are_answered(
        self, servers: list[RunningServer], operation: str, begin: Begin
    ) -> None:
        for server in servers:
            experiment_id = new_experiment(server)
            with two_large(server, experiment_id, operation, begin) as held:
                for wire, end in held:
                    wire.assert_silent()
                    assert wire.answer_after(end).status in (200, 201)
                    wire.assert_open()
                    assert is_let_in(server, experiment_id, operation, begin)
            if operation != "add_arm":
                assert pulls(server, experiment_id) == 4  # and none that was refused

    @pytest.mark.parametrize("leave", [reset, close])
    def test_those_that_go_away_make_room(
        self, servers: list[RunningServer], operation: str, begin: Begin, leave: Leave
    ) -> None:
        for server in servers:
            experiment_id = new_experiment(server)
            with two_large(server, experiment_id, operation, begin) as held:
                leave(held[0][0])
                wait_until(partial(is_let_in, server, experiment_id, operation, begin), "no room was made")

    def test_those_that_take_too_long_make_room(
        self, hasty_servers: list[RunningServer], operation: str, begin: Begin
    ) -> None:
        for server in hasty_servers:
            experiment_id = new_experiment(server)
            with many(server, 2) as wires:
                for wire in wires:
                    with suppress(BrokenPipeError, ConnectionResetError):
                        begin(wire, experiment_id, operation)
                for wire in wires:
                    assert_refused(wire.answer(), 408, "request-timeout")
                wait_until(partial(is_let_in, server, experiment_id, operation, begin), "no room was made")

    def test_small_ones_are_not_counted(self, servers: list[RunningServer], operation: str, begin: Begin) -> None:
        for server in servers:
            experiment_id = new_experiment(server)
            with two_large(server, experiment_id, operation, begin), many(server, 2) as wires:
                for small in (begin_stated, begin_chunked):
                    ends = [small(wire, experiment_id, operation, SMALL) for wire in wires]
                    for wire, end in zip(wires, ends, strict=True):
                        assert wire.answer_after(end).status in (200, 201)
                assert not is_let_in(server, experiment_id, operation, begin)


@pytest.mark.parametrize("operation", list(BODIES))
def test_many_at_a_time_take_little_memory(servers: list[RunningServer], operation: str) -> None:
    """40 of 2 MB would be 80 MB; a lone one is let in whatever its size."""
    size, count = 2 * MEGABYTE, 40
    for server in servers:
        experiment_id = warm_up(server)
        path = f"/v1/{experiment_id}/{operation}"
        data = post(path, BODIES[operation].ljust(size))
        before = memory_bytes(server)
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(server)) for _ in range(count)]
            for wire in wires:
                wire.socket.settimeout(0.02)
                with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                    wire.socket.sendall(data[:-1])
            assert memory_bytes(server) - before < 20 * MEGABYTE
            assert ask_draw(server, experiment_id) == 200


def ask_draw(server: RunningServer, experiment_id: str) -> int:
    with Wire(server) as wire:
        return wire.answer_after(get(f"/v1/{experiment_id}/draw")).status
