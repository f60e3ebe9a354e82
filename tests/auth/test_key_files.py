"""Files that hold keys, and those that hold none that could verify a token."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from auth.tokens_for_tests import b64, jwk, jwk_set, private_key, private_pem, public_pem
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.key_source import key_source
from multiarm.auth.keys import jwk_keys, pem_key, secret_key
from multiarm.domain.errors import StartError
from multiarm.settings import Settings


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_for_its_own_algorithm(algorithm: str) -> None:
    key = private_key(algorithm)
    assert (pem_key(public_pem(key)).key_id, pem_key(public_pem(key)).algorithm) == (None, algorithm)
    assert [found[:2] for found in jwk_keys(jwk_set((algorithm, 0, "k")))] == [("k", algorithm)]


def weak_pem() -> bytes:
    return public_pem(rsa.generate_private_key(65_537, 1024))


def other_curve_pem() -> bytes:
    return public_pem(ec.generate_private_key(ec.SECP384R1()))


BAD_PEMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a public key"),
    "text": (lambda: b"hello", "not a public key"),
    "private": (lambda: private_pem(private_key("EdDSA")), "private key"),
    "private and public": (lambda: public_pem(private_key("EdDSA")) + private_pem(private_key("EdDSA")), "private key"),
    "weak": (weak_pem, "2048 bits"),
    "other curve": (other_curve_pem, "P-256"),
    "half": (lambda: public_pem(private_key("EdDSA"))[:60], "not a public key"),
    "binary": (lambda: bytes(range(256)), "not a public key"),
}


@pytest.mark.parametrize("name", list(BAD_PEMS))
def test_a_file_that_holds_no_public_key_is_refused(name: str) -> None:
    make, words = BAD_PEMS[name]
    with pytest.raises(StartError, match=words):
        pem_key(make())


GOOD = jwk(private_key("EdDSA"), "good")
UNUSED_JWKS = [
    {"use": "enc"},
    {"key_ops": ["sign"]},
    {"key_ops": "verify"},
    {"alg": "HS256"},
    {"alg": "none"},
    {"alg": 5},
    {"kid": 7},
    {"kid": ["a"]},
    {"crv": "Ed448"},
    {"crv": ["Ed25519"]},
    {"x": ""},
    {"x": 5},
    {"x": "AA"},
    {"x": "!" * 43},
    {"kty": "RSA"},
    {"kty": "oct"},
    {"kty": None},
    {"kty": ["OKP"]},
    {"kty": "EC", "crv": "P-256", "x": b64(bytes(32)), "y": b64(bytes(32))},
    {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"},
    {"kty": "RSA", "n": b64(b"\xff" * 256), "e": ""},
    {"kty": "RSA", "n": 3, "e": 3},
]


@pytest.mark.parametrize("changes", UNUSED_JWKS, ids=str)
def test_a_key_for_something_else_is_passed_over(changes: dict[str, object]) -> None:
    other = GOOD | {"kid": "other"} | changes
    assert [key.key_id for key in jwk_keys(json.dumps({"keys": [other, GOOD]}).encode())] == ["good"]
    assert jwk_keys(json.dumps({"keys": [other]}).encode()) == ()


BAD_SETS: dict[str, tuple[bytes, str]] = {
    **{
        text: (text.encode(), "not a JWK set")
        for text in ("", "[]", "{}", '{"keys": {}}', '{"keys": [1]}', "null", "{")
    },
    "private": (json.dumps({"keys": [GOOD | {"d": "AA"}]}).encode(), "private or shared"),
    "shared": (json.dumps({"keys": [GOOD, {"kty": "oct", "k": "AA"}]}).encode(), "private or shared"),
    "twice": (json.dumps({"keys": [GOOD, GOOD]}).encode(), "the same `kid`"),
    "too many": (
        json.dumps({"keys": [GOOD | {"kid": f"{number}"} for number in range(101)]}).encode(),
        "more than 100",
    ),
    "PEM": (public_pem(private_key("EdDSA")), "not a JWK set"),
}


@pytest.mark.parametrize("name", list(BAD_SETS))
def test_a_set_that_is_none_is_refused(name: str) -> None:
    text, words = BAD_SETS[name]
    with pytest.raises(StartError, match=words):
        jwk_keys(text)


@pytest.mark.parametrize("secret", ["", "5h0rt", "x" * 31, "é" * 15])
def test_a_secret_that_is_too_short_is_refused_and_not_told(secret: str) -> None:
    with pytest.raises(StartError, match="too short") as refused:
        secret_key(secret)
    assert not secret or secret not in str(refused.value)


def test_a_public_key_is_no_secret() -> None:
    with pytest.raises(StartError, match="public key"):
        secret_key(public_pem(private_key("RS256")).decode())


def test_keys_come_from_one_place_and_by_an_allowed_algorithm(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(private_key("ES256")))
    with pytest.raises(StartError, match="leave one"):
        key_source(Settings(jwt_secret="x" * 32, jwt_public_key_file=str(file)))
    with pytest.raises(StartError, match="jwt_algorithms"):
        key_source(Settings(jwt_secret="x" * 32, jwt_algorithms=("RS256",)))
    for settings, words in [
        (Settings(jwt_public_key_file=str(file), jwt_algorithms=("RS256", "EdDSA")), "jwt_algorithms"),
        (Settings(jwt_public_key_file=str(tmp_path / "none.pem")), "No such file"),
        (Settings(jwt_public_key_file=str(tmp_path)), "Is a directory"),
        (Settings(jwt_jwks=str(file)), "not a JWK set"),
    ]:
        with pytest.raises(StartError, match=words):
            asyncio.run(KeyRing(key_source(settings)).load())


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwk_set(("EdDSA", 0, "k")) + b" " * 2000)
    with pytest.raises(StartError, match="larger than 1,024 bytes"):
        asyncio.run(KeyRing(key_source(Settings(jwt_jwks=str(file), jwt_jwks_limit_bytes=1024))).load())
