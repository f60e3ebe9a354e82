"""A yardstick: an ASGI application that draws from memory and does nothing else."""

from typing import Any

from bare_draw import draw

HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    body = draw()
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
