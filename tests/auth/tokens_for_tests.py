"""Keys, tokens and servers for the tests of authentication. Import it as `from auth.tokens_for_tests import …`."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from support import RunningServer
from wire import Answer, Wire, get, post
from wire_servers import LANES, assert_unharmed, settings_of

SECRET = "a shared secret, which no log may show: 8c1f0b"
OTHER_SECRET = "another secret, which the server does not know"
EVERYTHING = "draw update read admin"
ABSENT = object()  # of a claim or a header parameter: leave it out
NO_TARPIT = {"refusal_rate_limit_per_s": 100_000}
BY_SECRET = {"jwt_secret": SECRET, **NO_TARPIT}

_shared: list[RunningServer] = []

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Signer(NamedTuple):
    """`name`: the `kid` of its tokens; None: they have none."""

    algorithm: str
    sign: Callable[[bytes], bytes]
    name: str | None = None


# --- keys --------------------------------------------------------------------------------------------------------


def private_key(algorithm: str, number: int = 0) -> PrivateKey:
    """Always the same one for the same number."""
    return _made(algorithm, number)


@cache
def _made(algorithm: str, _number: int) -> PrivateKey:
    if algorithm == "RS256":
        return rsa.generate_private_key(65_537, 2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def hmac_signer(secret: bytes | str = SECRET, name: str | None = None) -> Signer:
    key = secret.encode() if isinstance(secret, str) else secret
    return Signer("HS256", lambda data: hmac.digest(key, data, hashlib.sha256), name)


def signer(algorithm: str, number: int = 0, name: str | None = None) -> Signer:
    """With the private key of that number."""
    key = private_key(algorithm, number)
    if isinstance(key, rsa.RSAPrivateKey):
        rsa_key = key
        return Signer("RS256", lambda data: rsa_key.sign(data, padding.PKCS1v15(), SHA256()), name)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Signer("EdDSA", key.sign, name)
    return Signer("ES256", lambda data: raw_signature(der_signature(data, number)), name)


def der_signature(data: bytes, number: int = 0) -> bytes:
    """By the elliptic curve's key, as OpenSSL gives it."""
    key = private_key("ES256", number)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(data, ec.ECDSA(SHA256()))


def raw_signature(der: bytes) -> bytes:
    r, s = utils.decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def jwk(key: PrivateKey, name: str | None, **more: object) -> dict[str, Any]:
    """The public key (RFC 7517)."""
    public = key.public_key()
    fields: dict[str, str]
    if isinstance(public, rsa.RSAPublicKey):
        n, e = public.public_numbers().n, public.public_numbers().e
        fields = {"kty": "RSA", "n": b64(n.to_bytes(256, "big")), "e": b64(e.to_bytes(3, "big"))}
    elif isinstance(public, ec.EllipticCurvePublicKey):
        x, y = public.public_numbers().x, public.public_numbers().y
        fields = {"kty": "EC", "crv": "P-256", "x": b64(x.to_bytes(32, "big")), "y": b64(y.to_bytes(32, "big"))}
    else:
        fields = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}
    return fields | ({} if name is None else {"kid": name}) | more


def jwk_set(*signers: tuple[str, int, str | None]) -> bytes:
    """Of the public keys of these algorithms, numbers and names."""
    return json.dumps(
        {"keys": [jwk(private_key(algorithm, number), name) for algorithm, number, name in signers]}
    ).encode()


# --- tokens ------------------------------------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def header_of(by: Signer, **changes: object) -> dict[str, Any]:
    named = {} if by.name is None else {"kid": by.name}
    return without_absent({"alg": by.algorithm, "typ": "at+jwt", **named} | changes)


def claims_of(scope: str = EVERYTHING, lifetime_s: float = 3600, **changes: object) -> dict[str, Any]:
    """Of a good token, issued this second."""
    now = int(time.time())
    good = {"iss": "multiarm", "aud": "multiarm", "sub": "tester", "iat": now, "exp": now + lifetime_s, "scope": scope}
    return without_absent(good | changes)


def without_absent(members: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def as_json(value: object) -> bytes:
    """Bytes as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def jws(header: object, payload: object, by: Signer) -> str:
    """The compact form (RFC 7515, 7.1) of whatever these are."""
    signed = f"{b64(as_json(header))}.{b64(as_json(payload))}"
    return f"{signed}.{b64(by.sign(signed.encode()))}"


def token(scope: str = EVERYTHING, by: Signer | None = None, lifetime_s: float = 3600, **claims: object) -> str:
    """A good one."""
    by = by or hmac_signer()
    return jws(header_of(by), claims_of(scope, lifetime_s, **claims), by)


def bearing(value: str) -> str:
    """The header line with this token."""
    return f"Authorization: Bearer {value}"


# --- servers -----------------------------------------------------------------------------------------------------


@contextmanager
def doors(folder: Path, settings: Mapping[str, object]) -> Iterator[list[RunningServer]]:
    """A server with the express lane and one without, which are well at the end."""

    def start(name: str) -> RunningServer:
        return RunningServer(folder / name, settings=settings_of(LANES[name]) | dict(settings))

    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        starting = [threads.submit(start, name) for name in LANES]
        servers = [stack.enter_context(one.result()) for one in starting]
        yield servers
        for server in servers:
            assert_unharmed(server)
            server.process.terminate()
        assert [server.wait() for server in servers] == [0, 0]


@pytest.fixture(scope="module")
def shared_doors(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningServer]]:
    """Both of them by the shared secret, one pair for all modules that say `servers = shared_doors`."""
    if not _shared:
        stack = ExitStack()
        _shared.extend(stack.enter_context(doors(tmp_path_factory.mktemp("auth"), BY_SECRET | {"log_level": "debug"})))
        pytestconfig.add_cleanup(stack.close)
    yield _shared
    for server in _shared:
        assert_unharmed(server)


def create(server: RunningServer, name: str, authorization: str) -> None:
    """An experiment of that id, with arms `a` and `b`."""
    with Wire(server) as wire:
        answer = wire.answer_after(post("/v1/create", {"experiment_id": name, "arms": ["a", "b"]}, authorization))
    assert answer.status == 201, answer


def counted(server: RunningServer, name: str, authorization: str) -> dict[str, tuple[int, int]]:
    """Draws and pulls of each arm."""
    with Wire(server) as wire:
        arms = wire.answer_after(get(f"/v1/{name}/stats", authorization)).json["arms"]
    return {arm: (found["draws"], found["pulls"]) for arm, found in arms.items()}


def listed(server: RunningServer, authorization: str) -> list[str]:
    with Wire(server) as wire:
        ids: list[str] = wire.answer_after(get("/v1/list", authorization)).json["experiment_ids"]
    return ids


def statuses(wire: Wire, *requests: bytes) -> list[int]:
    """Of the answers, one after another."""
    return [wire.answer_after(data).status for data in requests]


def challenge(answer: Answer) -> str:
    return answer.headers["www-authenticate"]
