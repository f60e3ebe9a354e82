"""Tokens that were signed with another key, or in another way, than the server's own. `from auth.forgeries import …`"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA512

from auth.attacks import ALGORITHM, KEY, REFUSED_HEADER, SIGNATURE, Attack, Mode
from auth.tokens_for_tests import (
    BY_SECRET,
    NO_TARPIT,
    OTHER_SECRET,
    SECRET,
    Signer,
    bearing,
    claims_of,
    der_signature,
    header_of,
    hmac_signer,
    jwk,
    jwk_set,
    jws,
    private_key,
    public_der,
    public_pem,
    signer,
    token,
)

CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

RSA, CURVE = signer("RS256", 0, "rsa"), signer("ES256", 0, "curve")
EDWARDS, EDWARDS_TOO = signer("EdDSA", 0, "edwards"), signer("EdDSA", 1, "edwards-too")
OF_SET = (RSA, CURVE, EDWARDS, EDWARDS_TOO)
OF_FILE = signer("RS256", 0)

Sign = Callable[[bytes], bytes]


def settings_by_mode(folder: Path) -> dict[Mode, dict[str, object]]:
    """Of servers whose keys are those above; their files go into the folder."""
    (folder / "key.pem").write_bytes(public_pem(private_key("RS256")))
    names = [("RS256", 0, "rsa"), ("ES256", 0, "curve"), ("EdDSA", 0, "edwards"), ("EdDSA", 1, "edwards-too")]
    (folder / "keys.json").write_bytes(jwk_set(*names))
    return {
        "secret": BY_SECRET,
        "set": {"jwt_jwks": folder / "keys.json", **NO_TARPIT},
        "file": {"jwt_public_key_file": folder / "key.pem", **NO_TARPIT},
    }


def signers_by_mode() -> dict[Mode, tuple[Signer, ...]]:
    """Those whom such servers believe."""
    return {"secret": (hmac_signer(),), "set": OF_SET, "file": (OF_FILE,)}


def as_if(by: Signer, sign: Sign, **header: object) -> str:
    """A token that says it is signed by `by`, and has another signature."""
    return jws(header_of(by, **header), claims_of(), by._replace(sign=sign))


def by_hmac(key: bytes, digest: str = "sha256") -> Sign:
    return lambda data: hmac.digest(key, data, digest)


def raw(r: int, s: int) -> Sign:
    return lambda _data: r.to_bytes(32, "big") + s.to_bytes(32, "big")


def nothing(size_bytes: int) -> Sign:
    return lambda _data: bytes(size_bytes)


def around(by: Signer, before: bytes = b"", after: bytes = b"") -> Sign:
    return lambda data: before + by.sign(data) + after


def of_other_words(by: Signer, _data: bytes) -> bytes:
    return by.sign(b"other")


def pss(data: bytes) -> bytes:
    key = private_key("RS256")
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.sign(data, padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH), SHA256())


def longer_digest(data: bytes) -> bytes:
    key = private_key("RS256")
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.sign(data, padding.PKCS1v15(), SHA512())


def public_halves() -> dict[str, bytes]:
    """What of the public key might be taken for a shared secret."""
    key = private_key("RS256")
    return {
        "PEM": public_pem(key),
        "PEM without its last line end": public_pem(key).rstrip(),
        "DER": public_der(key),
        "JWK": json.dumps(jwk(key, "rsa")).encode(),
        "short JWK": json.dumps(jwk(key, "rsa"), separators=(",", ":")).encode(),
        "modulus": jwk(key, "rsa")["n"].encode(),
    }


def forgeries() -> Iterator[Attack]:
    """All of them."""
    made: list[tuple[Mode, str, str, str]] = [
        *((mode, name, SIGNATURE, text) for mode, name, text in other_signatures()),
        *((mode, name, ALGORITHM, text) for mode, name, text in other_algorithms()),
        *(("set", name, reason, text) for name, reason, text in other_names()),
    ]
    for mode, name, reason, text in made:
        yield Attack(f"{mode}: {name}", reason, partial(list, [bearing(text)]), mode)


def other_signatures() -> Iterator[tuple[Mode, str, str]]:
    yield "secret", "another secret", token(by=hmac_signer(OTHER_SECRET))
    yield "secret", "no secret", token(by=hmac_signer(b""))
    yield "secret", "the secret in hexadecimal", token(by=hmac_signer(SECRET.encode().hex()))
    yield "secret", "SHA-512 that says SHA-256", as_if(hmac_signer(), by_hmac(SECRET.encode(), "sha512"))
    yield "secret", "a plain digest", as_if(hmac_signer(), lambda data: hashlib.sha256(data).digest())
    for by, size in ((RSA, 256), (CURVE, 64), (EDWARDS, 64)):
        yield "set", f"{by.algorithm} by another key", as_if(by, signer(by.algorithm, 9).sign)
        yield "set", f"{by.algorithm} with no signature", as_if(by, nothing(0))
        yield "set", f"{by.algorithm} with a signature of zeros", as_if(by, nothing(size))
        yield "set", f"{by.algorithm} with a byte more", as_if(by, around(by, after=b"\0"))
        yield "set", f"{by.algorithm} with a byte before", as_if(by, around(by, before=b"\0"))
        yield "set", f"{by.algorithm} of other words", as_if(by, partial(of_other_words, by))
    yield "set", "RS256 with the padding of PS256", as_if(RSA, pss)
    yield "set", "RS256 with SHA-512", as_if(RSA, longer_digest)
    yield "set", "RS256 with a signature of one", as_if(RSA, lambda _data: bytes(255) + b"\1")
    yield "set", "ES256 in DER", as_if(CURVE, der_signature)
    for name, r, s in (("r = 0", 0, 1), ("s = 0", 1, 0), ("r = s = n", CURVE_ORDER, CURVE_ORDER), ("r = s = 1", 1, 1)):
        yield "set", f"ES256 with {name}", as_if(CURVE, raw(r, s))
    yield "set", "ES256 with the largest numbers", as_if(CURVE, lambda _data: b"\xff" * 64)
    yield "set", "EdDSA with the neutral point", as_if(EDWARDS, lambda _data: b"\1" + bytes(63))
    yield "file", "another key", as_if(OF_FILE, signer("RS256", 9).sign)


def other_algorithms() -> Iterator[tuple[Mode, str, str]]:
    yield "secret", "HS512 that says so", as_if(hmac_signer(), by_hmac(SECRET.encode(), "sha512"), alg="HS512")
    yield "secret", "RS256 with a key of one's own", token(by=signer("RS256", 9))
    holders: list[tuple[Mode, Signer]] = [("set", RSA), ("file", OF_FILE)]
    for mode, by in holders:
        for half, key in public_halves().items():
            yield mode, f"HS256 with the public key's {half}", token(by=hmac_signer(key, by.name))
        yield mode, "none", as_if(by, nothing(0), alg="none")
        yield mode, "PS256", as_if(by, pss, alg="PS256")
    yield "set", "RS512 by its key", as_if(RSA, longer_digest, alg="RS512")
    yield "set", "ES256 by the name of an RSA key", token(by=CURVE._replace(name="rsa"))
    yield "set", "RS256 by the name of a curve's key", token(by=RSA._replace(name="curve"))
    yield "set", "EdDSA by the name of a curve's key", token(by=EDWARDS._replace(name="curve"))
    yield "set", "EdDSA by its new name", as_if(EDWARDS, EDWARDS.sign, alg="Ed25519")
    yield "set", "ES256 that says ES384", as_if(CURVE, CURVE.sign, alg="ES384")
    yield "set", "HS256 with the server's other secret", token(by=hmac_signer(SECRET, "edwards"))


def other_names() -> Iterator[tuple[str, str, str]]:
    odd = ("", " edwards", "EDWARDS", "edwards\0", "edwards-2", "../../../../dev/null", "' OR 1=1 --", "*", "0", "[]")
    for name in odd:
        yield f"kid is {name!r}", KEY, token(by=EDWARDS._replace(name=name))
    yield "kid is of 2,000 letters", KEY, token(by=EDWARDS._replace(name="k" * 2000))
    yield "kid is a file of ours", KEY, token(by=hmac_signer(b"", "/dev/null"))
    yield "kid is missing where two keys would do", KEY, token(by=EDWARDS._replace(name=None))
    yield "kid is of another key", SIGNATURE, token(by=EDWARDS._replace(name="edwards-too"))
    own = jwk(private_key("EdDSA", 9), "edwards")
    yield "a key of one's own in the header", REFUSED_HEADER, as_if(EDWARDS, signer("EdDSA", 9).sign, jwk=own)
    url = "https://evil.example/keys.json"
    yield "an address of keys in the header", REFUSED_HEADER, as_if(EDWARDS, signer("EdDSA", 9).sign, jku=url)
