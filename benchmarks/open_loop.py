"""Latency under a load that does not wait for answers (open loop), run on core 1.

python open_loop.py < plan.json > outcomes.json

Requests are due at the times of a Poisson process, drawn beforehand, whatever has been answered by then. Each goes out
when it is due on a connection without an open request, or, where all of the pool wait, as soon as one is free. Latency
is counted from the time at which it was *due*: a server that stalls is charged for every request that came due
meanwhile (no coordinated omission). What is never answered counts as late as the run could see.

The loop polls without sleeping, for timers are coarser than what is measured. `lag` is how long requests that were due
waited beside a free connection: where that grows, this generator and not the server is the limit.
"""

import asyncio
import gc
import sys
from collections import deque
from time import perf_counter
from typing import cast

import msgspec
import numpy as np
import uvloop

START_DELAY_S = 0.05
DRAIN_TIMEOUT_S = 5.0
LAG_LIMIT_MS = 1.0
PERCENTILES = (10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99, 100)
GOOD = (b"HTTP/1.1 200", b"HTTP/1.1 201", b"HTTP/1.1 204")
LENGTH = b"content-length: "


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request, at `rate` a second over a pool of connections; `requests` are sent in turn."""

    name: str
    rate: float
    connections: int
    requests: list[bytes]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    port: int
    seconds: float
    streams: list[Stream]
    seed: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in ms by percentile, unanswered requests included; errors are answers that are not 2xx."""

    name: str
    rate: float
    answered: int
    errors: int
    unanswered: int
    latency_ms: dict[str, float]
    lag_p99_ms: float

    @property
    def generator_limited(self) -> bool:
        return self.lag_p99_ms > LAG_LIMIT_MS


class Pool:
    """The connections of a stream, and what became of its requests."""

    def __init__(self, stream: Stream, seconds: float, rng: np.random.Generator) -> None:
        gaps = rng.exponential(1 / stream.rate, int(stream.rate * seconds * 1.1) + 100)
        times = np.cumsum(gaps)
        self.stream = stream
        self.due: list[float] = times[times < seconds].tolist()
        self.free: deque[Connection] = deque()
        self.connections: list[Connection] = []
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.errors = 0
        self.sent = 0
        self.usual_bytes = 0  # of an answer: one as long as the last needs no closer look

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.stream.connections):
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", port)
            self.connections.append(connection)
            self.free.append(connection)

    def begin(self, start: float) -> None:
        self.due = [start + due for due in self.due]

    def send(self, now: float) -> None:
        """All that is due, as far as connections are free."""
        requests, free, sent = self.stream.requests, self.free, self.sent
        while free and sent < len(self.due) and (due := self.due[sent]) <= now:
            connection = free.popleft()
            self.lags.append(now - max(due, connection.free_since))
            connection.send(due, requests[sent % len(requests)])
            sent += 1
        self.sent = sent

    @property
    def finished(self) -> bool:
        return self.sent == len(self.due) and len(self.free) == len(self.connections)

    def outcome(self, end: float) -> Outcome:
        unanswered = [end - connection.due for connection in self.connections if connection.due]
        unanswered += [end - due for due in self.due[self.sent :]]
        latencies = np.array([*self.latencies, *unanswered]) * 1000
        return Outcome(
            name=self.stream.name,
            rate=self.stream.rate,
            answered=len(self.latencies),
            errors=self.errors,
            unanswered=len(unanswered),
            latency_ms={f"{p:g}": float(np.percentile(latencies, p)) for p in PERCENTILES},
            lag_p99_ms=float(np.percentile(self.lags, 99)) * 1000 if self.lags else 0.0,
        )


class Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.due = 0.0
        self.free_since = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, due: float, request: bytes) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        pool = self.pool
        if len(data) != pool.usual_bytes:
            if not is_whole(data):
                self.buffer = data
                return
            pool.usual_bytes = len(data)
        self.buffer = b""
        self.free_since = now = perf_counter()
        pool.latencies.append(now - self.due)
        if not data.startswith(GOOD):
            pool.errors += 1
        self.due = 0.0
        pool.free.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.due:
            sys.exit(f"The server closed a connection with an open request ({self.pool.stream.name}).")


def is_whole(answer: bytes) -> bool:
    """Whether all of an answer's body is there."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    start = answer.find(LENGTH, 0, head_end)
    if start < 0:
        return True
    length_end = answer.find(b"\r\n", start)
    return len(answer) >= head_end + 4 + int(answer[start + len(LENGTH) : length_end])


async def run(plan: Plan) -> list[Outcome]:
    rng = np.random.default_rng(plan.seed)
    pools = [Pool(stream, plan.seconds, rng) for stream in plan.streams]
    for pool in pools:
        await pool.connect(plan.port)
    gc.disable()  # a collection would stall the clock, not the server
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    start = perf_counter() + START_DELAY_S
    end = start + plan.seconds + DRAIN_TIMEOUT_S
    for pool in pools:
        pool.begin(start)

    def poll() -> None:
        now = perf_counter()
        for pool in pools:
            pool.send(now)
        if now > end or all(pool.finished for pool in pools):
            done.set()
        else:
            loop.call_soon(poll)

    poll()
    await done.wait()
    finished = perf_counter()
    return [pool.outcome(finished) for pool in pools]


if __name__ == "__main__":
    outcomes = uvloop.run(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
    sys.stdout.buffer.write(msgspec.json.encode(outcomes))
