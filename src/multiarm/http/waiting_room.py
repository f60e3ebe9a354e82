"""While the server loads: `/health/live` is told that it lives, everything else that it is not ready."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import cast

import httptools

from multiarm.domain.errors import Starting
from multiarm.http.answers import Answer, Header, json_answer
from multiarm.http.framing import END_OF_HEAD
from multiarm.http.problems import problem
from multiarm.http.tags import Tag, new_tag, tag_of
from multiarm.http.views import Status
from multiarm.settings import Settings

LIVE = re.compile(rb"(GET|HEAD) /health/live HTTP/1\.[01]\r\n")
STARTING = Starting("Experiments are being loaded; come again in a moment.")


@contextlib.asynccontextmanager
async def waiting_room(listener: socket.socket, settings: Settings) -> AsyncIterator[None]:
    """Answers on `listener`, which then goes on to listen, until the end of the `with`."""
    loop = asyncio.get_running_loop()
    visitors: set[Visitor] = set()
    server = await loop.create_server(lambda: Visitor(visitors, settings), sock=listener.dup())
    try:
        yield
    finally:
        server.close()
        for visitor in list(visitors):
            visitor.leave()


class Visitor(asyncio.Protocol):
    """A connection with one request, whose head alone is read."""

    def __init__(self, visitors: "set[Visitor]", settings: Settings) -> None:
        self._visitors = visitors
        self._settings = settings
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast("asyncio.Transport", transport)
        self._visitors.add(self)
        self._timer = asyncio.get_running_loop().call_later(self._settings.head_timeout_s, self.leave)
        if len(self._visitors) > self._settings.connection_limit:
            self.leave()

    def data_received(self, data: bytes) -> None:
        if self._wire.is_closing():
            return
        self._head += data
        if END_OF_HEAD in self._head:
            self._answer()
        elif len(self._head) > self._settings.head_limit_bytes:
            self.leave()

    def connection_lost(self, _error: Exception | None) -> None:
        self._timer.cancel()
        self._visitors.discard(self)

    def leave(self) -> None:
        self._wire.close()

    def _answer(self) -> None:
        tag = tag_in(self._head.partition(END_OF_HEAD)[0] + END_OF_HEAD)
        answer: Answer = json_answer(Status("ok")) if LIVE.match(self._head) else problem(STARTING).tagged(tag)
        first_headers = [(b"date", formatdate(usegmt=True).encode()), *tag.headers]
        data = answer.on_the_wire(first_headers, close=True)
        self._wire.write(data.partition(END_OF_HEAD)[0] + END_OF_HEAD if self._head.startswith(b"HEAD ") else data)
        self.leave()


class Headers:
    """What the parser finds."""

    def __init__(self) -> None:
        self.found: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.lower(), value))


def tag_in(head: bytes) -> Tag:
    """What the caller knows it by, or a new one: also where this is no head that could be read."""
    headers = Headers()
    try:
        with contextlib.suppress(httptools.HttpParserUpgrade):  # raised after the last header
            httptools.HttpRequestParser(headers).feed_data(head)
    except httptools.HttpParserError:
        return new_tag()
    return tag_of(headers.found) or new_tag()
