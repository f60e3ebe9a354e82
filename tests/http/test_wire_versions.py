"""HTTP/1.0 and 1.1, and how long a connection lives."""

import pytest

from support import RunningServer
from wire import HOST, JSON, Answer, Wire, assert_problem_of_the_app, get, post, request
from wire_servers import lane_server, new_experiment, pulls

server = lane_server()

UPDATE = b'{"arm_id": "a", "reward": 1}'
CLOSE = "Connection: close"

# method, path behind /v1/, body, status
ROUTES = [
    ("GET", "{id}/draw", b"", 200),
    ("POST", "{id}/update", UPDATE, 200),
    ("POST", "{id}/update", b"{", 400),
    ("POST", "{id}/update", b"{}", 422),
    ("POST", "{id}/update_batch", b'{"updates": [%b]}' % UPDATE, 200),
    ("POST", "{id}/update_batch", b'{"updates": []}', 422),
    ("GET", "nobody/draw", b"", 404),
    ("POST", "nobody/update", UPDATE, 404),
    ("POST", "nobody/update_batch", UPDATE, 404),
    ("PUT", "{id}/draw", b"", 405),
    ("HEAD", "{id}/draw", b"", 405),
    ("HEAD", "{id}", b"", 200),
    ("GET", "{id}/stats", b"", 200),
    ("GET", "ping", b"", 200),
    ("PUT", "{id}/enable", b"", 204),
    ("POST", "create", b"[]", 422),
]


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


class Asked:
    """A route as a request of either version."""

    def __init__(self, route: tuple[str, str, bytes, int], experiment_id: str) -> None:
        self.method, path, self.body, self.status = route
        self.path = f"/v1/{path.format(id=experiment_id)}"

    def data(self, version: str, *headers: str) -> bytes:
        framing = [JSON, f"Content-Length: {len(self.body)}"] if self.body else []
        return request(f"{self.method} {self.path} HTTP/{version}", HOST, *framing, *headers, body=self.body)

    def read(self, wire: Wire) -> Answer:
        answer = wire.answer(self.method)
        assert (self.method, self.path, answer.status) == (self.method, self.path, self.status)
        assert "transfer-encoding" not in answer.headers
        assert "date" in answer.headers
        return answer


@pytest.fixture(params=ROUTES, ids=lambda route: f"{route[0]} {route[1]} {route[3]}")
def asked(request: pytest.FixtureRequest, experiment_id: str) -> Asked:
    return Asked(request.param, experiment_id)


class TestHttp11:
    def test_a_connection_stays_open(self, server: RunningServer, asked: Asked) -> None:
        with Wire(server) as wire:
            for headers in [[], [], [], ["Connection: keep-alive"], ["Connection: Keep-Alive"], ["connection: TE"]]:
                wire.send(asked.data("1.1", *headers))
                assert "connection" not in asked.read(wire).headers
            wire.assert_open()

    @pytest.mark.parametrize("header", [CLOSE, "connection: Close", "Connection: TE, close"])
    def test_it_closes_where_the_client_asks(self, server: RunningServer, asked: Asked, header: str) -> None:
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(asked.data("1.1", header))
                assert asked.read(wire).headers["connection"] == "close"
                wire.assert_closed()

    def test_nothing_is_answered_behind_the_last_request(self, server: RunningServer) -> None:
        experiment_id = new_experiment(server)
        draw, update = get(f"/v1/{experiment_id}/draw"), post(f"/v1/{experiment_id}/update", UPDATE)
        last = post(f"/v1/{experiment_id}/update", UPDATE, CLOSE)
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(draw + update + last + draw + update * 3)
                answers = [wire.answer() for _ in range(3)]
                assert [answer.status for answer in answers] == [200] * 3
                assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
                wire.assert_closed()
        assert pulls(server, experiment_id) == 6


class TestHttp10:
    @pytest.mark.parametrize("headers", [[], [CLOSE], ["Connection: TE"]])
    def test_a_connection_closes(self, server: RunningServer, asked: Asked, headers: list[str]) -> None:
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(asked.data("1.0", *headers))
                assert asked.read(wire).headers.get("connection", "close") == "close"
                wire.assert_closed()

    @pytest.mark.parametrize("header", ["Connection: Keep-Alive", "connection: keep-alive"])
    def test_it_stays_open_where_the_client_asks(self, server: RunningServer, asked: Asked, header: str) -> None:
        with Wire(server) as wire:
            for _ in range(4):
                wire.send(asked.data("1.0", header))
                assert asked.read(wire).headers["connection"] == "keep-alive"
            wire.send(asked.data("1.0", header) * 3)
            for _ in range(3):
                assert asked.read(wire).headers["connection"] == "keep-alive"
            wire.send(asked.data("1.1"))
            assert "connection" not in asked.read(wire).headers
            wire.assert_open()

    def test_a_head_of_one_version_is_not_that_of_the_other(self, server: RunningServer, asked: Asked) -> None:
        for _ in range(2):
            with Wire(server) as wire:
                for _ in range(3):
                    wire.send(asked.data("1.1"))
                    assert "connection" not in asked.read(wire).headers
                wire.send(asked.data("1.0"))
                asked.read(wire)
                wire.assert_closed()

    def test_without_a_host_it_is_forbidden(self, server: RunningServer, experiment_id: str) -> None:
        for line in (f"GET /v1/{experiment_id}/draw HTTP/1.0", "GET /v1/ping HTTP/1.0"):
            for _ in range(3):
                with Wire(server) as wire:
                    wire.send(request(line))
                    answer = wire.answer()
                    assert answer.status == 403
                    assert answer.json["type"].endswith("forbidden-origin")
                    wire.assert_closed()

    def test_without_a_host_it_is_forbidden_and_stays_open_where_asked(
        self, server: RunningServer, experiment_id: str
    ) -> None:
        data = request(
            f"POST /v1/{experiment_id}/update HTTP/1.0", JSON, "Content-Length: 28", "Connection: keep-alive"
        )
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(data + UPDATE)
                answer = wire.answer()
                assert (answer.status, answer.headers["connection"]) == (403, "keep-alive")
            wire.assert_open()

    def test_it_gets_no_chunks_which_it_does_not_know(self, server: RunningServer, experiment_id: str) -> None:
        for path in (f"/v1/{experiment_id}/draw", "/docs", "/docs/openapi.json"):
            for method in ("GET", "OPTIONS"):
                with Wire(server) as wire:
                    wire.send(request(f"{method} {path} HTTP/1.0", HOST))
                    assert "transfer-encoding" not in wire.answer(method).headers
                    wire.assert_closed()


def test_a_problem_of_the_app_keeps_it_open(server: RunningServer, experiment_id: str) -> None:
    bad = [
        (get("/v1/nobody/draw"), 404, "experiment-not-found"),
        (get("/v1/nobody/draw/x"), 404, "not-found"),
        (request(f"PUT /v1/{experiment_id}/draw HTTP/1.1", HOST), 405, "method-not-allowed"),
        (post(f"/v1/{experiment_id}/update", b"{"), 400, "malformed-body"),
        (post(f"/v1/{experiment_id}/update", {}), 422, "invalid"),
        (request(f"POST /v1/{experiment_id}/update HTTP/1.1", HOST, "Content-Length: 2", body=b"{}"), 415, None),
        (request(f"GET /v1/{experiment_id}/draw HTTP/1.1", "Host: evil.example"), 403, "forbidden-origin"),
        (get(f"/v1/{experiment_id}/draw", "Origin: http://evil.example"), 403, "forbidden-origin"),
        (get(f"/v1/{experiment_id}/draw", "Sec-Fetch-Site: cross-site"), 403, "forbidden-origin"),
    ]
    with Wire(server) as wire:
        for data, status, slug in bad * 3:
            wire.send(data)
            assert_problem_of_the_app(wire.answer(), status, slug or "unsupported-media-type")
            wire.assert_open()
        wire.send(b"".join(data for data, _, _ in bad))
        assert [wire.answer().status for _ in bad] == [status for _, status, _ in bad]
