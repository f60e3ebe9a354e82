"""Stopping while much is owed: every connection gets its answer or is closed, and what was answered is on disk."""

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from support import RunningServer
from wire import Answer, Wire, batch, get, post, request
from wire_servers import assert_books_balance, both_servers, new_experiment, pulls

CONNECTIONS = 40
WAITING = 3  # updates on each
SENDERS = 8


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RunningServer]]:
    """One with the lane, one without."""
    with both_servers(tmp_path, {"shutdown_timeout_s": 5}) as running:
        for server in running:
            new_experiment(server, experiment_id="x")
        yield running
        for server in running:
            assert "Traceback" not in server.log, server.log


def update(key: str) -> bytes:
    return post("/v1/x/update", {"arm_id": "a", "reward": 1, "key": key})


def read_all(wire: Wire) -> list[Answer]:
    """The answers until the connection ends, each of them whole."""
    answers = []
    while not wire.at_end():
        answers.append(wire.answer())
    return answers


def assert_all_kept(servers: list[RunningServer], answered: list[dict[str, bool]]) -> None:
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(assert_kept, *each) for each in zip(servers, answered, strict=True)]:
            done.result()


def assert_kept(server: RunningServer, answered: dict[str, bool]) -> None:
    """`answered` by key: after a new start these are duplicates, and each of the others counts once, then or now."""
    assert_books_balance(server)
    server.restart()
    stored = pulls(server, "x")
    assert sum(answered.values()) <= stored <= len(answered)
    with Wire(server) as wire:
        sender = threading.Thread(target=wire.socket.sendall, args=(b"".join(map(update, answered)),))
        sender.start()
        again = [wire.answer().json for _ in answered]
        sender.join()
    counted = {"accepted": 0, "duplicates": 1}
    assert [key for key, answer in zip(answered, again, strict=True) if answered[key] and answer != counted] == []
    assert pulls(server, "x") == len(answered)


class Owed:
    """A server that owes answers to many, and is asked to stop while its database is locked for a moment more."""

    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        self.server = server
        self._stack = stack
        new_experiment(server, experiment_id="y")
        self.idle = [self._wire(data) for data in (b"", get("/v1/x/draw"), update("first"))]
        for wire in self.idle[1:]:
            assert wire.answer().status == 200
        database = sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)
        self._database = stack.enter_context(closing(database))
        self._database.execute("BEGIN IMMEDIATE")
        self.waiting = [
            self._wire(b"".join(update(f"{number}-{place}") for place in range(WAITING)))
            for number in range(CONNECTIONS)
        ]
        self.others = [
            self._wire(data)
            for data in (
                post("/v1/y/update_batch", batch(2_000)),
                post("/v1/y/update_batch", batch(1_000, "k")),
                get("/v1/y/stats"),
                request("PUT /v1/y/enable HTTP/1.1", "Host: localhost"),
            )
        ]
        data = update("never")
        self.unfinished = [self._wire(piece) for piece in (get("/v1/x/draw")[:-2], data[:-1], data[:40])]
        self.idle[0].settle()

    def _wire(self, data: bytes) -> Wire:
        wire = self._stack.enter_context(Wire(self.server))
        if data:
            wire.send(data)
        return wire

    def go_on(self) -> None:
        self._database.execute("ROLLBACK")


def test_what_is_owed_is_answered_and_the_rest_is_closed(servers: list[RunningServer]) -> None:
    with ExitStack() as stack:
        owing = [Owed(server, stack) for server in servers]
        begin = time.monotonic()
        for owed in owing:
            owed.server.process.terminate()
        time.sleep(0.1)
        found = []
        for owed in owing:
            owed.go_on()
        for owed in owing:
            for wire in owed.idle:
                wire.assert_closed()
            found.append([read_all(wire) for wire in owed.waiting])
            for wire in owed.others:
                answer = wire.answer()
                assert (answer.status // 100, answer.headers.get("connection", "close")) == (2, "close"), answer
                wire.assert_closed()
            for wire in owed.unfinished:
                assert [answer.status for answer in read_all(wire)] in ([], [400], [408], [503])
        for owed in owing:
            assert owed.server.wait(10) == 0
        assert time.monotonic() - begin < 10
    assert_all_kept(servers, [by_key(answers) | {"first": True} for answers in found])


def by_key(answers: list[list[Answer]]) -> dict[str, bool]:
    """Of the updates that waited on each connection: whether they were answered."""
    statuses = [[answer.status for answer in on_one] for on_one in answers]
    assert all(on_one and set(on_one) <= {200, 503} for on_one in statuses), statuses
    return {
        f"{number}-{place}": on_one[place : place + 1] == [200]
        for number, on_one in enumerate(statuses)
        for place in range(WAITING)
    }


def test_under_load_every_answer_holds(servers: list[RunningServer]) -> None:
    """Each sends four updates at a time; some leave before their answers; the server is stopped in the midst of it."""
    answered: list[dict[str, bool]] = [{} for _ in servers]
    begun = threading.Barrier(SENDERS * len(servers) + 1, timeout=20)

    threads = [
        threading.Thread(target=load, args=(server, found, number, begun))
        for server, found in zip(servers, answered, strict=True)
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    for server in servers:
        server.process.terminate()
    for server in servers:
        assert server.wait(10) == 0
    for thread in threads:
        thread.join(20)
    assert all(sum(found.values()) >= SENDERS * 6 for found in answered)
    assert_all_kept(servers, answered)


def load(server: RunningServer, found: dict[str, bool], number: int, begun: threading.Barrier) -> None:
    """What was answered goes into `found`."""
    rng = random.Random(number)
    try:
        for turn in range(10_000):
            with Wire(server) as wire:
                keys = [f"{number}-{turn}-{place}" for place in range(4)]
                found.update(dict.fromkeys(keys, False))
                wire.send(b"".join(map(update, keys)))
                for key in keys[: rng.choice([0, 1, 4])]:
                    answer = wire.answer()
                    assert answer.status in (200, 503)
                    found[key] = answer.status == 200
                if rng.random() < 0.5:
                    wire.reset()
            if turn == 5:
                begun.wait()
    except (OSError, AssertionError):
        return
