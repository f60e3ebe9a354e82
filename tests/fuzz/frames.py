"""The framing by itself: whatever the cuts, no byte is lost or read twice, and messages end where they should."""

import re
from typing import NamedTuple

import httptools

from fuzz.target import Target, simple
from multiarm.http.framing import Framing, HeadTooLarge
from multiarm.http.head import CHUNKED, Head

LIMIT_BYTES = 1024
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
CODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)


class Message(NamedTuple):
    head: bytes
    body: bytes


class Reader:
    """Reads one connection through the framing and the parser, as the protocol does."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error = ""
        self.taken_bytes = 0
        self._framing = Framing(LIMIT_BYTES)
        self._parser = httptools.HttpRequestParser(self)
        self._rest = b""
        self._head = b""
        self._body = b""

    def feed(self, data: bytes) -> None:
        data, at, taken = self._rest + data, 0, 1
        try:
            while taken and at < len(data):
                taken = self._step(data, at)
                at += taken
                self.taken_bytes += taken
        except HeadTooLarge:
            self.error = "too large"
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.error = "no HTTP"
        self._rest = data[at:]
        assert self.error or len(self._rest) <= LIMIT_BYTES, "more of a head is kept than its limit"

    @property
    def has_long_trailers(self) -> bool:
        """Or chunk extensions."""
        return self.error == "too large" and self._framing.left == CHUNKED

    def _step(self, data: bytes, at: int) -> int:
        if self._framing.left:
            piece = self._framing.body(data, at)
            assert piece, "no progress"
            self._parser.feed_data(piece)
            self._framing.check_overhead()
            return len(piece)
        if empty := self._framing.empty_lines(data, at):
            return empty
        self._head, self._body = self._framing.head(data, at), b""
        assert data[at:].startswith(self._head)
        if self._head:
            known = len(self.messages)
            self._parser.feed_data(self._head)
            assert known + 1 >= len(self.messages), "a head holds two messages"
        return len(self._head)

    # --- what the parser finds ---

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        head = Head(self._parser.get_method(), b"/", self._headers, self._parser.get_http_version())
        if head.objection() is not None:
            raise httptools.HttpParserError("the protocol refuses it")
        self._framing.expect_body(head.body_length)

    def on_body(self, body: bytes) -> None:
        self._framing.found_data()
        self._body += body

    def on_message_complete(self) -> None:
        self._framing.left = 0
        self.messages.append(Message(self._head, self._body))


def one(data: bytes) -> bool:
    count, rest = data[0] % 8 if data else 0, data[1:]
    cuts, stream = rest[:count], rest[count:]
    whole, cut = Reader(), Reader()
    whole.feed(stream)
    places = sorted({place * len(stream) // 256 for place in cuts})
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        if not cut.error:
            cut.feed(stream[start:end])
    if cut.has_long_trailers:  # whose limit is not looked at where they come in one piece
        assert cut.messages == whole.messages[: len(cut.messages)], "cuts change what is read"
        return bool(cut.messages)
    assert cut.messages == whole.messages, "cuts change what is read"
    assert bool(cut.error) == bool(whole.error), "cuts change what is refused"
    assert cut.error or cut.taken_bytes == whole.taken_bytes
    check(stream, whole)
    return bool(whole.messages)


def check(stream: bytes, reader: Reader) -> None:
    """The messages against a reference that knows nothing but lengths, and chunks without extensions or trailers."""
    at = 0
    for message in reader.messages:
        at = end_of_empty_lines(stream, at)
        assert stream.startswith(message.head, at), "a head is another than was sent"
        assert message.head.find(b"\r\n\r\n") == len(message.head) - 4, "a head ends elsewhere"
        at += len(message.head)
        length = stated_length(message.head)
        if length == CHUNKED:
            expected = dechunked(stream, at)
            if expected is None:
                return
            body, at = expected
        else:
            body, at = stream[at : at + length], at + length
        assert message.body == body, "a body is another than was sent"


def end_of_empty_lines(stream: bytes, at: int) -> int:
    while stream[at : at + 1] in (b"\r", b"\n"):
        at += 1
    return at


def stated_length(head: bytes) -> int:
    """Simply: who sends both, or one twice, is refused by the parser."""
    length = LENGTH.search(head)
    return CHUNKED if CODING.search(head) else int(length[1]) if length else 0


def dechunked(stream: bytes, at: int) -> tuple[bytes, int] | None:
    """The body and where it ends; None where it is not of the simplest form."""
    body = b""
    while match := CHUNK.match(stream, at):
        size, start = int(match[1], 16), match.end()
        at = start + size + 2
        if stream[at - 2 : at] != b"\r\n":
            return None
        if not size:
            return body, at
        body += stream[start : start + size]
    return None


GET = b"GET /v1/a/draw HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/a/update HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = (
    b"POST /v1/a/update HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n"
)
SEEDS = [
    b"\0" + GET * 2 + POST,
    b"\3\x10\x80\xf0" + POST + CHUNKS + GET,
    b"\7\1\2\3\x60\x61\x62\x63" + CHUNKS * 2 + POST,
    b"\2\x30\xc0\r\n\n\n" + GET + b"\r\n\r\n" + CHUNKS.replace(b"\r\n3\r\n", b"\r\n3;a=b\r\n") + GET,
    b"\4\x20\x40\x60\x80" + CHUNKS.replace(b"0\r\n\r\n", b"0\r\na: b\r\nc: d\r\n\r\n") + GET,
    b"\1\x80" + GET.replace(b"Host", b"x: " + b"y" * 900 + b"\r\nHost") + GET,
    b"\1\x80" + GET.replace(b"Host", b"x: " + b"y" * 1100 + b"\r\nHost"),
    b"\5\x40\x50\x60\x70\x80" + POST.replace(b": 5", b": 0005") + POST[:-3],
]
WORDS = [
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"0\r\n\r\n",
        b"5\r\n",
        b";a=b",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0", b"PRI * HTTP/2.0"),
    *(GET, POST, CHUNKS, b"\0", b"ffffffff\r\n", b"-1", b" ", b"\t", b":", b"Expect: 100-continue\r\n", b"CONNECT a:1"),
]

TARGET: Target = simple("framing", one, SEEDS, WORDS, 10)
