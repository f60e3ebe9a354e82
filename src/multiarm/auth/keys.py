"""Keys that verify tokens, each bound to the one algorithm that fits it (RFC 8725, 3.1)."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from multiarm.domain.errors import StartError

LEAST_SECRET_BYTES = 32  # RFC 7518, 3.2
LEAST_RSA_BITS = 2048  # RFC 7518, 3.3
KEYS_LIMIT = 100

Algorithm: TypeAlias = Literal["HS256", "RS256", "ES256", "EdDSA"]
Material: TypeAlias = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
PrivateMaterial: TypeAlias = bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


class Key(NamedTuple):
    """key_id: the `kid` that a token must name; None: of a lone key, which no token needs to name."""

    key_id: str | None
    algorithm: Algorithm
    material: Material


class SigningKey(NamedTuple):
    algorithm: Algorithm
    material: PrivateMaterial


class _JwkSet(msgspec.Struct):
    keys: list[dict[str, Any]]


def secret_key(secret: str, name: str = "jwt_secret") -> bytes:
    """StartError, which calls it by its name, where it is too short to be a secret, or something else."""
    material = secret.encode(errors="surrogateescape")  # as it came from the environment, or from a file
    if len(material) < LEAST_SECRET_BYTES:
        raise StartError(
            f"{name} is too short: it has {len(material)} of the {LEAST_SECRET_BYTES} bytes that it needs. "
            "Make one with `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`."
        )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(material)
    except jwt.InvalidKeyError:
        raise StartError(f"{name} is a public key, which is no secret: it goes into jwt_public_key_file.") from None
    return material


def pem_key(text: bytes) -> Key:
    """A public key in PEM; StartError where it is none that verifies tokens."""
    if b"PRIVATE KEY" in text:
        raise StartError("it holds a private key; the server needs the public one alone.")
    try:
        material = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise StartError("it is not a public key in PEM.") from None
    algorithm = algorithm_for(material)
    if algorithm is None:
        raise StartError(f"it must be RSA of {LEAST_RSA_BITS} bits or more, EC on P-256, or Ed25519.")
    return Key(None, algorithm, public(material))


def jwk_keys(text: bytes) -> tuple[Key, ...]:
    """Those of a JWK set (RFC 7517) that verify tokens here; StartError where it is none, or has a secret in it."""
    try:
        found = msgspec.json.decode(text, type=_JwkSet).keys
    except (msgspec.DecodeError, ValueError):
        raise StartError("it is not a JWK set (RFC 7517): a JSON object with a list of `keys`.") from None
    if len(found) > KEYS_LIMIT:
        raise StartError(f"it has more than {KEYS_LIMIT} keys.")
    if any("d" in jwk or "k" in jwk for jwk in found):
        raise StartError("it holds private or shared keys, which do not belong there.")
    keys = tuple(key for key in map(jwk_key, found) if key is not None)
    names = [(key.key_id, key.algorithm) for key in keys]
    if len(set(names)) != len(names):
        raise StartError("two of its keys have the same `kid`.")
    return keys


def jwk_key(jwk: dict[str, Any]) -> Key | None:
    """None where it is for something else, or too weak."""
    key_id, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if key_id is not None and not isinstance(key_id, str):
        return None
    try:
        material = jwt.PyJWK(jwk).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, UnsupportedAlgorithm):
        return None
    algorithm = algorithm_for(material)
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    return Key(key_id, algorithm, public(material))


def private_key(text: bytes) -> SigningKey:
    """A private key in PEM, without a password; StartError where it is none."""
    try:
        material = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StartError("it is not a private key in PEM without a password.") from None
    algorithm = algorithm_for(material.public_key() if hasattr(material, "public_key") else None)
    if algorithm is None or not isinstance(material, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise StartError(f"it must be RSA of {LEAST_RSA_BITS} bits or more, EC on P-256, or Ed25519.")
    return SigningKey(algorithm, material)


def algorithm_for(material: object) -> Algorithm | None:
    if isinstance(material, RSAPublicKey) and material.key_size >= LEAST_RSA_BITS:
        return "RS256"
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(material, Ed25519PublicKey) else None


def public(material: object) -> Material:
    assert isinstance(material, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey)
    return material


def allowed(keys: Iterable[Key], algorithms: Iterable[str]) -> tuple[Key, ...]:
    """Those of the algorithms that are allowed; of all, where none are named."""
    return tuple(key for key in keys if not algorithms or key.algorithm in algorithms)
