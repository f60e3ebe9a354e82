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

from multiarm.http.answers import UNREAD, Answer
from multiarm.http.bodies import read_body
from multiarm.http.openapi import Documentation, operation_name
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with. not_ready: why the server should get no traffic just now, or None."""

    supervisor: Supervisor
    settings: Settings
    not_ready: Callable[[], str | None]


class Call:
    """One request, as a handler sees it."""

    __slots__ = ("_receive", "_scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive

    @property
    def services(self) -> Services:
        services: Services = self._scope["state"]["services"]
        return services

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

    async def body(self) -> bytes:
        """The body, empty where there is none; BodyTooLarge or UnsupportedMediaType where it is refused unread."""
        limit_bytes = self.services.settings.body_limit_bytes
        return await read_body(self._scope["headers"], self._receive_more, limit_bytes)

    async def _receive_more(self) -> Any:
        self._scope["state"][UNREAD] = False
        return await self._receive()


Handler = Callable[[Call], Awaitable[Answer]]


class Endpoint:
    """A handler as an ASGI application."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._handler(Call(scope, receive))
        await answer(scope, receive, send)


def endpoint(
    method: Literal["GET", "POST", "PUT", "DELETE"], path: str, documentation: Documentation, *, head: bool = True
) -> Callable[[Handler], HTTPRouteHandler]:
    """Make a handler the route of `method` and `path`; of HEAD too where it is GET, unless `head` is False."""
    methods = [HttpMethod(method), HttpMethod.HEAD] if method == "GET" and head else [HttpMethod(method)]

    def decorate(handler: Handler) -> HTTPRouteHandler:
        application = Endpoint(handler)

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
