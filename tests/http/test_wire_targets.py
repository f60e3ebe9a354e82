"""Request targets: queries, encodings, whole URLs, `*`; and methods that a hot route does not have."""

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, assert_problem_of_the_app, get, post, request
from wire_servers import lane_server, new_experiment

server = lane_server()

UPDATE = b'{"arm_id": "a", "reward": 1}'
BATCH = b'{"updates": [%b]}' % UPDATE
OURS = ["http://127.0.0.1", "http://127.0.0.1:8080", "http://localhost", "HTTP://LOCALHOST:80", "http://[::1]:1"]
FOREIGN = ["http://evil.example", "http://evil.example:8080", "http://localhost.evil.example", "http://0.0.0.0"]


@pytest.fixture(scope="module")
def experiment_id(server: RunningServer) -> str:
    return new_experiment(server)


def hot(target: str, *headers: str) -> list[bytes]:
    """The three hot requests at `target`/draw and so on, sent to our own host unless `headers` name one."""
    headers = headers or (HOST,)
    return [
        request(f"GET {target.format(operation='draw')} HTTP/1.1", *headers),
        *(
            request(
                f"POST {target.format(operation=operation)} HTTP/1.1",
                *headers,
                JSON,
                f"Content-Length: {len(body)}",
                body=body,
            )
            for operation, body in (("update", UPDATE), ("update_batch", BATCH))
        ),
    ]


def statuses(server: RunningServer, data: list[bytes]) -> set[int]:
    """Of each request three times on one connection, and once more in one packet; it is open afterwards."""
    found = set()
    with Wire(server) as wire:
        for piece in data * 3:
            wire.send(piece)
            found.add(wire.answer().status)
        wire.send(b"".join(data))
        found |= {wire.answer().status for _ in data}
        wire.assert_open()
    return found


@pytest.mark.parametrize("query", ["?", "?a=1", "?a=1&b=%20", "?x=/v1/y/draw", "?a=1;b", "?" + "q" * 5000, "??"])
def test_a_query_changes_nothing(server: RunningServer, experiment_id: str, query: str) -> None:
    assert statuses(server, hot(f"/v1/{experiment_id}/{{operation}}{query}")) == {200}


def test_a_query_is_no_part_of_an_unknown_id_either(server: RunningServer) -> None:
    assert statuses(server, hot("/v1/nobody/{operation}?a=1")) == {404}


@pytest.mark.parametrize(
    "target",
    [
        "/v1/%65x/{operation}",
        "/v1/ex%2e/{operation}",
        "/v1/ex%/{operation}",
        "/v1%2fex/{operation}",
        "/v1/ex/%{operation}",
        "/v1/ex//{operation}",
        "//v1/ex/{operation}",
        "/v1/ex/{operation}/",
        "/v1/./ex/{operation}",
        "/v1/../v1/ex/{operation}",
        "/v1/ex/{operation}.json",
        "/v1/ex/{operation};a",
        "/v1/ex;a/{operation}",
        "/v1/ex/x{operation}",
        "/v1//{operation}",
        "/V1/ex/{operation}",
        "/v2/ex/{operation}",
        "/v1/" + "e" * 65 + "/{operation}",
        "/v1/" + "e" * 5000 + "/{operation}",
        "/v1/e@x/{operation}",
        "/v1/.ex/{operation}",
        "/v1/ping/{operation}",
    ],
    ids=lambda target: target[:40],
)
def test_only_the_canonical_path_is_one(server: RunningServer, target: str) -> None:
    with Wire(server) as wire:
        wire.send(post("/v1/create", {"experiment_id": "ex", "arms": ["a"]}))
        assert wire.answer().status in (201, 409)
    assert statuses(server, hot("/v1/ex/{operation}")) == {200}
    assert statuses(server, hot(target)) == {404}


class TestWholeUrls:
    @pytest.mark.parametrize("base", OURS)
    def test_they_work_on_every_route(self, server: RunningServer, experiment_id: str, base: str) -> None:
        assert statuses(server, hot(f"{base}/v1/{experiment_id}/{{operation}}")) == {200}
        assert statuses(server, hot(f"{base}/v1/{experiment_id}/{{operation}}?a=b")) == {200}
        assert statuses(server, [request(f"GET {base}/v1/{experiment_id}/stats HTTP/1.1", HOST)]) == {200}
        assert statuses(server, [request(f"PUT {base}/v1/{experiment_id}/enable HTTP/1.1", HOST)]) == {204}
        assert statuses(server, hot(f"{base}/v1/nobody/{{operation}}")) == {404}
        assert statuses(server, hot(f"{base}/v1/%65x/{{operation}}")) == {404}

    def test_their_host_counts_not_the_header(self, server: RunningServer, experiment_id: str) -> None:
        path = f"/v1/{experiment_id}/{{operation}}"
        for base in FOREIGN:
            assert statuses(server, hot(base + path)) == {403}
            assert statuses(server, [request(f"GET {base}/v1/ping HTTP/1.1", HOST)]) == {403}
        for base in OURS:
            assert statuses(server, hot(base + path, "Host: evil.example")) == {200}

    def test_a_header_must_be_there_all_the_same(self, server: RunningServer, experiment_id: str) -> None:
        for hosts in ([], [HOST, HOST]):
            with Wire(server) as wire:
                wire.send(request(f"GET http://127.0.0.1/v1/{experiment_id}/draw HTTP/1.1", *hosts))
                assert wire.answer().status == 400

    @pytest.mark.parametrize(
        "target",
        [
            "http:///v1/ping",
            "http://",
            "http://127.0.0.1",
            "http://user@127.0.0.1/v1/ping",
            "http://127.0.0.1:/v1/ping",
            "http://127.0.0.1:x/v1/ping",
            "http://127.0.0.1:99999/v1/ping",
            "http://[::1/v1/ping",
            "ftp://127.0.0.1/v1/ping",
            "http:/v1/ping",
        ],
    )
    def test_odd_ones_are_answered_somehow_and_do_no_harm(self, server: RunningServer, target: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request(f"GET {target} HTTP/1.1", HOST))
                answer = wire.answer()
                assert answer.status in (200, 400, 403, 404), answer
                if answer.headers.get("connection") == "close":
                    wire.assert_closed()
                    return
            wire.assert_open()


class TestMethods:
    def test_head_on_draw_is_405_without_a_body(self, server: RunningServer, experiment_id: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request(f"HEAD /v1/{experiment_id}/draw HTTP/1.1", HOST))
                answer = wire.answer("HEAD")
                assert (answer.status, set(answer.headers["allow"].split(", "))) == (405, {"GET", "OPTIONS"})
                assert int(answer.headers["content-length"]) > 0
                wire.assert_open()

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH", "TRACE"])
    def test_others_are_405_on_hot_routes(self, server: RunningServer, experiment_id: str, method: str) -> None:
        with Wire(server) as wire:
            for operation in ["draw", "update", "update_batch"] * 3:
                for body in (b"", UPDATE):
                    headers = [HOST, JSON, f"Content-Length: {len(body)}"] if body else [HOST]
                    wire.send(request(f"{method} /v1/{experiment_id}/{operation} HTTP/1.1", *headers, body=body))
                    answer = wire.answer(method)
                    assert answer.status == 405
            wire.assert_open()

    def test_get_and_post_are_not_each_other(self, server: RunningServer, experiment_id: str) -> None:
        with Wire(server) as wire:
            for data in [
                get(f"/v1/{experiment_id}/update"),
                get(f"/v1/{experiment_id}/update_batch"),
                post(f"/v1/{experiment_id}/draw", UPDATE),
                request(f"POST /v1/{experiment_id}/draw HTTP/1.1", HOST),
            ] * 3:
                wire.send(data)
                assert_problem_of_the_app(wire.answer(), 405, "method-not-allowed")
            wire.assert_open()

    @pytest.mark.parametrize("operation", ["draw", "update", "update_batch", "stats"])
    def test_options_names_the_methods(self, server: RunningServer, experiment_id: str, operation: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request(f"OPTIONS /v1/{experiment_id}/{operation} HTTP/1.1", HOST))
                answer = wire.answer("OPTIONS")
                assert (answer.status, "OPTIONS" in answer.headers["allow"]) == (204, True)
            wire.assert_open()

    def test_options_of_the_whole_server_gets_some_answer(self, server: RunningServer, experiment_id: str) -> None:
        with Wire(server) as wire:
            for _ in range(3):
                wire.send(request("OPTIONS * HTTP/1.1", HOST) + get(f"/v1/{experiment_id}/draw"))
                answer = wire.answer("OPTIONS")
                assert answer.status < 500 or answer.status == 501
                if answer.headers.get("connection") == "close":
                    wire.assert_closed()
                    return
                assert "decision_id" in wire.answer().json

    def test_a_star_is_a_target_of_options_alone(self, server: RunningServer) -> None:
        for method in ("GET", "POST", "DELETE"):
            with Wire(server) as wire:
                wire.send(request(f"{method} * HTTP/1.1", HOST))
                assert wire.answer().status in (400, 404, 405)
