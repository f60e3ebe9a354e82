"""Where keys come from: the shared secret, a file, or a URL."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import httpx

from multiarm.auth.keys import Key, allowed, jwk_keys, pem_key, secret_key
from multiarm.domain.errors import StartError
from multiarm.settings import Settings

KeySource: TypeAlias = Callable[[], Awaitable[tuple[Key, ...]]]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class KeysUnreadable(Exception):
    """The source does not give any keys just now; it says why."""


class NoKeys(KeysUnreadable, StartError):
    """It says that there are none."""


def key_source(settings: Settings) -> KeySource:
    """What the settings name; StartError where that is not one source, or cannot be one."""
    given = settings.key_sources
    if len(given) != 1:
        raise StartError(f"Keys come from one place only; of {' and '.join(given)}, leave one.")
    secret, pem, jwks = shared_secret(settings), settings.jwt_public_key_file, settings.jwt_jwks
    if secret is not None:
        keys = usable((Key(None, "HS256", secret),), given[0], settings)
        return lambda: ready(keys)
    if pem is not None:
        return lambda: from_file("jwt_public_key_file", pem, settings)
    assert jwks is not None
    if "://" not in jwks:
        return lambda: from_file("jwt_jwks", jwks, settings)
    check_url(jwks)
    return lambda: from_url(jwks, settings)


def shared_secret(settings: Settings) -> bytes | None:
    """Of jwt_secret, or read from jwt_secret_file; None where neither is set. StartError where it is no secret."""
    path = settings.jwt_secret_file
    if path is None:
        return None if settings.jwt_secret is None else secret_key(settings.jwt_secret)
    if settings.jwt_secret is not None:
        raise StartError("The secret comes from one place only; of jwt_secret and jwt_secret_file, leave one.")
    try:
        text = read_file(Path(path), settings.jwt_jwks_limit_bytes)
    except OSError as error:
        raise StartError(f"The file {path} (jwt_secret_file) cannot be read: {error.strerror}.") from None
    except StartError as error:
        raise StartError(f"The file {path} (jwt_secret_file) cannot be used: {error}") from None
    line = text.removesuffix(b"\n").removesuffix(b"\r")
    return secret_key(line.decode(errors="surrogateescape"), f"The secret in {path} (jwt_secret_file)")


def check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StartError("jwt_jwks must be an https:// URL or a file.") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise StartError("jwt_jwks must be an https:// URL or a file: over http anyone between could send other keys.")
    if parts.username is not None or parts.password is not None:
        raise StartError("jwt_jwks must not hold a name or a password: public keys need none.")


async def ready(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    return keys


async def from_file(setting: str, path: str, settings: Settings) -> tuple[Key, ...]:
    read = pem_key if setting == "jwt_public_key_file" else jwk_keys
    try:
        text = await asyncio.to_thread(read_file, Path(path), settings.jwt_jwks_limit_bytes)
        found = read(text)
    except OSError as error:
        raise KeysUnreadable(f"The file {path} ({setting}) cannot be read: {error.strerror}.") from None
    except StartError as error:
        raise KeysUnreadable(f"The file {path} ({setting}) cannot be used: {error}") from None
    return usable((found,) if isinstance(found, Key) else found, setting, settings)


def read_file(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as file:
        text = file.read(limit_bytes + 1)
    if len(text) > limit_bytes:
        raise too_large(limit_bytes)
    return text


async def from_url(url: str, settings: Settings) -> tuple[Key, ...]:
    """Redirects are not followed: a key set does not move without anybody's knowing."""
    is_secure = url.startswith("https:")  # else no proxy: what is on loopback stays there
    try:
        context = await asyncio.to_thread(ssl.create_default_context)  # reads all certificates of the system
        async with (
            asyncio.timeout(settings.jwt_fetch_timeout_s),
            httpx.AsyncClient(verify=context, timeout=settings.jwt_fetch_timeout_s, trust_env=is_secure) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
        ):
            text = await body_of(response, settings.jwt_jwks_limit_bytes)
        found = jwk_keys(text)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        raise KeysUnreadable(
            f"The keys at {without_query(url)} (jwt_jwks) cannot be read: {error or type(error).__name__}."
        ) from None
    except StartError as error:
        raise KeysUnreadable(f"The keys at {without_query(url)} (jwt_jwks) cannot be used: {error}") from None
    return usable(found, "jwt_jwks", settings)


def without_query(url: str) -> str:
    """What may go into a log."""
    return url.partition("?")[0]


async def body_of(response: httpx.Response, limit_bytes: int) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise StartError(f"it answered {response.status_code}.")
    text = b""
    async for part in response.aiter_raw():
        text += part
        if len(text) > limit_bytes:
            raise too_large(limit_bytes)
    return text


def too_large(limit_bytes: int) -> StartError:
    return StartError(f"it is larger than {limit_bytes:,} bytes (jwt_jwks_limit_bytes).")


def usable(keys: tuple[Key, ...], setting: str, settings: Settings) -> tuple[Key, ...]:
    if not keys:
        raise NoKeys(f"{setting} holds no key that verifies RS256, ES256 or EdDSA.")
    found = allowed(keys, settings.jwt_algorithms)
    if not found:
        fitting = ", ".join(sorted({key.algorithm for key in keys}))
        raise NoKeys(f"jwt_algorithms allows no algorithm of the keys in {setting}, which is {fitting}.")
    return found
