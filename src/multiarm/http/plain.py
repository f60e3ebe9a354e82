"""What the express lane deals in: plain requests, and the connections that wait for their answers."""

import asyncio
import typing
from typing import NamedTuple, TypeAlias

from multiarm.auth.bearer import Bearer
from multiarm.auth.scopes import Verb
from multiarm.http.answers import Answer
from multiarm.http.tags import Tag


class Connection(typing.Protocol):
    """What the lane needs of a connection.

    apart: its answer takes more than bytes that are ready: it closes, has a request's id, or lets go of a large body.
    tag: of the request that is owed its answer; `reply` makes one for a problem, and returns what the answer says.
    """

    address: str
    apart: bool
    tag: Tag | None
    wire: asyncio.Transport
    tasks: set[asyncio.Task[None]]

    def send(self, answer: bytes) -> None: ...

    def reply(self, answer: Answer) -> Tag | None: ...


class Operation(NamedTuple):
    """verb: what a token must allow."""

    method: str
    route: str
    verb: Verb


class Plain(NamedTuple):
    """What the head of a plain request means: which operation, on which experiment, with how long a body, by whom."""

    operation: Operation
    experiment_id: str
    content_length: int
    bearer: Bearer


DRAW = Operation("GET", "/v1/{experiment_id}/draw", "draw")
UPDATE = Operation("POST", "/v1/{experiment_id}/update", "update")
UPDATE_BATCH = Operation("POST", "/v1/{experiment_id}/update_batch", "update")
OPERATIONS = {(b"GET", b"draw"): DRAW, (b"POST", b"update"): UPDATE, (b"POST", b"update_batch"): UPDATE_BATCH}


class Turn(NamedTuple):
    """One turn of the event loop: seconds since the epoch, and by the monotonic clock."""

    now: float
    came_at: float


class Group(NamedTuple):
    """Requests that mean the same, and the connections that wait for the answers. turn: of the first of them."""

    plain: Plain
    turn: Turn
    connections: list[Connection]


Waiting: TypeAlias = tuple[Connection, Plain, bytes, Turn]  # a request with a body, and the turn in which it came
