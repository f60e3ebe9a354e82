"""Mixed full load that drains: every request that is sent is seen answered, so that counts can be compared.

python mixed.py PORT SECONDS > tally.json

Each of 64 connections draws, rewards the decision, and so on, without a pause; now and then it repeats a reward (a
duplicate), sends a batch, asks for statistics, or asks for what does not exist.
"""

import asyncio
import sys
from collections import Counter
from time import perf_counter
from typing import cast

import msgspec
import uvloop

from open_loop import is_whole
from works import ARMS, BENCH

CONNECTIONS = 64
DRAIN_TIMEOUT_S = 30.0
MINUTE_S = 60.0
BATCH = 100
REPEAT_EVERY, BATCH_EVERY, STATS_EVERY, MISS_EVERY = 20, 50, 500, 1_000


class Tally(msgspec.Struct, kw_only=True):
    """Answers by route and status, by minute, and what became of the rewards in them."""

    answers: dict[str, int]
    by_minute: list[int]
    accepted: int
    duplicates: int
    unanswered: int


class Mix:
    """What all connections share."""

    def __init__(self, seconds: float) -> None:
        self.answers: Counter[str] = Counter()
        self.by_minute: Counter[int] = Counter()
        self.accepted = self.duplicates = self.serial = 0
        self.start = perf_counter()
        self.end = self.start + seconds
        self.open = CONNECTIONS
        self.drained = asyncio.Event()

    def tally(self) -> Tally:
        minutes = [self.by_minute[minute] for minute in range(max(self.by_minute, default=0) + 1)]
        return Tally(
            answers=dict(self.answers),
            by_minute=minutes,
            accepted=self.accepted,
            duplicates=self.duplicates,
            unanswered=self.open,
        )


class Visitor(asyncio.Protocol):
    """One connection; each answer says what it asks next."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        self.buffer = b""
        self.route = ""
        self.turn = 0
        self.decision_id = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.ask()

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        if not is_whole(data):
            self.buffer = data
            return
        self.buffer = b""
        mix = self.mix
        now = perf_counter()
        mix.answers[f"{self.route} {data[9:12].decode()}"] += 1
        mix.by_minute[int((now - mix.start) / MINUTE_S)] += 1
        self.learn(data)
        if now < mix.end:
            self.ask()
            return
        mix.open -= 1
        if not mix.open:
            mix.drained.set()

    def learn(self, answer: bytes) -> None:
        """A draw's decision id; how many rewards were accepted."""
        body = answer.partition(b"\r\n\r\n")[2]
        self.decision_id = b""
        if self.route == "draw":
            self.decision_id = body.partition(b'"decision_id":"')[2].partition(b'"')[0]
        elif self.route.startswith("update") and answer.startswith(b"HTTP/1.1 200"):
            counted = msgspec.json.decode(body, type=dict[str, int])
            self.mix.accepted += counted["accepted"]
            self.mix.duplicates += counted["duplicates"]

    def ask(self) -> None:
        if self.decision_id:
            self.rewarding = b'{"decision_id":"%b","reward":%d}' % (self.decision_id, self.turn % 2)
            self.post("update", self.rewarding)
            return
        self.turn += 1
        if self.turn % MISS_EVERY == 0:
            self.get("miss", "/v1/nowhere/draw")
        elif self.turn % STATS_EVERY == 0:
            self.get("stats", f"{BENCH}/stats")
        elif self.turn % BATCH_EVERY == 0:
            self.post("update_batch", self.batch())
        elif self.turn % REPEAT_EVERY == 0:
            self.post("update", self.rewarding)
        else:
            self.get("draw", f"{BENCH}/draw")

    def batch(self) -> bytes:
        first = self.mix.serial
        self.mix.serial += BATCH
        updates = [
            f'{{"arm_id":"{ARMS[n % len(ARMS)]}","reward":{n % 2},"key":"k{n}"}}' for n in range(first, first + BATCH)
        ]
        return f'{{"updates":[{",".join(updates)}]}}'.encode()

    def get(self, route: str, path: str) -> None:
        self.route = route
        self.transport.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def post(self, route: str, body: bytes) -> None:
        self.route = route
        head = f"POST {BENCH}/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        self.transport.write(b"%b%d\r\n\r\n%b" % (head.encode(), len(body), body))

    def connection_lost(self, _error: Exception | None) -> None:
        if perf_counter() < self.mix.end:
            sys.exit("The server closed a connection under load.")


async def run(port: int, seconds: float) -> Tally:
    mix = Mix(seconds)
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Visitor(mix), "127.0.0.1", port)
    async with asyncio.timeout(seconds + DRAIN_TIMEOUT_S):
        await mix.drained.wait()
    return mix.tally()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(int(sys.argv[1]), float(sys.argv[2])))))
