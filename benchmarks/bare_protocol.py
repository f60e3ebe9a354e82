"""The yardstick: httptools on uvloop and nothing else, with a constant answer of the size of a draw's.

python bare_protocol.py PORT [draw]; with `draw` each answer is drawn from memory.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

from bare_draw import draw

BODY = b'{"arm_id":"arm-1","propensity":0.2,"decision_id":"' + b"x" * 92 + b'","payload":null}'
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"cache-control: no-store\r\ncontent-length: %d\r\n\r\n"
)
ANSWER = HEAD % len(BODY) + BODY


class Bare(asyncio.Protocol):
    """Reads whole requests, as any server must, and looks at nothing but their path."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        self._transport.write(ANSWER)


class BareDraw(Bare):
    def on_message_complete(self) -> None:
        body = draw()
        self._transport.write(HEAD % len(body) + body)


async def serve(port: int, protocol: type[Bare]) -> None:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), BareDraw if "draw" in sys.argv[2:] else Bare))
