"""Clients that go away before their answer, or say early that they will send no more."""

import random
import sqlite3
import time
from contextlib import closing

import pytest

from support import RunningServer
from wire import Wire, batch, get, many, post, request
from wire_servers import (
    lane_server,
    new_experiment,
    pulls,
    socket_count,
    wait_for_sockets,
    wait_until,
)

server = lane_server()

UPDATE = {"arm_id": "a", "reward": 1}


@pytest.fixture
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


def everything(experiment_id: str) -> dict[str, tuple[bytes, int]]:
    root = f"/v1/{experiment_id}"
    return {
        "draw": (get(f"{root}/draw"), 200),
        "update": (post(f"{root}/update", UPDATE), 200),
        "batch": (post(f"{root}/update_batch", batch(1000)), 200),
        "stats": (get(f"{root}/stats"), 200),
        "reset": (request(f"PUT {root}/reset HTTP/1.1", "Host: localhost"), 204),
        "create": (post("/v1/create", {"experiment_id": experiment_id}), 409),
        "refused": (post(f"{root}/update", {}), 422),
        "unknown": (get("/v1/nobody/draw"), 404),
        "docs": (get("/docs"), 200),
    }


class TestHalfClose:
    """As `nc -N` does: the request, and the end of sending right behind it."""

    @pytest.mark.parametrize("kind", everything("x"))
    def test_the_answer_still_comes(self, server: RunningServer, experiment_id: str, kind: str) -> None:
        data, status = everything(experiment_id)[kind]
        for _ in range(4):
            with Wire(server) as wire:
                wire.send(data)
                wire.half_close()
                assert wire.answer().status == status
                wire.assert_closed()

    @pytest.mark.parametrize("kind", everything("x"))
    def test_after_others_on_the_same_connection(self, server: RunningServer, experiment_id: str, kind: str) -> None:
        data, status = everything(experiment_id)[kind]
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(data)
                assert wire.answer().status == status
            wire.send(data[:30], data[30:])
            wire.half_close()
            assert wire.answer().status == status
            wire.assert_closed()

    @pytest.mark.parametrize("kind", [*everything("x"), "mixed"])
    @pytest.mark.parametrize("count", [2, 65, 200])
    def test_all_that_were_asked_are_answered(
        self, server: RunningServer, experiment_id: str, kind: str, count: int
    ) -> None:
        if kind in ("batch", "docs", "stats") and count > 2:
            count //= 10
        asked = everything(experiment_id)
        order = [kind] * count if kind != "mixed" else random.Random(count).choices(list(asked), k=count // 2)
        with Wire(server) as wire:
            wire.send(b"".join(asked[one][0] for one in order))
            wire.half_close()
            assert [wire.answer().status for _ in order] == [asked[one][1] for one in order]
            wire.assert_closed()

    @pytest.mark.parametrize("size", [1, 20, -1])
    @pytest.mark.parametrize("kind", ["draw", "update", "batch", "create"])
    def test_half_a_request_is_none(self, server: RunningServer, experiment_id: str, kind: str, size: int) -> None:
        """It is closed soon, not when the time for the rest is over; what came before is answered."""
        asked = everything(experiment_id)
        data = asked[kind][0][:size]
        begin = time.monotonic()
        for before in ([], ["draw"], ["update"], ["update", "batch"]):
            with Wire(server) as wire:
                wire.send(b"".join(asked[one][0] for one in before) + data)
                wire.half_close()
                assert [wire.answer().status for _ in before] == [200] * len(before)
                rest = wire.rest()
                assert not rest or rest.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))
        assert time.monotonic() - begin < 5
        assert pulls(server, experiment_id) == 1002


class TestGone:
    """Each in the middle of something, by a close or by a reset; one who stays sees no harm."""

    def test_in_the_middle_of_a_request(self, server: RunningServer, experiment_id: str) -> None:
        rng = random.Random(3)
        asked = everything(experiment_id)
        sockets = socket_count(server)
        with Wire(server) as steady:
            for number in range(300):
                data = asked[rng.choice(["draw", "update", "batch", "create"])][0]
                leave(Wire(server), data[: rng.randrange(len(data))], rng)
                if number % 10 == 0:
                    steady.send(asked["update"][0] + asked["draw"][0])
                    assert [steady.answer().status for _ in range(2)] == [200, 200]
            assert pulls(server, experiment_id) == 30
        wait_for_sockets(server, sockets)

    def test_with_an_update_under_way(self, server: RunningServer, experiment_id: str) -> None:
        """It may count or not; with a key it can be sent again, and then it has counted once."""
        rng = random.Random(4)
        root = f"/v1/{experiment_id}"
        updates = [post(f"{root}/update", {**UPDATE, "key": f"k{number}"}) for number in range(200)]
        batches = [post(f"{root}/update_batch", batch(5, f"b{number}-")) for number in range(20)]
        gone = rng.sample([*updates, *batches], 220)
        with Wire(server) as steady:
            for number, data in enumerate(gone):
                leave(Wire(server), data + (get(f"{root}/draw") if number % 3 == 0 else b""), rng)
                if number % 10 == 0:
                    steady.send(post(f"{root}/update", UPDATE))
                    assert steady.answer().json == {"accepted": 1, "duplicates": 0}
            wait_until(lambda: pulls(server, experiment_id) >= 22, "the steady one's")
            steady.send(b"".join(updates + batches))
            assert {steady.answer().status for _ in gone} == {200}
        assert pulls(server, experiment_id) == 22 + 200 + 20 * 5

    def test_all_but_one_of_a_group(self, server: RunningServer, experiment_id: str) -> None:
        """They wait for the same write; the others leave before it; the one that stays is answered."""
        root = f"/v1/{experiment_id}"
        rng = random.Random(5)
        database = sqlite3.connect(server.data_dir / "multiarm.db", isolation_level=None)
        with closing(database), many(server, 60) as wires:
            database.execute("BEGIN IMMEDIATE")
            for number, wire in enumerate(wires):
                wire.send(post(f"{root}/update", {**UPDATE, "key": f"g{number}"}))
            wires[0].settle()
            for wire in wires[1:]:
                leave(wire, b"", rng)
            wires[0].assert_silent()
            database.execute("ROLLBACK")
            assert wires[0].answer().json == {"accepted": 1, "duplicates": 0}
            wires[0].assert_open()
        wait_until(lambda: pulls(server, experiment_id) in (1, 60), "what was read is counted")


def leave(wire: Wire, data: bytes, rng: random.Random) -> None:
    """Send it and go at once: closed or reset."""
    if data:
        wire.send(data)
    if rng.random() < 0.5:
        wire.reset()
    else:
        wire.socket.close()
