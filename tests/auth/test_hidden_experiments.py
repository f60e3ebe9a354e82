"""Experiments that a token may not see, routes that are open to all, and the same answers through both doors."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from auth.routes_for_tests import ADMIN, ROUTES, SIGHTS, Route, clear
from auth.tokens_for_tests import (
    BY_SECRET,
    OTHER_SECRET,
    bearing,
    counted,
    create,
    hmac_signer,
    listed,
    shared_doors,
    token,
)
from support import RunningServer
from wire import HOST, JSON, Wire, get, post, request, transcript
from wire_servers import settings_of

FOREIGN = "draw:mine* update:mine* read:mine* admin:mine*"
BODIES = [
    b"",
    b"{}",
    b"{",
    b'{"arm_id": "a", "reward": 1}',
    b'{"policy": {"type": "nothing"}}',
    b"[" * 5000,
]

servers = shared_doors


@pytest.fixture(params=[0, 1], ids=["lane", "no-lane"])
def door(request: pytest.FixtureRequest, servers: list[RunningServer]) -> RunningServer:
    """Without experiments."""
    server: RunningServer = servers[request.param]
    clear(server)
    return server


def questions(name: str, route: Route) -> Iterator[bytes]:
    """In all ways that a route of an experiment can be asked, well or badly."""
    path, line = f"/v1/{name}{route.rest}", bearing(token(FOREIGN))
    for method in (route.method, "HEAD", "POST"):
        yield request(f"{method} {path} HTTP/1.1", HOST, line)
        yield request(f"{method} {path}?a=b HTTP/1.0", HOST, line)
    for body in BODIES:
        yield post(path, body, line).replace(b"POST", route.method.encode(), 1)
    yield post(path, b"{}", line).replace(b"POST", route.method.encode(), 1).replace(b"/json", b"/xml")
    start, length = f"{route.method} {path} HTTP/1.1", f"Content-Length: {1 << 30}"
    yield request(start, HOST, JSON, line, length)
    yield request(start, HOST, JSON, line, length, "Expect: 100-continue")
    yield request(start, HOST, JSON, line, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.rest}")
def test_one_that_is_there_answers_as_one_that_is_not(door: RunningServer, route: Route) -> None:
    asked = list(questions("theirs", route))
    missing = [transcript(door, data) for data in asked]
    create(door, "theirs", ADMIN)
    assert [transcript(door, data) for data in asked] == missing
    other = [transcript(door, data.replace(b"theirs", b"nobody")) for data in asked]
    assert [said.replace(b"nobody", b"theirs") for said in other] == missing
    assert not any(re.search(rb"HTTP/1.1 (2|5)", said) for said in missing if b"\r\nallow:" not in said)
    assert counted(door, "theirs", ADMIN) == {"a": (0, 0), "b": (0, 0)}


def test_nor_does_it_show_where_one_is_created(door: RunningServer) -> None:
    line = bearing(token(FOREIGN))
    asked = [
        post("/v1/create", document, line)
        for document in ({"experiment_id": "theirs"}, {"experiment_id": "theirs", "x": 1})
    ]
    missing = [transcript(door, data) for data in asked]
    create(door, "theirs", ADMIN)
    assert [transcript(door, data) for data in asked] == missing
    assert listed(door, line) == []


# --- open routes ------------------------------------------------------------------------------------------------

OPEN = ["/v1/ping", "/health/live", "/health/ready"]
CLOSED = [
    "/",
    "/nowhere",
    "/metrics",
    "/docs",
    "/docs/openapi.json",
    "/docs/assets/swagger-ui.css",
    "/v1/list",
    "/schema",
]
CLOSED_TOO = [
    "/v1/ping/",
    "/v1//ping",
    "/v1/./ping",
    "/v1/%70ing",
    "/health",
    "/health/",
    "/health/live/x",
    "/health/../v1/list",
]
NONE = ["", bearing(""), bearing("a.b.c"), "Authorization: Basic YTpi"]


def with_header(path: str, line: str) -> bytes:
    return get(path, line) if line else get(path)


@pytest.mark.parametrize("line", [*NONE, bearing(token(by=hmac_signer(OTHER_SECRET))), bearing(token("draw"))])
@pytest.mark.parametrize("path", OPEN)
def test_health_and_ping_are_open(door: RunningServer, path: str, line: str) -> None:
    with Wire(door) as wire:
        for _ in range(SIGHTS):
            assert wire.answer_after(with_header(path, line)).status == 200
        assert wire.answer_after(with_header(path + "?a=b", line)).status == 200
        wire.send(with_header(path, line).replace(b"GET", b"HEAD", 1))
        assert wire.answer("HEAD").status == 200


@pytest.mark.parametrize("line", NONE)
@pytest.mark.parametrize("path", [*CLOSED, *CLOSED_TOO])
def test_everything_else_needs_a_token(door: RunningServer, path: str, line: str) -> None:
    with Wire(door) as wire:
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            answer = wire.answer_after(with_header(path, line).replace(b"GET", method.encode(), 1))
            assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json")
            assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("scope", ["read", "read:mine", "read:m*", "draw update admin", "draw", ""])
def test_documentation_and_metrics_are_for_readers(door: RunningServer, scope: str) -> None:
    readers, line = scope.startswith("read"), bearing(token(scope))
    with Wire(door) as wire:
        for path in ("/docs", "/docs/openapi.json", "/docs/assets/swagger-ui.css"):
            answer = wire.answer_after(get(path, line))
            assert answer.status == (200 if readers else 403)
            if not readers:
                assert 'scope="read"' in answer.headers["www-authenticate"]
        assert wire.answer_after(get("/metrics", line)).status == (200 if readers else 403)


def test_metrics_show_only_what_the_token_may_read(door: RunningServer) -> None:
    names = ("mine", "theirs")
    shown = {}
    with Wire(door) as wire:
        for name in names:
            create(door, name, ADMIN)
        for scope in ("read", "read:mine", "read:m*", "read:other"):
            page = wire.answer_after(get("/metrics", bearing(token(scope)))).body
            shown[scope] = [name for name in names if f'experiment_id="{name}"'.encode() in page]
    assert shown == {"read": ["mine", "theirs"], "read:mine": ["mine"], "read:m*": ["mine"], "read:other": []}


def test_open_metrics_show_all_and_open_nothing_else(tmp_path: Path) -> None:
    settings = settings_of(True) | BY_SECRET | {"open_metrics": "true"}
    with RunningServer(tmp_path, settings=settings, arguments=["--host", "0.0.0.0"]) as server, Wire(server) as wire:
        create(server, "mine", ADMIN)
        answer = wire.answer_after(get("/metrics"))
        assert answer.status == 200
        assert b'experiment_id="mine"' in answer.body
        for path in ("/docs", "/v1/list", "/v1/mine"):
            assert wire.answer_after(get(path)).status == 401


def test_open_documentation_opens_nothing_else(tmp_path: Path) -> None:
    settings = settings_of(True) | BY_SECRET | {"open_documentation": "true"}
    with RunningServer(tmp_path, settings=settings, arguments=["--host", "0.0.0.0"]) as server, Wire(server) as wire:
        assert "ANYONE" not in server.log  # with authentication it may listen anywhere
        for path in ("/docs", "/docs/openapi.json", "/docs/assets/swagger-ui.css"):
            assert wire.answer_after(get(path)).status == 200
        for path in ("/v1/list", "/v1/e/draw", "/metrics", "/docsx", "/doc", "/v1/docs", "/DOCS", "//docs", "/%64ocs"):
            assert wire.answer_after(get(path)).status == 401
        for path in ("/docs/../v1/list", "/docs/..%2fv1/list", "/docs//", "/docs/%2e%2e/v1/list"):
            assert wire.answer_after(get(path)).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: evil.example"],
        [HOST, "Origin: https://evil.example"],
        [HOST, "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors"],
    ],
)
def test_hosts_and_origins_are_not_looked_at(door: RunningServer, headers: list[str]) -> None:
    create(door, "mine", ADMIN)
    with Wire(door) as wire:
        for path in ("/v1/mine/draw", "/v1/list"):
            for line, status in ((ADMIN, 200), (bearing("no"), 401)):
                for _ in range(SIGHTS):
                    assert wire.answer_after(request(f"GET {path} HTTP/1.1", *headers, line)).status == status


# --- both doors ----------------------------------------------------------------------------------------------------

NUMBER = re.compile(rb'(?<=":)[\d.e+-]+')  # in a body: how much was drawn is left to chance
HOLDERS = [
    bearing(token("draw update read admin")),
    bearing(token("draw:mine")),
    bearing(token("update:m* read")),
    bearing(token("")),
    bearing(token(lifetime_s=-100, iat=0, exp=1)),
    bearing(token(by=hmac_signer(OTHER_SECRET))),
    bearing(token()[:-3]),
    bearing("x" * 5000),
    "X-Nothing: 1",
]


@pytest.mark.parametrize("line", HOLDERS, ids=lambda line: f"{line[:30]}")
def test_both_doors_say_the_same(servers: list[RunningServer], line: str) -> None:
    for server in servers:
        clear(server)
        create(server, "mine", ADMIN)
    for route in ROUTES:
        for name in ("mine", "nobody"):
            path, document = f"/v1/{name}{route.rest}", route.body or {}
            data = post(path, document, line).replace(b"POST", route.method.encode(), 1)
            for one in (data, request(f"{route.method} {path} HTTP/1.1", HOST, line), data + data):
                for _ in range(SIGHTS if route.verb in ("draw", "update") else 1):
                    lane, app = (NUMBER.sub(b"*", transcript(server, one)) for server in servers)
                    assert lane == app
