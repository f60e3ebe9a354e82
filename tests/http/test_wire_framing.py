"""Where one message ends and the next begins: packets may cut the bytes anywhere."""

import itertools
import json
import random

import pytest

from support import RunningServer
from wire import Answer, Wire, batch, get, post, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()

UPDATE = {"arm_id": "a", "reward": 1}
ONE = {"accepted": 1, "duplicates": 0}


def requests_of(experiment_id: str) -> dict[str, bytes]:
    """One of each kind: the hot ones, and some of the others."""
    root = f"/v1/{experiment_id}"
    return {
        "draw": get(f"{root}/draw", "User-Agent: x"),
        "update": post(f"{root}/update", UPDATE),
        "batch": post(f"{root}/update_batch", batch(3)),
        "describe": get(root),
        "reset": request(f"PUT {root}/reset HTTP/1.1", "Host: localhost"),
        "create": post("/v1/create", {"experiment_id": experiment_id}),
    }


def assert_answers(kind: str, answer: Answer, experiment_id: str) -> None:
    statuses = {"reset": 204, "create": 409}
    assert (kind, answer.status) == (kind, statuses.get(kind, 200)), answer
    if kind == "draw":
        assert answer.json["arm_id"] in {"a", "b"}
    elif kind == "update":
        assert answer.json == ONE
    elif kind == "batch":
        assert answer.json == {"accepted": 3, "duplicates": 0}
    elif kind == "describe":
        assert answer.json["experiment_id"] == experiment_id


KINDS = list(requests_of("x"))
HOT = KINDS[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_may_come_in_a_packet_of_its_own(server: RunningServer, kind: str) -> None:
    experiment_id = new_experiment(server)
    data = requests_of(experiment_id)[kind]
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(*(data[i : i + 1] for i in range(len(data))))
            assert_answers(kind, wire.answer(), experiment_id)
        wire.assert_open()


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_may_be_cut_in_two_anywhere(server: RunningServer, kind: str) -> None:
    experiment_id = new_experiment(server)
    data = requests_of(experiment_id)[kind]
    with Wire(server) as wire:
        for cut in range(1, len(data)):
            wire.send(data[:cut], data[cut:])
            assert_answers(kind, wire.answer(), experiment_id)
        wire.assert_open()
    counts = {"update": 1, "batch": 3}
    assert pulls(server, experiment_id) == counts.get(kind, 0) * (len(data) - 1)


@pytest.mark.parametrize("kind", HOT)
def test_the_second_of_two_requests_may_be_cut_anywhere(server: RunningServer, kind: str) -> None:
    experiment_id = new_experiment(server)
    data = requests_of(experiment_id)[kind]
    with Wire(server) as wire:
        for cut in range(0, len(data), 3):
            wire.send(data + data[:cut])
            assert_answers(kind, wire.answer(), experiment_id)
            if cut % 30 == 0:
                wire.assert_silent()
            wire.send(data[cut:])
            assert_answers(kind, wire.answer(), experiment_id)
        wire.assert_open()


@pytest.mark.parametrize("kind", KINDS)
def test_several_requests_may_come_in_one_packet(server: RunningServer, kind: str) -> None:
    experiment_id = new_experiment(server)
    requests = requests_of(experiment_id)
    kinds = [other for name in KINDS for other in (kind, name)] * 3
    with Wire(server) as wire:
        wire.send(b"".join(requests[name] for name in kinds))
        for name in kinds:
            assert_answers(name, wire.answer(), experiment_id)
        wire.assert_open()


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_of_requests_may_be_cut_at_random(server: RunningServer, seed: int) -> None:
    rng = random.Random(seed)
    experiment_id = new_experiment(server)
    requests = requests_of(experiment_id)
    kinds = rng.choices(KINDS, k=60)
    stream = b"".join(requests[kind] for kind in kinds)
    cuts = [0, *sorted(rng.sample(range(1, len(stream)), rng.choice([10, 50, 200]))), len(stream)]
    with Wire(server) as wire:
        wire.send(*(stream[start:end] for start, end in itertools.pairwise(cuts)))
        for kind in kinds:
            assert_answers(kind, wire.answer(), experiment_id)
        wire.assert_open()


def test_line_ends_between_two_requests_are_passed_over(server: RunningServer) -> None:
    experiment_id = new_experiment(server)
    with Wire(server) as wire:
        for kind in HOT * 3:
            wire.send(b"\r\n" + requests_of(experiment_id)[kind])
            assert_answers(kind, wire.answer(), experiment_id)
            wire.send(b"\r\n\r\n", requests_of(experiment_id)[kind])
            assert_answers(kind, wire.answer(), experiment_id)


@pytest.mark.parametrize("operation", ["update", "update_batch"])
def test_a_body_may_hold_empty_lines(server: RunningServer, operation: str) -> None:
    path = f"/v1/{new_experiment(server)}/{operation}"
    update = json.dumps(UPDATE)
    text = update if operation == "update" else f'{{"updates": [{update}]}}'
    body = f"\r\n\r\n{text}\r\n\r\n".replace(" ", "\r\n\r\n").encode()
    data = post(path, body)
    with Wire(server) as wire:
        for cut in range(1, len(data), 5):
            wire.send(data[:cut], data[cut:])
            assert wire.answer().json == ONE
        wire.assert_open()


@pytest.mark.parametrize("operation", ["update", "update_batch"])
def test_a_body_that_looks_like_a_request_is_a_body(server: RunningServer, operation: str) -> None:
    experiment_id = new_experiment(server)
    data = post(f"/v1/{experiment_id}/{operation}", requests_of(experiment_id)["update"])
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(data)
            assert wire.answer().status == 400
        wire.send(data * 3)
        assert [wire.answer().status for _ in range(3)] == [400] * 3
        wire.assert_open()
    assert pulls(server, experiment_id) == 0


def test_a_known_head_says_nothing_of_the_body_behind_it(server: RunningServer) -> None:
    """The same head each time; the bodies differ."""
    path = f"/v1/{new_experiment(server)}/update"
    good, zero = b'{"arm_id": "a", "reward": 1}', b'{"arm_id": "b", "reward": 0}'
    bad, none, broken = (
        b'{"arm_id": "c", "reward": 1}',
        b'{"arm_id": "a", "reward": 7}',
        b'{"arm_id": "a", "reward": 1{',
    )
    statuses = {good: 200, zero: 200, bad: 404, none: 422, broken: 400, b" " * len(good): 400}
    bodies = random.Random(1).choices(list(statuses), k=100)
    with Wire(server) as wire:
        for body in bodies:
            wire.send(post(path, body))
            assert (body, wire.answer().status) == (body, statuses[body])
        wire.send(b"".join(post(path, body) for body in bodies))
        assert [wire.answer().status for _ in bodies] == [statuses[body] for body in bodies]


def test_a_known_head_follows_what_becomes_of_its_experiment(server: RunningServer) -> None:
    experiment_id = new_experiment(server)
    root = f"/v1/{experiment_id}"
    draw, update = get(f"{root}/draw"), post(f"{root}/update", UPDATE)

    def statuses(wire: Wire) -> list[int]:
        answers = []
        for data in [draw, update] * 3:
            wire.send(data)
            answers.append(wire.answer().status)
        assert answers == answers[:2] * 3
        return answers[:2]

    with Wire(server) as wire:
        assert statuses(wire) == [200, 200]
        for line, expected in [
            (f"PUT {root}/disable", [409, 200]),
            (f"PUT {root}/enable", [200, 200]),
            (f"DELETE {root}/delete_arm/a", [200, 404]),
            (f"DELETE {root}/delete", [404, 404]),
        ]:
            wire.send(request(f"{line} HTTP/1.1", "Host: localhost"))
            assert wire.answer().status == 204
            assert statuses(wire) == expected
        wire.send(post("/v1/create", {"experiment_id": experiment_id, "arms": ["a"]}))
        assert wire.answer().status == 201
        assert statuses(wire) == [200, 200]
    assert pulls(server, experiment_id) == 3
