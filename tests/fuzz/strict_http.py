"""Answers as RFC 9112 wants them, and not a byte else."""

import json
import re
from http.client import responses
from typing import Any, NamedTuple

HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) ([^\r\n]+)\r\n((?:[^\r\n]+\r\n)*)\r\n")
HEADER = re.compile(rb"([a-z0-9-]+): ([\x20-\x7e]*)")
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


class Said(NamedTuple):
    """One answer; names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection") == b"close"


def answers(data: bytes, *, to_head: bool = False) -> list[Said]:
    """All of them; AssertionError where there is anything else. to_head: some may have left out their body."""
    found: list[Said] = []
    at = 0
    while at < len(data):
        said, at = answer(data, at, to_head)
        assert not any(earlier.closes for earlier in found), "something follows an answer that closes"
        found.append(said)
    return found


def answer(data: bytes, at: int, to_head: bool) -> tuple[Said, int]:
    """The one that begins there, and where it ends."""
    match = HEAD.match(data, at)
    assert match is not None, f"no head of an answer: {data[at : at + 200]!r}"
    status, lines = int(match[1]), match[3]
    assert match[2].decode() == responses[status], match[0]
    headers = headers_of(lines)
    body, end = b"", match.end()
    if status >= 200:
        assert headers.get(b"date"), lines
        left_out = to_head and data[end : end + 9] in (b"", b"HTTP/1.1 ")
        if status != 204 and not left_out:
            body, end = body_of(data, end, headers)
    said = Said(status, headers, body)
    if headers.get(b"content-type") == b"application/problem+json" and body:
        assert (said.document["status"], status >= 400) == (status, True), said
        assert {"type", "title", "detail"} <= set(said.document), said
    return said, end


def headers_of(lines: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        match = HEADER.fullmatch(line)
        assert match is not None, line
        assert match[1] not in headers, lines
        headers[match[1]] = match[2]
    return headers


def body_of(data: bytes, at: int, headers: dict[bytes, bytes]) -> tuple[bytes, int]:
    if b"transfer-encoding" not in headers:
        end = at + int(headers[b"content-length"])
        assert end <= len(data), "an answer is cut off"
        return data[at:end], end
    assert headers[b"transfer-encoding"] == b"chunked", headers
    assert b"content-length" not in headers, headers
    body = b""
    while True:
        match = CHUNK.match(data, at)
        assert match is not None, data[at : at + 50]
        size, start = int(match[1], 16), match.end()
        assert data[start + size : start + size + 2] == b"\r\n", "a chunk is cut off"
        body, at = body + data[start : start + size], start + size + 2
        if not size:
            return body, at
