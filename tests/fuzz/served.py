"""A real server without sockets: its protocol on transports in memory, in this process, on a loop that we turn."""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from multiarm.domain.spec import CreateExperiment
from multiarm.http.app import build_app
from multiarm.http.config import Config
from multiarm.http.express import ExpressLane
from multiarm.http.listening import Deadline
from multiarm.http.protocol import Protocol
from multiarm.server import actors, server_config
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings

SECRET = "a secret of the fuzzed server of 32 bytes or more"
LIMIT_BYTES = 1024  # of heads and of bodies
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
TIMEOUT_S = 10.0  # for any answer
TURNS = 12  # of the loop, after which nothing more happens by itself
DATE = [(b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")]
EXPERIMENTS: Sequence[dict[str, Any]] = [
    {"experiment_id": "button", "arms": ["a", "b"]},
    {"experiment_id": "price", "arms": ["a", "b"], "policy": {"type": "exp3"}},
]


class Pipe(asyncio.Transport):
    """The server's side of a connection. slow: what is written lies there for a turn of the loop before it is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, slow: bool) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 8080)})
        self.sent = bytearray()
        self.lost = self.aborted = False
        self._loop = loop
        self._slow = slow
        self._unsent = bytearray()
        self._coming: deque[bytes] = deque()
        self._paused = self._closing = self._ended = False
        self._eof: str = ""  # asked for, given

    def open(self, protocol: Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    # --- the client's side ---

    def feed(self, data: bytes) -> None:
        self._coming.append(data)
        self._deliver()

    def end(self) -> None:
        """The client sends no more."""
        self._eof = self._eof or "asked for"
        self._deliver()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._unsent and (self._paused or self._closing or not self._coming)

    def _deliver(self) -> None:
        while self._coming and not self._paused and not self._closing:
            data = self._coming.popleft()
            self._protocol.data_received(data)
            kept = kept_bytes(self._protocol)
            assert kept <= 3 * LIMIT_BYTES + len(data), f"{kept} bytes are kept of a connection"
        if self._eof == "asked for" and not (self._coming or self._paused or self._closing):
            self._eof = "given"
            if not self._protocol.eof_received():
                self.close()

    # --- the server's side ---

    def write(self, data: Any) -> None:
        if self._ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.lost:
            return
        if not self._slow:
            self.sent += data
            return
        if not self._unsent:
            self._protocol.pause_writing()
            self._loop.call_soon(self._loop.call_soon, self._drain)
        self._unsent += data

    def _drain(self) -> None:
        self.sent += self._unsent
        self._unsent.clear()
        if not self.lost:
            self._protocol.resume_writing()
        if self._closing:
            self._lose()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.aborted = self._closing = True
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        if not self.lost and not self._unsent:
            self.lost = True
            self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ended = True

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)


def kept_bytes(protocol: Protocol) -> int:
    """Of what came, in the connection's own fields and in the request's that the application answers."""
    cycle = len(protocol.cycle.body) if protocol.cycle is not None else 0
    return cycle + sum(size_of(value) for value in vars(protocol).values())


def size_of(value: object) -> int:
    if isinstance(value, bytes | bytearray):
        return len(value)
    return sum(map(size_of, value)) if isinstance(value, list | tuple) else 0


class Play(NamedTuple):
    """What a client does. pieces: what it sends; and whether it waits then for all answers that may come."""

    pieces: Sequence[tuple[bytes, bool]]
    ends: bool  # it says that it sends no more, before the last answer is there
    slow: bool


class Seen(NamedTuple):
    """What a client got. unfinished: it had not sent all of its last body."""

    sent: bytes
    unfinished: bool


class Door(NamedTuple):
    """One way in: a server's connections with the lane or without it, with tokens or without."""

    config: Config
    state: ServerState

    async def play(self, play: Play) -> Seen:
        """All that the server says to it; AssertionError where anything of it is left."""
        loop = asyncio.get_running_loop()
        pipe = Pipe(loop, slow=play.slow)
        protocol = Protocol(self.config, self.state, {}, loop)
        with capture_logs() as logs:
            pipe.open(protocol)
            for piece, waits in play.pieces:
                pipe.feed(piece)
                if waits:
                    await settle(pipe, protocol)
            if play.ends:
                pipe.end()
                await until(lambda: pipe.lost, "a connection that was half closed stays open")
            await settle(pipe, protocol)
            pipe.close()
            await until(lambda: pipe.lost and not self.state.tasks, "a request goes on after its client has gone")
        assert not pipe.aborted, "a connection was cut off"
        assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")], logs
        assert not self.state.connections
        assert self.config.bodies._used == self.config.connections._count == 0, "what was taken is not given back"
        return Seen(bytes(pipe.sent), protocol._framing.left != 0)


async def settle(pipe: Pipe, protocol: Protocol) -> None:
    """Until the server waits for the client."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        before = len(pipe.sent)
        await turn()
        if pipe.lost or (pipe.is_idle and len(pipe.sent) == before and not is_owed(protocol)):
            return
        assert time.monotonic() < deadline, "a request gets no answer"
        await asyncio.sleep(0.0002)


def is_owed(protocol: Protocol) -> bool:
    return protocol._waits_for() in ("owed", "unread answer")


async def turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0)


class Server(NamedTuple):
    """doors: with tokens, and without."""

    supervisor: Supervisor
    doors: dict[bool, Door]

    async def renew(self) -> None:
        """The experiments as they were at first."""
        await self.supervisor.clear()
        for fields in EXPERIMENTS:
            await self.supervisor.create(msgspec.convert(fields, CreateExperiment))

    def described(self) -> dict[str, object]:
        """The experiments, but for what draws and rewards change."""
        return {
            name: (one.state.uid, one.state.epoch, one.state.enabled, one.state.spec, one.state.arms)
            for name, one in self.supervisor.experiments.items()
        }


@asynccontextmanager
async def servers(lanes: Iterable[bool]) -> AsyncIterator[list[Server]]:
    """Each with the lane or without, on data of its own, in memory where that can be."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
        found = [await stack.enter_async_context(server(Path(folder) / str(lane), lane)) for lane in lanes]
        for one in found:
            await one.renew()
        yield found


@asynccontextmanager
async def server(folder: Path, lane: bool) -> AsyncIterator[Server]:
    settings = Settings(
        data_dir=str(folder),
        jwt_secret=SECRET,
        head_limit_bytes=LIMIT_BYTES,
        body_limit_bytes=LIMIT_BYTES,
        refusal_delay_limit_s=0,
        revocation_interval_s=0.9,
    )
    async with actors(settings, Deadline(settings.shutdown_timeout_s)) as (supervisor, accountant, _, verifier):
        doors = {}
        for with_tokens in (True, False):
            gate = build_app(supervisor, accountant, settings, verifier=verifier if with_tokens else None)
            express = ExpressLane(gate) if lane else None
            if express is not None:
                express.stamp(DATE)
            config = server_config(gate, express, settings)
            config.load()
            state = ServerState()
            state.default_headers = DATE
            doors[with_tokens] = Door(config, state)
        yield Server(supervisor, doors)
