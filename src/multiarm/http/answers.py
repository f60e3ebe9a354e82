"""Answers whose bytes are ready: what handlers return, and what Litestar sends without another look."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from multiarm.http.tags import TAG, Tag

Header = tuple[bytes, bytes]

JSON_HEADERS: tuple[Header, ...] = ((b"content-type", b"application/json"),)
CLOSE: Header = (b"connection", b"close")
UNREAD = "unread"  # in a request's state: it waits for `100 Continue`, so that nobody knows what it will send next
NO_STORE: tuple[Header, ...] = (*JSON_HEADERS, (b"cache-control", b"no-store"))

encode = msgspec.json.Encoder().encode


class Answer:
    """A complete response. An ASGI application itself, so that the framework passes it through."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes = b"", status: int = 200, headers: Sequence[Header] = JSON_HEADERS) -> None:
        self.body = body
        self.status = status
        self.headers = headers

    def to_asgi_response(self, *_: Any, **__: Any) -> "Answer":
        """What Litestar asks of the answers of exception handlers."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        scope["state"]["status"] = self.status  # for the ledger
        answer = self.tagged(scope["state"][TAG])
        headers = [*answer.all_headers, CLOSE] if scope["state"].get(UNREAD) else answer.all_headers
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    def tagged(self, _tag: Tag) -> "Answer":
        """The same, with the request's ids in the body of a problem; who sends it adds those of the head."""
        return self

    @property
    def all_headers(self) -> list[Header]:
        """With the length of the body, where there may be one."""
        return [] if self.status == 204 else [*self.headers, (b"content-length", b"%d" % len(self.body))]

    def on_the_wire(self, first_headers: Iterable[Header], *, close: bool = False) -> bytes:
        """The whole response, as uvicorn would send it. `first_headers`: those of every response, such as `date`."""
        headers = [*first_headers, *self.all_headers, *([CLOSE] if close else [])]
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return b"%b%b\r\n%b" % (STATUS_LINE[self.status], lines, self.body)


NO_CONTENT = Answer(status=204, headers=())


def json_answer(document: Any, status: int = 200, headers: Sequence[Header] = JSON_HEADERS) -> Answer:
    return Answer(encode(document), status, headers)
