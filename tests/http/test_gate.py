"""Host, Origin and Sec-Fetch-Site: without authentication, other web sites must not reach the server."""

import json
from pathlib import Path

import httpx
import pytest

from support import PROBLEM_PREFIX, RunningServer, assert_problem

GOOD_HOSTS = ["127.0.0.1", "127.0.0.1:8080", "localhost", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8080"]
BAD_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "evil.localhost",
    "127.0.0.1.evil.example",
    "localhost:80:80",
    "localhost:evil",
    "user@localhost",
    "::1",
    "0.0.0.0",
    "",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_its_own_names_pass_with_any_port(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/ping", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/ping"), ("GET", "/docs"), ("POST", "/v1/create")])
def test_a_foreign_host_is_403(client: httpx.Client, host: str, method: str, path: str) -> None:
    before = client.get("/v1/list").json()
    assert_problem(client.request(method, path, headers={"host": host}), 403, "forbidden-origin")
    assert client.get("/v1/list").json() == before


@pytest.mark.parametrize(
    ("version", "status", "slug"), [(b"1.0", 403, "forbidden-origin"), (b"1.1", 400, "malformed-request")]
)
def test_a_missing_host_is_refused(server: RunningServer, version: bytes, status: int, slug: str) -> None:
    answer = server.raw(b"GET /v1/ping HTTP/%b\r\nConnection: close\r\n\r\n" % version)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["type"] == f"{PROBLEM_PREFIX}{slug}"


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:3000", "http://localhost", "https://LOCALHOST:1", "http://[::1]:8080"]
)
def test_its_own_origins_pass_whatever_the_port(client: httpx.Client, origin: str) -> None:
    assert client.get("/v1/ping", headers={"origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://evil.example:8080", "http://localhost.evil.example", "null", "", "localhost"],
)
def test_an_origin_of_another_site_is_403(client: httpx.Client, origin: str) -> None:
    before = client.get("/v1/list").json()
    assert_problem(client.post("/v1/create", headers={"origin": origin}), 403, "forbidden-origin")
    assert client.get("/v1/list").json() == before


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-origin", 200), ("same-site", 200), ("none", 200)]
)
def test_sec_fetch_site(client: httpx.Client, site: str, status: int) -> None:
    answer = client.get("/v1/ping", headers={"sec-fetch-site": site})
    assert answer.status_code == status
    if status == 403:
        assert_problem(answer, 403, "forbidden-origin")


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nobody/draw"])
def test_a_foreign_host_does_not_learn_what_is_there(client: httpx.Client, path: str) -> None:
    assert_problem(client.get(path, headers={"host": "evil.example"}), 403, "forbidden-origin")


def test_allowed_hosts_replaces_the_names_whatever_their_case(small_client: httpx.Client) -> None:
    statuses = {
        host: small_client.get("/v1/ping", headers={"host": host}).status_code
        for host in ("shop.example", "SHOP.example:443", "127.0.0.1", "localhost", "other.example")
    }
    assert statuses == {
        "shop.example": 200,
        "SHOP.example:443": 200,
        "127.0.0.1": 200,
        "localhost": 403,
        "other.example": 403,
    }
    for origin, status in (("https://shop.example", 200), ("http://localhost", 403)):
        assert small_client.get("/v1/ping", headers={"origin": origin}).status_code == status


def test_a_star_lets_names_and_origins_through_but_no_cross_site_request(tmp_path: Path) -> None:
    with RunningServer(tmp_path, settings={"allowed_hosts": "*"}) as server:
        client = server.client()
        named = {"host": "bandit.internal", "origin": "http://shop.example"}
        assert client.get("/v1/ping", headers=named).status_code == 200
        assert_problem(client.get("/v1/ping", headers={"sec-fetch-site": "cross-site"}), 403, "forbidden-origin")
