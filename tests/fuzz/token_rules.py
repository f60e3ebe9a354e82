"""What must hold of a token, said once more, with nothing of the server's own."""

import base64
import json
from typing import Any

NOW = 1.75e9
LEEWAY_S = 10.0
LIFETIME_LIMIT_S = 366 * 86_400
REFUSED = {"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"}
TEXT = {"iss", "sub", "jti", "scope"}
DATES = {"iat", "exp", "nbf"}


def must_hold(signed: bytes, algorithm: str) -> dict[str, Any]:
    """The claims of a token that was let in; AssertionError where it should not have been."""
    header, claims = (document(part) for part in signed.split(b"."))
    assert not REFUSED & header.keys(), header
    assert header["alg"] == algorithm, "another algorithm than the key's"
    assert header["typ"].lower().removeprefix("application/") in ("at+jwt", "jwt"), header
    assert isinstance(header.get("kid"), str | None), header
    assert claims["iss"] == "multiarm", claims
    assert "multiarm" in ([claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]), claims
    assert 1 <= len(claims["sub"]) <= 255, claims
    assert isinstance(claims.get("scope", ""), str), claims
    assert claims.get("jti") != "revoked", claims
    dates = {name: claims[name] for name in DATES & claims.keys()}
    assert all(isinstance(date, int | float) and not isinstance(date, bool) for date in dates.values()), claims
    assert claims["exp"] + LEEWAY_S > NOW, "it has expired"
    assert claims["exp"] - claims["iat"] <= LIFETIME_LIMIT_S, "it lives too long"
    assert max(claims["iat"], claims.get("nbf", 0)) <= NOW + LEEWAY_S, "it is of the future"
    return claims


def is_plainly_good(token: bytes, algorithm: str, key_id: bytes, limit_bytes: int) -> bool:
    """Whether nobody could object to a token that was signed well: it says what it must, and nothing else."""
    try:
        header, claims = (document(part) for part in token.split(b".")[:2])
        must_hold(token.rpartition(b".")[0], algorithm)
        json.dumps([header, claims], ensure_ascii=False).encode()  # no half of a surrogate
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        return False
    return (
        len(token) <= limit_bytes
        and header.keys() <= {"alg", "typ", "kid"}
        and header.get("kid", "") == key_id.decode()
        and ("kid" in header) == bool(key_id)
        and claims.keys() <= TEXT | DATES | {"aud"}
        and all(isinstance(claims[name], str) for name in TEXT & claims.keys())
        and 1 <= len(claims.get("jti", "x")) <= 255
        and all(0 <= claims[name] <= 1 << 53 for name in DATES & claims.keys())
        and all(isinstance(name, str) for name in claims["aud"])
    )


def document(part: bytes) -> dict[str, Any]:
    """The JSON object in a part of a token; ValueError or AssertionError where it is none, or a member comes twice."""
    found = json.loads(base64.urlsafe_b64decode(part + b"==").decode(), object_pairs_hook=once)
    assert isinstance(found, dict)
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a member comes twice"
    return dict(pairs)
