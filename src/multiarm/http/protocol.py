"""How a connection speaks HTTP/1.1: our subclass of uvicorn's httptools protocol.

It takes the bytes of one message at a time off a connection, and looks no further until that message is answered; so
answers leave in order, and a client that sends more than it reads is made to wait. A message goes to the express lane
where that takes it, else to the application, as uvicorn does it. What uvicorn leaves open is settled here: heads have
a limit and all waiting ends, requests name one host, `Upgrade` is passed over, half-closed clients get their answers,
and stopping waits for what is owed.
"""

import asyncio
import re
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from multiarm.http.answers import Answer
from multiarm.http.config import Config, WaitsFor
from multiarm.http.framing import END_OF_HEAD, Framing, HeadTooLarge
from multiarm.http.gate import STOPPED
from multiarm.http.head import Head, malformed
from multiarm.http.head_cache import LARGEST_HEAD_BYTES
from multiarm.http.limits import LARGE_BODY_BYTES, LargeBody, Overloaded, network_of
from multiarm.http.plain import Plain
from multiarm.http.problems import answer, problem, unexpected
from multiarm.http.tags import TAG, Tag, new_tag, tag_of
from multiarm.http.templates import UNMATCHED
from multiarm.http.transport import Flow, JoinedWrites
from multiarm.service.accountant import RequestRun

UNKNOWN_METHOD = "?"
OF_GET = ord("G")

# The parser would leave HTTP behind after `Upgrade`, and the body with it; a header of another name it passes on.
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
IGNORED = b"\r\nignored:"


class Protocol(HttpToolsProtocol):
    """One connection. `at_rest`: it is open, and nothing is being read, owed or refused on it. `ending`: it closes
    after the answer that is owed. `tag` and `apart`: of the request that is owed one, as the express lane has them.
    """

    # More attributes than Python keeps close together in a dictionary of their own; with uvicorn's there are 50.
    __slots__ = (
        *("wire", "flow", "at_rest", "ending", "apart", "served", "tag", "address"),
        *("_known", "_lane", "_owed", "_calm", "_rest", "_plain", "_head", "_head_read", "_parts"),
        *("_framing", "_joined", "_settings", "_state", "_since", "_half_closed", "_refused"),
        *("_counted", "_large_body"),
    )

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
        self._state: tuple[WaitsFor, int] = ("idle", 0)
        self._since = 0.0
        self._framing = Framing(config.head_limit_bytes)
        self._rest = b""  # came too early, or is a part of a head
        self._head_read = False
        self._plain: Plain | None = None
        self._parts: list[bytes] = []
        self._owed = False
        self._calm = True  # nothing but what is owed keeps it from rest
        self.ending = self.apart = False
        self.tag: Tag | None = None
        self._half_closed = False
        self._refused = False
        self.address = ""
        self._counted = False  # among the connections from there
        self._large_body = LargeBody(config.bodies)

    # --- the connection -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast("asyncio.Transport", transport)
        self._joined = JoinedWrites(self.wire, self.loop)
        super().connection_made(cast("asyncio.Transport", self._joined))
        self.flow = Flow(self.wire, lambda: bool(self._rest) and self._must_wait)
        peer = self.wire.get_extra_info("peername")
        self.address = network_of(peer[0]) if isinstance(peer, tuple) else ""
        try:
            self._settings.connections.arrive(self.address)
            self._counted = True
        except Overloaded as error:
            self._refuse(problem(error))
            self.wire.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self._settings.connections.leave(self.address)
        self._large_body.release()
        self.at_rest = False
        self._rest = b""
        super().connection_lost(exc)

    def eof_received(self) -> Any:
        """Half-closed: the answer still goes out."""
        self.ending = self.apart = self._half_closed = True
        self._calm = False
        return self._owed and not self._framing.left and not self._refused

    def shutdown(self) -> None:
        """The server stops: close now, or after the answer to what has begun to come."""
        self.ending = self.apart = True
        self._rest = b""
        self._settle()
        if not self._owed and not self._framing.left:
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

    def _waits_for(self) -> WaitsFor:
        if self._refused:
            return "refused"
        if self.wire.get_write_buffer_size():
            return "unread answer"
        if self._framing.left:
            return "body"
        if self._owed:
            return "owed"
        return "head" if self._rest else "idle"

    # --- reading ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.at_rest:
            if data[0] == OF_GET:  # plain ones have no body
                cut = len(data)
                plain = self._known.get(data) if cut <= LARGEST_HEAD_BYTES else None
            else:
                cut = data.find(END_OF_HEAD) + 4
                plain = self._known.get(data[:cut])
            if (
                plain is not None
                and self._lane is not None
                and plain.content_length == len(data) - cut <= LARGE_BODY_BYTES
            ):
                self._owed, self.at_rest = True, False
                self._lane.take(self, plain, data[cut:])
                return
        if not self._refused and (self._framing.left or not self.ending):
            self._read(self._rest + data if self._rest else data)

    def _read(self, data: bytes) -> None:
        """Take what may be taken now; the rest waits, and reading with it."""
        at, taken = 0, 1
        try:
            while taken and at < len(data) and not self._must_wait:
                taken = self._read_body(data, at) if self._framing.left else self._read_head(data, at)
                at += taken
        except HeadTooLarge:
            detail = f"The head of a request may have {self._settings.head_limit_bytes:,} bytes (head_limit_bytes)."
            self._refuse(answer(431, "head-too-large", "Head too large", detail))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(self._parse_failure(error))
        if not self._refused:
            self._rest = data[at:]
        self._settle()

    @property
    def _must_wait(self) -> bool:
        if self._refused or self.wire.is_closing():
            return True
        return not self._framing.left and (self._owed or self.flow.write_paused)

    def _settle(self) -> None:
        self._calm = not (self._rest or self._framing.left or self.ending or self._refused or self.flow.write_paused)
        self.at_rest = self._calm and not (self._owed or self.wire.is_closing())
        if self._rest and self._must_wait:
            self.flow.pause_reading()
        elif not (self._framing.left and self._owed) and not self.wire.is_closing():
            self.flow.resume_reading()  # the body of a request to the application is read as that asks for it

    def _read_head(self, data: bytes, at: int) -> int:
        if empty := self._framing.empty_lines(data, at):
            return empty
        self._head = self._framing.head(data, at)
        if self._head:
            self._head_read = False
            self.parser.feed_data(UPGRADE.sub(IGNORED, self._head))
            if not self._head_read:
                self._refuse(malformed("this is no head of a request."))
        return len(self._head)

    def _read_body(self, data: bytes, at: int) -> int:
        piece = self._framing.body(data, at)
        self.parser.feed_data(piece)
        self._framing.check_overhead()
        return len(piece)

    # --- what the parser finds -------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after a chunked body, say nothing here."""
        if not self._head_read:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_read = self.served = True
        self.tag = tag_of(self.headers)
        head = Head(self.parser.get_method(), self.url, self.headers, self.parser.get_http_version())
        refusal = head.objection() or head.to_origin_form()
        if refusal is not None:
            self._refuse(refusal)
            return
        self.url = head.target
        self._framing.expect_body(head.body_length)
        if self._lane is not None and self.parser.should_keep_alive():
            self._plain = self._lane.judge(head)
        if self._plain is not None:
            self._large_body.owner = self._plain.bearer.subject
            try:
                self._large_body.grow(head.body_length)
            except Overloaded as error:
                self._refuse(problem(error))
        else:
            self._owed = True
            self.tag = self.scope["state"][TAG] = self.tag or new_tag()
            if head.version == "1.0":
                self.expect_100_continue = False
            super().on_headers_complete()
            if head.version == "1.0" and self.parser.should_keep_alive():
                self.cycle.keep_alive = True
                self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"keep-alive")]

    def on_body(self, body: bytes) -> None:
        self._framing.found_data()
        if self._plain is not None:
            self._parts.append(body)
        elif not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing.left = 0
        plain, self._plain = self._plain, None
        if plain is not None and self._lane is not None:
            self._lane.admit(self._head, plain, self.headers)
            self._owed = True
            self.apart = self.ending or self.tag is not None or self._large_body.is_held
            self._lane.take(self, plain, b"".join(self._parts))
            self._parts.clear()
        elif not self._refused:
            super().on_message_complete()

    # --- answering ---------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The application has answered."""
        self.server_state.total_requests += 1
        self.tag = None
        self._joined.flush()
        self._answered()

    def send(self, answer: bytes) -> None:
        """What the lane owed, unless the client has gone."""
        if not self.wire.is_closing():
            self.wire.write(answer)
            self._answered()

    def reply(self, answer: Answer) -> Tag | None:
        self._large_body.release()
        tag, data = self._written(answer, close=self.ending and not self._rest)
        self.tag, self.apart = None, self.ending
        self.send(data)
        return tag

    def _written(self, answer: Answer, *, close: bool) -> tuple[Tag | None, bytes]:
        """An answer's bytes and what they call the request; problems always name it."""
        tag = self.tag or (new_tag() if answer.status >= 400 else None)
        first_headers = self.server_state.default_headers
        if tag is not None:
            answer, first_headers = answer.tagged(tag), [*first_headers, *tag.headers]
        return tag, answer.on_the_wire(first_headers, close=close)

    def _answered(self) -> None:
        self._owed = False
        self.served = True
        if self._calm:
            self.at_rest = True
        else:
            self._go_on()

    def _go_on(self) -> None:
        data, self._rest = self._rest, b""
        self._read(data)
        if self.ending and not self._refused and (self._half_closed if self._framing.left else not self._owed):
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
        tag, data = self._written(refusal, close=True)
        if self._in_app:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            run = RequestRun(gate.clock(), UNKNOWN_METHOD, UNMATCHED, refusal.status, 0.0)
            if self._plain is not None:
                (method, route, *_), experiment_id, *_ = self._plain
                run = run._replace(method=method, route=route, experiment_id=experiment_id)
            gate.record(run, tag)
        if not (self._in_app and self.cycle.response_started):
            self.wire.write(data)
        if self.wire.can_write_eof():
            self.wire.write_eof()
        self._refused, self._rest, self.at_rest, self._calm = True, b"", False, False
        self._parts.clear()
        self._large_body.release()
        if not self.wire.is_closing():
            self.flow.resume_reading()  # until its end, which would not be seen else

    def _parse_failure(self, error: Exception) -> Answer:
        """What is no HTTP is the client's fault; what failed while it was looked at is ours."""
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if cause is None or isinstance(cause, httptools.HttpParserError | ValueError):
            return malformed(error)
        self.tag = self.tag or new_tag()
        return unexpected(UNKNOWN_METHOD, UNMATCHED, cause, tag=self.tag)
