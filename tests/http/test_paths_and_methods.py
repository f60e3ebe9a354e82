"""Paths are canonical or 404; methods are those of the route or 405; HEAD and OPTIONS are as HTTP says."""

import json

import httpx
import pytest

from support import PROBLEM_PREFIX, RawAnswer, RunningServer, assert_problem, create, read_answer

ROUTES = [
    ("GET", "/v1/ping"),
    ("GET", "/v1/list"),
    ("DELETE", "/v1/clear"),
    ("POST", "/v1/create"),
    ("GET", "/v1/{e}"),
    ("PUT", "/v1/{e}/reset"),
    ("DELETE", "/v1/{e}/delete"),
    ("PUT", "/v1/{e}/enable"),
    ("PUT", "/v1/{e}/disable"),
    ("POST", "/v1/{e}/add_arm"),
    ("DELETE", "/v1/{e}/delete_arm/{a}"),
    ("PUT", "/v1/{e}/enable_arm/{a}"),
    ("PUT", "/v1/{e}/disable_arm/{a}"),
    ("GET", "/v1/{e}/draw"),
    ("POST", "/v1/{e}/update"),
    ("POST", "/v1/{e}/update_batch"),
    ("PUT", "/v1/{e}/reward/decision/{a}"),
    ("PUT", "/v1/{e}/reward/key/{a}"),
    ("GET", "/v1/{e}/stats"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/docs"),
    ("GET", "/docs/openapi.json"),
    ("GET", "/docs/assets/swagger-ui.css"),
]
READ = [path for method, path in ROUTES if method == "GET" and not path.endswith("/draw")]
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


@pytest.fixture(scope="module")
def experiment_id(client: httpx.Client) -> str:
    return create(client, "a", experiment_id="paths")


def filled(path: str, experiment_id: str = "paths", arm_id: str = "a") -> str:
    return path.format(e=experiment_id, a=arm_id)


def ask(server: RunningServer, method: str, path: str) -> RawAnswer:
    """The path goes out as it is: httpx would normalise it."""
    return server.raw(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode())


def spoiled(path: str) -> list[str]:
    """The path in ways that a lenient server would understand."""
    head, _, last = path.rpartition("/")
    encoded = f"%{ord(last[0]):02x}{last[1:]}"
    return [
        f"{path}/",
        f"{path}//",
        f"/{path}",
        f"{head}//{last}",
        f"{head}/./{last}",
        f"{path}/.",
        f"{path}/x/..",
        f"/x/..{path}",
        f"{head}/{encoded}",
        f"{head or '/'}%2f{last}",
        f"{path}%00",
        f"{path}%",
    ]


@pytest.mark.usefixtures("experiment_id")
class TestPaths:
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_one_that_is_not_canonical_is_404_on_every_route(
        self, server: RunningServer, method: str, path: str
    ) -> None:
        for wrong in spoiled(filled(path)):
            answer = ask(server, method, wrong)
            assert (wrong, answer.status) == (wrong, 404)
            assert answer.headers["content-type"] == "application/problem+json"
            assert json.loads(answer.body)["type"] == f"{PROBLEM_PREFIX}not-found"

    def test_none_of_them_did_anything(self, client: httpx.Client, experiment_id: str) -> None:
        view = client.get(f"/v1/{experiment_id}").json()
        assert (view["status"], view["epoch"]) == ("enabled", 0)
        assert view["counts"] == {"arms": 1, "enabled_arms": 1, "draws": 0, "pulls": 0}

    @pytest.mark.parametrize("path", ["/", "/v1", "/v2/ping", "/v1/a/nonsense", "/v1/a/draw/x", "/health", "/V1/ping"])
    def test_unknown_ones_are_404(self, client: httpx.Client, path: str) -> None:
        assert_problem(client.get(path), 404, "not-found")

    @pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{e}" in route[1]])
    def test_an_unknown_experiment_is_404_on_every_route(self, client: httpx.Client, method: str, path: str) -> None:
        body = {
            "/v1/{e}/update": {"arm_id": "a", "reward": 1},
            "/v1/{e}/update_batch": {"updates": [{"arm_id": "a", "reward": 1}]},
        }.get(path)
        for experiment_id in ("nobody", "x" * 200, "-", "*"):
            answer = client.request(method, filled(path, experiment_id), json=body)
            assert_problem(answer, 404, "experiment-not-found")


@pytest.mark.usefixtures("experiment_id")
class TestMethods:
    @pytest.mark.parametrize(("right", "path"), ROUTES)
    def test_a_wrong_one_is_405_with_allow(self, server: RunningServer, right: str, path: str) -> None:
        allowed = {right, "HEAD"} if path in READ else {right}
        for method in METHODS:
            if method in allowed:
                continue
            answer = ask(server, method, filled(path))
            assert (method, answer.status) == (method, 405)
            assert answer.headers["content-type"] == "application/problem+json"
            assert {m.strip() for m in answer.headers["allow"].split(",")} - {"OPTIONS"} == allowed
            if method != "HEAD":
                assert json.loads(answer.body)["type"] == f"{PROBLEM_PREFIX}method-not-allowed"

    @pytest.mark.parametrize("path", READ)
    def test_head_answers_as_get_but_without_a_body(self, server: RunningServer, path: str) -> None:
        get = ask(server, "GET", filled(path))
        with server.connect() as connection:
            request = f"HEAD {filled(path)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            connection.sendall(request.encode())
            head = read_answer(connection, "HEAD")
            assert (head.status, get.status) == (200, 200)
            assert head.headers["content-type"] == get.headers["content-type"]
            assert head.headers["content-length"] == get.headers["content-length"]
            # had it sent a body, this answer would not begin where it should
            connection.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert read_answer(connection).status == 200

    def test_head_of_what_is_not_there_is_404_without_a_body(self, client: httpx.Client) -> None:
        for path in ("/v1/nobody", "/v1/nobody/stats", "/nowhere"):
            answer = client.head(path)
            assert (answer.status_code, answer.content) == (404, b"")

    def test_head_of_a_draw_draws_nothing(self, client: httpx.Client) -> None:
        experiment_id = create(client, "a")
        assert client.head(f"/v1/{experiment_id}/draw").status_code == 405
        assert client.get(f"/v1/{experiment_id}").json()["counts"]["draws"] == 0

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_options_lists_the_methods_and_does_nothing(
        self, client: httpx.Client, experiment_id: str, method: str, path: str
    ) -> None:
        answer = client.options(filled(path))
        assert answer.status_code in {200, 204}
        assert method in {allowed.strip() for allowed in answer.headers["allow"].split(",")}
        assert "access-control-allow-origin" not in answer.headers
        assert client.get(f"/v1/{experiment_id}").json()["counts"]["arms"] == 1

    def test_options_of_an_unknown_path_is_404(self, client: httpx.Client) -> None:
        assert client.options("/nowhere").status_code == 404
