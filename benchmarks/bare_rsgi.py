"""A yardstick: the same draw on Granian's own interface."""

from typing import Any

from bare_draw import draw

HEADERS = [("content-type", "application/json"), ("cache-control", "no-store")]


async def app(_scope: Any, protocol: Any) -> None:
    protocol.response_bytes(200, HEADERS, draw())
