"""What the verifier remembers: valid tokens only, within a limit, until they may be valid no more."""

import random
import time
import tracemalloc
from typing import Any

import msgspec
import pytest

from auth.tokens_for_tests import SECRET, as_json, b64, claims_of, header_of, hmac_signer, jwk_set, jws, signer, token
from auth.verifiers_for_tests import LEEWAY_S, verifier_by
from multiarm.auth.bearer import Bearer
from multiarm.auth.claims import Claims, Rules, decode_claims
from multiarm.auth.errors import InvalidToken, NotYetValid, Unauthorized
from multiarm.auth.keys import Key, jwk_keys
from multiarm.auth.pace import Pace
from multiarm.auth.verifier import Verifier

SHARED = Key(None, "HS256", SECRET.encode())
NOW = int(time.time())


class Looks:
    """Counts how often a token was verified anew. `gone`: what is revoked."""

    def __init__(self) -> None:
        self.count = 0
        self.gone: set[str] = set()

    def __call__(self, claims: Claims) -> bool:
        self.count += 1
        return claims.sub in self.gone


def made(**claims: Any) -> str:
    """A good token of that moment."""
    return token(**{"iat": NOW, "exp": NOW + 3600, **claims})


def value(text: str, scheme: str = "Bearer") -> bytes:
    return f"{scheme} {text}".encode()


def good_values(count: int) -> list[bytes]:
    return [value(made(sub=f"subject-{number}")) for number in range(count)]


def test_a_good_token_is_verified_once() -> None:
    looks = Looks()
    verifier, (good,) = verifier_by(SHARED, is_revoked=looks), good_values(1)
    first = verifier.bearer(good, NOW)
    assert all(verifier.bearer(good, NOW) is first for _ in range(5))
    assert looks.count == 1


def refuse(verifier: Verifier, signed: bytes, rng: random.Random, count: int) -> None:
    """So many tokens, each with another signature that is none."""
    for _ in range(count):
        signature = b64(rng.randbytes(32)).encode()
        try:
            verifier.bearer(signed + signature, NOW)
        except InvalidToken:
            continue
        pytest.fail("a bad token was taken")


def test_bad_tokens_push_out_no_good_one_and_take_no_room() -> None:
    looks, rng = Looks(), random.Random(3)
    verifier, good = verifier_by(SHARED, is_revoked=looks, cache_limit_tokens=50), good_values(50)
    bearers = [verifier.bearer(one, NOW) for one in good]
    signed = good[0].rpartition(b".")[0] + b"."
    refuse(verifier, signed, rng, 16_000)
    tracemalloc.start()
    try:
        refuse(verifier, signed, rng, 4_000)
        grown_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown_bytes < 2_000 * len(signed)
    assert [verifier.bearer(one, NOW) for one in good] == bearers
    assert looks.count == 50


def test_the_least_lately_used_goes_where_there_are_too_many() -> None:
    looks = Looks()
    verifier, good = verifier_by(SHARED, is_revoked=looks, cache_limit_tokens=3), good_values(4)
    for index in (0, 1, 2, 0, 3):
        verifier.bearer(good[index], NOW)
    assert looks.count == 4
    for index in (0, 2, 3):
        verifier.bearer(good[index], NOW)
    assert looks.count == 4
    verifier.bearer(good[1], NOW)
    assert looks.count == 5


def test_without_room_each_is_verified_anew() -> None:
    looks = Looks()
    verifier, (good,) = verifier_by(SHARED, is_revoked=looks, cache_limit_tokens=0), good_values(1)
    for _ in range(5):
        verifier.bearer(good, NOW)
    assert looks.count == 5


def test_what_is_forgotten_is_looked_at_anew_and_told() -> None:
    looks, told = Looks(), []
    verifier, good = verifier_by(SHARED, is_revoked=looks), good_values(2)
    verifier.when_forgotten = lambda: told.append(looks.count)
    for one in good:
        verifier.bearer(one, NOW)
    looks.gone.add("subject-0")
    verifier.forget()
    with pytest.raises(InvalidToken, match="revoked"):
        verifier.bearer(good[0], NOW)
    assert verifier.bearer(good[1], NOW).subject == "subject-1"
    assert (told, looks.count) == ([2], 4)
    looks.gone.clear()
    verifier.forget()
    assert verifier.bearer(good[0], NOW).subject == "subject-0"


def test_a_refusal_is_remembered_but_not_for_good() -> None:
    (first,), (second,) = (jwk_keys(jwk_set(("EdDSA", number, "k"))) for number in (0, 1))
    text = value(made(by=signer("EdDSA", 1, "k")))
    for key, passes in ((first, False), (second, True)):
        verifier = verifier_by(key)
        for _ in range(3):
            if passes:
                assert verifier.bearer(text, NOW).subject == "tester"
            else:
                with pytest.raises(InvalidToken, match="signature"):
                    verifier.bearer(text, NOW)


def test_one_that_is_too_early_passes_when_its_time_has_come() -> None:
    verifier, early = verifier_by(SHARED), value(made(nbf=NOW + 100))
    for _ in range(3):
        with pytest.raises(NotYetValid):
            verifier.bearer(early, NOW)
    assert verifier.bearer(early, NOW + 100).subject == "tester"


def test_one_that_is_remembered_ends_all_the_same() -> None:
    verifier, ends_at = verifier_by(SHARED), NOW + 60
    bearer = verifier.bearer(value(made(exp=ends_at)), NOW)
    bearer.admit(ends_at + LEEWAY_S - 0.001, 0)
    with pytest.raises(InvalidToken, match="expired"):
        bearer.admit(ends_at + LEEWAY_S, 0)


@pytest.mark.parametrize("cache_limit_tokens", [0, 1, 100])
def test_a_token_has_one_rate_however_it_is_spelled_and_remembered(cache_limit_tokens: int) -> None:
    verifier = verifier_by(SHARED, new_pace=lambda: Pace(1, 10), cache_limit_tokens=cache_limit_tokens)
    text = made()
    paces = []
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer"):
        paces.append(verifier.bearer(value(text, scheme), NOW).pace)
        verifier.forget()
    assert paces[0] is not None
    assert all(pace is paces[0] for pace in paces)


def test_another_token_has_another_rate() -> None:
    verifier = verifier_by(SHARED, new_pace=lambda: Pace(1, 10))
    first, second = (verifier.bearer(one, NOW).pace for one in good_values(2))
    assert first is not second


# --- the rules, to the second ----------------------------------------------------------------------------------

STRICT = Rules("multiarm", "multiarm", ("jwt",), 10, 3600)


def claims(**changes: Any) -> Claims:
    good = Claims(iss="multiarm", aud=["x", "multiarm"], sub="a", iat=1000, exp=2000, nbf=1000)
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize(
    ("changes", "now", "words"),
    [
        ({}, 990, None),
        ({}, 989.99, "not valid yet"),
        ({}, 2009.99, None),
        ({}, 2010, "expired"),
        ({"nbf": 1500}, 1490, None),
        ({"nbf": 1500}, 1489, "not valid yet"),
        ({"iat": 1600, "nbf": 0}, 1590, None),
        ({"iat": 1600, "nbf": 0}, 1589, "not valid yet"),
        ({"exp": 4600}, 1000, None),
        ({"exp": 4600.5}, 1000, "lives longer"),
        ({"aud": "multiarm"}, 1000, None),
        ({"aud": "multiarmx"}, 1000, "audience"),
    ],
)
def test_times_hold_with_the_leeway_and_no_more(changes: dict[str, object], now: float, words: str | None) -> None:
    if words is None:
        STRICT.check(claims(**changes), now)
    else:
        with pytest.raises(InvalidToken, match=words):
            STRICT.check(claims(**changes), now)


@pytest.mark.parametrize("seed", range(3))
def test_no_bytes_whatever_raise_anything_else(seed: int) -> None:
    verifier, rng, good = verifier_by(SHARED), random.Random(seed), value(made())
    for _ in range(1_500):
        changed = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(changed))
            changed[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        if bytes(changed[7:]) != good[7:]:
            with pytest.raises(Unauthorized):
                verifier.bearer(bytes(changed), NOW)


@pytest.mark.parametrize("seed", range(3))
def test_no_claims_whatever_raise_anything_else(seed: int) -> None:
    """Signed well, so that it is the claims that are read."""
    verifier, rng, by = verifier_by(SHARED), random.Random(seed), hmac_signer()
    text = claims_of(iat=NOW, exp=NOW + 3600)
    for _ in range(1_000):
        changed = bytearray(as_json(text))
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        written = jws(header_of(by), bytes(changed), by)
        try:
            found = verifier.bearer(value(written), NOW)
        except Unauthorized:
            continue
        assert isinstance(found, Bearer)
        assert decode_claims(bytes(changed)).iss == "multiarm"
    assert verifier.bearer(value(jws(header_of(by), text, by)), NOW).subject == "tester"
