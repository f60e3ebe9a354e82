"""The OpenAPI document: paths from the routes, bodies and answers from the very structs that validate them."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from functools import cache
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar, Request, Router, route
from litestar.enums import HttpMethod
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.routes import BaseRoute
from litestar.types import ControllerRouterHandler

from multiarm._version import __version__
from multiarm.auth.scopes import Verb
from multiarm.domain.policies import AnyPolicy
from multiarm.http.answers import Answer
from multiarm.http.problems import Problem

ASSETS = {
    "swagger-ui.css": b"text/css",
    "swagger-ui-bundle.js": b"text/javascript",
    "swagger-ui-standalone-preset.js": b"text/javascript",
}
SECURITY = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "Where the server asks for tokens; `multiarm token` mints some.",
    }
}
PARAMETERS = {
    "experiment_id": "The experiment's id.",
    "arm_id": "The arm's id.",
    "decision_id": "As `draw` returned it.",
    "key": "As the update had it.",
}


@dataclass(frozen=True, slots=True)
class Documentation:
    """What the document says of a route beyond its path, method and docstring. The gate may refuse any (403).

    verb: what a token must allow where there is authentication; None: open to all. at_gate: it is the gate that asks.
    """

    operation_id: str
    tag: str
    _: KW_ONLY
    verb: Verb | None = None
    at_gate: bool = False
    query: type[msgspec.Struct] | None = None
    body: Any = None
    body_required: bool = True
    answer: Any = None
    status: int = 200
    errors: tuple[int, ...] = ()


def operation_name(handler: HTTPRouteHandler, method: str, _path: object) -> str:
    """The operation's id; HEAD shares its handler with GET, and the framework wants another name for it."""
    name: str = handler.opt["documentation"].operation_id
    return f"{name}_head" if method == "HEAD" else name


def completed(document: dict[str, Any], app: Litestar) -> dict[str, Any]:
    """Litestar's document with the bodies, answers and errors of each route, as msgspec describes them."""
    document = deepcopy(document)  # the framework keeps its own for the next time
    known = {d.operation_id: d for d in (handler.opt["documentation"] for handler in documented_handlers(app))}
    types = {t for d in known.values() for t in (d.body, d.answer) if t is not None} | {Problem}
    _, components = msgspec.json.schema_components(
        sorted(types, key=lambda type_: type_.__name__), ref_template="#/components/schemas/{name}"
    )
    for name in msgspec.json.schema_components([AnyPolicy])[1]:
        explain_policy(components[name])
    for path, item in document["paths"].items():
        item.pop("head", None)  # works wherever GET does; listing it would only double the page
        for operation in item.values():
            documentation = known[operation["operationId"]]
            operation["tags"] = [documentation.tag]
            operation["summary"] = operation.pop("description")
            operation["responses"] = dict(responses(documentation))
            if documentation.verb is not None:
                operation["security"] = [{"token": [documentation.verb]}, {}]
            if documentation.body is not None:
                operation["requestBody"] = {
                    "required": documentation.body_required,
                    "content": {"application/json": {"schema": reference(documentation.body)}},
                }
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
                for name, text in PARAMETERS.items()
                if f"{{{name}}}" in path
            ]
            if documentation.query is not None:
                operation["parameters"] += query_parameters(documentation.query)
    document["components"] = {"schemas": components, "securitySchemes": SECURITY}
    return document


def query_parameters(struct: type[msgspec.Struct]) -> Iterator[dict[str, Any]]:
    schema = msgspec.json.schema(struct)["$defs"][struct.__name__]
    for name, field in schema["properties"].items():
        text = field.pop("description")
        options = [option for option in field.pop("anyOf", ()) if option != {"type": "null"}]
        value = {"anyOf": options} if options else field  # what is left out is not said to be null
        yield {"name": name, "in": "query", "required": False, "description": text, "schema": value}


def explain_policy(schema: dict[str, Any]) -> None:
    """A line on the struct and on each parameter: what it costs, assumes and comes from is in docs/policies.md."""
    schema["description"] = schema["description"].partition("\n")[0]
    for name, field in schema["properties"].items():
        if "description" not in field:
            within = (option["description"] for option in field.get("anyOf", ()) if "description" in option)
            field["description"] = next(within, "Which one it is." if name == "type" else "")


def responses(documentation: Documentation) -> Iterator[tuple[str, dict[str, Any]]]:
    refusals = {403} if documentation.verb is None else {401, 403, 429, 503}
    for status in sorted({documentation.status, *documentation.errors, *refusals}):
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if status != documentation.status:
            response["content"] = {"application/problem+json": {"schema": reference(Problem)}}
        elif documentation.answer is str:
            response["content"] = {"text/plain": {"schema": {"type": "string"}}}
        elif documentation.answer is not None:
            response["content"] = {"application/json": {"schema": reference(documentation.answer)}}
        yield str(status), response


def reference(type_: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{type_.__name__}"}


def documented_handlers(app: Litestar) -> list[HTTPRouteHandler]:
    return [
        handler
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler) and "documentation" in handler.opt
    ]


class JsonDocument(JsonRenderPlugin):
    """Made once: to make it takes as long as a thousand draws."""

    _made: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._made is None:
            self._made = super().render(request, completed(openapi_schema, request.app))
        return self._made


class TryItPage(SwaggerRenderPlugin):
    """Made once, too."""

    _made: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._made is None:
            self._made = super().render(request, completed(openapi_schema, request.app))
        return self._made


class Pages(Router):
    """The framework registers its pages for GET; these answer HEAD too, like every other route that reads."""

    def register(self, value: ControllerRouterHandler) -> list[BaseRoute]:
        if isinstance(value, HTTPRouteHandler):
            value.http_methods = {HttpMethod.GET, HttpMethod.HEAD}
        return super().register(value)


@route("/docs/assets/{name:str}", http_method=["GET", "HEAD"], include_in_schema=False, sync_to_thread=False)
def asset(request: Request[Any, Any, Any]) -> Answer:
    """Swagger UI's files, from the installed package: the page works without the internet."""
    name: str = request.path_params["name"]
    if name not in ASSETS:
        raise NotFoundException
    return Answer(asset_bytes(name), headers=((b"content-type", ASSETS[name]), (b"cache-control", b"max-age=86400")))


@cache
def asset_bytes(name: str) -> bytes:
    package = find_spec("flask_swagger_ui")
    if package is None or package.origin is None:
        raise NotFoundException
    return (Path(package.origin).parent / "dist" / name).read_bytes()


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="multiarm",
        version=__version__,
        summary="Online experiments run by multi-armed bandits.",
        openapi_router=Pages("/docs", route_handlers=[], include_in_schema=False),
        use_handler_docstrings=True,
        render_plugins=[
            TryItPage(
                path="/",
                favicon="<link rel='icon' href='data:,'>",
                js_url="/docs/assets/swagger-ui-bundle.js",
                css_url="/docs/assets/swagger-ui.css",
                standalone_preset_js_url="/docs/assets/swagger-ui-standalone-preset.js",
            ),
            JsonDocument(path="/openapi.json"),
        ],
    )
