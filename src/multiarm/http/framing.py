"""Where heads and bodies end in what comes off a connection."""

import re

import httptools

from multiarm.http.head import CHUNKED

END_OF_HEAD = b"\r\n\r\n"
EMPTY_LINES = re.compile(rb"[\r\n]*")  # before a request mean nothing


class HeadTooLarge(Exception):
    """A head passes its limit, or what there is in a chunked body besides data."""


class Framing:
    """Cuts off a head, or a piece of a body, at a time.

    left: bytes of the body still to come, or CHUNKED, until the parser finds its end; 0 where a head is next.
    """

    def __init__(self, head_limit_bytes: int) -> None:
        self.left = 0
        self._head_limit_bytes = head_limit_bytes
        self._preview: httptools.HttpRequestParser | None = None
        self._previewed = 0
        self._overhead_bytes = 0  # chunk extensions and trailers

    def empty_lines(self, data: bytes, at: int) -> int:
        """How many bytes of them there are."""
        match = EMPTY_LINES.match(data, at)
        return 0 if match is None else match.end() - at

    def head(self, data: bytes, at: int) -> bytes:
        """The head, or nothing where its end has not come. Raises HeadTooLarge and what the parser raises."""
        end = data.find(END_OF_HEAD, at + max(self._previewed - 3, 0))
        stop = len(data) if end < 0 else end + 4
        if stop - at > self._head_limit_bytes:
            raise HeadTooLarge
        if end < 0:
            self._look_at(data[at:])
            return b""
        self._preview, self._previewed = None, 0
        return data[at:stop]

    def _look_at(self, part: bytes) -> None:
        """A part of a head goes through a parser of its own, to refuse at once what cannot become one."""
        if self._preview is None:
            self._preview, self._previewed = httptools.HttpRequestParser(object()), 0
        self._preview.feed_data(part[self._previewed :])
        self._previewed = len(part)

    def expect_body(self, length: int) -> None:
        self.left = length
        self._overhead_bytes = 0

    def body(self, data: bytes, at: int) -> bytes:
        """The next piece, of which nothing belongs to another message.

        A chunked body ends with an empty line: each piece ends there, or holds what was cut from one.
        """
        if self.left != CHUNKED:
            piece = data[at : at + self.left]
            self.left -= len(piece)
        elif at < 3:
            piece = data[at : at + 1]
        else:
            end = data.find(END_OF_HEAD, at - 3)
            piece = data[at:] if end < 0 else data[at : end + 4]
        self._overhead_bytes += len(piece)
        return piece

    def found_data(self) -> None:
        """The parser has found some of the body in the piece."""
        self._overhead_bytes = 0

    def check_overhead(self) -> None:
        """Raises HeadTooLarge where much came that was no data."""
        if self.left == CHUNKED and self._overhead_bytes > self._head_limit_bytes:
            raise HeadTooLarge
