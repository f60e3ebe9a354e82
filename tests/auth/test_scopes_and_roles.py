"""What a token allows, on which experiments, through both doors; the others do not exist for it."""

import pytest

from auth.routes_for_tests import ADMIN, ROUTES, SIGHTS, clear
from auth.tokens_for_tests import bearing, challenge, counted, create, listed, shared_doors, token
from multiarm.auth.scopes import VERBS, Verb
from support import PROBLEM_PREFIX, RunningServer
from wire import Answer, Wire, get, post, request

servers = shared_doors


@pytest.fixture(params=[0, 1], ids=["lane", "no-lane"])
def door(request: pytest.FixtureRequest, servers: list[RunningServer]) -> RunningServer:
    """With the experiments `mine`, `mine-2` and `theirs` and no others."""
    server: RunningServer = servers[request.param]
    clear(server)
    for name in ("mine", "mine-2", "theirs"):
        create(server, name, ADMIN)
    return server


def assert_insufficient(answer: Answer, scope: str) -> None:
    assert (answer.status, answer.json["type"]) == (403, PROBLEM_PREFIX + "insufficient-scope"), answer
    assert challenge(answer) == f'Bearer realm="multiarm", error="insufficient_scope", scope="{scope}"'
    assert scope in answer.json["detail"]


def assert_absent(answer: Answer, name: str) -> None:
    assert (answer.status, answer.json["type"]) == (404, PROBLEM_PREFIX + "experiment-not-found"), answer
    assert name in answer.json["detail"]
    assert "www-authenticate" not in answer.headers


def test_every_route_of_an_experiment_is_tried_here(door: RunningServer) -> None:
    with Wire(door) as wire:
        paths = wire.answer_after(get("/docs/openapi.json", ADMIN)).json["paths"]
    on_one = {
        (method.upper(), path.removeprefix("/v1/{experiment_id}").format(arm_id="a", key="k", decision_id="d"))
        for path, item in paths.items()
        for method in item
        if path.startswith("/v1/{")
    }
    assert on_one == {(route.method, route.rest) for route in ROUTES}


@pytest.mark.parametrize("where", ["", ":mine", ":mine*", ":m*", ":*"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_allows_its_routes_and_no_others(door: RunningServer, verb: Verb, where: str) -> None:
    with Wire(door) as wire:
        for route in ROUTES:
            for _ in range(1 if route.verb == "admin" == verb else SIGHTS):
                answer = wire.answer_after(route.on("mine", verb + where))
                if route.verb == verb:
                    assert answer.status in route.statuses, (route, answer)
                else:
                    assert_insufficient(answer, f"{route.verb}:mine")


@pytest.mark.parametrize("scope", ["draw", "draw:mine", "admin:theirs draw:mine", "update:mine-2 read:theirs draw"])
def test_what_is_forbidden_counts_nothing(door: RunningServer, scope: str) -> None:
    with Wire(door) as wire:
        for route in ROUTES[1:]:
            for name in ("mine", "theirs"):
                if f"{route.verb}:{name}" not in scope:
                    assert wire.answer_after(route.on(name, scope)).status in (403, 404)
    assert listed(door, ADMIN) == ["mine", "mine-2", "theirs"]
    assert counted(door, "mine", ADMIN) == {"a": (0, 0), "b": (0, 0)}


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        ("read", ["mine", "mine-2", "theirs"]),
        ("read:*", ["mine", "mine-2", "theirs"]),
        ("read:mine", ["mine"]),
        ("read:mine*", ["mine", "mine-2"]),
        ("read:mine-*", ["mine-2"]),
        ("read:theirs read:mine-2", ["mine-2", "theirs"]),
        ("read:nobody admin draw:mine", []),
    ],
)
def test_a_list_shows_what_may_be_read(door: RunningServer, scope: str, names: list[str]) -> None:
    for _ in range(SIGHTS):
        assert listed(door, bearing(token(scope))) == names


@pytest.mark.parametrize("scope", ["", "draw", "draw update admin", "read:", "reader", "read:-x", "READ"])
def test_without_read_there_is_no_list(door: RunningServer, scope: str) -> None:
    with Wire(door) as wire:
        assert_insufficient(wire.answer_after(get("/v1/list", bearing(token(scope)))), "read")


@pytest.mark.parametrize(
    "scope", ["", "draw update read", "admin:*", "admin:mine admin:mine-2 admin:theirs", "admin:m*"]
)
def test_clear_needs_admin_of_all(door: RunningServer, scope: str) -> None:
    with Wire(door) as wire:
        data = request("DELETE /v1/clear HTTP/1.1", "Host: 127.0.0.1", bearing(token(scope)))
        assert_insufficient(wire.answer_after(data), "admin")
    assert listed(door, ADMIN) == ["mine", "mine-2", "theirs"]


CREATIONS = [  # scope, id, what would do or None
    ("admin", None, None),
    ("admin", "new", None),
    ("admin:*", None, "admin"),
    ("admin:*", "new", None),
    ("admin:n*", "new", None),
    ("admin:new", "new", None),
    ("admin:new", "new-2", "admin:new-2"),
    ("admin:new", "NEW", "admin:NEW"),
    ("admin:new", None, "admin"),
    ("admin:mine*", "theirs", "admin:theirs"),
    ("admin:mine*", "nobody", "admin:nobody"),
    ("draw update read", "new", "admin"),
    ("draw update read", None, "admin"),
]


@pytest.mark.parametrize(("scope", "name", "needed"), CREATIONS)
def test_create_needs_admin_of_its_id(door: RunningServer, scope: str, name: str | None, needed: str | None) -> None:
    with Wire(door) as wire:
        answer = wire.answer_after(
            post("/v1/create", {} if name is None else {"experiment_id": name}, bearing(token(scope)))
        )
    if needed is None:
        assert answer.status == 201, answer
        assert len(listed(door, ADMIN)) == 4
    else:
        assert_insufficient(answer, needed)
        assert len(listed(door, ADMIN)) == 3


def test_create_without_a_body_needs_admin_of_all(door: RunningServer) -> None:
    with Wire(door) as wire:
        for scope, status in (("admin:*", 403), ("admin", 201)):
            data = request("POST /v1/create HTTP/1.1", "Host: 127.0.0.1", bearing(token(scope)))
            assert wire.answer_after(data).status == status


TRICKS = [
    *(
        "draw:",
        "draw:*x",
        "draw:m*e",
        "draw:**",
        "draw:mine**",
        "draw::mine",
        "draw:mine:",
        "draw: mine",
    ),
    *(
        "draw:MINE",
        "Draw:mine",
        "DRAW",
        "draw:mi",
        "draw:mine-",
        "draw:.mine",
        "draw:-*",
        "draw:.*",
        "draw:?*",
        "draw*",
    ),
    *(
        "draw:mine/",
        "draw:/mine",
        "draw:mine/../mine",
        "draw:..",
        "draw:%6dine",
        "draw:%2a",
        "draw:mine%2f",
        "draw:[m]ine",
    ),
    *("draw,update", "draw:mine,draw:mine-2", "draw\tupdate", "draw\nupdate", "\ndraw", "draw\r", "draw;", "draw\0"),
    *(
        "\uff44raw",
        "draw\u00a0",
        "draw:\uff4dine",
        "draw:mine\u200b",
        "draw\u2028draw",
        "draw:m\u0456ne",
        "*",
        ":",
        ":*",
    ),
    *(
        "*:mine",
        "all",
        "draw.mine",
        "draw/mine",
        '"draw"',
        "['draw']",
        "scope:draw",
        "openid profile",
        f"draw:{'m' * 65}*",
    ),
]


@pytest.mark.parametrize("scope", TRICKS, ids=ascii)
def test_what_only_looks_like_a_scope_allows_nothing(door: RunningServer, scope: str) -> None:
    with Wire(door) as wire:
        for _ in range(SIGHTS):
            assert_absent(wire.answer_after(ROUTES[0].on("mine", scope)), "mine")
    assert counted(door, "mine", ADMIN) == {"a": (0, 0), "b": (0, 0)}


PATHS = [
    *(
        "mine/../theirs",
        "mine/..%2ftheirs",
        "mine%2f..%2ftheirs",
        "./theirs",
        "%74heirs",
        "/theirs",
        "theirs/",
        "theirs//",
    ),
    *(
        "mine*",
        "*",
        "theirs;mine",
        "theirs%00",
        "theirs%0a",
        "theirs%20",
        "theirs\\..\\mine",
        "mine%2a",
        "THEIRS",
        "..;/theirs",
    ),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_leads_to_another_experiment(door: RunningServer, path: str) -> None:
    with Wire(door) as wire:
        for _ in range(SIGHTS):
            for route in ROUTES[:3]:
                assert wire.answer_after(route.on(path, "draw:mine* update:mine*")).status == 404
    for name in ("mine", "theirs"):
        assert counted(door, name, ADMIN) == {"a": (0, 0), "b": (0, 0)}
