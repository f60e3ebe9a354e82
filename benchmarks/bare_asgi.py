"""The yardstick: an ASGI application that answers a constant of the size of a draw."""

from typing import Any

BODY = b'{"arm_id":"arm-1","propensity":0.2,"decision_id":"' + b"x" * 92 + b'","payload":null}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))],
}


async def app(_scope: Any, _receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": BODY})
