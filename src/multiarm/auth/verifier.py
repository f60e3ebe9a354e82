"""From the header `Authorization` to who sends the request."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVar

import jwt

from multiarm.auth.bearer import Bearer, Era
from multiarm.auth.claims import Claims, Rules, decode_claims, decode_header
from multiarm.auth.errors import InvalidToken, NotYetValid, Unauthorized, UnknownKey
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.pace import Pace
from multiarm.auth.scopes import Scopes

T = TypeVar("T")

SCHEME = b"bearer "
REFUSED_LIMIT_TOKENS = 1024
LEAST_PACES_TOKENS = 1024
DIGEST_BYTES = 32

_signatures = jwt.PyJWS(algorithms=["HS256", "RS256", "ES256", "EdDSA"])


class Verifier:
    """Verifies each token once, and remembers it by the exact bytes of its header, within a number of tokens.

    Only what is valid is remembered for good, so that no stream of bad tokens pushes out a good one; the one used least
    lately goes first. What is remembered expires by itself, and is forgotten when a key or a token is revoked.
    is_revoked: whether that was said of a token's claims. when_forgotten: called where all has to be looked at anew.
    """

    def __init__(
        self,
        keys: KeyRing,
        rules: Rules,
        is_revoked: Callable[[Claims], bool],
        new_pace: Callable[[], Pace | None] = lambda: None,
        *,
        token_limit_bytes: int = 4096,
        cache_limit_tokens: int = 10_000,
    ) -> None:
        self.keys = keys
        self.when_forgotten: Callable[[], None] = lambda: None
        self._rules = rules
        self._is_revoked = is_revoked
        self._new_pace = new_pace
        self._token_limit_bytes = token_limit_bytes
        self._limit = cache_limit_tokens
        self._era = Era(self.bearer)
        self._known: OrderedDict[bytes, Bearer] = OrderedDict()
        self._paces: OrderedDict[bytes, Pace | None] = OrderedDict()  # by what was signed
        self._refused: dict[bytes, str] = {}

    def bearer(self, authorization: bytes, now: float) -> Bearer:
        """Unauthorized where the header holds no valid token. It may have expired since it was verified."""
        known = self._known.get(authorization)
        if known is not None:
            self._known.move_to_end(authorization)
            return known
        if authorization in self._refused:
            raise InvalidToken(self._refused[authorization])
        try:
            bearer = self._verified(authorization, now)
        except (UnknownKey, NotYetValid):
            raise
        except InvalidToken as error:
            if len(self._refused) >= REFUSED_LIMIT_TOKENS:
                self._refused.clear()
            self._refused[authorization] = str(error)
            raise
        remember(self._known, authorization, bearer, self._limit)
        return bearer

    def forget(self) -> None:
        """A key or a token may be valid no more, or again: look at each anew. What was used of a rate stays used."""
        self._era.over = True
        self._era = Era(self.bearer)
        self._known.clear()
        self._refused.clear()
        self.when_forgotten()

    def _token(self, authorization: bytes) -> bytes:
        if len(authorization) > self._token_limit_bytes + len(SCHEME):
            raise Unauthorized(f"A token may have {self._token_limit_bytes:,} bytes (token_limit_bytes).")
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise Unauthorized("Send the token as `Authorization: Bearer …`.")
        if b"=" in authorization:
            raise InvalidToken("The token is not a signed JWT (RFC 7519): its parts have no padding.")
        return authorization[len(SCHEME) :]

    def _verified(self, authorization: bytes, now: float) -> Bearer:
        token = self._token(authorization)
        header_part, _, rest = token.partition(b".")
        try:
            header = decode_header(jwt.utils.base64url_decode(header_part))
        except ValueError:
            raise InvalidToken("The token is not a signed JWT (RFC 7519).") from None
        self._rules.check_type(header)
        key = self.keys.find(header)
        try:
            payload = _signatures.decode_complete(token, key.material, [key.algorithm])["payload"]
        except jwt.InvalidSignatureError:
            raise InvalidToken("The token's signature is not by the key of this server.") from None
        except (jwt.PyJWTError, ValueError):
            raise InvalidToken("The token is not a signed JWT (RFC 7519).") from None
        claims = decode_claims(payload)
        self._rules.check(claims, now)
        if self._is_revoked(claims):
            raise InvalidToken("The token was revoked; get a new one.")
        signed = blake2b(header_part + b"." + rest.partition(b".")[0], digest_size=DIGEST_BYTES).digest()
        return Bearer(
            claims.sub,
            Scopes(claims.scope),
            expires_at=claims.exp + self._rules.leeway_s,
            pace=self._pace_of(signed),
            authorization=authorization,
            era=self._era,
            token_id=claims.jti,
        )

    def _pace_of(self, signed: bytes) -> Pace | None:
        """One for each token, however its header is spelled and however often it is verified again."""
        pace = self._paces[signed] if signed in self._paces else self._new_pace()
        remember(self._paces, signed, pace, max(self._limit, LEAST_PACES_TOKENS))
        return pace


def remember(cache: "OrderedDict[bytes, T]", name: bytes, value: T, limit: int) -> None:
    cache[name] = value
    cache.move_to_end(name)
    if len(cache) > limit:
        cache.popitem(last=False)
