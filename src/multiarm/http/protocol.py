"""How a connection speaks HTTP/1.1: our subclass of uvicorn's httptools protocol.

It takes the bytes of one message at a time off a connection, and looks no further until that message is answered; so
answers leave in order, and a client that sends more than it reads is made to wait. A message goes to the express lane
where that takes it, else to the application, as uvicorn does it. What uvicorn leaves open is settled here: heads have
a limit and all waiting ends, requests name one host, `Upgrade` is passed over, half-closed clients get their answers,
and stopping waits for what is owed.
"""

import asyncio
import re
from typing import Any, Literal, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from multiarm.http.answers import Answer
from multiarm.http.express import ExpressLane, Plain
from multiarm.http.gate import STOPPED, UNMATCHED, Gate
from multiarm.http.head import CHUNKED, Head, malformed
from multiarm.http.head_cache import LARGEST_HEAD_BYTES
from multiarm.http.problems import answer, problem, unexpected
from multiarm.http.transport import Flow, JoinedWrites
from multiarm.settings import Settings

END_OF_HEAD = b"\r\n\r\n"
EMPTY_LINES = re.compile(rb"[\r\n]*")  # before a request mean nothing
LINGER_S = 1.0  # how long a refused client may read why, before the connection goes
UNKNOWN_METHOD = "?"

# The parser would leave HTTP behind after `Upgrade`, and the body with it; a header of another name it passes on.
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
IGNORED = b"\r\nignored:"

State = Literal["idle", "head", "body", "owed", "unread answer", "refused"]


class Config(uvicorn.Config):
    """uvicorn's, with what each connection needs besides. `lane`: None where the application answers everything."""

    def __init__(self, gate: Gate, settings: Settings, lane: ExpressLane | None, **options: Any) -> None:
        super().__init__(gate, http=Protocol, **options)
        self.gate = gate
        self.lane = lane
        self.head_limit_bytes = settings.head_limit_bytes
        self.timeouts_s: dict[State, float] = {
            "idle": settings.keep_alive_timeout_s,
            "head": settings.head_timeout_s,
            "body": settings.body_timeout_s,
            "owed": float("inf"),  # whoever owes the answer has limits of his own
            "unread answer": settings.answer_timeout_s,
            "refused": LINGER_S,
        }


class Protocol(HttpToolsProtocol):
    """One connection. `at_rest`: it is open, and nothing is being read, owed or refused on it. `ending`: it closes
    after the answer that is owed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, Config)
        self._settings = config
        self._lane = config.lane
        self._known = {} if config.lane is None else config.lane.heads.known
        self.at_rest = True
        self.served = True  # since the last look at the clock
        self._state: tuple[State, int] = ("idle", 0)
        self._since = 0.0
        self._preview: httptools.HttpRequestParser | None = None
        self._previewed = 0
        self._rest = b""  # came too early, or is a part of a head
        self._left = 0  # bytes of the body still to come, or CHUNKED
        self._trailer_bytes = 0  # and chunk extensions: what of a body is no data
        self._head_read = False
        self._plain: Plain | None = None
        self._parts: list[bytes] = []
        self._owed = False
        self.ending = False
        self._half_closed = False
        self._refused = False

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast("asyncio.Transport", transport)
        self._joined = JoinedWrites(self.wire, self.loop)
        super().connection_made(cast("asyncio.Transport", self._joined))
        self.flow = Flow(self.wire, lambda: bool(self._rest) and self._must_wait)

    def connection_lost(self, exc: Exception | None) -> None:
        self.at_rest = False
        self._rest = b""
        super().connection_lost(exc)

    def eof_received(self) -> Any:
        """Half-closed: the answer still goes out."""
        self.ending = self._half_closed = True
        return self._owed and not self._left and not self._refused

    def shutdown(self) -> None:
        """The server stops: close now, or after the answer to what has begun to come."""
        self.ending = True
        self._rest = b""
        self._settle()
        if not self._owed and not self._left:
            self.wire.close()
        elif self.cycle is not None:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def check_time(self, now: float) -> None:
        """Called every half second: end what has waited too long."""
        state, unsent_bytes = self._waits_for(), self.wire.get_write_buffer_size()
        if (state, unsent_bytes) != self._state or self.served:
            self._state, self._since, self.served = (state, unsent_bytes), now, False
        elif now - self._since > self._settings.timeouts_s[state]:
            if state == "head" or (state == "body" and (self._owed or self._plain is not None)):
                detail = f"The {state} was not there within {self._settings.timeouts_s[state]:g} s ({state}_timeout_s)."
                self._refuse(answer(408, "request-timeout", "Request timeout", detail))
            elif state in ("unread answer", "refused"):
                self.wire.abort()
            else:
                self.wire.close()

    def _waits_for(self) -> State:
        if self._refused:
            return "refused"
        if self.wire.get_write_buffer_size():
            return "unread answer"
        if self._left:
            return "body"
        if self._owed:
            return "owed"
        return "head" if self._rest else "idle"

    # --- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.at_rest:
            cut = len(data)
            plain = self._known.get(data) if cut <= LARGEST_HEAD_BYTES else None
            if plain is None:
                cut = data.find(END_OF_HEAD) + 4
                plain = self._known.get(data[:cut])
            if plain is not None and self._lane is not None and plain.content_length == len(data) - cut:
                self._owed, self.at_rest = True, False
                self._lane.take(self, plain, data[cut:])
                return
        if not self._refused and (self._left or not self.ending):
            self._read(self._rest + data if self._rest else data)

    def _read(self, data: bytes) -> None:
        """Take what may be taken now; the rest waits, and reading with it."""
        at, taken = 0, 1
        try:
            while taken and at < len(data) and not self._must_wait:
                taken = self._read_body(data, at) if self._left else self._read_head(data, at)
                at += taken
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(parse_failure(error))
        if not self._refused:
            self._rest = data[at:]
        self._settle()

    @property
    def _must_wait(self) -> bool:
        if self._refused or self.wire.is_closing():
            return True
        return not self._left and (self._owed or self.flow.write_paused)

    def _settle(self) -> None:
        self.at_rest = not (self._rest or self._left or self.ending or self._must_wait)
        if self._rest and self._must_wait:
            self.flow.pause_reading()
        elif not (self._left and self._owed) and not self.wire.is_closing():
            self.flow.resume_reading()  # the body of a request to the application is read as that asks for it

    def _read_head(self, data: bytes, at: int) -> int:
        empty = EMPTY_LINES.match(data, at)
        if empty is not None and empty.end() > at:
            return empty.end() - at
        end = data.find(END_OF_HEAD, at + max(self._previewed - 3, 0))
        size = (len(data) if end < 0 else end + 4) - at
        if size > self._settings.head_limit_bytes:
            self._refuse(self._head_too_large())
            return 0
        if end < 0:
            self._look_at(data[at:])
            return 0
        self._preview, self._previewed = None, 0
        self._head = data[at : at + size]
        self._head_read = False
        self.parser.feed_data(UPGRADE.sub(IGNORED, self._head))
        if not self._head_read:
            self._refuse(malformed("this is no head of a request."))
        return size

    def _look_at(self, part: bytes) -> None:
        """A part of a head goes through a parser of its own, to refuse at once what cannot become one."""
        if self._preview is None:
            self._preview, self._previewed = httptools.HttpRequestParser(object()), 0
        self._preview.feed_data(part[self._previewed :])
        self._previewed = len(part)

    def _read_body(self, data: bytes, at: int) -> int:
        """A chunked body ends with an empty line: what is fed at a time ends there, or holds what was cut from one."""
        if self._left != CHUNKED:
            piece = data[at : at + self._left]
            self._left -= len(piece)
        elif at < 3:
            piece = data[at : at + 1]
        else:
            end = data.find(END_OF_HEAD, at - 3)
            piece = data[at:] if end < 0 else data[at : end + 4]
        self._trailer_bytes += len(piece)
        self.parser.feed_data(piece)
        if self._left == CHUNKED and self._trailer_bytes > self._settings.head_limit_bytes:
            self._refuse(self._head_too_large())
        return len(piece)

    def _head_too_large(self) -> Answer:
        detail = f"The head of a request may have {self._settings.head_limit_bytes:,} bytes (head_limit_bytes)."
        return answer(431, "head-too-large", "Head too large", detail)

    # --- what the parser finds -------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after a chunked body, say nothing here."""
        if not self._head_read:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_read = self.served = True
        self._trailer_bytes = 0
        head = Head(self.parser.get_method(), self.url, self.headers, self.parser.get_http_version())
        refusal = head.objection()
        if refusal is not None:
            self._refuse(refusal)
            return
        head.to_origin_form()
        self.url = head.target
        self._left = head.body_length
        if self._lane is not None and self.parser.should_keep_alive():
            self._plain = self._lane.judge(head)
        if self._plain is None:
            self._owed = True
            if head.version == "1.0":
                self.expect_100_continue = False
            super().on_headers_complete()
            if head.version == "1.0" and self.parser.should_keep_alive():
                self.cycle.keep_alive = True
                self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        self._trailer_bytes = 0
        if self._plain is not None:
            self._parts.append(body)
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._left = 0
        plain, self._plain = self._plain, None
        if plain is not None and self._lane is not None:
            self._lane.admit(self._head, plain, self.headers)
            self._owed = True
            self._lane.take(self, plain, b"".join(self._parts))
            self._parts.clear()
        elif not self._refused:
            super().on_message_complete()

    # --- answering ---------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The application has answered."""
        self.server_state.total_requests += 1
        self._joined.flush()
        self._answered()

    def send(self, answer: bytes) -> None:
        """What the lane owed, unless the client has gone."""
        if not self.wire.is_closing():
            self.wire.write(answer)
            self._answered()

    def reply(self, answer: Answer) -> None:
        last = self.ending and not self._rest
        self.send(answer.on_the_wire(self.server_state.default_headers, close=last))

    def _answered(self) -> None:
        self._owed = False
        self.served = True
        if self._rest or self._left or self.ending or self.flow.write_paused:
            self._go_on()
        else:
            self.at_rest = True

    def _go_on(self) -> None:
        data, self._rest = self._rest, b""
        self._read(data)
        if self.ending and not self._refused and (self._half_closed if self._left else not self._owed):
            self.wire.close()

    def give_up(self) -> None:
        """The server has no more time: what the lane still owes gets the answer that nobody knows what became of it."""
        if self._owed and not self._in_app:
            self.reply(problem(STOPPED))

    @property
    def _in_app(self) -> bool:
        """Whether a request is in the application's hands."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Answer) -> None:
        """Answer what cannot be read as a request, and read no more of it.

        The client may still be sending; to close at once would take the answer from it.
        """
        if self._refused:
            return
        gate = self._settings.gate
        if self._in_app:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            gate.record(gate.clock(), UNKNOWN_METHOD, UNMATCHED, refusal.status, 0.0)
        if not (self._in_app and self.cycle.response_started):
            self.wire.write(refusal.on_the_wire(self.server_state.default_headers, close=True))
        if self.wire.can_write_eof():
            self.wire.write_eof()
        self._refused, self._rest, self.at_rest = True, b"", False


def parse_failure(error: Exception) -> Answer:
    """What is no HTTP is the client's fault; what failed while it was looked at is ours."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
    if cause is None or isinstance(cause, httptools.HttpParserError | ValueError):
        return malformed(error)
    return unexpected(UNKNOWN_METHOD, UNMATCHED, cause)
