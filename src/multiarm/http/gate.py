"""The gate: what every request passes on its way in, and the ledger's record of it on its way out."""

import asyncio
import time
from collections.abc import Iterable
from functools import lru_cache

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from multiarm.domain.errors import ForbiddenOrigin, MultiarmError, NotFound, Stopping
from multiarm.http.answers import UNREAD, Answer
from multiarm.http.endpoints import Services
from multiarm.http.problems import problem
from multiarm.service.accountant import Accountant

UNMATCHED = "unmatched"
ADD_IT = "to let one through, add its name to the setting allowed_hosts (MULTIARM_ALLOWED_HOSTS)."
STOPPED = Stopping("The server stops; this may have happened all the same. Repeat it, with its key if it has one.")


class Gate:
    """Refuses paths that are not canonical, and hosts and origins that are not allowed; records every request.

    Without authentication anyone's web page could otherwise reach a server on loopback, by DNS rebinding or by a
    cross-site post.
    """

    def __init__(self, app: ASGIApp, services: Services, accountant: Accountant) -> None:
        allowed_hosts = services.settings.allowed_hosts
        self.app = app
        self.services = services
        self._any_host = "*" in allowed_hosts
        self._hosts = frozenset(host.lower().encode() for host in allowed_hosts)
        self.record = accountant.record_requests
        self.clock = services.supervisor.clock
        self._templates: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        start, now = time.perf_counter(), self.clock()
        state = scope["state"]
        state["services"] = self.services
        state[UNREAD] = scope["http_version"] == "1.1" and any(name == b"expect" for name, _ in scope["headers"])
        status = 500  # where nothing is answered
        try:
            await (self._refusal(scope) or self.app)(scope, receive, send)
            # what the framework answers by itself, pages and OPTIONS, does not say
            status = state.get("status", 204 if scope["method"] == "OPTIONS" else 200)
        except asyncio.CancelledError:  # uvicorn's, when stopping takes too long
            status = 503
            if "status" not in state:
                await problem(STOPPED)(scope, receive, send)
        finally:
            duration_s = time.perf_counter() - start
            experiment_id = scope.get("path_params", {}).get("experiment_id")
            self.record(now, scope["method"], self._route(scope), status, duration_s, experiment_id=experiment_id)

    def _refusal(self, scope: HTTPScope) -> Answer | None:
        foreign = self.foreign(scope["headers"])
        if foreign is not None:
            return problem(foreign)
        path: bytes = scope["raw_path"]
        if (
            b"%" in path
            or b"//" in path
            or (b"/." in path and is_dotted(path))
            or (path.endswith(b"/") and path != b"/")
        ):
            return problem(NotFound("A path has no doubled or trailing slash, no dot segment and no percent-encoding."))
        return None

    def foreign(self, headers: Iterable[tuple[bytes, bytes]]) -> MultiarmError | None:
        """Why a request with these headers is none of ours, or None."""
        named = self._any_host  # a second Host does not come this far, nor HTTP/1.1 without one
        for name, value in headers:
            if name == b"host":
                named = True
                if not self._is_ours(value):
                    return ForbiddenOrigin(f"The Host header names no host of this server; {ADD_IT}")
            elif name == b"origin" and not self._is_ours(value.partition(b"://")[2]):
                return ForbiddenOrigin(f"Requests from other web sites are refused; {ADD_IT}")
            elif name == b"sec-fetch-site" and value == b"cross-site":
                return ForbiddenOrigin(
                    "Requests across sites are refused; send it from a page of this server, or no page."
                )
        if not named:
            return ForbiddenOrigin("A request has a Host header, which names a host of the setting allowed_hosts.")
        return None

    def _is_ours(self, authority: bytes) -> bool:
        return self._any_host or without_port(authority) in self._hosts

    def _route(self, scope: HTTPScope) -> str:
        """The route's template without the framework's types: `/v1/{experiment_id}/draw`."""
        template = scope.get("path_template", "")
        if not template:
            return UNMATCHED
        known = self._templates.get(template)
        if known is None:
            known = self._templates[template] = template.replace(":str}", "}")
        return known


def is_dotted(path: bytes) -> bool:
    """Whether a segment is `.` or `..`."""
    return any(segment in (b".", b"..") for segment in path.split(b"/"))


@lru_cache(maxsize=1024)
def without_port(authority: bytes) -> bytes:
    """`localhost` of `localhost:8080`, `[::1]` of `[::1]:8080`, in lower case."""
    authority = authority.strip()
    host, colon, port = authority.rpartition(b":")
    return (host if colon and (port.isdigit() or not port) else authority).lower()
