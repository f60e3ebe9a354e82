"""Without authentication: on loopback only, unless it is said aloud; and no web page of another site comes in."""

from pathlib import Path

import pytest

from multiarm.authentication import is_loopback, require_authentication
from multiarm.domain.errors import StartError
from multiarm.settings import Settings
from support import PROBLEM_PREFIX, RunningServer, run_cli
from wire import Wire, get, post, request
from wire_servers import LANES, shared_server

SIGHTS = 3
ELSEWHERE = ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.1", "0", "localhost.example.org", "2130706433", "[::1]"]


@pytest.fixture(scope="module")
def servers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> list[RunningServer]:
    """Those of the tests of the wire."""
    return [shared_server(lane, pytestconfig, tmp_path_factory) for lane in LANES.values()]


@pytest.fixture(params=[0, 1], ids=["lane", "no-lane"])
def door(request: pytest.FixtureRequest, servers: list[RunningServer]) -> RunningServer:
    """With an experiment `e`."""
    server: RunningServer = servers[request.param]
    with Wire(server) as wire:
        assert wire.answer_after(post("/v1/create", {"experiment_id": "e", "arms": ["a"]})).status in (201, 409)
    return server


# --- where it listens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_authentication(host: str) -> None:
    assert is_loopback(host)
    require_authentication(Settings(host=host))


@pytest.mark.parametrize("host", ELSEWHERE)
def test_elsewhere_it_needs_authentication_or_the_word(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StartError, match="allow_anonymous = true"):
        require_authentication(Settings(host=host))
    assert "ANYONE" not in capsys.readouterr().out
    require_authentication(Settings(host=host, allow_anonymous=True))
    assert "ANYONE" in capsys.readouterr().out
    require_authentication(Settings(host=host, jwt_secret="x" * 32))
    assert "ANYONE" not in capsys.readouterr().out


def test_it_refuses_to_start(tmp_path: Path) -> None:
    done = run_cli("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path / "data", timeout_s=20)
    assert done.returncode == 2
    assert "It would listen on 0.0.0.0 without authentication" in done.stderr
    assert not (tmp_path / "data").exists()


def test_it_starts_where_that_is_allowed_and_says_so(tmp_path: Path) -> None:
    settings = {"allow_anonymous": "true"}
    with RunningServer(tmp_path, settings=settings, arguments=["--host", "0.0.0.0"]) as server:
        assert "ANYONE WHO REACHES 0.0.0.0 MAY DRAW, REWARD AND DELETE" in server.log
        with Wire(server) as wire:
            assert wire.answer_after(get("/v1/list")).status == 200
            assert wire.answer_after(request("GET /v1/list HTTP/1.1", "Host: evil.example")).status == 403


def test_on_loopback_it_says_nothing(door: RunningServer) -> None:
    assert "ANYONE" not in door.log


# --- browsers ---------------------------------------------------------------------------------------------------

CHROME = [
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9",
]
FIREFOX = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0",
    "Accept-Language: en-GB,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Priority: u=4",
]
BROWSERS = {"chrome": CHROME, "firefox": FIREFOX}
REWARD = b'{"arm_id": "a", "reward": 1}'


def fetch(site: str, mode: str, target: str = "empty", *, user: bool = False) -> list[str]:
    said = [f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}", f"Sec-Fetch-Dest: {target}"]
    return [*said, "Sec-Fetch-User: ?1", "Upgrade-Insecure-Requests: 1"] if user else said


PAGE = fetch("none", "navigate", "document", user=True)
POSTED = fetch("cross-site", "navigate", "document", user=True)


def host(server: RunningServer, name: str = "127.0.0.1") -> str:
    return f"Host: {name}:{server.url.rpartition(':')[2]}"


def body(kind: str, data: bytes) -> list[str]:
    return [f"Content-Type: {kind}", f"Content-Length: {len(data)}"]


def told(server: RunningServer) -> list[object]:
    """All that a stranger might have changed."""
    with Wire(server) as wire:
        return [wire.answer_after(get(path)).json for path in ("/v1/list", "/v1/e/stats")]


def attempts(server: RunningServer, browser: list[str]) -> dict[str, bytes]:
    """Of a page of another site to use this server through the browser of someone on this machine."""
    ours, rebound, evil = host(server), host(server, "evil.example"), "Origin: https://evil.example"
    draw, update, create = "GET /v1/e/draw HTTP/1.1", "POST /v1/e/update HTTP/1.1", "POST /v1/create HTTP/1.1"
    text, form = body("text/plain;charset=UTF-8", REWARD), body("application/x-www-form-urlencoded", b"a=b")
    json = body("application/json", REWARD)
    no_cors, cors = fetch("cross-site", "no-cors"), fetch("cross-site", "cors")
    return {
        "rebound draw": request(draw, rebound, *browser, *fetch("same-origin", "cors")),
        "rebound update": request(
            update, rebound, *browser, "Origin: http://evil.example", *fetch("same-origin", "cors"), *json, body=REWARD
        ),
        "rebound page": request("GET /docs HTTP/1.1", rebound, *browser, *PAGE),
        "rebound, before Sec-Fetch": request(draw, rebound, *browser),
        "rebound, no port": request(draw, "Host: evil.example", *browser),
        "image": request(draw, ours, *browser, *fetch("cross-site", "no-cors", "image"), "Referer: https://evil.example/"),
        "script": request(draw, ours, *browser, *fetch("cross-site", "no-cors", "script")),
        "fetch without cors": request(update, ours, *browser, evil, *no_cors, *text, body=REWARD),
        "fetch with cors": request(draw, ours, *browser, evil, *cors),
        "preflight": request(
            update.replace("POST", "OPTIONS"), ours, *browser, evil, *cors, "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type", "Access-Control-Request-Private-Network: true",
        ),
        "after a preflight": request(update, ours, *browser, evil, *cors, *json, body=REWARD),
        "beacon": request(update, ours, *browser, evil, *no_cors, *json, body=REWARD),
        "form": request(create, ours, *browser, evil, *POSTED, *form, body=b"a=b"),
        "form in a sandbox": request(create, ours, *browser, "Origin: null", *form, body=b"a=b"),
        "form, before Sec-Fetch": request(update, ours, *browser, evil, *text, body=REWARD),
        "sandboxed frame": request(draw, ours, *browser, "Origin: null", *cors),
        "file": request(update, ours, *browser, "Origin: null", *json, body=REWARD),
        "extension": request(draw, ours, *browser, "Origin: chrome-extension://abcdefghijklmnop"),
        "our name within theirs": request(draw, ours, *browser, "Origin: https://127.0.0.1.evil.example"),
        "our name before an @": request(draw, ours, *browser, "Origin: https://127.0.0.1@evil.example"),
        "target of another host": request(draw.replace("/v1", "http://evil.example/v1"), ours, *browser),
    }  # fmt: skip


@pytest.mark.parametrize("browser", list(BROWSERS))
def test_a_page_of_another_site_changes_and_learns_nothing(door: RunningServer, browser: str) -> None:
    before = told(door)
    for name, data in attempts(door, BROWSERS[browser]).items():
        with Wire(door) as wire:
            for _ in range(SIGHTS):
                answer = wire.answer_after(data)
                assert (answer.status, answer.json["type"]) == (403, PROBLEM_PREFIX + "forbidden-origin"), name
                assert not any(header.startswith("access-control-") for header in answer.headers), name
    assert told(door) == before


@pytest.mark.parametrize("browser", list(BROWSERS))
def test_a_page_of_its_own_may_use_it(door: RunningServer, browser: str) -> None:
    own = f"Origin: http://127.0.0.1:{door.url.rpartition(':')[2]}"
    common = [host(door), *BROWSERS[browser]]
    same = fetch("same-origin", "cors")
    with Wire(door) as wire:
        page = request("GET /docs HTTP/1.1", *common, *PAGE)
        assert wire.answer_after(page).status == 200
        for _ in range(SIGHTS):
            assert wire.answer_after(request("GET /v1/e/draw HTTP/1.1", *common, *same)).status == 200
            json = body("application/json", REWARD)
            data = request("POST /v1/e/update HTTP/1.1", *common, own, *same, *json, body=REWARD)
            assert wire.answer_after(data).status == 200


def test_a_head_that_is_remembered_lets_no_other_host_through(servers: list[RunningServer]) -> None:
    """One byte further, one letter shorter, one header more: nothing but the very head passes."""
    good = get("/v1/e/draw", *CHROME)
    foreign = [
        good.replace(b"127.0.0.1", b"127.0.0.2"),
        good.replace(b"127.0.0.1", b"evil.host"),
        good.replace(b"\r\n\r\n", b"\r\nOrigin: null\r\n\r\n"),
        good.replace(b"\r\n\r\n", b"\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
    ]
    with Wire(servers[0]) as wire:
        for _ in range(SIGHTS):
            assert wire.answer_after(good).status == 200
            for data in foreign:
                assert wire.answer_after(data).status == 403
        wire.send(b"".join(part for data in foreign for part in (good, data)))
        assert [wire.answer().status for _ in range(8)] == [200, 403] * 4


def test_a_token_is_no_way_round_the_rules(door: RunningServer) -> None:
    with Wire(door) as wire:
        line = "Authorization: Bearer a.b.c"
        assert wire.answer_after(request("GET /v1/list HTTP/1.1", "Host: evil.example", line)).status == 403
        assert wire.answer_after(get("/v1/list", line)).status == 200


def test_hosts_are_looked_at_where_ping_and_health_are_asked(door: RunningServer) -> None:
    with Wire(door) as wire:
        for path in ("/v1/ping", "/health/live", "/health/ready", "/nowhere"):
            assert wire.answer_after(request(f"GET {path} HTTP/1.1", "Host: evil.example")).status == 403
