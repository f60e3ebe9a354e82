"""Errors as RFC 9457 problem documents. The one table from the tree of errors to HTTP statuses."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException

from multiarm.auth.errors import InsufficientScope, InvalidToken, RateLimited, Unauthorized
from multiarm.domain import errors
from multiarm.domain.errors import Fault, MultiarmError
from multiarm.http.answers import Answer, Header
from multiarm.http.tags import Tag
from multiarm.http.templates import UNMATCHED, experiment_in

log = structlog.get_logger()

TYPE_PREFIX = "urn:multiarm:problem:"

REALM = 'Bearer realm="multiarm"'

STATUSES: dict[type[MultiarmError], int] = {
    errors.MalformedBody: 400,
    Unauthorized: 401,
    errors.ForbiddenOrigin: 403,
    InsufficientScope: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Invalid: 422,
    RateLimited: 429,
    errors.Unavailable: 503,
}


class ProblemFault(msgspec.Struct, frozen=True):
    """One thing that does not fit: where, which error, and what to do."""

    path: str
    type: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457). `type` is stable; `errors` lists every field at fault, up to 100.

    `request_id` is in the log and the ledger too, and so is `trace_id`, of the request's `traceparent`.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[ProblemFault] = []
    request_id: str = ""
    trace_id: str | None = None


class ProblemAnswer(Answer):
    """An answer that is a problem document."""

    __slots__ = ("document",)

    def __init__(self, document: Problem, headers: Sequence[Header]) -> None:
        super().__init__(msgspec.json.encode(document), document.status, headers)
        self.document = document

    def tagged(self, tag: Tag) -> Answer:
        document = msgspec.structs.replace(self.document, request_id=tag.request_id, trace_id=tag.trace_id)
        return ProblemAnswer(document, self.headers)


def status_of(error: MultiarmError) -> int:
    if isinstance(error, errors.BatchRejected):
        return status_of(error.worst)
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def problem(error: MultiarmError) -> Answer:
    """The answer for an error of ours."""
    status = status_of(error)
    kind = error.worst if isinstance(error, errors.BatchRejected) else error
    headers = [(name, value.encode()) for name, value in headers_of(kind)]
    return answer(status, kind.type, kind.title, str(error), faults=listed(error, status), headers=headers)


def headers_of(error: MultiarmError) -> Iterator[tuple[bytes, str]]:
    """What a program needs to know: when to come again, and what kind of token to bring (RFC 6750, 3)."""
    if isinstance(error, errors.Unavailable):
        yield b"retry-after", f"{error.retry_after_s}"
    elif isinstance(error, RateLimited):
        again_s, fill_s = ceil(error.retry_after_s), max(ceil(error.fill_s), 1)
        yield b"retry-after", f"{again_s}"
        yield b"ratelimit-policy", f'"token";q={error.burst_requests};w={fill_s}'
        yield b"ratelimit", f'"token";r=0;t={again_s}'
    elif isinstance(error, InvalidToken):
        yield b"www-authenticate", f'{REALM}, error="invalid_token", error_description="{error}"'
    elif isinstance(error, Unauthorized):
        yield b"www-authenticate", REALM
    elif isinstance(error, InsufficientScope):
        yield b"www-authenticate", f'{REALM}, error="insufficient_scope", scope="{error.scope}"'


def listed(error: MultiarmError, status: int) -> Sequence[Fault]:
    told = isinstance(error, errors.BatchRejected) or status == HTTPStatus.UNPROCESSABLE_ENTITY
    return error.as_faults() if told else ()


def answer(
    status: int,
    type_: str,
    title: str,
    detail: str,
    *,
    faults: Sequence[Fault] = (),
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Answer:
    body = Problem(TYPE_PREFIX + type_, title, status, detail, [ProblemFault(*fault) for fault in faults])
    return ProblemAnswer(body, (*headers, (b"content-type", b"application/problem+json")))


# --- Litestar's exception handlers --------------------------------------------------------------------------


def on_multiarm_error(_request: Request[Any, Any, Any], error: MultiarmError) -> Any:
    return problem(error)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Any:
    """What the framework itself refuses: no such route, a method that it does not have."""
    status = HTTPStatus(error.status_code)
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (error.headers or {}).items()
    ]
    details = {
        404: "There is no such route; /docs lists them all.",
        405: f"{request.method} is not among the methods of this route; the Allow header lists them.",
    }
    slug = "method-not-allowed" if isinstance(error, MethodNotAllowedException) else slug_of(status)
    return answer(status, slug, status.phrase, details.get(status, error.detail), headers=headers)


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Any:
    route = request.scope.get("path_template") or UNMATCHED
    return unexpected(request.method, route, error, experiment_in(request.scope["raw_path"], route))


def unexpected(
    method: str, route: str, error: BaseException, experiment_id: str | None = None, tag: Tag | None = None
) -> Answer:
    """The answer to what nobody foresaw; the log has it all. tag: None where the log knows it already."""
    known = ({} if experiment_id is None else {"experiment_id": experiment_id}) | ({} if tag is None else tag.fields)
    log.error("request_failed", method=method, route=route, exc_info=error, **known)
    return answer(500, "internal-error", "Internal error", "This is a fault of the server; its log says more.")


def slug_of(status: HTTPStatus) -> str:
    return status.phrase.lower().replace(" ", "-")
