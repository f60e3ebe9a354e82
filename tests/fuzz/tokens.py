"""Tokens: one lets in if and only if it is signed by a key of ours and all that it must say holds."""

import asyncio
import base64
import hmac
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256

from fuzz.target import JSON_WORDS, Target, assert_told, simple
from fuzz.token_rules import NOW, is_plainly_good, must_hold
from multiarm.auth.bearer import Bearer
from multiarm.auth.claims import Rules
from multiarm.auth.errors import InvalidToken, Unauthorized
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.keys import Algorithm, Key, PrivateMaterial, public
from multiarm.auth.pace import Pace
from multiarm.auth.verifier import LEAST_PACES_TOKENS, REFUSED_LIMIT_TOKENS, Verifier

SECRET = b"a secret of ours of 32 bytes or more"
CACHE_LIMIT_TOKENS = 50
TOKEN_LIMIT_BYTES = 1000
RULES = Rules("multiarm", "multiarm", ("at+jwt", "jwt"), 10.0, 366 * 86_400)
HEADER = b'{"alg":"$A","typ":"at+jwt"}'
NAMED = b'{"alg":"$A","typ":"at+jwt","kid":"$K"}'
CLAIMS = b'{"iss":"multiarm","aud":"multiarm","sub":"shop","iat":1750000000,"exp":1750003600,"scope":"draw update:a-*"}'
END = b"\0"  # between header and claims


class Issuer(NamedTuple):
    """A verifier, and a key that signs for it."""

    verifier: Verifier
    algorithm: Algorithm
    private: PrivateMaterial
    key_id: bytes

    def sign(self, text: bytes) -> bytes:
        return signature(self.private, text)

    def token(self, header: bytes, claims: bytes) -> bytes:
        filled = header.replace(b"$A", self.algorithm.encode()).replace(b"$K", self.key_id)
        signed = encoded(filled) + b"." + encoded(claims)
        return signed + b"." + encoded(self.sign(signed))


def one(data: bytes) -> bool:
    kind, issuer, rest = data[:1], issuer_of(data[1:2]), data[2:]
    token = token_of(kind, issuer, rest)
    bearer = ask(issuer, b"Bearer " + token if kind != b"t" else token)
    if kind == b"w":
        assert bearer is None, "a token is believed that none of our keys signed"
    if kind == b"s" and is_plainly_good(token, issuer.algorithm, issuer.key_id, TOKEN_LIMIT_BYTES):
        assert bearer is not None, "a good token is refused"
    return bearer is not None


def ask(issuer: Issuer, authorization: bytes) -> Bearer | None:
    """Twice, for what is remembered; whoever is let in has a token that holds by other means, too."""
    found = [verdict(issuer.verifier, authorization) for _ in range(2)]
    assert found[0] == found[1], "the second answer is another"
    bearer = found[0]
    if isinstance(bearer, str):
        assert not authorization.startswith(b"Bearer ") or bearer
        return None
    assert authorization[:7].lower() == b"bearer "
    assert b"=" not in authorization, "its parts are padded"
    signed, _, sign = authorization[7:].rpartition(b".")
    assert is_signed(issuer.private, signed, decoded(sign)), "it was not signed"
    claims = must_hold(signed, issuer.algorithm)
    assert bearer.subject == claims["sub"]
    assert bearer.expires_at == claims["exp"] + RULES.leeway_s
    again = verdict(issuer.verifier, b"bEARER " + authorization[7:])
    assert isinstance(again, Bearer)
    assert again.pace is bearer.pace, "one token has two paces"
    return bearer


def verdict(verifier: Verifier, authorization: bytes) -> Bearer | str:
    try:
        bearer = verifier.bearer(authorization, NOW)
    except Unauthorized as error:
        assert_challenged(error)
        assert len(verifier._refused) <= REFUSED_LIMIT_TOKENS
        return str(error)
    assert len(verifier._known) <= CACHE_LIMIT_TOKENS
    assert len(verifier._paces) <= LEAST_PACES_TOKENS
    return bearer


def assert_challenged(error: Unauthorized) -> None:
    said = assert_told(error)
    assert said.status == 401
    challenge = said.headers[b"www-authenticate"]
    assert challenge.startswith(b'Bearer realm="multiarm"')
    assert isinstance(error, InvalidToken) == (b"invalid_token" in challenge)


def token_of(kind: bytes, issuer: Issuer, rest: bytes) -> bytes:
    """Signed (s), signed wrongly (w), a valid one with bytes changed (e), or with others around (r, t)."""
    if kind in (b"s", b"w"):
        header, end, claims = rest.partition(END)
        token = issuer.token(header, claims) if end else issuer.token(default_header(issuer), header)
        return token if kind == b"s" else signed_wrongly(issuer, token, rest[-1:])
    valid = issuer.token(default_header(issuer), CLAIMS)
    if kind == b"e":
        altered = bytearray(valid)
        for high, low, letter in zip(rest[::3], rest[1::3], rest[2::3], strict=False):
            altered[(high << 8 | low) % len(altered)] = letter
        return bytes(altered)
    for name, part in zip((b"$H", b"$C", b"$S"), valid.split(b"."), strict=True):
        rest = rest.replace(name, part)
    return rest[:4096]


def default_header(issuer: Issuer) -> bytes:
    return NAMED if issuer.key_id else HEADER


def signed_wrongly(issuer: Issuer, token: bytes, choice: bytes) -> bytes:
    """Not at all, by a stranger, with what everybody knows as the secret, or in another form."""
    signed = token.rpartition(b".")[0]
    known = b"public" if isinstance(issuer.private, bytes) else pem(issuer.private)
    strangers: Sequence[bytes] = [
        b"",
        hmac.digest(known, signed, "sha256"),
        hmac.digest(known.strip(), signed, "sha256"),
        hmac.digest(b"", signed, "sha256"),
        hmac.digest(b"another secret of 32 bytes or more", signed, "sha256"),
        bytes(64),
        ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32).sign(signed),
        ec.derive_private_key(4711, ec.SECP256R1()).sign(signed, ec.ECDSA(SHA256())),
        issuer.sign(signed + b" "),
    ]
    number = choice[0] if choice else 0
    return signed + b"." + encoded(strangers[number % len(strangers)])


# --- keys ------------------------------------------------------------------------------------------------------------


@cache
def issuers() -> Sequence[Issuer]:
    """RSA is the least of them: its signatures take a millisecond."""
    private: dict[Algorithm, PrivateMaterial] = {
        "HS256": SECRET,
        "ES256": ec.derive_private_key(271_828, ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32),
        "RS256": rsa.generate_private_key(65_537, 2048),
    }
    lone = [Issuer(verifier(Key(None, name, believed(key))), name, key, b"") for name, key in private.items()]
    several = {name: Key(name.lower(), name, believed(key)) for name, key in private.items() if name != "HS256"}
    ring = verifier(*several.values(), several["EdDSA"]._replace(key_id="es256"))
    named = [Issuer(ring, name, private[name], name.lower().encode()) for name in several]
    return [*lone, *named]


def issuer_of(choice: bytes) -> Issuer:
    return issuers()[choice[0] % len(issuers()) if choice else 0]


def believed(key: PrivateMaterial) -> bytes | rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    return key if isinstance(key, bytes) else public(key.public_key())


def verifier(*keys: Key) -> Verifier:
    async def source() -> tuple[Key, ...]:
        return keys

    ring = KeyRing(source)
    asyncio.run(ring.load())
    return Verifier(
        ring,
        RULES,
        lambda claims: claims.jti == "revoked",
        lambda: Pace(1000, 1000),
        token_limit_bytes=TOKEN_LIMIT_BYTES,
        cache_limit_tokens=CACHE_LIMIT_TOKENS,
    )


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def signature(key: PrivateMaterial, text: bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac.digest(key, text, "sha256")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(text)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(text, padding.PKCS1v15(), SHA256())
    r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def is_signed(key: PrivateMaterial, text: bytes, sign: bytes) -> bool:
    """By the key itself, without the libraries for tokens; an exception where it is not."""
    if isinstance(key, bytes):
        return hmac.compare_digest(hmac.digest(key, text, "sha256"), sign)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        key.public_key().verify(sign, text)
    elif isinstance(key, rsa.RSAPrivateKey):
        key.public_key().verify(sign, text, padding.PKCS1v15(), SHA256())
    else:
        der = utils.encode_dss_signature(int.from_bytes(sign[:32]), int.from_bytes(sign[32:]))
        key.public_key().verify(der, text, ec.ECDSA(SHA256()))
    return True


def encoded(text: bytes) -> bytes:
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def decoded(part: bytes) -> bytes:
    return base64.urlsafe_b64decode(re.sub(rb"=+$", b"", part) + b"==")


SIGNED = [
    CLAIMS,
    NAMED + END + CLAIMS,
    HEADER + END + CLAIMS,
    CLAIMS.replace(b'"aud":"multiarm"', b'"aud":["shop","multiarm"]'),
    CLAIMS.replace(b"1750003600", b"1750000000"),
    CLAIMS.replace(b"1750003600", b"1e10"),
    CLAIMS.replace(b'"sub"', b'"jti":"a","nbf":1750000000.5,"sub"'),
    CLAIMS.replace(b'"sub"', b'"jti":"revoked","sub"'),
    CLAIMS.replace(b'"sub"', b'"sub":"b","sub"'),
    b'{"alg":"$A","typ":"application/JWT","kid":"$K","x":[[1]]}' + END + CLAIMS,
    b'{"alg":"none","typ":"jwt"}' + END + CLAIMS,
    b'{"alg":"HS256","typ":"jwt","kid":"$K"}' + END + CLAIMS,
    b'{"alg":"$A","typ":"jwt","crit":["exp"],"jwk":{}}' + END + CLAIMS,
]
SEEDS = [
    *(b"s%c" % number + recipe for recipe in SIGNED for number in range(7)),
    *(b"w%c" % number + CLAIMS + b"%c" % choice for number in range(7) for choice in range(9)),
    *(b"w%c" % number + b'{"alg":"HS256","typ":"jwt"}' + END + CLAIMS + b"\1" for number in range(7)),
    *(b"e%c\0\0e" % number for number in range(7)),
    b"r\0$H.$C.$S",
    b"r\1$H.$C.$S=",
    b"t\0Bearer $H.$C.$S",
    b"t\0bearer  $H.$C.$S",
    b"t\0Basic eDp5",
    b"t\0Bearer ",
    b"t\0Bearer ..",
    b"r\0" + b"e30." * 50,
]
WORDS = [
    *JSON_WORDS,
    *(b"$A", b"$K", b"$H", b"$C", b"$S", b".", b"=", b"eyJ", END, b"Bearer ", b"none", b"HS256", b"RS256", b"EdDSA"),
    *(b'"crit"', b'"jwk"', b'"jku"', b'"kid"', b'"b64":false', b'"iss"', b'"aud"', b'"exp"', b'"nbf"', b'"sub":"b"'),
    *(b"1750000000", b"1750000010", b"1750000011", b"9007199254740993", b"at+jwt", b"application/", b"\\u0000"),
]

TARGET: Target = simple("tokens", one, SEEDS, WORDS, 6)
