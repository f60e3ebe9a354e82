"""A few requests a second beside a load that fills core 1, and exactly how long the server took for each.

python probe.py: a plan as a line of JSON in; `ready` out once it is connected; any line in, and it begins; what was
seen as JSON out.

The load and this prober share a core, so it may wake late, when a request is due and when an answer is there. Neither
counts: requests are sent when it is awake, and the kernel says when the first byte of the answer came
(SO_TIMESTAMPNS). Where all connections of a stream wait for answers, its next requests count from when they were due:
a server that stalls is charged for every request that came due meanwhile.
"""

import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator

import msgspec
import numpy as np

from open_loop import Plan, Stream, is_whole

SO_TIMESTAMPNS = 35  # Linux; Python has no name for it
TIMESPEC = struct.Struct("qq")
DRAIN_TIMEOUT_S = 10.0
READ_BYTES = 1 << 16
READY = "ready"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a stream: milliseconds to the answer, by status; how late the prober itself was."""

    name: str
    latencies_ms: dict[int, list[float]]
    unanswered: int
    late_ms: list[float]


class Line:
    """A connection that carries one request at a time. start: from when the open one counts."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.start = 0.0
        self.free_since = 0.0
        self._answer = b""

    def greet(self) -> None:
        """Until the server has accepted it."""
        self.socket.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while self.receive() is None:
            pass

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, due: float, request: bytes) -> float:
        """How late it was sent for want of a processor, not of a connection."""
        now = time.time()
        late = now - max(due, self.free_since)
        self.start = due + late
        self.socket.sendall(request)
        return late

    def receive(self) -> tuple[int, float] | None:
        """(status, seconds), once the answer is whole."""
        data, ancillary, _, _ = self.socket.recvmsg(READ_BYTES, 64)
        if not data:
            sys.exit(f"The server closed a connection of the prober after {self._answer!r}")
        if not self._answer:
            self.came_at = stamp_of(ancillary)
        self._answer += data
        if not is_whole(self._answer):
            return None
        status, self._answer = int(self._answer[9:12]), b""
        self.free_since = self.came_at
        return status, self.came_at - self.start


def stamp_of(ancillary: list[tuple[int, int, bytes]]) -> float:
    for _level, kind, data in ancillary:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(data)
            return float(seconds + nanoseconds / 1e9)
    sys.exit("This kernel does not say when data came (SO_TIMESTAMPNS).")


class Pool:
    """The lines of a stream, and what became of its requests."""

    def __init__(self, plan: Plan, stream: Stream, rng: np.random.Generator) -> None:
        gaps = rng.exponential(1 / stream.rate, int(stream.rate * plan.seconds * 1.1) + 100)
        times = np.cumsum(gaps)
        self.stream = stream
        self.due: deque[float] = deque(times[times < plan.seconds].tolist())
        self.lines = [Line(plan.port) for _ in range(stream.connections)]
        self.free = deque(self.lines)
        self.latencies_ms: dict[int, list[float]] = {}
        self.late_ms: list[float] = []
        self.requests = self._requests()

    def _requests(self) -> Iterator[bytes]:
        while True:
            yield from self.stream.requests

    def send(self, now: float) -> None:
        while self.due and self.free and self.due[0] <= now:
            late = self.free.popleft().send(self.due.popleft(), next(self.requests))
            self.late_ms.append(late * 1000)

    def receive(self, line: Line) -> None:
        answer = line.receive()
        if answer is not None:
            status, seconds = answer
            self.latencies_ms.setdefault(status, []).append(seconds * 1000)
            self.free.append(line)

    @property
    def is_done(self) -> bool:
        return not self.due and len(self.free) == len(self.lines)

    @property
    def seen(self) -> Seen:
        unanswered = len(self.due) + len(self.lines) - len(self.free)
        return Seen(name=self.stream.name, latencies_ms=self.latencies_ms, unanswered=unanswered, late_ms=self.late_ms)


def connected(plan: Plan) -> list[Pool]:
    """Each connection accepted: in a storm that takes long, and it is not what is measured."""
    rng = np.random.default_rng(plan.seed)
    pools = [Pool(plan, stream, rng) for stream in plan.streams]
    for pool in pools:
        for line in pool.lines:
            line.greet()
    return pools


def run(plan: Plan, pools: list[Pool]) -> list[Seen]:
    pool_of = {line.fileno(): (pool, line) for pool in pools for line in pool.lines}
    begin = time.time()
    for pool in pools:
        pool.due = deque(begin + due for due in pool.due)
    end = begin + plan.seconds + DRAIN_TIMEOUT_S
    while time.time() < end and not all(pool.is_done for pool in pools):
        next_due = min((pool.due[0] for pool in pools if pool.due and pool.free), default=end)
        for number in select.select(pool_of, [], [], max(next_due - time.time(), 0.0))[0]:
            pool, line = pool_of[number]
            pool.receive(line)
        for pool in pools:
            pool.send(time.time())
    return [pool.seen for pool in pools]


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    pools = connected(plan)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.buffer.readline()
    sys.stdout.buffer.write(msgspec.json.encode(run(plan, pools)))


if __name__ == "__main__":
    main()
