"""The overload drill: more updates than the store's mailbox holds, while another process keeps the database locked.

What latencies draws have meanwhile, `make bench-overload` measures; here nothing depends on how fast a machine is.
"""

import asyncio
import re
import select
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import cast

import httpx
import pytest

from support import RunningServer
from wire import Wire, assert_problem_of_the_app, get, many, post
from wire_servers import LANES, assert_books_balance, memory_bytes, pulls, settings_of, wait_until, warm_up

MAILBOX = 200
CLIENTS = 3 * MAILBOX
TURN = 60  # MAILBOX is no multiple of it, so that some that come together are refused and some are not
ROUNDS = 5
DRAWS_A_ROUND = 20
WAIT_S = 60.0
TAKEN_S = 1.0  # until the store has taken it and waits for the lock, of which nothing can be seen
RETRY_S = 0.2  # of a refused client
MEGABYTE = 1_000_000
GROWTH_LIMIT_BYTES = 40 * MEGABYTE

ACCEPTED, DUPLICATE = {"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}


@pytest.fixture(scope="module", params=LANES.values(), ids=list(LANES))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The books balance at its end."""
    small = {"store_mailbox_size_updates": MAILBOX, "database_timeout_s": 60}
    with RunningServer(tmp_path_factory.mktemp("overload"), settings=settings_of(request.param) | small) as running:
        yield running
        assert running.terminate() == 0
        assert "Traceback" not in running.log
        assert_books_balance(running)


@contextmanager
def database(server: RunningServer) -> Iterator[sqlite3.Connection]:
    path = server.data_dir / "multiarm.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=WAIT_S, check_same_thread=False)) as connection:
        yield connection


@contextmanager
def locked(server: RunningServer) -> Iterator[None]:
    """Nothing can be committed."""
    with database(server) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def keyed(experiment_id: str, key: str) -> bytes:
    return post(f"/v1/{experiment_id}/update", {"arm_id": "a", "reward": 1, "key": key})


def send_in_turns(wires: list[Wire], experiment_id: str) -> None:
    """One keyed update on each connection; the first alone, so that the store waits with it for the lock."""
    for start in (0, *range(1, len(wires), TURN)):
        for index in range(start, min(start + TURN, len(wires)) if start else 1):
            wires[index].socket.sendall(keyed(experiment_id, f"k{index}"))
        wires[start].settle()
        if start == 0:
            time.sleep(TAKEN_S)


def test_what_does_not_fit_is_refused_while_the_rest_still_waits(server: RunningServer) -> None:
    experiment_id = warm_up(server)
    counted, before = pulls(server, experiment_id), memory_bytes(server)
    with many(server, CLIENTS) as wires, ExitStack() as lock:
        lock.enter_context(locked(server))
        send_in_turns(wires, experiment_id)
        wait_until(lambda: len(answered(wires)) >= CLIENTS - MAILBOX - 1, "the refused wait as well")
        with Wire(server) as other:
            for _ in range(DRAWS_A_ROUND):
                assert other.answer_after(get(f"/v1/{experiment_id}/draw")).status == 200
            assert other.answer_after(get("/health/live")).status == 200
        assert memory_bytes(server) - before < GROWTH_LIMIT_BYTES
        refused = answered(wires)
        assert len(refused) < CLIENTS
        for wire in refused:
            answer = wire.answer()
            assert_problem_of_the_app(answer, 503, "busy")
            assert int(answer.headers["retry-after"]) >= 1
        lock.close()
        accepted = [wire for wire in wires if wire not in refused]
        assert [wire.answer().json for wire in accepted] == [ACCEPTED] * len(accepted)
        assert pulls(server, experiment_id) == counted + len(accepted)
        for index, wire in enumerate(wires):
            wire.send(keyed(experiment_id, f"k{index}"))
            assert wire.answer().json == (ACCEPTED if wire in refused else DUPLICATE)
    assert_normal(server, experiment_id)


def answered(wires: list[Wire]) -> list[Wire]:
    """Those on which something has come."""
    poll = select.poll()
    for wire in wires:
        poll.register(wire.socket, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(0)}
    return [wire for wire in wires if wire.socket.fileno() in ready]


def assert_normal(server: RunningServer, experiment_id: str) -> None:
    with Wire(server) as wire:
        assert wire.answer_after(get("/health/ready")).status == 200
        for number in range(10):
            assert wire.answer_after(keyed(experiment_id, f"after-{number}")).json == ACCEPTED
            assert wire.answer_after(get(f"/v1/{experiment_id}/draw")).status == 200


class Drill:
    """What the clients of a storm share: which keys were sent, and what became of each."""

    def __init__(self, experiment_id: str) -> None:
        self.experiment_id = experiment_id
        self.over = False
        self.statuses: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self._open = 0
        self._changed = asyncio.Event()

    def next_update(self) -> tuple[str, bytes]:
        key = f"storm-{self.counts['sent']}"
        self.counts["sent"] += 1
        return key, keyed(self.experiment_id, key)

    def next_draw(self) -> tuple[str, bytes]:
        return "", get(f"/v1/{self.experiment_id}/draw")

    def asked(self) -> None:
        self._open += 1

    def answered(self, key: str, status: int) -> None:
        self._open -= 1
        self.counts[f"{'update' if key else 'draw'} {status}"] += 1
        if key:
            self.statuses[key] = status
        self._changed.set()

    async def see(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def see_more(self, **least: int) -> None:
        """So many more answers of each kind: draw_200=20."""
        goals = {name.replace("_", " "): count + self.counts[name.replace("_", " ")] for name, count in least.items()}
        await self.see(lambda: all(self.counts[name] >= goal for name, goal in goals.items()))

    async def see_all_answered(self) -> None:
        self.over = True
        await self.see(lambda: not self._open)


class Client(asyncio.Protocol):
    """Asks again as soon as it is answered, or soon after it was refused, until the drill is over."""

    def __init__(self, drill: Drill, next_request: Callable[[], tuple[str, bytes]]) -> None:
        self._drill = drill
        self._next_request = next_request
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        status = int(head[9:12])
        self._drill.answered(self._key, status)
        if status == 200:
            self._ask()
        else:
            asyncio.get_running_loop().call_later(RETRY_S, self._ask)

    def _ask(self) -> None:
        if not self._drill.over:
            self._key, request = self._next_request()
            self._drill.asked()
            self._transport.write(request)


async def weather(server: RunningServer, drill: Drill) -> list[int]:
    """The storm, the database locked again and again; the server's memory in each lock."""
    url = httpx.URL(server.url)
    loop = asyncio.get_running_loop()
    memory = []
    transports = []
    for next_request, count in ((drill.next_update, CLIENTS), (drill.next_draw, 4)):
        for _ in range(count):
            transport, _ = await loop.create_connection(partial(Client, drill, next_request), url.host, url.port or 80)
            transports.append(transport)
    with database(server) as other:
        for _ in range(ROUNDS):
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            await drill.see_more(update_503=1)
            await drill.see_more(update_503=MAILBOX, draw_200=DRAWS_A_ROUND)
            memory.append(memory_bytes(server))
            other.execute("ROLLBACK")
            await drill.see_more(update_200=MAILBOX, draw_200=DRAWS_A_ROUND)
        await drill.see_all_answered()
    for transport in transports:
        transport.close()
    return memory


def test_a_storm_of_three_times_what_fits_loses_nothing(server: RunningServer) -> None:
    experiment_id = warm_up(server)
    counted = pulls(server, experiment_id)
    before = memory_bytes(server)
    drill = Drill(experiment_id)
    memory = asyncio.run(weather(server, drill))

    assert max(memory) - before < GROWTH_LIMIT_BYTES
    assert set(drill.statuses.values()) == {200, 503}
    assert drill.counts["sent"] == len(drill.statuses)
    acknowledged = {key for key, status in drill.statuses.items() if status == 200}
    assert pulls(server, experiment_id) == counted + len(acknowledged)
    assert stored_keys(server) >= acknowledged
    assert not stored_keys(server) & (drill.statuses.keys() - acknowledged)
    assert_normal(server, experiment_id)


def stored_keys(server: RunningServer) -> set[str]:
    """Of the storm, as they stand in the database."""
    with database(server) as other:
        rows = other.execute("SELECT key FROM reward WHERE key LIKE 'k:storm-%'").fetchall()
    return {str(key).removeprefix("k:") for (key,) in rows}
