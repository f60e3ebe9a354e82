"""What the tests of the wire share: exact bytes out, strictly read answers in. Import it as `from wire import …`.

The servers that they speak to are in wire_servers.py.
"""

import json
import re
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import responses
from typing import Any, NamedTuple, Self

from support import PROBLEM_PREFIX, RunningServer

JSON = "Content-Type: application/json"
HOST = "Host: 127.0.0.1"
TIMEOUT_S = 10.0  # for any answer, and any end

_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
_CHANCE = re.compile(
    rb'(?<="arm_id":)"\w+"|(?<="propensity":)[\d.e-]+|(?<="decision_id":)"[\w-]+"'
    rb"|(?<=date: )[^\r]+|(?<=content-length: )\d+"
    rb'|(?<=x-request-id: )[0-9a-f]{20}(?=\r)|(?<="request_id":")[0-9a-f]{20}(?=")'
)
_ALLOW = re.compile(rb"(?<=allow: )[^\r]+")


# --- requests --------------------------------------------------------------------------------------------------


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """Exactly these lines; neither Host nor Content-Length is added."""
    return "".join(f"{part}\r\n" for part in (line, *headers, "")).encode("latin-1") + body


def get(path: str, *headers: str) -> bytes:
    return request(f"GET {path} HTTP/1.1", HOST, *headers)


def post(path: str, document: object, *headers: str) -> bytes:
    """`document` as JSON; bytes as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request(f"POST {path} HTTP/1.1", HOST, JSON, f"Content-Length: {len(body)}", *headers, body=body)


def batch(count: int, prefix: str = "") -> dict[str, Any]:
    """`count` updates of arm `a`, with keys where there is a prefix."""
    keys: list[dict[str, str]] = [{"key": f"{prefix}{number}"} if prefix else {} for number in range(count)]
    return {"updates": [{"arm_id": "a", "reward": 1, **key} for key in keys]}


# --- connections -----------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """`headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection. Every answer is read as it is framed, and not a byte more."""

    def __init__(self, server: RunningServer) -> None:
        self.socket = server.connect()
        self.socket.settimeout(TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = server
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Each in a packet of its own: the server has read the one when the next is sent."""
        self.socket.sendall(pieces[0])
        if len(pieces) > 1:
            with Wire(self._server) as aside:
                for piece in pieces[1:]:
                    aside.assert_open()
                    self.socket.sendall(piece)

    def settle(self) -> None:
        """Until the server has read all that was sent: it has then answered a later request elsewhere."""
        with Wire(self._server) as aside:
            aside.assert_open()

    def half_close(self) -> None:
        """No more will be sent; what is sent to us is still read."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Gone, without a good-bye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def answer(self, method: str = "GET") -> Answer:
        head = self._take_until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert (version, reason) == ("HTTP/1.1", responses[int(status)]), first
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines), f"a header comes twice:\n{head}"
        return Answer(int(status), headers, self._body(method, int(status), headers))

    def answer_after(self, *pieces: bytes) -> Answer:
        self.send(*pieces)
        return self.answer()

    def assert_silent(self) -> None:
        """Nothing has come, though all that was sent has been read, and the connection is open."""
        self.settle()
        assert not self._received, self._received
        assert not select.select([self.socket], [], [], 0)[0], self.socket.recv(1000)

    def assert_open(self) -> None:
        """The next request is answered, and nothing lies before the answer."""
        self.send(get("/v1/ping"))
        answer = self.answer()
        assert (answer.status, answer.json["status"]) == (200, "ok")

    def assert_closed(self) -> None:
        """By the server, after what has been read and nothing more."""
        assert self.rest() == b""

    def at_end(self) -> bool:
        """Whether the server has closed, after what has been read; waits for that, or for more."""
        try:
            return not self._received and not self._receive()
        except ConnectionResetError:
            return True

    def rest(self) -> bytes:
        """Until the server closes, or resets because it was sent more than it reads."""
        with suppress(ConnectionResetError):
            while self._receive():
                pass
        data, self._received = bytes(self._received), bytearray()
        return data

    def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status < 200 or status == 204:
            return b""
        if headers.get("transfer-encoding") != "chunked":
            return self._take(int(headers["content-length"]))
        assert "content-length" not in headers
        body = b""
        while size := int(self._take_until(b"\r\n"), 16):
            body += self._take(size)
            assert self._take(2) == b"\r\n"
        assert self._take(2) == b"\r\n"
        return body

    def _take_until(self, end: bytes) -> bytes:
        while end not in self._received:
            assert self._receive(), f"closed after {bytes(self._received)!r}"
        return self._take(self._received.index(end) + len(end))

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            assert self._receive(), f"closed after {bytes(self._received)!r}"
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def _receive(self) -> int:
        data = self.socket.recv(1 << 16)
        self._received += data
        return len(data)


@contextmanager
def many(server: RunningServer, count: int) -> Iterator[list[Wire]]:
    """So many connections at a time."""
    with ExitStack() as stack:
        yield [stack.enter_context(Wire(server)) for _ in range(count)]


def ask(server: RunningServer, data: bytes, method: str = "GET") -> Answer:
    """One answer, on a connection of its own."""
    with Wire(server) as wire:
        wire.send(data)
        return wire.answer(method)


def blanked(said: bytes) -> bytes:
    """Without what is left to chance and time."""
    return _CHANCE.sub(b"*", said)


def transcript(server: RunningServer, *pieces: bytes) -> bytes:
    """All that the server says to these pieces and the end of sending; what is left to chance is blanked."""
    with Wire(server) as wire:
        with suppress(BrokenPipeError, ConnectionResetError):
            wire.send(*pieces)
            wire.half_close()
        said = blanked(wire.rest())
    said = _ALLOW.sub(lambda allow: b", ".join(sorted(allow.group().split(b", "))), said)
    return said.replace(b"connection: close\r\n", b"")  # said where the end was seen before the answer was there


def assert_refused(answer: Answer, status: int, slug: str) -> None:
    """A problem document of the protocol itself, which says that the connection is closed."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    document = answer.json
    assert (document["type"], document["status"]) == (PROBLEM_PREFIX + slug, status)
    assert document["title"]
    assert document["detail"]
    assert answer.headers["connection"] == "close"
    assert _DATE.fullmatch(answer.headers["date"])


def assert_problem_of_the_app(answer: Answer, status: int, slug: str) -> None:
    """A problem document after which the connection stays open."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    assert answer.json["type"] == PROBLEM_PREFIX + slug
    assert "connection" not in answer.headers
