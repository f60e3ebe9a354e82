"""`Upgrade` is passed over: stock Java clients and `curl --http2` ask for h2c with every request."""

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, ask, batch, get, post, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()

H2C = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
WEBSOCKET = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
]
UPGRADES = {
    "curl": H2C,
    "JDK": [H2C[0], H2C[2], H2C[1]],
    "websocket": WEBSOCKET,
    "lower case": [header.lower() for header in H2C],
    "upper case": ["CONNECTION: UPGRADE", "UPGRADE: H2C"],
    "several": ["Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket", "Upgrade: foo/2"],
    "no space": ["Connection:Upgrade", "Upgrade:h2c"],
    "none named": ["Connection: Upgrade"],
    "not said by Connection": ["Upgrade: h2c"],
}
UPDATE = {"arm_id": "a", "reward": 1}


@pytest.fixture
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


@pytest.fixture(params=UPGRADES.values(), ids=list(UPGRADES))
def upgrade(request: pytest.FixtureRequest) -> list[str]:
    headers: list[str] = request.param
    return headers


def everything(experiment_id: str, upgrade: list[str]) -> list[tuple[bytes, int]]:
    root = f"/v1/{experiment_id}"
    new_arm = {"arm_id": "c", "payload": {"Upgrade": "\nUpgrade: h2c"}}
    return [
        (get(f"{root}/draw", *upgrade), 200),
        (post(f"{root}/update", UPDATE, *upgrade), 200),
        (post(f"{root}/update_batch", batch(2), *upgrade), 200),
        (get(root, *upgrade), 200),
        (get(f"{root}/stats", *upgrade), 200),
        (post(f"{root}/add_arm", new_arm, *upgrade), 201),
        (request(f"DELETE {root}/delete_arm/c HTTP/1.1", HOST, *upgrade), 204),
        (request(f"PUT {root}/enable HTTP/1.1", HOST, *upgrade), 204),
        (post("/v1/create", {"experiment_id": experiment_id}, *upgrade), 409),
        (post(f"{root}/update", {}, *upgrade), 422),
        (get("/v1/nobody/draw", *upgrade), 404),
        (request(f"PUT {root}/draw HTTP/1.1", HOST, *upgrade), 405),
        (get("/docs", *upgrade), 200),
    ]


def test_every_route_answers_as_without_it(server: RunningServer, experiment_id: str, upgrade: list[str]) -> None:
    asked = everything(experiment_id, upgrade)
    with Wire(server) as wire:
        for data, status in asked * 3:
            wire.send(data)
            assert (data, wire.answer().status) == (data, status)
        wire.send(b"".join(data for data, _ in asked))
        assert [wire.answer().status for _ in asked] == [status for _, status in asked]
        wire.assert_open()
    assert pulls(server, experiment_id) == 4 * 3


@pytest.mark.parametrize("operation", ["update", "update_batch"])
def test_the_body_may_come_later(server: RunningServer, experiment_id: str, upgrade: list[str], operation: str) -> None:
    data = post(f"/v1/{experiment_id}/{operation}", UPDATE if operation == "update" else batch(1), *upgrade)
    start = data.index(b"\r\n\r\n") + 4
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(data[:start], data[start : start + 5], data[start + 5 :])
            assert wire.answer().json["accepted"] == 1
        wire.assert_open()


@pytest.mark.parametrize("kind", ["JDK", "websocket"])
def test_it_may_be_cut_anywhere(server: RunningServer, experiment_id: str, kind: str) -> None:
    for data in (
        get(f"/v1/{experiment_id}/draw", *UPGRADES[kind]),
        post(f"/v1/{experiment_id}/update", UPDATE, *UPGRADES[kind]),
        post("/v1/create", {"experiment_id": experiment_id}, *UPGRADES[kind]),
    ):
        with Wire(server) as wire:
            for cut in range(1, len(data), 2):
                wire.send(data[:cut], data[cut:])
                assert wire.answer().status in (200, 409)
            wire.send(*(data[i : i + 1] for i in range(len(data))))
            assert wire.answer().status in (200, 409)
            wire.assert_open()


def test_a_chunked_body_too(server: RunningServer, experiment_id: str, upgrade: list[str]) -> None:
    body = b'1c\r\n{"arm_id": "a", "reward": 1}\r\n0\r\n\r\n'
    line = f"POST /v1/{experiment_id}/update HTTP/1.1"
    start = request(line, HOST, JSON, *upgrade, "Transfer-Encoding: chunked")
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(start + body + get(f"/v1/{experiment_id}/draw", *upgrade))
            assert wire.answer().json["accepted"] == 1
            assert "decision_id" in wire.answer().json
            wire.send(start, body)
            assert wire.answer().json["accepted"] == 1
        wire.assert_open()


def test_with_expect(server: RunningServer, experiment_id: str, upgrade: list[str]) -> None:
    data = post(f"/v1/{experiment_id}/update", UPDATE, *upgrade, "Expect: 100-continue")
    start = data.index(b"\r\n\r\n") + 4
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(data[:start])
            assert (wire.answer().status, wire.answer_after(data[start:]).json["accepted"]) == (100, 1)
        wire.assert_open()


def test_with_close_and_on_http_1_0(server: RunningServer, experiment_id: str) -> None:
    body = b'{"arm_id": "a", "reward": 1}'
    for version, connection in (("1.1", "Upgrade, close"), ("1.0", "Upgrade"), ("1.0", "Upgrade, close")):
        headers = [HOST, JSON, f"Connection: {connection}", "Upgrade: h2c", f"Content-Length: {len(body)}"]
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(request(f"POST /v1/{experiment_id}/update HTTP/{version}", *headers, body=body))
                assert wire.answer().json["accepted"] == 1
                wire.assert_closed()


def test_the_word_means_nothing_elsewhere(server: RunningServer, experiment_id: str) -> None:
    """In a body, a payload, a path, a query, another header: it stays as it is."""
    payload = {"Upgrade": "Upgrade: h2c", "text": "\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"}
    with Wire(server) as wire:
        arms = [{"arm_id": "upgrade", "payload": payload}]
        wire.send(post("/v1/create", {"experiment_id": f"upgrade-{experiment_id}", "arms": arms}, *H2C))
        assert wire.answer().status == 201
        for _ in range(3):
            wire.send(get(f"/v1/upgrade-{experiment_id}/draw?upgrade:=\\r\\nupgrade:", "X-Upgrade: h2c", *H2C))
            assert wire.answer().json["payload"] == payload
            body = b'\r\nUpgrade: h2c\r\n\r\n{"arm_id": "upgrade", "reward": 1}'
            wire.send(post(f"/v1/upgrade-{experiment_id}/update", body, *H2C))
            assert wire.answer().status == 400
            body = b'{"arm_id": "upgrade",\r\n\r\n"reward": 1,\r\n"key": "Upgrade:h2c"}'
            wire.send(post(f"/v1/upgrade-{experiment_id}/update", body, *H2C))
            assert wire.answer().status == 200
        wire.assert_open()


def test_no_one_is_switched_to_another_protocol(server: RunningServer, upgrade: list[str]) -> None:
    """Who then speaks it is told that this is no HTTP/1.1."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    with Wire(server) as wire:
        wire.send(get("/v1/ping", *upgrade), preface)
        answer = wire.answer()
        assert answer.status == 200
        assert "upgrade" not in answer.headers
        assert wire.answer().status in (400, 505)
        wire.assert_closed()


def test_it_is_no_news(server: RunningServer, experiment_id: str, upgrade: list[str]) -> None:
    before = server.log
    for data, _ in everything(experiment_id, upgrade)[:4]:
        ask(server, data)
    assert server.log == before
