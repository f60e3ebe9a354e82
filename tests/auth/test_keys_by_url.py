"""Keys from a URL: fetched at the start, and when a token names one that is new; whatever else it answers."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from auth.tokens_for_tests import NO_TARPIT, bearing, create, doors, jwk_set, signer, token
from multiarm.auth.claims import JoseHeader
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.key_source import check_url, key_source
from multiarm.domain.errors import StartError
from multiarm.settings import Settings
from support import RunningServer, ServerDidNotStart
from wire import Wire, get
from wire_servers import wait_until

OLD, NEW = signer("ES256", 0, "old"), signer("ES256", 1, "new")
OLD_SET, NEW_SET = jwk_set(("ES256", 0, "old")), jwk_set(("ES256", 1, "new"))
BACKOFF_S = 0.5


class KeyServer:
    """Serves key sets on loopback. `answers`: by path, what a handler does; `counts`: requests by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.counts: dict[str, int] = {}
        self.gone = threading.Event()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.counts[self.path] = served.counts.get(self.path, 0) + 1
                served.answers[self.path](self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self) -> None:
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content_length": f"{len(body)}", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


@contextmanager
def running() -> Iterator[KeyServer]:
    server = KeyServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    with running() as server:
        yield server


# --- what it may answer ----------------------------------------------------------------------------------------


def load(url: str) -> None:
    settings = Settings(jwt_jwks=url, jwt_fetch_timeout_s=0.3, jwt_jwks_limit_bytes=1024)
    asyncio.run(KeyRing(key_source(settings)).load())


def test_a_key_set_is_read(key_server: KeyServer) -> None:
    key_server.answers["/good"] = answer(OLD_SET)
    load(key_server.url("/good"))
    assert key_server.counts["/good"] == 1


BAD_ANSWERS: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str]] = {
    "500": (answer(OLD_SET, 500), "it answered 500"),
    "404": (answer(OLD_SET, 404), "it answered 404"),
    "204": (answer(b"", 204), "it answered 204"),
    "HTML": (answer(b"<html>sign in</html>"), "not a JWK set"),
    "not UTF-8": (answer(b'{"keys": "\xff"}'), "not a JWK set"),
    "empty": (answer(b""), "not a JWK set"),
    "no keys": (answer(b'{"keys": []}'), "no key that verifies"),
    "too large": (answer(OLD_SET + b" " * 1024), "larger than 1,024 bytes"),
    "a lie about its size": (answer(OLD_SET, content_length="100000"), "cannot be read"),
    "private": (answer(json.dumps({"keys": [{"kty": "oct", "k": "AA"}]}).encode()), "private or shared"),
}


@pytest.mark.parametrize("name", list(BAD_ANSWERS))
def test_anything_else_is_refused_with_its_reason(key_server: KeyServer, name: str) -> None:
    path = "/" + name.replace(" ", "-")
    key_server.answers[path], words = BAD_ANSWERS[name]
    with pytest.raises(StartError, match=words) as refused:
        load(key_server.url(path))
    assert "jwt_jwks" in str(refused.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(key_server: KeyServer, status: int) -> None:
    key_server.answers |= {"/moved": answer(b"", status, location="/target"), "/target": answer(OLD_SET)}
    with pytest.raises(StartError, match=f"it answered {status}"):
        load(key_server.url("/moved"))
    assert "/target" not in key_server.counts


def test_one_that_takes_too_long_is_not_waited_for(key_server: KeyServer) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        """A byte at a time, so that no wait for the next of them is long."""
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):  # when it is not waited for any more
            while not key_server.gone.wait(0.05):
                handler.wfile.write(b" ")

    def keep_silent(_handler: BaseHTTPRequestHandler) -> None:
        key_server.gone.wait(20)

    key_server.answers |= {"/silent": keep_silent, "/dripping": drip}
    for path in ("/silent", "/dripping"):
        started_at = time.monotonic()
        with pytest.raises(StartError, match="cannot be read"):
            load(key_server.url(path))
        assert time.monotonic() - started_at < 5


def test_one_that_is_not_there_is_refused(key_server: KeyServer) -> None:
    with running() as other:
        url = other.url("/keys")
    with pytest.raises(StartError, match="cannot be read"):
        load(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost@evil.example/keys",
        "http://192.0.2.1/keys",
        "http://0.0.0.0/keys",
        "http:///keys",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "ws://127.0.0.1/keys",
        "://keys",
        "https://[",
    ],
)
def test_only_https_or_loopback_will_do(url: str) -> None:
    with pytest.raises(StartError, match="https"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://login.example/keys", "http://127.0.0.1:1/k", "http://[::1]/k", "HTTP://LOCALHOST/k"]
)
def test_https_and_loopback_will_do(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("user", "query", "reason"),
    [("", "?key=pa55w0rd", "it answered 500"), ("us3r:pa55w0rd@", "", "must not hold a name or a password")],
)
def test_a_server_that_gets_no_keys_does_not_start_and_tells_no_password(
    key_server: KeyServer, tmp_path: Path, user: str, query: str, reason: str
) -> None:
    key_server.answers["/broken"] = key_server.answers[f"/broken{query}"] = answer(b"", 500)
    url = key_server.url("/broken").replace("http://", f"http://{user}") + query
    with pytest.raises(ServerDidNotStart) as refused:
        RunningServer(tmp_path, settings={"jwt_jwks": url})
    assert refused.value.status == 2
    said = str(refused.value)
    assert reason in said
    assert "Traceback" not in said
    assert "pa55w0rd" not in said


# --- while a server runs -----------------------------------------------------------------------------------------


class Served:
    """Both doors, and the server of their keys."""

    def __init__(self, servers: list[RunningServer], keys: KeyServer) -> None:
        self.servers, self.keys = servers, keys


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, key_server: KeyServer) -> Iterator[Served]:
    """Keys are only read again where a token asks for it."""
    key_server.answers["/keys"] = answer(OLD_SET)
    key_server.counts["/keys"] = 0
    settings = {"jwt_jwks": key_server.url("/keys"), "jwt_refresh_backoff_s": BACKOFF_S, **NO_TARPIT}
    with doors(tmp_path_factory.mktemp("by_url"), settings) as servers:
        for server in servers:
            create(server, "e", bearing(token(by=OLD)))
        yield Served(servers, key_server)


def asks_again(keys: KeyServer, before: int, wire: Wire, data: bytes) -> bool:
    """Whether this request, which is refused, or one before it made the server read its keys."""
    return wire.answer_after(data).status == 401 and keys.counts["/keys"] > before


def test_a_new_key_is_fetched_when_it_is_named_and_not_too_often(served: Served) -> None:
    keys, old, new = served.keys, bearing(token(by=OLD)), bearing(token(by=NEW))
    assert keys.counts["/keys"] == 2
    for server in served.servers:
        keys.answers["/keys"] = answer(OLD_SET)
        with Wire(server) as wire:
            assert [wire.answer_after(get("/v1/e/draw", old)).status for _ in range(3)] == [200] * 3
            started_at, before = time.monotonic(), keys.counts["/keys"]
            assert [wire.answer_after(get("/v1/e/draw", new)).status for _ in range(100)] == [401] * 100
            wait_until(partial(asks_again, keys, before, wire, get("/v1/e/draw", new)), "a key is not asked for")
            most = 1 + (time.monotonic() - started_at) / BACKOFF_S
            assert 1 <= keys.counts["/keys"] - before <= most
            keys.answers["/keys"] = answer(NEW_SET)
            wait_until(lambda: wire.answer_after(get("/v1/e/draw", new)).status == 200, "a new key is not believed")
            assert [wire.answer_after(get("/v1/e/draw", old)).status for _ in range(3)] == [401] * 3
            read = keys.counts["/keys"]
            assert [wire.answer_after(get("/v1/e/draw", new)).status for _ in range(100)] == [200] * 100
            assert keys.counts["/keys"] == read


@pytest.mark.parametrize("bad", ["500", "HTML", "too large", "private"])
def test_while_it_answers_something_else_the_old_keys_stay(key_server: KeyServer, bad: str) -> None:
    key_server.answers["/flaky"] = answer(OLD_SET)
    settings = Settings(jwt_jwks=key_server.url("/flaky"), jwt_jwks_limit_bytes=1024)

    async def story() -> None:
        ring = KeyRing(key_source(settings), backoff_s=0)
        await ring.load()
        key_server.answers["/flaky"] = BAD_ANSWERS[bad][0]
        assert await ring.refresh()
        assert ring.find(JoseHeader("ES256", "jwt", "old")).key_id == "old"

    asyncio.run(story())
