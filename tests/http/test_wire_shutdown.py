"""Stopping while much is owed: every connection gets its answer or is closed, and what was answered is on disk."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support import RunningServer
from wire import (
    LANES,
    Wire,
    assert_books_balance,
    batch,
    get,
    many,
    new_experiment,
    post,
    pulls,
    request,
    settings_of,
)

CONNECTIONS = 50


@pytest.fixture(params=LANES.values(), ids=list(LANES))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    settings = settings_of(request.param) | {"shutdown_timeout_s": 4}
    with RunningServer(tmp_path / "data", settings=settings) as running:
        new_experiment(running, experiment_id="x")
        yield running
        assert "Traceback" not in running.log, running.log


def update(key: str) -> bytes:
    return post("/v1/x/update", {"arm_id": "a", "reward": 1, "key": key})


def read_all(wire: Wire) -> list[int]:
    """The statuses of the answers until the connection ends; each answer is whole."""
    said = wire.rest()
    statuses = []
    while said:
        head, _, rest = said.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(rest) >= size, said
        statuses.append(int(head.split(b" ")[1]))
        said = rest[size:]
    return statuses


def assert_kept(server: RunningServer, answered: dict[str, bool]) -> None:
    """`answered` by key: after a new start these are duplicates, and each of the others counts once, then or now."""
    assert_books_balance(server)
    server.restart()
    stored = pulls(server, "x")
    assert sum(answered.values()) <= stored <= len(answered)
    with Wire(server) as wire:
        for key, was_answered in answered.items():
            wire.send(update(key))
            again = wire.answer()
            assert again.status == 200
            if was_answered:
                assert again.json == {"accepted": 0, "duplicates": 1}
    assert pulls(server, "x") == len(answered)


def test_what_waits_for_the_disk_is_answered_or_closed(server: RunningServer) -> None:
    """50 connections, each with three updates behind each other, while the database is locked for a moment more."""
    database = sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)
    with closing(database), many(server, CONNECTIONS) as wires:
        database.execute("BEGIN IMMEDIATE")
        for number, wire in enumerate(wires):
            wire.send(b"".join(update(f"{number}-{place}") for place in range(3)))
        wires[0].settle()
        server.process.terminate()
        time.sleep(0.3)
        database.execute("ROLLBACK")
        found = [read_all(wire) for wire in wires]
        assert server.wait(10) == 0
    assert all(statuses and set(statuses) <= {200, 503} for statuses in found), found
    answered = {
        f"{number}-{place}": statuses[place : place + 1] == [200]
        for number, statuses in enumerate(found)
        for place in range(3)
    }
    assert_kept(server, answered)


def test_under_load_every_answer_holds(server: RunningServer) -> None:
    """Each connection sends four updates at a time, until it ends; the server is stopped in the midst of it."""
    answered: dict[str, bool] = {}
    begun = threading.Barrier(CONNECTIONS // 5 + 1, timeout=20)

    def load(number: int) -> None:
        with Wire(server) as wire:
            for turn in range(10_000):
                keys = [f"{number}-{turn}-{place}" for place in range(4)]
                answered.update(dict.fromkeys(keys, False))
                try:
                    wire.send(b"".join(map(update, keys)))
                    for key in keys:
                        answer = wire.answer()
                        assert answer.status in (200, 503)
                        answered[key] = answer.status == 200
                except (OSError, AssertionError):
                    return
                if turn == 2:
                    begun.wait()

    threads = [threading.Thread(target=load, args=(number,)) for number in range(CONNECTIONS // 5)]
    for thread in threads:
        thread.start()
    begun.wait()
    assert server.terminate(10) == 0
    for thread in threads:
        thread.join(20)
    assert sum(answered.values()) >= CONNECTIONS // 5 * 12
    assert_kept(server, answered)


def test_the_idle_and_the_unfinished_are_closed_at_once(server: RunningServer) -> None:
    data = update("k")
    started = [b"", get("/v1/x/draw"), get("/v1/x/draw")[:-2], data[:-1], data[:40], b"", data]
    with many(server, len(started)) as wires:
        for wire, piece in zip(wires, started, strict=True):
            if piece:
                wire.send(piece)
        wires[0].settle()
        for wire in (wires[1], wires[-1]):
            assert wire.answer().status == 200
        begin = time.monotonic()
        server.process.terminate()
        for wire in wires:
            said = wire.rest()
            assert not said or said.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 408 ", b"HTTP/1.1 400 ")), said
        assert server.wait(10) == 0
        assert time.monotonic() - begin < 6


def test_a_batch_and_statistics_under_way_are_answered(server: RunningServer) -> None:
    """Each says that it was the last on its connection."""
    asked = [
        post("/v1/x/update_batch", batch(10_000)),
        post("/v1/x/update_batch", batch(5_000, "k")),
        get("/v1/x/stats"),
        request("PUT /v1/y/reset HTTP/1.1", "Host: localhost"),
        update("last"),
    ]
    new_experiment(server, experiment_id="y")
    database = sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)
    with closing(database), many(server, len(asked)) as wires:
        database.execute("BEGIN IMMEDIATE")
        for wire, data in zip(wires, asked, strict=True):
            wire.send(data)
        wires[0].settle()
        server.process.terminate()
        database.execute("ROLLBACK")
        for wire in wires:
            answer = wire.answer()
            assert answer.status in (200, 204)
            assert answer.headers.get("connection", "close") == "close"
            wire.assert_closed()
        assert server.wait(10) == 0
    assert_books_balance(server)
