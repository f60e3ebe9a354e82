"""The express lane: draws and rewards answered straight from the parser.

A request is plain, and taken, where it is

    GET  /v1/{experiment_id}/draw                 without a body, or
    POST /v1/{experiment_id}/update               with a JSON body of stated length within the limit,
    POST /v1/{experiment_id}/update_batch

with an id that could be one, no query string, HTTP/1.1, a connection that stays open, and a token that allows it (where
there is no authentication: a `Host` and an `Origin` that the gate lets in). Everything else belongs to the application:
what needs a conversation (`Expect`, chunked bodies), an answer that is rare (wrong methods, types, paths, tokens), or a
route where a framework's time does not matter.

The lane decides nothing. What an operation means is in the service, what an answer looks like in `operations` and
`problems`, which the application uses too; so both doors give the same bytes. What a head means depends on its bytes,
the settings and the tokens that are valid, never on what the server holds. So the head cache is emptied when a token or
a key is revoked, and a token's expiry and rate are looked at each time; nothing else in it can become untrue.
"""

import asyncio
import re
import typing
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple, TypeAlias, TypeVar

import structlog

from multiarm.auth.bearer import ANYONE, Bearer
from multiarm.auth.scopes import Verb
from multiarm.domain.allocation import Share
from multiarm.domain.errors import MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import Increment
from multiarm.http import operations
from multiarm.http.answers import Answer, Header
from multiarm.http.bodies import is_json
from multiarm.http.gate import STOPPED, Gate
from multiarm.http.head import Head
from multiarm.http.head_cache import HeadCache
from multiarm.http.problems import problem, unexpected
from multiarm.http.tags import Tag, new_tag
from multiarm.service.accountant import RequestRun

log = structlog.get_logger()
T = TypeVar("T")

SLICE_REQUESTS = 64  # answered in one turn of the loop, beside the draws

TARGET = re.compile(rb"/v1/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/(draw|update|update_batch)")
NEVER_TWICE = re.compile(rb"cookie|baggage|b3|x-b3-.*|date|idempotency-key|.*(trace|span).*|.*(request|correlation)-id")


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
    """Requests of one turn that mean the same, and the connections that wait for the answers."""

    plain: Plain
    turn: Turn
    connections: list[Connection]


Waiting: TypeAlias = tuple[Connection, Plain, bytes, Turn]  # a request with a body, and the turn in which it came


class Rewards(NamedTuple):
    """Those of one group. credited: what each body adds, for the same words add the same."""

    group: Group
    experiment: Experiment
    increments: list[Increment]
    credited: dict[bytes, Increment]


class ExpressLane:
    """Judges heads, remembers the verdicts, and serves what is plain."""

    def __init__(self, gate: Gate) -> None:
        settings = gate.services.settings
        self.heads: HeadCache[Plain] = HeadCache(
            settings.head_cache_limit_heads, settings.head_cache_limit_bytes, settings.head_cache_subject_limit_heads
        )
        self._gate = gate
        self._supervisor = gate.services.supervisor
        self._settings = settings
        self._turn: Turn | None = None  # while something waits for its end
        self._asking: dict[str, Group] = {}
        self._reporting: deque[Waiting] = deque()
        self.stamp([])

    def stamp(self, first_headers: Sequence[Header]) -> None:
        """Every response from now on begins with these headers: once a second, when `date` moves on."""
        self._first_headers = first_headers
        self._counted = {is_new: answer.on_the_wire(first_headers) for is_new, answer in operations.COUNTED.items()}
        self._draw_heads: dict[int, bytes] = {}  # by the length of the body

    # --- which requests --------------------------------------------------------------------------------------------

    def judge(self, head: Head) -> Plain | None:
        """What a head means, or None where it is for the application."""
        target = TARGET.fullmatch(head.target)
        if target is None or head.version != "1.1" or head.expects:
            return None
        experiment_id, name = target.groups()
        operation = OPERATIONS.get((head.method, name))
        if operation is None or not (self._has_body(head) if head.method == b"POST" else head.body_length == 0):
            return None
        try:
            bearer = self._gate.identify(head.headers)
        except MultiarmError:  # the application will say so
            return None
        if not bearer.scopes.allow(operation.verb, experiment_id.decode()):
            return None
        if not bearer.may_come(self._supervisor.clock(), perf_counter()):
            return None
        return Plain(operation, experiment_id.decode(), head.body_length, bearer)

    def _has_body(self, head: Head) -> bool:
        return 0 < head.body_length <= self._settings.body_limit_bytes and is_json(dict(head.headers))

    def admit(self, head: bytes, meaning: Plain, headers: Sequence[Header]) -> None:
        """Remember a head, unless it is one of a kind: with a request's id, a trace or a cookie in it."""
        if meaning.bearer.is_current and not any(NEVER_TWICE.fullmatch(name) for name, _ in headers):
            self.heads.admit(head, meaning, meaning.bearer.subject)

    def take(self, connection: Connection, plain: Plain, body: bytes) -> None:
        """Serve it at the end of this turn of the loop, with all that has come: together they cost less.

        Draws go first, and of rewards no more than a slice: who draws has a visitor waiting.
        """
        turn = self._turn or self._begin_turn()
        if plain.bearer is not ANYONE:
            try:
                plain.bearer.admit(*turn)
            except MultiarmError as error:
                asyncio.get_running_loop().call_soon(self._refuse, connection, plain, turn, error)
                return
        if body:
            self._reporting.append((connection, plain, body, turn))
            return
        group = self._asking.get(plain.experiment_id)
        if group is None:
            group = self._asking[plain.experiment_id] = Group(plain, turn, [])
        group.connections.append(connection)

    def _begin_turn(self) -> Turn:
        asyncio.get_running_loop().call_soon(self._serve)
        self._turn = Turn(self._supervisor.clock(), perf_counter())
        return self._turn

    def _serve(self) -> None:
        asking, self._asking, self._turn = self._asking, {}, None
        reporting = [self._reporting.popleft() for _ in range(min(len(self._reporting), SLICE_REQUESTS))]
        if self._reporting:
            self._begin_turn()
        for group in asking.values():
            self._draw(group)
        if reporting:
            self._count(reporting)

    # --- draws -------------------------------------------------------------------------------------------------------

    def _draw(self, group: Group) -> None:
        count = len(group.connections)
        drawn: Sequence[tuple[Share, bytes] | Exception]
        try:
            decisions = self._supervisor.draw_many(group.plain.experiment_id, count, group.turn.now)
            drawn = list(zip(decisions.shares, decisions.tokens, strict=True))
        except Exception as error:
            drawn = [error] * count
        self._answer_each(group, drawn, self._drawn, lambda drawn: operations.drawn(*drawn))

    def _drawn(self, drawn: tuple[Share, bytes]) -> bytes:
        """The answer's bytes, of parts that are ready: with many arms whole answers would crowd the cache."""
        share, token = drawn
        length, before, after = share.rendered or self._render(share, token)
        head = self._draw_heads.get(length)
        if head is None:
            answer = operations.drawn(share, token)
            head = self._draw_heads[length] = answer.on_the_wire(self._first_headers)[:-length]
        return head + before + token + after

    def _render(self, share: Share, token: bytes) -> tuple[int, bytes, bytes]:
        """How long the body of its answers is, and what comes before and after the decision_id."""
        body = operations.drawn(share, token).body
        before, after = body.split(token, 1)
        share.rendered = rendered = len(body), before, after
        return rendered

    # --- rewards -----------------------------------------------------------------------------------------------------

    def _count(self, reporting: Sequence[Waiting]) -> None:
        """Single rewards of one turn go to the store together, and come back together."""
        supervisor, turn = self._supervisor, reporting[0][3]
        together = None if supervisor.in_doubt else UPDATE  # what takes no more than one step
        rewards_of: dict[str, Rewards] = {}
        for connection, plain, body, _ in reporting:
            if plain.operation is not together:
                self._serve_later(connection, plain, turn, body)
                continue
            rewards = rewards_of.get(plain.experiment_id)
            try:
                if rewards is None:
                    experiment = supervisor.experiment(plain.experiment_id)
                    rewards = rewards_of[plain.experiment_id] = Rewards(Group(plain, turn, []), experiment, [], {})
                increment = rewards.credited.get(body)
                if increment is None:
                    increment = supervisor.credit(rewards.experiment, operations.decode_update(body), turn.now)
                    rewards.credited[body] = increment
            except Exception as error:
                self._tell(connection, plain, turn, error)
                continue
            rewards.increments.append(increment)
            rewards.group.connections.append(connection)
        for rewards in rewards_of.values():
            supervisor.submit(
                rewards.experiment, rewards.increments, turn.now, partial(self._answer_updates, rewards.group)
            )

    def _answer_updates(self, group: Group, start: int, outcomes: Sequence[bool | Exception]) -> None:
        part = group._replace(connections=group.connections[start : start + len(outcomes)])
        self._answer_each(part, outcomes, self._counted.__getitem__, operations.COUNTED.__getitem__)

    def _serve_later(self, connection: Connection, plain: Plain, turn: Turn, body: bytes) -> None:
        """Answer by itself, when that can be done; uvicorn cancels it where stopping takes too long."""

        async def run() -> None:
            try:
                answer = await self._counted_alone(plain, body)
            except asyncio.CancelledError:
                self._tell(connection, plain, turn, STOPPED)
            except Exception as error:
                self._tell(connection, plain, turn, error)
            else:
                self._reply(connection, plain, turn, answer)

        task = asyncio.get_running_loop().create_task(run())
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def _counted_alone(self, plain: Plain, body: bytes) -> Answer:
        supervisor, experiment_id, bearer = self._supervisor, plain.experiment_id, plain.bearer
        if plain.operation is UPDATE:
            return await operations.update(supervisor, experiment_id, body, bearer)
        limit = self._settings.batch_limit_updates
        return await operations.update_batch(supervisor, experiment_id, body, limit, bearer)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _refuse(self, connection: Connection, plain: Plain, turn: Turn, error: MultiarmError) -> None:
        """A token has expired, or sends too much; the answer may have to wait."""
        refusal = partial(self._reply, connection, plain, turn, problem(error))
        delay_s = self._gate.refusals.delay_s(error, connection.address, perf_counter())
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, refusal)
        else:
            refusal()

    def _reply(self, connection: Connection, plain: Plain, turn: Turn, answer: Answer) -> None:
        self._note(plain, answer.status, turn, tag=connection.reply(answer))

    def _answer_each(
        self,
        group: Group,
        outcomes: Sequence[T | Exception],
        ready: Callable[[T], bytes],
        answer: Callable[[T], Answer],
    ) -> None:
        """What fails for one must not keep the others from their answers. Of many, those beyond a slice come later."""
        plain, turn, connections = group
        if len(connections) > SLICE_REQUESTS:
            rest = group._replace(connections=connections[SLICE_REQUESTS:])
            later = partial(self._answer_each, rest, outcomes[SLICE_REQUESTS:], ready, answer)
            asyncio.get_running_loop().call_soon(later)
        sent_count = 0
        refusal, reason = None, None
        for connection, outcome in zip(connections[:SLICE_REQUESTS], outcomes[:SLICE_REQUESTS], strict=True):
            try:
                if isinstance(outcome, Exception):
                    if refusal is None or outcome is not reason:
                        refusal, reason = failed(connection, plain, outcome), outcome
                    self._reply(connection, plain, turn, refusal)
                elif connection.apart:
                    self._reply(connection, plain, turn, answer(outcome))
                else:
                    connection.send(ready(outcome))
                    sent_count += 1
            except Exception:
                self._fail(connection, plain)
        if sent_count:
            self._note(plain, 200, turn, sent_count)

    def _tell(self, connection: Connection, plain: Plain, turn: Turn, error: Exception) -> None:
        try:
            self._reply(connection, plain, turn, failed(connection, plain, error))
        except Exception:
            self._fail(connection, plain)

    def _fail(self, connection: Connection, plain: Plain) -> None:
        log.exception("answer_failed", route=plain.operation.route, **(connection.tag.fields if connection.tag else {}))
        connection.wire.abort()

    def _note(self, plain: Plain, status: int, turn: Turn, count: int = 1, tag: Tag | None = None) -> None:
        """For the ledger: requests that came and were answered in the same turn took the same time."""
        method, route = plain.operation.method, plain.operation.route
        duration_s = perf_counter() - turn.came_at
        run = RequestRun(turn.now, method, route, status, duration_s, plain.experiment_id, count)
        self._gate.record(run, tag)


def failed(connection: Connection, plain: Plain, error: BaseException) -> Answer:
    if isinstance(error, MultiarmError):
        return problem(plain.bearer.told(error))
    connection.tag = connection.tag or new_tag()
    return unexpected(plain.operation.method, plain.operation.route, error, plain.experiment_id, connection.tag)
