"""Query strings: like bodies, decoded into a struct, with every fault listed."""

from itertools import islice
from math import isfinite
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from multiarm.domain.errors import FAULT_LIMIT, Fault, InvalidRequest
from multiarm.http.bodies import allowed, fault_of

S = TypeVar("S", bound=msgspec.Struct)


def decode_query(query: bytes, struct: type[S]) -> S:
    """The parameters as a struct whose fields are numbers or times; InvalidRequest lists what does not fit."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        field = fields.get(name)
        if field is None:
            faults.append(fault(name[:64], "There is no such parameter; leave it out."))
        elif field.name in values:
            faults.append(fault(name, "This parameter is given more than once."))
        else:
            try:
                values[field.name] = finite(msgspec.convert(text, field.type, strict=False))
            except msgspec.ValidationError as error:
                values[field.name] = None
                faults.append(fault_of(error, name, allowed(field.type)))
    if faults:
        raise InvalidRequest(list(islice(faults, FAULT_LIMIT)))
    return struct(**values)


def finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        raise msgspec.ValidationError("Expected a finite number")
    return value


def fault(name: str, detail: str) -> Fault:
    return Fault(name, InvalidRequest.type, detail)
