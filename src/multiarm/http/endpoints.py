"""How a handler of ours becomes a route of Litestar's.

Litestar routes, answers wrong methods and documents; what it would do besides, building a request and filling in
keyword arguments, takes as long as a draw itself. So the route's function returns an ASGI application, the endpoint,
and that calls the handler with the little it needs.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from litestar import route
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Scope, Send

from multiarm.auth.bearer import Bearer
from multiarm.auth.scopes import Verb
from multiarm.domain.records import Actor
from multiarm.http.answers import UNREAD, Answer
from multiarm.http.bodies import read_body
from multiarm.http.limits import Amount, LargeBody
from multiarm.http.metrics import Metrics
from multiarm.http.openapi import Documentation, operation_name
from multiarm.http.request_meter import RequestMeter
from multiarm.http.tags import TAG
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with.

    not_ready: why the server should get no traffic just now, or None. bodies: bytes of large bodies, in all requests.
    """

    supervisor: Supervisor
    settings: Settings
    not_ready: Callable[[], str | None]
    bodies: Amount
    meter: RequestMeter
    metrics: Metrics


class Call:
    """One request, as a handler sees it."""

    __slots__ = ("_receive", "_scope", "large_body")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self.large_body = LargeBody(self.services.bodies, self.bearer.subject)

    @property
    def services(self) -> Services:
        services: Services = self._scope["state"]["services"]
        return services

    @property
    def bearer(self) -> Bearer:
        """Who sends it."""
        bearer: Bearer = self._scope["state"]["bearer"]
        return bearer

    @property
    def actor(self) -> Actor:
        """The same, for the audit trail."""
        client, tag = self._scope["client"], self._scope["state"][TAG]
        return Actor(self.bearer.subject, self.bearer.token_id, client[0] if client else None, tag.request_id)

    @property
    def supervisor(self) -> Supervisor:
        return self.services.supervisor

    @property
    def experiment_id(self) -> str:
        experiment_id: str = self._scope["path_params"]["experiment_id"]
        return experiment_id

    @property
    def arm_id(self) -> str:
        arm_id: str = self._scope["path_params"]["arm_id"]
        return arm_id

    @property
    def decision_id(self) -> str:
        decision_id: str = self._scope["path_params"]["decision_id"]
        return decision_id

    @property
    def key(self) -> str:
        key: str = self._scope["path_params"]["key"]
        return key

    @property
    def query(self) -> bytes:
        query: bytes = self._scope["query_string"]
        return query

    def header(self, name: bytes) -> str:
        """Empty where there is none."""
        return next((value.decode("latin-1") for key, value in self._scope["headers"] if key == name), "")

    async def body(self) -> bytes:
        """The body, empty where there is none.

        BodyTooLarge or UnsupportedMediaType where it is refused unread, Overloaded where there are too many large ones.
        """
        limit_bytes = self.services.settings.body_limit_bytes
        body = await read_body(self._scope["headers"], self._receive_more, limit_bytes, self.large_body.grow)
        self.bearer.verify_again(self.supervisor.clock())
        return body

    async def _receive_more(self) -> Any:
        self._scope["state"][UNREAD] = False
        return await self._receive()


Handler = Callable[[Call], Awaitable[Answer]]


class Endpoint:
    """A handler as an ASGI application. verb: what a token must allow, on the path's experiment if there is one."""

    def __init__(self, handler: Handler, verb: Verb | None) -> None:
        self._handler = handler
        self._verb = verb

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive)
        if self._verb is not None:
            self._authorise(call, self._verb, scope["path_params"].get("experiment_id"))
        try:
            answer = await self._handler(call)
        finally:
            call.large_body.release()
        await answer(scope, receive, send)

    def _authorise(self, call: Call, verb: Verb, experiment_id: str | None) -> None:
        if experiment_id is None:
            call.bearer.require_somewhere(verb)  # what more it takes, the handler says
        else:
            call.bearer.require_on(verb, experiment_id)


def endpoint(
    method: Literal["GET", "POST", "PUT", "DELETE"], path: str, documentation: Documentation, *, head: bool = True
) -> Callable[[Handler], HTTPRouteHandler]:
    """Make a handler the route of `method` and `path`; of HEAD too where it is GET, unless `head` is False."""
    methods = [HttpMethod(method), HttpMethod.HEAD] if method == "GET" and head else [HttpMethod(method)]

    def decorate(handler: Handler) -> HTTPRouteHandler:
        application = Endpoint(handler, None if documentation.at_gate else documentation.verb)

        async def routed() -> Endpoint:
            return application

        routed.__doc__ = handler.__doc__
        return route(
            path,
            http_method=methods,
            status_code=200,  # of no meaning: answers carry their own
            operation_id=operation_name,
            opt={"documentation": documentation},
        )(routed)

    return decorate
