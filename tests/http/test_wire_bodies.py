"""Bodies on the wire: chunked in every way, announced with Expect, missing, and where none is asked for."""

import json
from collections.abc import Callable, Iterator

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, ask, assert_problem_of_the_app, get, post, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()

UPDATE = b'{"arm_id": "a", "reward": 1}'
BODIES = {"update": UPDATE, "update_batch": b'{"updates": [%b]}' % UPDATE}
ONE = {"accepted": 1, "duplicates": 0}
CHUNKED = "Transfer-Encoding: chunked"
EXPECT = "Expect: 100-continue"


def head(experiment_id: str, operation: str, *headers: str) -> bytes:
    return request(f"POST /v1/{experiment_id}/{operation} HTTP/1.1", HOST, JSON, *headers)


def in_one(body: bytes) -> Iterator[bytes]:
    yield b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def in_bytes(body: bytes) -> Iterator[bytes]:
    yield from (b"1\r\n%c\r\n" % byte for byte in body)
    yield b"0\r\n\r\n"


def in_upper_case_with_zeros(body: bytes) -> Iterator[bytes]:
    yield b"000%X\r\n%b\r\n" % (len(body[:-1]), body[:-1])
    yield b"1\r\n%b\r\n0000\r\n\r\n" % body[-1:]


def with_extensions(body: bytes) -> Iterator[bytes]:
    yield b'%x;a;b=c;d="e;f"\r\n%b\r\n' % (len(body), body)
    yield b"0;last\r\n\r\n"


def with_trailers(body: bytes) -> Iterator[bytes]:
    yield from (b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:5], body[5:]))
    yield b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n"


Form = Callable[[bytes], Iterator[bytes]]
FORMS = [in_one, in_bytes, in_upper_case_with_zeros, with_extensions, with_trailers]


@pytest.fixture
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


class TestChunked:
    @pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
    @pytest.mark.parametrize("operation", BODIES)
    def test_in_one_packet_and_in_a_packet_a_chunk(
        self, server: RunningServer, experiment_id: str, operation: str, form: Form
    ) -> None:
        start = head(experiment_id, operation, CHUNKED)
        chunks = list(form(BODIES[operation]))
        draw = get(f"/v1/{experiment_id}/draw")
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(start + b"".join(chunks))
                assert wire.answer().json == ONE
                wire.send(start, *chunks)
                assert wire.answer().json == ONE
                wire.send(start + b"".join(chunks) + draw)
                assert wire.answer().json == ONE
                assert "decision_id" in wire.answer().json
            wire.assert_open()
        assert pulls(server, experiment_id) == 9

    @pytest.mark.parametrize("form", FORMS[2:], ids=lambda form: form.__name__)
    def test_cut_anywhere_and_a_request_behind(self, server: RunningServer, experiment_id: str, form: Form) -> None:
        data = head(experiment_id, "update", CHUNKED) + b"".join(form(UPDATE))
        start = len(data) - len(b"".join(form(UPDATE)))
        draw = get(f"/v1/{experiment_id}/draw")
        with Wire(server) as wire:
            for cut in range(start - 30, len(data) + 1):
                wire.send(data[:cut], data[cut:] + draw)
                assert wire.answer().json == ONE
                assert "decision_id" in wire.answer().json
            wire.send(*((data + draw)[i : i + 1] for i in range(len(data + draw))))
            assert [wire.answer().status for _ in range(2)] == [200, 200]

    @pytest.mark.parametrize("spelling", ["transfer-encoding: Chunked", "TRANSFER-ENCODING:CHUNKED"])
    def test_however_it_is_spelt(self, server: RunningServer, experiment_id: str, spelling: str) -> None:
        data = head(experiment_id, "update", spelling) + b"".join(in_one(UPDATE))
        with Wire(server) as wire:
            wire.send(data * 4)
            assert [wire.answer().json for _ in range(4)] == [ONE] * 4

    def test_an_empty_one_is_no_json(self, server: RunningServer, experiment_id: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(head(experiment_id, "update", CHUNKED) + b"0\r\n\r\n")
                assert_problem_of_the_app(wire.answer(), 400, "malformed-body")
            wire.assert_open()


class TestNoBody:
    @pytest.mark.parametrize("operation", BODIES)
    @pytest.mark.parametrize("headers", [[], [JSON], ["Content-Length: 0"], [JSON, "Content-Length: 0"]])
    def test_where_one_is_needed_is_400(
        self, server: RunningServer, experiment_id: str, operation: str, headers: list[str]
    ) -> None:
        data = request(f"POST /v1/{experiment_id}/{operation} HTTP/1.1", HOST, *headers)
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(data)
                assert_problem_of_the_app(wire.answer(), 400, "malformed-body")
            wire.send(data + get("/v1/ping") + data)
            assert [wire.answer().status for _ in range(3)] == [400, 200, 400]

    @pytest.mark.parametrize(
        "framed",
        [
            (["Content-Length: 0"], b""),
            (["Content-Length: 5"], b"hello"),
            (["Content-Length: 4"], b"\r\n\r\n"),
            ([CHUNKED], b"0\r\n\r\n"),
            ([CHUNKED], b"5\r\nhello\r\n0\r\n\r\n"),
        ],
        ids=lambda framed: str(framed[1]),
    )
    def test_where_none_is_asked_for_it_is_passed_over(
        self, server: RunningServer, experiment_id: str, framed: tuple[list[str], bytes]
    ) -> None:
        headers, body = framed
        data = get(f"/v1/{experiment_id}/draw", *headers) + body
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(data)
                assert "decision_id" in wire.answer().json
            wire.send(data * 3)
            assert all("decision_id" in wire.answer().json for _ in range(3))
            for cut in range(len(data) - len(body) - 8, len(data)):
                wire.send(data[:cut], data[cut:])
                assert "decision_id" in wire.answer().json
            wire.assert_open()


class TestExpect:
    @pytest.mark.parametrize("spelling", [EXPECT, "expect: 100-Continue"])
    @pytest.mark.parametrize("operation", BODIES)
    def test_the_body_is_asked_for(
        self, server: RunningServer, experiment_id: str, operation: str, spelling: str
    ) -> None:
        body = BODIES[operation]
        start = head(experiment_id, operation, spelling, f"Content-Length: {len(body)}")
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(start)
                assert (wire.answer().status, wire.answer_after(body).json) == (100, ONE)
            wire.assert_open()

    def test_a_chunked_one_too(self, server: RunningServer, experiment_id: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(head(experiment_id, "update", EXPECT, CHUNKED))
                assert (wire.answer().status, wire.answer_after(*in_one(UPDATE)).json) == (100, ONE)
            wire.assert_open()

    def test_who_does_not_wait_for_it_gets_his_answer_all_the_same(
        self, server: RunningServer, experiment_id: str
    ) -> None:
        data = head(experiment_id, "update", EXPECT, f"Content-Length: {len(UPDATE)}") + UPDATE
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(data)
                first = wire.answer()
                answer = wire.answer() if first.status == 100 else first
                assert answer.json == ONE
            wire.assert_open()

    def test_what_is_refused_by_its_head_is_not_asked_for(self, server: RunningServer, experiment_id: str) -> None:
        for operation in BODIES:
            for _ in range(3):
                answer = ask(server, head(experiment_id, operation, EXPECT, "Content-Length: 1000000000"))
                assert answer.status == 413
                assert answer.json["type"].endswith("body-too-large")

    @pytest.mark.parametrize("operation", BODIES)
    def test_a_refusal_leaves_no_doubt_where_the_next_request_begins(
        self, server: RunningServer, operation: str
    ) -> None:
        """Who is answered at once may send the body or not, RFC 9110 §10.1.1: either it is closed, or it is read."""
        body = BODIES[operation]
        start = head("nobody", operation, EXPECT, f"Content-Length: {len(body)}")
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(start)
                answer = wire.answer()
                if answer.status == 100:
                    answer = wire.answer_after(body)
                assert answer.status == 404
                if answer.headers.get("connection") == "close":
                    wire.assert_closed()
                else:
                    wire.assert_open()

    def test_on_http_1_0_it_means_nothing(self, server: RunningServer, experiment_id: str) -> None:
        line = f"POST /v1/{experiment_id}/update HTTP/1.0"
        length = f"Content-Length: {len(UPDATE)}"
        with Wire(server) as wire:
            wire.send(request(line, HOST, JSON, EXPECT, length), UPDATE)
            assert wire.answer().json == ONE


def test_what_is_refused_for_its_size_may_be_sent_all_the_same(server: RunningServer, experiment_id: str) -> None:
    """The answer comes first; the body, once sent, is passed over, and the connection goes on, or it is closed."""
    size = (8 << 20) + 1
    path = f"/v1/{experiment_id}/update_batch"
    start = request(f"POST {path} HTTP/1.1", HOST, JSON, f"Content-Length: {size}")
    with Wire(server) as wire:
        wire.send(start)
        answer = wire.answer()
        assert (answer.status, answer.json["type"].rpartition(":")[2]) == (413, "body-too-large")
        if answer.headers.get("connection") == "close":
            wire.assert_closed()
        else:
            wire.send(b" " * size)
            wire.assert_open()


@pytest.mark.parametrize("framing", ["Content-Length: {size}", CHUNKED])
@pytest.mark.parametrize("path", ["/v1/{id}/update", "/v1/{id}/update_batch", "/v1/{id}/add_arm", "/v1/nobody/add_arm"])
def test_the_rest_of_a_body_that_was_refused_early_is_no_request(
    server: RunningServer, experiment_id: str, path: str, framing: str
) -> None:
    """Though it looks like one, and one that is well known: else a stranger's body could speak for its sender."""
    known = [
        get(f"/v1/{experiment_id}/draw"),
        post(f"/v1/{experiment_id}/update", UPDATE),
        get("/v1/ping"),
    ]
    size = (8 << 20) + 1
    with Wire(server) as wire:
        for data in known * 3:
            wire.send(data)
            wire.answer()
        start = request(f"POST {path.format(id=experiment_id)} HTTP/1.1", HOST, JSON, framing.format(size=size))
        if framing == CHUNKED:
            start += b"%x\r\n" % size
            if "nobody" not in path:  # that is known to be too much when it is there
                start += b" " * size + b"\r\n%x\r\n" % size
        wire.send(start)
        answer = wire.answer()
        assert answer.status == (404 if framing == CHUNKED and "nobody" in path else answer.status)
        assert answer.status in (404, 413)
        if answer.headers.get("connection") == "close":
            wire.assert_closed()
            return
        for data in known * 2:
            wire.send(data)
            wire.assert_silent()
    assert pulls(server, experiment_id) == 3


def test_the_largest_body_is_read_at_any_pace(server: RunningServer, experiment_id: str) -> None:
    updates = [{"arm_id": "a", "reward": 1}] * 10_000
    data = post(f"/v1/{experiment_id}/update_batch", json.dumps({"updates": updates}).encode().ljust(8 << 20))
    sizes = [len(data), 1_000_000, 65_536]
    with Wire(server) as wire:
        for size in sizes:
            wire.send(*(data[start : start + size] for start in range(0, len(data), size)))
            assert wire.answer().json == {"accepted": 10_000, "duplicates": 0}
        wire.assert_open()
    assert pulls(server, experiment_id) == 10_000 * len(sizes)
