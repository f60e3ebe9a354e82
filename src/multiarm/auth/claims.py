"""What a token says, and which of it must hold: RFC 7519, RFC 9068, and RFC 8725 where they leave it open."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec
from msgspec import Meta

from multiarm.auth.bearer import EXPIRED
from multiarm.auth.errors import InvalidToken, NotYetValid

LARGEST_DATE = 1 << 53

NumericDate = Annotated[float, Meta(ge=0, le=LARGEST_DATE)]  # seconds since the epoch
Name = Annotated[str, Meta(min_length=1, max_length=255)]

# A key or an address of one in the token would let its sender choose who is believed (RFC 8725, 3.10); what is
# critical must be understood (RFC 7515, 4.1.11), and nothing that could stand there is.
REFUSED_PARAMETERS = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc")


class JoseHeader(msgspec.Struct, frozen=True):
    """What of a header is believed: which key, and what kind of token it is."""

    alg: str
    typ: str
    kid: str | None = None


class Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str | list[str]
    sub: Name
    exp: NumericDate
    iat: NumericDate
    nbf: NumericDate = 0
    jti: Name | None = None
    scope: str = ""


class Rules(NamedTuple):
    """What must hold of every token. types: of `typ`, in lower case, without `application/`."""

    issuer: str
    audience: str
    types: Sequence[str]
    leeway_s: float
    lifetime_limit_s: float

    def check_type(self, header: JoseHeader) -> None:
        if header.typ.lower().removeprefix("application/") not in self.types:
            raise InvalidToken(f"The token's `typ` must be one of {', '.join(self.types)} (jwt_types).")

    def check(self, claims: Claims, now: float) -> None:
        """InvalidToken, with the first rule that is broken."""
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if claims.iss != self.issuer:
            raise InvalidToken("The token is of another issuer than the setting jwt_issuer.")
        if self.audience not in audiences:
            raise InvalidToken("The token is for another audience than the setting jwt_audience.")
        if now >= claims.exp + self.leeway_s:
            raise InvalidToken(EXPIRED)
        if claims.exp - claims.iat > self.lifetime_limit_s:
            raise InvalidToken("The token lives longer than the setting jwt_lifetime_limit_days allows.")
        if max(claims.nbf, claims.iat) > now + self.leeway_s:
            raise NotYetValid("The token is not valid yet (nbf, iat); compare the clocks.")


_header_decoder = msgspec.json.Decoder(JoseHeader)
_claims_decoder = msgspec.json.Decoder(Claims)


def decode_header(text: bytes) -> JoseHeader:
    members = unique(text)
    refused = [name for name in REFUSED_PARAMETERS if name in members]
    if refused:
        raise InvalidToken(f"The token's header holds {refused[0]!r}, which is not allowed here.")
    try:
        return _header_decoder.decode(text)
    except msgspec.DecodeError:
        raise InvalidToken("The token's header needs `alg` and `typ`, and may have `kid`, all of them text.") from None


def decode_claims(text: bytes) -> Claims:
    unique(text)
    try:
        return _claims_decoder.decode(text)
    except msgspec.DecodeError:
        raise InvalidToken(
            "The token needs the claims iss, aud, sub, iat and exp, and may have nbf, jti and scope, each of its type."
        ) from None


def unique(text: bytes) -> dict[str, Any]:
    """The members of a JSON object; InvalidToken where one comes twice, for who is to say which counts?"""
    try:
        document = json.loads(text.decode(), object_pairs_hook=distinct, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise InvalidToken("The token is not of two JSON objects in UTF-8 with members that come once.") from None
    if not isinstance(document, dict):
        raise InvalidToken("The token is not of two JSON objects.")
    return document


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def no_constant(_name: str) -> NoReturn:
    """NaN and Infinity are not JSON."""
    raise ValueError
