"""What is no HTTP/1.1 is refused with a problem document, and nothing behind it on that connection is answered."""

import random

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, assert_problem_of_the_app, assert_refused, get, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()

BODY = b'{"arm_id": "a", "reward": 1}'
LENGTH = f"Content-Length: {len(BODY)}"

CONTENT_LENGTHS = [
    "-1",
    "+28",
    "abc",
    "28, 28",
    "28 28",
    "28;",
    "28.0",
    "2e1",
    "0x1c",
    "",
    "9" * 25,
    str(1 << 64),
]
FRAMINGS = [
    *([f"Content-Length: {value}"] for value in CONTENT_LENGTHS),
    [LENGTH, LENGTH],
    [LENGTH, "Content-Length: 3"],
    [LENGTH, "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", LENGTH],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    ["Transfer-Encoding: gzip"],
    ["Transfer-Encoding: chunked, gzip"],
    ["Transfer-Encoding: identity"],
    ["Transfer-Encoding: xchunked"],
    ["Transfer-Encoding: chunked;q=1"],
    ["Transfer-Encoding: "],
]
HEADERS = [
    "Na me: x",
    "Name : x",
    "Name",
    "N\0: x",
    "N(: x",
    "N\xe9: x",
    ": x",
    "Name: a\0b",
    "Name: a\x01b",
    "Name: a\x7fb",
    "Name: a\rb",
    "Name: a\nb",
    "Name: a\r\n b",
    " Name: a",
]
LINES = [
    "FOO /v1/ping HTTP/1.1",
    "get /v1/ping HTTP/1.1",
    "G@T /v1/ping HTTP/1.1",
    " GET /v1/ping HTTP/1.1",
    "GET\t/v1/ping HTTP/1.1",
    "GET /v1/ping HTTP/1.1 ",
    "GET /v1/ping HTTP/1.2",
    "GET /v1/ping HTTP/1",
    "GET /v1/ping HTTP/1.10",
    "GET /v1/ping HTTPS/1.1",
    "GET /v1/ping http/1.1",
    "GET HTTP/1.1",
    "GET v1/ping HTTP/1.1",
    "GET /v1/\0ping HTTP/1.1",
    "GET /v1/ping\x7f HTTP/1.1",
    "GET /v1/p\xc3\xadng HTTP/1.1",
    "GET /v1/ ping HTTP/1.1",
    " ",
]
CHUNKS = [
    b"zz\r\n",
    b"-5\r\n",
    b"0x5\r\n",
    b"5 \r\n",
    b"5;\r\n",
    b"5\n",
    b"\r\n5\r\n",
    b"F" * 17 + b"\r\n",
    b"1c\r\n%bX\r\n0\r\n\r\n" % BODY,
    b"1c\r\n%b\n0\r\n\r\n" % BODY,
    b"1c\r\n%b0\r\n\r\n" % BODY,
    b'1c;x="a\r\nb"\r\n%b\r\n0\r\n\r\n' % BODY,
]


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


@pytest.fixture(autouse=True)
def unharmed(server: RunningServer) -> None:
    """The server goes on, whatever it was sent: each test begins with this, and the last one's harm shows here too."""
    with Wire(server) as wire:
        wire.assert_open()


def refuse(server: RunningServer, experiment_id: str, bad: bytes, status: int, slug: str) -> None:
    """Alone; after good requests, in the same packet and in others; with good ones behind it."""
    good = get(f"/v1/{experiment_id}/draw")
    for before in (0, 1, 3):
        with Wire(server) as wire:
            wire.send(good * before + bad + good * 2)
            assert [wire.answer().status for _ in range(before)] == [200] * before
            assert_refused(wire.answer(), status, slug)
            wire.assert_closed()
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(good)
            assert wire.answer().status == 200
        wire.send(bad)
        assert_refused(wire.answer(), status, slug)
        wire.assert_closed()


class TestMalformed:
    @pytest.mark.parametrize("framing", FRAMINGS, ids=lambda framing: ", ".join(framing)[:60])
    def test_a_length_that_is_none(self, server: RunningServer, experiment_id: str, framing: list[str]) -> None:
        for operation in ("update", "update_batch", "add_arm"):
            line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
            refuse(server, experiment_id, request(line, HOST, JSON, *framing, body=BODY), 400, "malformed-request")
        line = f"GET /v1/{experiment_id}/draw HTTP/1.1"
        refuse(server, experiment_id, request(line, HOST, *framing, body=BODY), 400, "malformed-request")

    @pytest.mark.parametrize("header", HEADERS, ids=repr)
    def test_a_header_that_is_none(self, server: RunningServer, experiment_id: str, header: str) -> None:
        for path in (f"/v1/{experiment_id}/draw", "/v1/ping"):
            refuse(server, experiment_id, get(path, header), 400, "malformed-request")

    @pytest.mark.parametrize("line", LINES, ids=repr)
    def test_a_request_line_that_is_none(self, server: RunningServer, experiment_id: str, line: str) -> None:
        refuse(server, experiment_id, request(line, HOST), 400, "malformed-request")

    @pytest.mark.parametrize(
        "data",
        [
            b"GET /v1/ping HTTP/1.1\nHost: 127.0.0.1\n\n",
            b"GET /v1/ping HTTP/1.1\r\nHost: 127.0.0.1\n\r\n",
            b"GET /v1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\n",
            b"GET /v1/ping HTTP/1.1\rHost: 127.0.0.1\r\r",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00" * 64,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            random.Random(1).randbytes(1000),
        ],
        ids=lambda data: repr(data[:50]),
    )
    def test_bytes_that_are_none(self, server: RunningServer, experiment_id: str, data: bytes) -> None:
        refuse(server, experiment_id, data, 400, "malformed-request")

    @pytest.mark.parametrize("chunks", CHUNKS, ids=repr)
    def test_chunks_that_are_none(self, server: RunningServer, chunks: bytes) -> None:
        experiment_id = new_experiment(server)
        for operation in ("update", "update_batch", "add_arm"):
            line = f"POST /v1/{experiment_id}/{operation} HTTP/1.1"
            bad = request(line, HOST, JSON, "Transfer-Encoding: chunked", body=chunks)
            refuse(server, experiment_id, bad, 400, "malformed-request")
        assert pulls(server, experiment_id) == 0

    @pytest.mark.parametrize("hosts", [[], [HOST, HOST], [HOST, "Host: evil.example"], ["host: 127.0.0.1", HOST]])
    def test_no_host_or_more_than_one(self, server: RunningServer, experiment_id: str, hosts: list[str]) -> None:
        for line in (
            f"GET /v1/{experiment_id}/draw HTTP/1.1",
            "GET /v1/ping HTTP/1.1",
            "PUT /v1/nobody/reset HTTP/1.1",
        ):
            refuse(server, experiment_id, request(line, *hosts), 400, "malformed-request")
        line = f"POST /v1/{experiment_id}/update HTTP/1.1"
        bad = request(line, *hosts, JSON, LENGTH, body=BODY)
        refuse(server, experiment_id, bad, 400, "malformed-request")

    def test_it_is_known_as_soon_as_it_is_there_however_it_comes(
        self, server: RunningServer, experiment_id: str
    ) -> None:
        bad = get(f"/v1/{experiment_id}/draw", "Name : x")
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(*(bad[i : i + 1] for i in range(bad.index(b" :") + 2)))
                assert_refused(wire.answer(), 400, "malformed-request")
                wire.assert_closed()

    def test_nothing_is_counted_of_what_lies_behind_it(self, server: RunningServer) -> None:
        experiment_id = new_experiment(server)
        good = request(f"POST /v1/{experiment_id}/update HTTP/1.1", HOST, JSON, LENGTH, body=BODY)
        with Wire(server) as wire:
            wire.send(good * 2 + get("/v1/ping", "Bad : x") + good * 5)
            assert [wire.answer().status for _ in range(3)] == [200, 200, 400]
            wire.assert_closed()
        assert pulls(server, experiment_id) == 2


class TestOtherVersionsAndMethods:
    @pytest.mark.parametrize("line", ["GET {path}", "GET {path} HTTP/0.9", "GET {path} HTTP/2.0"])
    def test_another_version(self, server: RunningServer, experiment_id: str, line: str) -> None:
        for path in (f"/v1/{experiment_id}/draw", "/v1/ping"):
            bad = request(line.format(path=path), HOST)
            refuse(server, experiment_id, bad, 505, "http-version-not-supported")

    def test_http_2_with_prior_knowledge_is_refused(self, server: RunningServer) -> None:
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                answer = wire.answer()
                slugs = {400: "malformed-request", 505: "http-version-not-supported"}
                assert_refused(answer, answer.status, slugs[answer.status])
                wire.assert_closed()

    @pytest.mark.parametrize("target", ["127.0.0.1:80", "evil.example:443"])
    def test_connect(self, server: RunningServer, experiment_id: str, target: str) -> None:
        refuse(server, experiment_id, request(f"CONNECT {target} HTTP/1.1", HOST), 501, "not-implemented")

    @pytest.mark.parametrize("method", ["TRACE", "PATCH", "PURGE", "M-SEARCH", "PROPFIND"])
    def test_methods_that_no_route_has_are_the_apps(
        self, server: RunningServer, experiment_id: str, method: str
    ) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request(f"{method} /v1/{experiment_id}/draw HTTP/1.1", HOST))
                assert_problem_of_the_app(wire.answer(method), 405, "method-not-allowed")
            wire.assert_open()
