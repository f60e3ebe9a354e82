"""Keys that come, go, cannot be read, and come back: by themselves, and on servers that read them from a file."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auth.tokens_for_tests import (
    NO_TARPIT,
    Signer,
    bearing,
    create,
    doors,
    jwk_set,
    signer,
    token,
)
from multiarm.auth.claims import JoseHeader
from multiarm.auth.errors import InvalidToken, KeysUnavailable, UnknownKey
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.key_source import KeysUnreadable
from multiarm.auth.keys import Key, jwk_keys
from support import RunningServer
from wire import Wire, get
from wire_servers import wait_until

OLD, NEW, LATER = (signer("EdDSA", number, f"key-{number}") for number in (0, 1, 2))


def keys_of(*signers: Signer) -> bytes:
    return jwk_set(*((by.algorithm, int((by.name or "0")[-1]), by.name) for by in signers))


# --- which key -------------------------------------------------------------------------------------------------


class Source:
    """Of keys. `keys` None: they cannot be read."""

    def __init__(self, *signers: Signer) -> None:
        self.keys: tuple[Key, ...] | None = jwk_keys(keys_of(*signers)) if signers else ()
        self.was_read = asyncio.Event()
        self.reads = 0
        self.now = 1000.0

    async def __call__(self) -> tuple[Key, ...]:
        self.reads += 1
        self.was_read.set()
        await asyncio.sleep(0)
        if self.keys is None:
            raise KeysUnreadable("the file is gone")
        return self.keys

    def ring(self) -> KeyRing:
        return KeyRing(self, interval_s=0.001, backoff_s=10, lifetime_s=100, clock=lambda: self.now)


def fail() -> None:
    raise RuntimeError("this must not end it")


def header(name: str | None, algorithm: str = "EdDSA") -> JoseHeader:
    return JoseHeader(algorithm, "jwt", name)


def test_a_key_is_found_by_its_name_and_algorithm() -> None:
    source = Source(OLD, NEW)
    ring = source.ring()
    asyncio.run(ring.load())
    assert ring.find(header("key-1")).key_id == "key-1"
    for name in ("key-2", "", "KEY-1"):
        with pytest.raises(UnknownKey):
            ring.find(header(name))
    for other in (header(None), header("key-1", "HS256"), header("key-1", "none"), header("key-1", "RS256")):
        with pytest.raises(InvalidToken):
            ring.find(other)


def test_a_lone_key_without_a_name_takes_tokens_of_any_name() -> None:
    source = Source()
    source.keys = jwk_keys(jwk_set(("ES256", 0, None)))
    ring = source.ring()
    asyncio.run(ring.load())
    for name in (None, "anything"):
        assert ring.find(header(name, "ES256")).algorithm == "ES256"
        with pytest.raises(InvalidToken):
            ring.find(header(name, "HS256"))


def test_however_many_ask_keys_are_read_once_and_not_again_for_a_while() -> None:
    source = Source(OLD)

    async def story() -> None:
        ring = source.ring()
        await ring.load()
        assert (await ring.refresh(), source.reads) == (False, 1)
        source.now += 10
        assert await asyncio.gather(*(ring.refresh() for _ in range(50))) == [True] * 50
        assert source.reads == 2
        assert not any([await ring.refresh() for _ in range(50)])
        assert source.reads == 2

    asyncio.run(story())


def test_a_change_is_told_and_the_same_again_is_not() -> None:
    source, told = Source(OLD), []

    async def story() -> None:
        ring = source.ring()
        await ring.load()
        ring.on_change = lambda: told.append(source.now)
        for signers in ((OLD,), (OLD, NEW), (OLD, NEW), (NEW,)):
            source.keys = jwk_keys(keys_of(*signers))
            source.now += 10
            await ring.refresh()

    asyncio.run(story())
    assert told == [1020, 1040]


def test_keys_that_cannot_be_read_stay_for_their_lifetime_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    source, told = Source(OLD), []

    async def story() -> None:
        ring = source.ring()
        await ring.load()
        keys, source.keys = source.keys, None
        ring.on_change = lambda: told.append(source.now)
        for later_s in (50, 50):
            source.now += later_s
            await ring.refresh()
            assert ring.find(header("key-0"))
        source.now += 10
        await ring.refresh()
        with pytest.raises(KeysUnavailable):
            ring.find(header("key-0"))
        source.keys = keys
        source.now += 10
        await ring.refresh()
        assert ring.find(header("key-0"))

    asyncio.run(story())
    assert told == [1110, 1120]
    said = capsys.readouterr().out
    assert "the file is gone" in said
    assert "keys_given_up" in said


def test_whatever_happens_while_keys_are_read_reading_goes_on() -> None:
    source = Source(OLD)

    async def story() -> None:
        ring = source.ring()
        await ring.load()
        ring.on_change = fail
        ring.start()
        for signers in ((NEW,), (LATER,), (OLD, NEW)):
            source.keys = jwk_keys(keys_of(*signers))
            for _ in range(2):
                source.was_read.clear()
                await source.was_read.wait()
        await ring.stop()
        assert ring.find(header("key-1"))

    asyncio.run(story())


# --- on a server -----------------------------------------------------------------------------------------------


class Served:
    """Both doors, and the file that they read their keys from."""

    def __init__(self, servers: list[RunningServer], file: Path) -> None:
        self.servers, self.file = servers, file

    def keys(self, *signers: Signer) -> None:
        aside = self.file.with_suffix(".new")
        aside.write_bytes(keys_of(*signers))
        aside.rename(self.file)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("rotated")
    file = folder / "keys.json"
    file.write_bytes(keys_of(OLD, NEW))
    times = {"jwt_refresh_interval_s": 0.1, "jwt_refresh_backoff_s": 0.1, "jwt_keys_lifetime_s": 1, "jwt_leeway_s": 0}
    with doors(folder, {"jwt_jwks": file, **times, **NO_TARPIT}) as servers:
        for server in servers:
            create(server, "e", bearing(token(by=OLD)))
        yield Served(servers, file)


def status(wire: Wire, by: Signer) -> int:
    return wire.answer_after(get("/v1/e/draw", bearing(by_once[by.name]))).status


by_once: dict[str | None, str] = {by.name: token(by=by) for by in (OLD, NEW, LATER)}


@pytest.mark.parametrize("index", [0, 1], ids=["lane", "no-lane"])
def test_a_key_that_is_taken_away_takes_its_tokens_along(served: Served, index: int) -> None:
    served.keys(OLD, NEW)
    with Wire(served.servers[index]) as wire:
        wait_until(lambda: [status(wire, OLD), status(wire, NEW)] == [200, 200], "good keys are not taken")
        assert [status(wire, OLD) for _ in range(3)] == [200] * 3
        served.keys(NEW)
        wait_until(lambda: status(wire, OLD) == 401, "a key that is gone is still believed")
        assert [status(wire, by) for by in (OLD, NEW) * 3] == [401, 200] * 3
        served.keys(NEW, LATER)
        wait_until(lambda: status(wire, LATER) == 200, "a new key is not believed")
        assert [status(wire, by) for by in (OLD, NEW, LATER)] == [401, 200, 200]


@pytest.mark.parametrize("index", [0, 1], ids=["lane", "no-lane"])
def test_keys_that_were_not_read_for_too_long_are_given_up(served: Served, index: int) -> None:
    served.keys(OLD)
    with Wire(served.servers[index]) as wire:
        wait_until(lambda: [status(wire, OLD) for _ in range(3)] == [200] * 3, "a good key is not taken")
        served.file.write_text("{")
        wait_until(lambda: status(wire, OLD) == 503, "keys of long ago are still believed")
        answer = wire.answer_after(get("/v1/list", bearing(token(by=OLD))))
        assert (answer.status, answer.json["type"].rpartition(":")[2]) == (503, "keys-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert wire.answer_after(get("/v1/ping")).status == 200
        served.keys(OLD)
        wait_until(lambda: status(wire, OLD) == 200, "keys that are back are not believed")


@pytest.mark.parametrize("index", [0, 1], ids=["lane", "no-lane"])
def test_a_token_ends_on_the_second(served: Served, index: int) -> None:
    served.keys(OLD)
    with Wire(served.servers[index]) as wire:
        wait_until(lambda: status(wire, OLD) == 200, "a good key is not taken")
        ends_at = int(time.time()) + 2
        data = get("/v1/e/draw", bearing(token(by=OLD, exp=ends_at)))
        found = 200
        while found == 200:
            sent_at = time.time()
            found = wire.answer_after(data).status
            assert sent_at < ends_at if found == 200 else time.time() >= ends_at
        assert [wire.answer_after(data).status for _ in range(3)] == [401] * 3
