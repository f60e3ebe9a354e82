"""Request bodies: read within the limit, decoded fast; only where that fails walked again to list every fault."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from litestar.types import Receive

from multiarm.domain.arm import ID_PATTERN
from multiarm.domain.errors import (
    FAULT_LIMIT,
    BodyTooLarge,
    Fault,
    InvalidRequest,
    MalformedBody,
    UnsupportedMediaType,
)
from multiarm.domain.spec import BATCH_LIMIT, KEY_PATTERN, Update, UpdateBatch
from multiarm.service.batch import SLICE_UPDATES, BatchFaults, joined

T = TypeVar("T")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
IN_WORDS = {
    ID_PATTERN: "Expected 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
    KEY_PATTERN: "Expected 1 to 128 letters, digits and any of _~:@!$&'()*+,;=.- but not '.' or '..'",
}

BOUNDS = ("ge", "gt", "le", "lt")

_batch_decoder = msgspec.json.Decoder(UpdateBatch)
_any_decoder = msgspec.json.Decoder()


async def read_body(
    raw_headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit_bytes: int, grow: Callable[[int], None]
) -> bytes:
    """The body as it came; BodyTooLarge as soon as it is known to pass the limit, UnsupportedMediaType unless JSON.

    grow: is told how large it is known to be, and may refuse that.
    """
    headers = dict(raw_headers)
    if declared_length(headers) > limit_bytes:
        raise too_large(limit_bytes)
    grow(declared_length(headers))
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise MalformedBody("The connection was closed before the body was there.")
        parts.append(message["body"])
        size += len(message["body"])
        more = message["more_body"]
        if size > limit_bytes:
            raise too_large(limit_bytes)
        grow(size)
    body = b"".join(parts)
    if body and not is_json(headers):
        raise UnsupportedMediaType("Send the body as JSON, with the header `Content-Type: application/json`.")
    return body


def is_json(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").split(b";")[0].strip().lower() == b"application/json"


def declared_length(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else 0


def too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"A body may have {limit_bytes:,} bytes (body_limit_bytes); split it into smaller requests.")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type; MalformedBody where it is not JSON, InvalidRequest where it does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        document = parse(body, error)
        faults = list(islice(walk(document, decoder.type), FAULT_LIMIT))
        if faults:
            raise InvalidRequest(faults) from None
        return msgspec.convert(document, decoder.type)  # the fault was in a key that came again, and the last counts
    except _UNREADABLE as error:
        raise malformed(body, error) from None


async def decode_batch(body: bytes, faults: BatchFaults) -> list[Update] | list[Update | None]:
    """The updates of a batch; those that cannot be decoded are None, and their faults are collected."""
    try:
        return _batch_decoder.decode(body).updates
    except msgspec.ValidationError as error:
        document = parse(body, error)
    except _UNREADABLE as error:
        raise malformed(body, error) from None
    items = document.get("updates") if isinstance(document, dict) else None
    if not isinstance(items, list) or len(document) != 1 or not 1 <= len(items) <= BATCH_LIMIT:
        raise InvalidRequest(list(islice(walk(document, UpdateBatch), FAULT_LIMIT)))
    updates: list[Update | None] = []
    for index, item in enumerate(items):
        if index % SLICE_UPDATES == 0:
            await asyncio.sleep(0)
        try:
            updates.append(msgspec.convert(item, Update))
        except msgspec.ValidationError as error:
            updates.append(None)
            listed = [] if faults.full else list(walk(item, Update))
            faults.add(index, InvalidRequest(listed or [fault_of(error)]))
    return updates


def parse(body: bytes, error: msgspec.ValidationError) -> Any:
    """The body as plain JSON values; a number out of every range is a fault here already."""
    try:
        return _any_decoder.decode(body)
    except msgspec.ValidationError:
        raise InvalidRequest([fault_of(error)]) from None
    except _UNREADABLE as unreadable:
        raise malformed(body, unreadable) from None


def malformed(body: bytes, error: Exception) -> MalformedBody:
    if not body:
        return MalformedBody("The body is empty; send a JSON object.")
    reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return MalformedBody(f"The body cannot be read as JSON ({reason}). NaN and Infinity are not JSON either.")


def walk(value: Any, type_: Any, path: str = "") -> Iterator[Fault]:
    """Every fault of `value`, a plain JSON value that should fit `type_`; the innermost, where they can be told."""
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        found = False
        for fault in walk_members(value, type_, path):
            found = True
            yield fault
        if not found:
            yield fault_of(error, path, allowed(type_))


def walk_members(value: Any, type_: Any, path: str) -> Iterator[Fault]:
    """The faults of what lies within an object or a list."""
    options = flattened(type_)
    if isinstance(value, dict):
        tags = tags_of(options)
        struct = struct_for(value, options)
        if struct is not None:
            yield from walk_fields(value, struct, path)
        elif tags:
            yield unknown_tag(value, tags, path)
    elif isinstance(value, list):
        item_type = next((get_args(option)[0] for option in options if get_origin(option) is list), None)
        if item_type is not None:
            for index, item in enumerate(value):
                yield from walk(item, item_type, f"{path}[{index}]")


def walk_fields(value: dict[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[Fault]:
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for name, member in value.items():
        if name in fields:
            yield from walk(member, fields[name].type, joined(path, name))
        elif name != struct.__struct_config__.tag_field:
            yield Fault(joined(path, name[:64]), InvalidRequest.type, "There is no such field; leave it out.")
    for name, field in fields.items():
        if field.required and name not in value:
            yield Fault(joined(path, name), InvalidRequest.type, "This field is required.")


def struct_for(value: dict[str, Any], options: list[Any]) -> type[msgspec.Struct] | None:
    """The struct that an object is meant to be: the one its tag names, or the only one."""
    structs = [option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    if len(structs) == 1:
        return structs[0]
    for struct in structs:
        config = struct.__struct_config__
        if config.tag_field is not None and value.get(config.tag_field) == config.tag:
            return struct
    return None


def tags_of(options: list[Any]) -> dict[str, list[str]]:
    """The tags of the structs among the options, by the field that holds them."""
    tags: dict[str, list[str]] = {}
    for option in options:
        config = getattr(option, "__struct_config__", None)
        if config is not None and config.tag_field is not None:
            tags.setdefault(config.tag_field, []).append(str(config.tag))
    return tags


def unknown_tag(value: dict[str, Any], tags: dict[str, list[str]], path: str) -> Fault:
    """An object that says nothing, or something unheard of, about which kind it is."""
    [(field, known)] = tags.items()
    choices = f"choose one of {', '.join(known)}."
    if field not in value:
        return Fault(path, InvalidRequest.type, f"Object missing required field `{field}`; {choices}")
    return Fault(joined(path, field), InvalidRequest.type, f"There is no {field} {value[field]!r:.70}; {choices}")


def allowed(type_: Any) -> str:
    """What a number may be, or a choice, in words: msgspec says one end of a range, and of a choice nothing."""
    bounds = {name: getattr(meta, name) for meta in metas(type_) for name in BOUNDS if getattr(meta, name) is not None}
    if bounds:
        low = f"above {plain(bounds['gt'])}" if "gt" in bounds else plain(bounds["ge"]) if "ge" in bounds else ""
        high = f"below {plain(bounds['lt'])}" if "lt" in bounds else plain(bounds["le"]) if "le" in bounds else ""
        return f"{low or 'any'} to {high}" if high else f"{low} or more"
    choices = [
        str(choice) for option in flattened(type_) if get_origin(option) is Literal for choice in get_args(option)
    ]
    return f"one of {', '.join(choices)}" if choices else ""


def plain(number: float) -> str:
    """1,000,000 and not 1e+06; what is larger by far, or small, as ever."""
    return f"{number:,.0f}" if number == int(number) and abs(number) < 1e9 else f"{number:g}"


def metas(type_: Any) -> Iterator[msgspec.Meta]:
    """The annotations of a number, those within a union included."""
    if get_origin(type_) is Annotated:
        yield from (meta for meta in type_.__metadata__ if isinstance(meta, msgspec.Meta))
        yield from metas(type_.__origin__)
    elif get_origin(type_) in (Union, UnionType):
        for member in get_args(type_):
            yield from metas(member)


def flattened(type_: Any) -> list[Any]:
    """The alternatives of a type, annotations and unions taken apart."""
    if get_origin(type_) is Annotated:
        return flattened(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return [option for member in get_args(type_) for option in flattened(member)]
    return [type_]


def fault_of(error: msgspec.ValidationError, path: str = "", expected: str = "") -> Fault:
    """msgspec's message, its path (`$.policy.epsilon`) set below ours. `expected`: what else to say of it."""
    detail, _, where = str(error).partition(" - at `$")
    detail = next((words for pattern, words in IN_WORDS.items() if repr(pattern)[1:-1] in detail), detail)
    where = where.rstrip("`").removeprefix(".")
    if expected and not where:
        detail = f"{detail} ({expected})"
    return Fault(f"{path}{where}" if where.startswith("[") else joined(path, where), InvalidRequest.type, f"{detail}.")
