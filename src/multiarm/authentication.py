"""Authentication as the settings ask for it: built, started and stopped."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Engine

from multiarm.auth.pace import Pace
from multiarm.domain.errors import StartError
from multiarm.service.revocations import Revocations
from multiarm.settings import Settings

if TYPE_CHECKING:
    from multiarm.auth.claims import Claims, Rules
    from multiarm.auth.verifier import Verifier

log = structlog.get_logger()

SECONDS_A_DAY = 86_400
ANYONE_MAY = (
    "ANYONE WHO REACHES {host} MAY DRAW, REWARD AND DELETE: there is no authentication, and allow_anonymous is true."
)


def require_authentication(settings: Settings) -> None:
    """StartError where others could reach the server and nobody would ask who they are."""
    if settings.key_sources or is_loopback(settings.host):
        return
    if not settings.allow_anonymous:
        raise StartError(
            f"It would listen on {settings.host} without authentication, where anyone who reaches it may draw, reward "
            "and delete. Set jwt_secret, jwt_secret_file, jwt_public_key_file or jwt_jwks (docs/security.md says how), "
            "or listen on 127.0.0.1, or say allow_anonymous = true (MULTIARM_ALLOW_ANONYMOUS=true)."
        )
    log.warning("anonymous", warning=ANYONE_MAY.format(host=settings.host))


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.asynccontextmanager
async def authentication(settings: Settings, engine: Engine) -> AsyncIterator["Verifier | None"]:
    """What verifies tokens, or None where there is no authentication. engine: for reading what was revoked."""
    if not settings.key_sources:
        yield None
        return
    from multiarm.auth.key_ring import KeyRing  # these import cryptography, which only some servers need
    from multiarm.auth.key_source import key_source
    from multiarm.auth.verifier import Verifier

    keys = KeyRing(
        key_source(settings),
        interval_s=settings.jwt_refresh_interval_s,
        backoff_s=settings.jwt_refresh_backoff_s,
        lifetime_s=settings.jwt_keys_lifetime_s,
    )
    revocations = Revocations(engine, interval_s=settings.revocation_interval_s)

    def is_revoked(claims: "Claims") -> bool:
        return revocations.is_revoked(claims.jti, claims.sub, claims.iat)

    verifier = Verifier(
        keys,
        rules_of(settings),
        is_revoked,
        partial(Pace, settings.token_rate_limit_per_s, settings.token_burst_limit_requests),
        token_limit_bytes=settings.token_limit_bytes,
        cache_limit_tokens=settings.token_cache_limit_tokens,
    )
    keys.on_change = revocations.on_change = verifier.forget
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(revocations.stop)
        await keys.load()
        await revocations.load()
        keys.start()
        stack.push_async_callback(keys.stop)
        revocations.start()
        yield verifier


def rules_of(settings: Settings) -> "Rules":
    from multiarm.auth.claims import Rules

    return Rules(
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_types,
        settings.jwt_leeway_s,
        settings.jwt_lifetime_limit_days * SECONDS_A_DAY,
    )
