"""By what a request is known: in its answer, in the log, in the ledger, and in problem documents."""

import re
import secrets
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

# W3C Trace Context, 3.2: what a later version adds comes behind what version 00 has; ff is none
TRACE = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
TRACEPARENT = re.compile(rb"00%b|(?!00|ff)[0-9a-f]{2}%b(?:-[!-~]{0,200})?" % (TRACE, TRACE))

TAG = "tag"  # in a request's state

_process = secrets.token_hex(6)
_numbers = count(1)


class Tag(NamedTuple):
    """request_id: the caller's, or one made here. traceparent: the caller's, or empty. asked: either came with it."""

    request_id: str
    traceparent: bytes = b""
    asked: bool = False

    @property
    def trace_id(self) -> str | None:
        return self.traceparent[3:35].decode() or None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says of it."""
        request_id = (b"x-request-id", self.request_id.encode())
        return [request_id, (b"traceparent", self.traceparent)] if self.traceparent else [request_id]

    @property
    def fields(self) -> dict[str, str]:
        """What the log says of it."""
        trace_id = self.trace_id
        return {"request_id": self.request_id} | ({} if trace_id is None else {"trace_id": trace_id})


def new_tag() -> Tag:
    return Tag(new_request_id())


def new_request_id() -> str:
    """Twenty hex digits: twelve by chance, of this process, then a number."""
    return f"{_process}{next(_numbers):08x}"


def tag_of(headers: Sequence[tuple[bytes, bytes]]) -> Tag | None:
    """What the caller knows it by; None where he does not say. What is malformed, or said twice, is not said."""
    request_id = said_once(headers, b"x-request-id", REQUEST_ID)
    traceparent = said_once(headers, b"traceparent", TRACEPARENT)
    if not request_id and not traceparent:
        return None
    return Tag(request_id.decode() or new_request_id(), traceparent, asked=True)


def said_once(headers: Sequence[tuple[bytes, bytes]], name: bytes, pattern: re.Pattern[bytes]) -> bytes:
    values = [value.strip() for name_, value in headers if name_ == name]
    return values[0] if len(values) == 1 and pattern.fullmatch(values[0]) else b""
