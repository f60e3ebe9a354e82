"""`multiarm token`: mints tokens, and revokes them in the database of a server that may be running."""

import os
import pwd
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import sqlalchemy as sa

from multiarm.auth.key_source import shared_secret
from multiarm.auth.keys import SigningKey, private_key
from multiarm.auth.minting import mint
from multiarm.authentication import SECONDS_A_DAY
from multiarm.domain.errors import LimitReached, StartError
from multiarm.domain.records import Actor
from multiarm.settings import Settings
from multiarm.storage.audit import Act, write
from multiarm.storage.engine import HEAD_REVISION, create_engine, current_revision, sqlite_url, transact
from multiarm.storage.revocations import Revocation, add, newer_than

T = TypeVar("T")

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": SECONDS_A_DAY}
LIFETIME = re.compile(r"([1-9][0-9]{0,8})([smhd])")


class NewToken(NamedTuple):
    """expires_at: seconds since the epoch."""

    token: str
    token_id: str
    subject: str
    scope: str
    expires_at: float


def new_token(
    settings: Settings, *, subject: str, scope: str, lifetime: str, key_file: Path | None, key_id: str | None
) -> NewToken:
    """Signed with the private key of the file, else with the shared secret. StartError without, or for a bad word."""
    lifetime_s = seconds_of(lifetime)
    if lifetime_s > settings.jwt_lifetime_limit_days * SECONDS_A_DAY:
        limit = f"{settings.jwt_lifetime_limit_days:g} days (jwt_lifetime_limit_days)"
        raise StartError(f"The server takes tokens that live {limit} at most; got {lifetime}.")
    if not 1 <= len(subject) <= 255:
        raise StartError("A subject has 1 to 255 characters.")
    issued_at = int(time.time() * 1000) / 1000  # not of the second before a revocation
    token, token_id = mint(
        signing_key(settings, key_file),
        subject=subject,
        scope=scope,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        issued_at=issued_at,
        lifetime_s=lifetime_s,
        key_id=key_id,
    )
    if len(token) > settings.token_limit_bytes:
        raise StartError(f"The token would be larger than the server takes ({settings.token_limit_bytes:,} bytes).")
    return NewToken(token, token_id, subject, scope, issued_at + lifetime_s)


def seconds_of(lifetime: str) -> int:
    match = LIFETIME.fullmatch(lifetime)
    if match is None:
        raise StartError(f"A lifetime is a number with s, m, h or d behind it, such as 30d; got {lifetime!r}.")
    return int(match[1]) * UNITS_S[match[2]]


def signing_key(settings: Settings, key_file: Path | None) -> SigningKey:
    if key_file is None:
        secret = shared_secret(settings)
        if secret is None:
            raise StartError(
                "It needs the server's jwt_secret (MULTIARM_JWT_SECRET) or jwt_secret_file (MULTIARM_JWT_SECRET_FILE), "
                "or a private key (--key-file)."
            )
        return SigningKey("HS256", secret)
    try:
        return private_key(key_file.read_bytes())
    except OSError as error:
        raise StartError(f"The file {key_file} cannot be read: {error.strerror}.") from None
    except StartError as error:
        raise StartError(f"The file {key_file} cannot sign: {error}") from None


def revoke(settings: Settings, said: Revocation) -> None:
    """Write it into the database of the data directory, and into its audit trail. StartError where that fails."""
    keep_s = settings.jwt_lifetime_limit_days * SECONDS_A_DAY + 2 * settings.jwt_leeway_s
    act = Act("revoke", operator(), said.revoked_at)
    if said.subject is None:
        after: dict[str, object] = {"token_id": said.token_id}
    else:
        after = {"subject": said.subject, "issued_before": said.not_before}

    def work(connection: sa.Connection) -> None:
        add(connection, said, settings.revocation_limit, keep_s)
        write(connection, act, "", {}, after)

    in_database(settings, work)


def operator() -> Actor:
    """Who runs the command: `cli:` and the name that the system has for them, or the number where it has none."""
    number = os.getuid()
    try:
        return Actor(f"cli:{pwd.getpwuid(number).pw_name}")
    except KeyError:
        return Actor(f"cli:{number}")


def revoked(settings: Settings) -> list[Revocation]:
    """All that was written there."""
    return in_database(settings, partial(newer_than, number=0))


def in_database(settings: Settings, work: Callable[[sa.Connection], T]) -> T:
    database = settings.data_path / "multiarm.db"
    if not database.exists():
        raise StartError(f"There is no database in {settings.data_path}; name the server's folder with --data-dir.")
    engine = create_engine(sqlite_url(database), timeout_s=settings.database_timeout_s)
    try:
        with engine.connect() as connection:
            if current_revision(connection) != HEAD_REVISION:
                raise StartError("The database is of another version; start this multiarm on it once.")
            return transact(connection, work)
    except LimitReached as error:
        raise StartError(str(error)) from None
    except sa.exc.DBAPIError as error:
        raise StartError(f"The database cannot be used ({error.orig}); nothing was changed.") from None
    finally:
        engine.dispose()
