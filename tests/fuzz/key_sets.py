"""Keys: of a JWK set or a PEM file those are taken that are public, strong and verify, and others are refused."""

import base64
import json
from collections.abc import Sequence
from functools import cache

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fuzz.target import JSON_WORDS, Target, simple
from multiarm.auth.keys import KEYS_LIMIT, Key, jwk_keys, pem_key
from multiarm.domain.errors import StartError

TYPES = {"RS256": rsa.RSAPublicKey, "ES256": ec.EllipticCurvePublicKey, "EdDSA": ed25519.Ed25519PublicKey}
SIGNATURE_BYTES = (0, 64, 256)


def one(data: bytes) -> bool:
    kind, rest = data[:1], data[1:]
    try:
        keys = jwk_keys(filled(rest)) if kind == b"j" else (pem_key(pem_of(kind, rest)),)
    except StartError as error:
        assert_says(str(error))
        return False
    assert len(keys) <= KEYS_LIMIT
    assert len({(key.key_id, key.algorithm) for key in keys}) == len(keys)
    for key in keys:
        assert_fit(key)
    return bool(keys)


def assert_says(text: str) -> None:
    assert text.endswith("."), text


def assert_fit(key: Key) -> None:
    """Of its algorithm's kind, strong enough; it refuses what it did not sign, and does nothing else to it."""
    material = key.material
    assert isinstance(material, TYPES[key.algorithm]), key
    assert not isinstance(material, rsa.RSAPublicKey) or material.key_size >= 2048
    assert not isinstance(material, ec.EllipticCurvePublicKey) or material.curve.name == "secp256r1"
    for size in SIGNATURE_BYTES:
        signed = segment(b'{"alg":"%b"}' % key.algorithm.encode()) + b"." + segment(b"{}") + b"." + segment(bytes(size))
        try:
            jwt.PyJWS(algorithms=[key.algorithm]).decode_complete(signed, material, [key.algorithm])
        except (jwt.PyJWTError, ValueError):
            continue
        raise AssertionError(f"{key} verifies a signature of zeros")


def pem_of(kind: bytes, rest: bytes) -> bytes:
    """Any DER as a public key in PEM; else the text itself."""
    if kind != b"d":
        return filled(rest)
    return b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(rest) + b"-----END PUBLIC KEY-----\n"


def filled(text: bytes) -> bytes:
    """`$R` and the like are keys that are good."""
    for name, good in made().items():
        text = text.replace(name, good)
    return text


@cache
def made() -> dict[bytes, bytes]:
    """Their members in a JWK, and their PEM."""
    keys: dict[bytes, tuple[str, object]] = {
        b"R": ("RS256", rsa.generate_private_key(65_537, 2048).public_key()),
        b"W": ("RS256", rsa.generate_private_key(65_537, 1024).public_key()),
        b"E": ("ES256", ec.derive_private_key(1234, ec.SECP256R1()).public_key()),
        b"O": ("EdDSA", ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key()),
    }
    found = {}
    for name, (algorithm, key) in keys.items():
        jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
        members = {member: value for member, value in jwk.items() if member not in ("key_ops", "use", "alg")}
        found[b"$" + name] = json.dumps(members).encode()[1:-1]
        found[b"$P" + name] = der_of(key, serialization.Encoding.PEM)
    return found


def der_of(key: object, encoding: serialization.Encoding) -> bytes:
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def segment(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


DER = serialization.Encoding.DER
SEEDS: Sequence[bytes] = [
    b'j{"keys":[{$R,"kid":"a"},{$E,"kid":"b","use":"sig"},{$O,"kid":"c","alg":"EdDSA","key_ops":["verify"]}]}',
    b'j{"keys":[{$W}]}',
    b'j{"keys":[{$E,"kid":1},{$E}]}',
    b'j{"keys":[{$O,"d":"AA"}]}',
    b'j{"keys":[{"kty":"oct","k":"AAAA"}]}',
    b'j{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"},{$O}]}',
    b'j{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"OKP","crv":"X25519","x":"AAAA"},{"kty":"OKP","crv":"Ed448"}]}',
    b'j{"keys":[{$O,"kid":"a"},{$O,"kid":"a"}]}',
    b'j{"keys":[' + b"{}," * 100 + b"{$O}]}",
    b'j{"keys":[{"kty":"RSA","n":{},"e":[]},{"kty":7},{"kty":"EC","crv":"P-256","x":1,"y":null},{$R}]}',
    b"p$PR",
    b"p$PW",
    b"p$PE",
    b"p$PO\n$PE",
    b"p-----BEGIN PRIVATE KEY-----",
    b"p-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    b"p-----BEGIN RSA PUBLIC KEY-----\nMAA=\n-----END RSA PUBLIC KEY-----\n",
    b"d" + der_of(ec.derive_private_key(1234, ec.SECP256R1()).public_key(), DER),
    b"d" + der_of(ec.derive_private_key(1234, ec.SECP384R1()).public_key(), DER),
    b"d" + der_of(ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key(), DER),
    b"d" + der_of(rsa.RSAPublicNumbers(65_537, (1 << 2048) - 159).public_key(), DER),
]
WORDS = [
    *JSON_WORDS,
    *(b"$R", b"$W", b"$E", b"$O", b"$PR", b"$PE", b"$PO", b'"kty":"RSA"', b'"kty":"EC"', b'"kty":"OKP"', b'"crv":'),
    *(b'"P-256"', b'"P-521"', b'"secp256k1"', b'"Ed25519"', b'"use":"enc"', b'"key_ops":[]', b'"alg":"RS512"', b'"n":'),
    *(b'"e":"AQAB"', b'"kid":""', b'"x":""', b'"y":', b"-----BEGIN", b"\x30\x82", b"\x06\x03\x2b\x65\x70", b"=", b"\n"),
]

TARGET: Target = simple("keys", one, SEEDS, WORDS, 4)
