"""Where settings come from: defaults < TOML file < environment (MULTIARM_…) < command-line flags."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union, get_origin

import msgspec
from msgspec import Meta

from multiarm.domain.errors import StartError
from multiarm.settings import Settings

PREFIX = "MULTIARM_"
ENVIRONMENT = "environment variable"
TEXT = "text"
SECRET = frozenset({"jwt_secret"})
LISTS = {
    "allowed_hosts": "names without port, IPv6 in brackets",
    "jwt_algorithms": "HS256, RS256, ES256, EdDSA",
    "jwt_types": "types in lower case",
}


class SettingRow(NamedTuple):
    """A setting as people read about it."""

    name: str
    default: str
    allowed: str
    environment: str
    help: str


def load_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Settings:
    """Settings from all sources; flags that are None were not given.

    Raises StartError that names the setting, where it came from and what is allowed, but never a secret.
    """
    known = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, object] = {}
    for source, name, value in sources(file, os.environ if environment is None else environment, flags or {}):
        if name not in known:
            raise StartError(f"{source}: there is no setting {name!r}; docs/settings.md lists them all.")
        try:
            is_number = source.startswith(ENVIRONMENT) and allowed(known[name]) != TEXT
            values[name] = msgspec.convert(value, known[name].type, strict=not is_number)
        except msgspec.ValidationError:
            given = "…" if name in SECRET else repr(value)
            raise StartError(f"{source}: {name} = {given} is not allowed; it must be {allowed(known[name])}.") from None
    return msgspec.convert(values, Settings)


def sources(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Iterator[tuple[str, str, object]]:
    """(source, name, value), the weakest source first."""
    if file is not None:
        for name, value in read_toml(file).items():
            yield str(file), name, value
    for variable, text in environment.items():
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower()
            value = words(text) if name in LISTS else text
            yield f"{ENVIRONMENT} {variable}", name, value
    for name, flag in flags.items():
        if flag is not None:
            yield f"flag --{name.replace('_', '-')}", name, flag


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise StartError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"The settings file {file} is not TOML: {error}.") from None


def settings_table() -> list[SettingRow]:
    """All settings, in order."""
    return [
        SettingRow(
            field.name,
            shown(field.default),
            allowed(field),
            PREFIX + field.name.upper(),
            described(field)[1].description or "",
        )
        for field in msgspec.structs.fields(Settings)
    ]


def shown(default: object) -> str:
    if isinstance(default, tuple):
        return ", ".join(default) or "all"
    return "none" if default is None else f"{default}"


def described(field: msgspec.structs.FieldInfo) -> tuple[Any, Meta]:
    """The bare type of a setting, and what is annotated to it."""
    base, meta = field.type.__origin__, field.type.__metadata__[0]
    return base, meta


def allowed(field: msgspec.structs.FieldInfo) -> str:
    """The allowed values in words: "a number from 0 to 1"."""
    base, meta = described(field)
    if base is str or get_origin(base) is Union:
        return TEXT
    if base is bool:
        return "true or false"
    if base is int or base is float:
        kind = "a whole number" if base is int else "a number"
        low = f"from {meta.ge:,}" if meta.ge is not None else f"above {meta.gt:,}"
        return f"{kind} {low} to {meta.le:,}"
    if get_origin(base) is tuple:
        return f"a list of {LISTS[field.name]} (in the environment separated by commas)"
    return " or ".join(repr(choice) for choice in base.__args__)
