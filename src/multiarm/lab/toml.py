"""Studies as TOML files, and what is wrong with them: every fault, with the name of its field."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from multiarm.domain.errors import InvalidField, StartError, raise_all
from multiarm.domain.policies import AnyPolicy
from multiarm.lab.environments import AnyEnvironment
from multiarm.lab.study import Entry, Study

SCALARS = ("horizon", "runs", "seed")
ENTRY = tuple(name for name in Entry.__struct_fields__ if name != "policy")


def read_study(file: Path) -> Study:
    """StartError where the file cannot be read or is not TOML; InvalidField or InvalidRequest where it does not fit."""
    try:
        return decode_study(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise StartError(f"The study {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"The study {file} is not TOML: {error}.") from None


def decode_study(values: dict[str, Any]) -> Study:
    """A study from plain values as a TOML file gives them, checked."""
    raise_all(list(study_faults(values)))
    policies = [
        {name: entry[name] for name in ENTRY if name in entry}
        | {"policy": {name: value for name, value in entry.items() if name not in ENTRY}}
        for entry in values["policies"]
    ]
    study = msgspec.convert({**values, "policies": policies}, Study)
    study.check()
    return study


def study_faults(values: dict[str, Any]) -> Iterator[InvalidField]:
    """What does not fit the types."""
    types = {field.name: field.type for field in msgspec.structs.fields(Study)}
    for name in values:
        if name not in types:
            yield InvalidField(name, f"There is no such field; a study has {', '.join(types)}.")
    for name in SCALARS:
        if name in values:
            yield from value_faults(values[name], types[name], name)
    if not isinstance(values.get("environment"), dict):
        yield InvalidField("environment", "A study needs a table [environment] with a type.")
    else:
        yield from tagged_faults(values["environment"], AnyEnvironment, "environment")
    policies = values.get("policies")
    if not isinstance(policies, list) or not policies or not all(isinstance(entry, dict) for entry in policies):
        yield InvalidField("policies", "A study needs one or more tables [[policies]], each with a type.")
        return
    entry_types = {field.name: field.type for field in msgspec.structs.fields(Entry)}
    for index, entry in enumerate(policies):
        path = f"policies[{index}]"
        for name in ENTRY:
            if name in entry:
                yield from value_faults(entry[name], entry_types[name], f"{path}.{name}")
        yield from tagged_faults({name: entry[name] for name in entry if name not in ENTRY}, AnyPolicy, path, ENTRY)


def tagged_faults(
    values: dict[str, Any], union: Any, path: str, further: tuple[str, ...] = ()
) -> Iterator[InvalidField]:
    """Those of a struct that its `type` names. further: fields that are not its own, for the message alone."""
    structs = {struct.__struct_config__.tag: struct for struct in get_args(union)}
    kind = values.get("type")
    if kind not in structs:
        said = "has no type" if kind is None else f"there is no type {kind!r:.40}"
        yield InvalidField(f"{path}.type", f"{said[0].upper()}{said[1:]}; the types are {', '.join(sorted(structs))}.")
        return
    yield from struct_faults(
        {name: value for name, value in values.items() if name != "type"}, structs[kind], path, further
    )


def struct_faults(
    values: dict[str, Any], struct: type[msgspec.Struct], path: str, further: tuple[str, ...] = ()
) -> Iterator[InvalidField]:
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for name, value in values.items():
        if name in fields:
            yield from value_faults(value, fields[name].type, f"{path}.{name}")
        else:
            yield InvalidField(
                f"{path}.{name}", f"There is no such field; the fields are {', '.join((*fields, *further))}."
            )
    for name, field in fields.items():
        if field.required and name not in values:
            yield InvalidField(f"{path}.{name}", "This field is required.")


def value_faults(value: Any, type_: Any, path: str) -> Iterator[InvalidField]:
    """Those of one field; a table within it that names its type is looked into."""
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        if isinstance(value, dict) and len(structs := structs_in(type_)) == 1:
            yield from struct_faults(value, structs[0], path)
            return
        detail, _, where = str(error).partition(" - at `$")
        yield InvalidField(path + where.strip("`"), f"{detail.replace('`', '')}; got {value!r:.60}.")


def structs_in(type_: Any) -> list[type[msgspec.Struct]]:
    """The structs among the alternatives of a type."""
    if get_origin(type_) in (Union, UnionType):
        return [struct for option in get_args(type_) for struct in structs_in(option)]
    bare = get_args(type_)[0] if hasattr(type_, "__metadata__") else type_
    if bare is not type_:
        return structs_in(bare)
    return [type_] if isinstance(type_, type) and issubclass(type_, msgspec.Struct) else []
