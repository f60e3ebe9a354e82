"""New tokens, for servers that hold a shared secret or the private key themselves."""

from secrets import token_urlsafe

import jwt

from multiarm.auth.keys import SigningKey
from multiarm.auth.scopes import unknown_scopes
from multiarm.domain.errors import StartError

TYPE = "at+jwt"  # RFC 9068, 2.1


def mint(
    key: SigningKey,
    *,
    subject: str,
    scope: str,
    issuer: str,
    audience: str,
    issued_at: float,
    lifetime_s: int,
    key_id: str | None = None,
) -> tuple[str, str]:
    """A token and its id (`jti`), by which it can be revoked. StartError where the scope means nothing."""
    unknown = unknown_scopes(scope)
    if unknown:
        raise StartError(
            f"There is no scope {unknown[0]!r}. A scope is draw, update, read or admin, for all experiments, or with "
            "an id or the beginning of ids behind it: `draw:checkout`, `draw:checkout-*`."
        )
    token_id = token_urlsafe(12)
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "scope": scope,
        "iat": issued_at,
        "exp": issued_at + lifetime_s,
        "jti": token_id,
    }
    headers = {"typ": TYPE} | ({} if key_id is None else {"kid": key_id})
    return jwt.encode(claims, key.material, key.algorithm, headers), token_id
