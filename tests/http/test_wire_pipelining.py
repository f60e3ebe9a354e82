"""Requests sent without waiting are answered in order, one after another, however long each takes."""

import random
import sqlite3
import threading
from collections.abc import Callable

import pytest

from support import RunningServer
from wire import Wire, batch, get, many, post, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()


@pytest.fixture
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


def lock_for(server: RunningServer, seconds: float) -> threading.Timer:
    """Let no update through for that long, from now on."""
    database = sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None, check_same_thread=False)
    database.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(seconds, database.close)
    timer.start()
    return timer


SLOW: dict[str, Callable[[str], bytes]] = {
    "update": lambda experiment_id: post(f"/v1/{experiment_id}/update", {"arm_id": "a", "reward": 1}),
    "update_batch": lambda experiment_id: post(f"/v1/{experiment_id}/update_batch", batch(1000)),
    "reset": lambda experiment_id: request(f"PUT /v1/{experiment_id}/reset HTTP/1.1", "Host: localhost"),
    "add_arm": lambda experiment_id: request(f"POST /v1/{experiment_id}/add_arm HTTP/1.1", "Host: localhost"),
    "create": lambda _: request("POST /v1/create HTTP/1.1", "Host: localhost"),
}


@pytest.mark.parametrize("operation", SLOW)
def test_quick_ones_wait_for_a_slow_one(server: RunningServer, experiment_id: str, operation: str) -> None:
    slow = SLOW[operation](experiment_id)
    quick = [get(f"/v1/{experiment_id}/draw"), get("/v1/ping"), get("/v1/nobody/draw"), get(f"/v1/{experiment_id}")]
    with Wire(server) as wire:
        for data in quick * 2:  # so that heads are known
            wire.send(data)
            wire.answer()
        timer = lock_for(server, 0.15)
        wire.send(slow + b"".join(quick), *quick)
        wire.assert_silent()
        timer.join()
        assert wire.answer().status in (200, 201, 204)
        assert [wire.answer().status for _ in quick * 2] == [200, 200, 404, 200] * 2
        wire.assert_open()


def test_a_thousand_of_a_batch_and_statistics_keep_their_place(server: RunningServer, experiment_id: str) -> None:
    root = f"/v1/{experiment_id}"
    draw, statistics = get(f"{root}/draw"), get(f"{root}/stats")
    with Wire(server) as wire:
        for round_number in range(1, 4):
            wire.send(draw + post(f"{root}/update_batch", batch(1000)) + statistics + draw + statistics + draw * 5)
            assert "decision_id" in wire.answer().json
            assert wire.answer().json == {"accepted": 1000, "duplicates": 0}
            assert wire.answer().json["arms"]["a"]["pulls"] == 1000 * round_number
            assert "decision_id" in wire.answer().json
            assert wire.answer().json["arms"]["a"]["draws"] >= 0
            assert all("decision_id" in wire.answer().json for _ in range(5))
        wire.assert_open()


def test_each_sees_what_those_before_it_did(server: RunningServer, experiment_id: str) -> None:
    """One after another: an update is on disk before the next request of its connection is looked at."""
    root = f"/v1/{experiment_id}"
    steps = [
        (request(f"PUT {root}/disable HTTP/1.1", "Host: localhost"), 204),
        (get(f"{root}/draw"), 409),
        (post(f"{root}/update", {"arm_id": "a", "reward": 1, "key": "k"}), 200),
        (request(f"PUT {root}/enable HTTP/1.1", "Host: localhost"), 204),
        (get(f"{root}/draw"), 200),
        (request(f"PUT {root}/reset HTTP/1.1", "Host: localhost"), 204),
        (request(f"DELETE {root}/delete_arm/b HTTP/1.1", "Host: localhost"), 204),
        (post(f"{root}/update", {"arm_id": "b", "reward": 1}), 404),
        (post(f"{root}/update_batch", {"updates": [{"arm_id": "b", "reward": 1}]}), 404),
        (post(f"{root}/add_arm", {"arm_id": "b"}), 201),
        (post(f"{root}/update", {"arm_id": "b", "reward": 1}), 200),
        (get(f"{root}/stats"), 200),
    ]
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(b"".join(data for data, _ in steps))
            answers = [wire.answer() for _ in steps]
            assert [answer.status for answer in answers] == [status for _, status in steps]
            assert answers[-1].json["arms"]["b"]["pulls"] == 1
            assert answers[-1].json["arms"]["a"]["pulls"] == 0


def test_a_long_queue_in_one_piece_is_answered_whole(server: RunningServer, experiment_id: str) -> None:
    root = f"/v1/{experiment_id}"
    rng = random.Random(7)
    kinds = {
        "draw": (get(f"{root}/draw"), 200),
        "update": (post(f"{root}/update", {"arm_id": "a", "reward": 1}), 200),
        "bad": (post(f"{root}/update", {"arm_id": "a", "reward": 2}), 422),
        "unknown": (get("/v1/nobody/draw"), 404),
        "wrong": (get("/nowhere"), 404),
        "ping": (get("/v1/ping"), 200),
    }
    queue = rng.choices(list(kinds), weights=[20, 5, 2, 2, 1, 1], k=1000)
    with Wire(server) as wire:
        sender = threading.Thread(target=wire.socket.sendall, args=(b"".join(kinds[kind][0] for kind in queue),))
        sender.start()
        found = [wire.answer().status for _ in queue]
        sender.join()
        assert found == [kinds[kind][1] for kind in queue]
        wire.assert_open()
    assert pulls(server, experiment_id) == queue.count("update")


def test_decisions_are_all_different(server: RunningServer, experiment_id: str) -> None:
    with Wire(server) as wire:
        wire.send(get(f"/v1/{experiment_id}/draw") * 500)
        decisions = {wire.answer().json["decision_id"] for _ in range(500)}
        assert len(decisions) == 500
        updates = [post(f"/v1/{experiment_id}/update", {"decision_id": one, "reward": 1}) for one in decisions]
        wire.send(b"".join(updates[:250]) + b"".join(updates[:250]))
        answers = [wire.answer().json["accepted"] for _ in range(500)]
    assert answers == [1] * 250 + [0] * 250
    assert pulls(server, experiment_id) == 250


def test_one_that_asks_much_does_not_keep_others_waiting(server: RunningServer, experiment_id: str) -> None:
    """While 6,000 draws of one connection wait, another's draw is answered before they are through."""
    count = 6_000
    draw = get(f"/v1/{experiment_id}/draw")
    with Wire(server) as greedy, Wire(server) as other:
        sender = threading.Thread(target=greedy.socket.sendall, args=(draw * count,))
        reader_done = threading.Event()
        sender.start()
        assert "decision_id" in greedy.answer().json
        reader = threading.Thread(target=read, args=(greedy, count - 1, reader_done))
        reader.start()
        other.send(draw)
        assert "decision_id" in other.answer().json
        assert not reader_done.is_set()
        reader.join()
        sender.join()
        greedy.assert_open()


def read(wire: Wire, count: int, done: threading.Event) -> None:
    for _ in range(count):
        assert wire.answer().status == 200
    done.set()


def test_updates_of_many_connections_go_in_together(server: RunningServer, experiment_id: str) -> None:
    """20 connections, each with 20 keyed updates in one packet, the same keys everywhere: each key counts once."""
    updates = b"".join(
        post(f"/v1/{experiment_id}/update", {"arm_id": "a", "reward": 1, "key": f"k{number}"}) for number in range(20)
    )
    with many(server, 20) as wires:
        for wire in wires:
            wire.send(updates)
        answers = [[wire.answer().json["accepted"] for _ in range(20)] for wire in wires]
    assert [sum(accepted) for accepted in zip(*answers, strict=True)] == [1] * 20
    assert pulls(server, experiment_id) == 20
