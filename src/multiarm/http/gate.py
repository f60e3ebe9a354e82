"""The gate: what every request passes on its way in, and the ledger's record of it on its way out."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import HTTPScope, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from multiarm.auth.bearer import ANYONE, NOBODY, Bearer
from multiarm.auth.errors import KeysUnavailable, Unauthorized, UnknownKey
from multiarm.domain.errors import MultiarmError, NotFound, Stopping
from multiarm.http.answers import UNREAD
from multiarm.http.bodies import declared_length
from multiarm.http.endpoints import Services
from multiarm.http.limits import LARGE_BODY_BYTES, Amount, network_of
from multiarm.http.origins import Origins
from multiarm.http.problems import problem
from multiarm.http.refusals import Refusals
from multiarm.http.tags import TAG, Tag
from multiarm.http.templates import UNMATCHED, Templates, experiment_in
from multiarm.service.accountant import Accountant, RequestRun

if TYPE_CHECKING:
    from multiarm.auth.verifier import Verifier  # with cryptography, which takes its time

HOT = frozenset(f"/v1/{{experiment_id}}/{name}" for name in ("draw", "update", "update_batch"))
METRICS = b"/metrics"
OPEN = frozenset({b"/v1/ping", b"/health/live", b"/health/ready"})
STOPPED = Stopping("The server stops; this may have happened all the same. Repeat it, with its key if it has one.")


class Gate:
    """Asks who it is, refuses paths that are not canonical and what is too much at a time, and records every request.

    verifier: None where there is no authentication; then hosts and origins are looked at instead.
    """

    def __init__(
        self, app: Litestar, services: Services, accountant: Accountant, verifier: "Verifier | None" = None
    ) -> None:
        settings = services.settings
        self.app = app
        self.services = services
        self._accountant = accountant
        self.clock = services.supervisor.clock
        self._verifier = verifier
        self._origins = Origins(settings.allowed_hosts)
        self._open = OPEN | ({METRICS} if settings.open_metrics else set())
        self._documentation_is_open = settings.open_documentation
        self.refusals = Refusals(settings.refusal_rate_limit_per_s, settings.refusal_delay_limit_s)
        self._requests = Amount(settings.request_limit, "request_limit", settings.subject_share)
        self._templates = Templates(route.path_format for route in app.routes)

    def record(self, run: RequestRun, tag: Tag | None = None) -> None:
        """For the ledger and the metrics. tag: what a request is called that has been told so."""
        if tag is not None:
            run = run._replace(request_id=tag.request_id, trace_id=tag.trace_id)
        self.services.meter.note(run)
        self._accountant.record_requests(run)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        tag: Tag = scope["state"][TAG]
        route = self.route_of(scope["raw_path"])

        async def send_tagged(message: Message) -> None:
            if message["type"] == "http.response.start" and is_told(tag, route, message["status"]):
                message["headers"] = [*tag.headers, *message["headers"]]
            await send(message)

        with bound_contextvars(**tag.fields):
            await self._serve(scope, receive, send_tagged, route)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send, route: str) -> None:
        start, now = time.perf_counter(), self.clock()
        state = scope["state"]
        tag: Tag = state[TAG]
        state["services"] = self.services
        state[UNREAD] = scope["http_version"] == "1.1" and any(name == b"expect" for name, _ in scope["headers"])
        status = 500  # where nothing is answered
        try:
            await self._answer(scope, receive, send)
            # what the framework answers by itself, pages and OPTIONS, does not say
            status = state.get("status", 204 if scope["method"] == "OPTIONS" else 200)
        except asyncio.CancelledError:  # uvicorn's, when stopping takes too long
            status = 503
            if "status" not in state:
                await problem(STOPPED)(scope, receive, send)
        finally:
            duration_s = time.perf_counter() - start
            experiment_id = experiment_in(scope["raw_path"], route)
            run = RequestRun(now, scope["method"], route, status, duration_s, experiment_id, trace_id=tag.trace_id)
            self.record(run, tag if is_told(tag, route, status) else None)

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        try:
            scope["state"]["bearer"] = bearer = await self._let_in(scope["raw_path"], scope["headers"])
            require_canonical(scope["raw_path"])
            with self._requests.taken(0 if scope["raw_path"] in OPEN else 1, bearer.subject):
                await self.app(scope, receive, send)
        except MultiarmError as error:
            await asyncio.sleep(self.refusals.delay_s(error, address_of(scope), time.perf_counter()))
            if has_large_body(scope["headers"]):
                scope["state"][UNREAD] = True
            await problem(error)(scope, receive, send)

    async def _let_in(self, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Bearer:
        """Who it is; MultiarmError where it may not come in."""
        is_documentation = path == b"/docs" or path.startswith(b"/docs/")
        is_open = path in self._open or (is_documentation and self._documentation_is_open)
        if self._verifier is not None and is_open:
            return NOBODY
        try:
            bearer = self.identify(headers)
        except (UnknownKey, KeysUnavailable):
            if self._verifier is None or not await self._verifier.keys.refresh():
                raise
            bearer = self.identify(headers)
        bearer.admit(self.clock(), time.perf_counter())
        if is_documentation or path == METRICS:
            bearer.require_somewhere("read")
        return bearer

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Bearer:
        """Whose token is in these headers; MultiarmError where there is none that is valid, or the host is foreign."""
        if self._verifier is None:
            self._origins.check(headers)
            return ANYONE
        found = [value for name, value in headers if name == b"authorization"]
        if len(found) != 1:
            raise Unauthorized("Send one token, as `Authorization: Bearer …`; `multiarm token` mints some.")
        return self._verifier.bearer(found[0], self.clock())

    def route_of(self, path: bytes) -> str:
        """The template of the path's route, UNMATCHED where there is none; also for who is refused here."""
        return self._templates.of(path) if is_canonical(path) else UNMATCHED


def is_told(tag: Tag, route: str, status: int) -> bool:
    """Whether answer and ledger name the request: all but plain draws and rewards, of which there are too many."""
    return tag.asked or status >= 400 or route not in HOT


def address_of(scope: HTTPScope) -> str:
    client = scope["client"]
    return network_of(client[0]) if client else ""


def has_large_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Which is not worth reading to its end for the sake of the connection."""
    fields = dict(headers)
    return b"transfer-encoding" in fields or declared_length(fields) > LARGE_BODY_BYTES


def require_canonical(path: bytes) -> None:
    if not is_canonical(path):
        raise NotFound("A path has no doubled or trailing slash, no dot segment and no percent-encoding.")


def is_canonical(path: bytes) -> bool:
    if b"%" in path or b"//" in path or (path.endswith(b"/") and path != b"/"):
        return False
    return b"/." not in path or not is_dotted(path)


def is_dotted(path: bytes) -> bool:
    """Whether a segment is `.` or `..`."""
    return any(segment in (b".", b"..") for segment in path.split(b"/"))
