"""Answers whose bytes are ready: what handlers return, and what Litestar sends without another look."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

Header = tuple[bytes, bytes]

JSON_HEADERS: tuple[Header, ...] = ((b"content-type", b"application/json"),)
NO_STORE: tuple[Header, ...] = (*JSON_HEADERS, (b"cache-control", b"no-store"))

_encode = msgspec.json.Encoder().encode


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
        headers = [*self.headers, (b"content-length", b"%d" % len(self.body))]
        if self.status == 204:
            headers = []
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


NO_CONTENT = Answer(status=204, headers=())


def json_answer(document: Any, status: int = 200, headers: Sequence[Header] = JSON_HEADERS) -> Answer:
    return Answer(_encode(document), status, headers)
