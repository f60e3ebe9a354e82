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
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import structlog

from multiarm.auth.bearer import ANYONE, Bearer
from multiarm.auth.scopes import Verb
from multiarm.domain.errors import MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import Decision, Increment
from multiarm.http import operations
from multiarm.http.answers import Answer, Header
from multiarm.http.bodies import is_json
from multiarm.http.gate import STOPPED, Gate
from multiarm.http.head import Head
from multiarm.http.head_cache import HeadCache
from multiarm.http.operations import ACCEPTED, DUPLICATE
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

    apart: its answer says more than others do, that it closes or a request's id, so that no bytes are ready.
    tag: of the request that is owed its answer; `reply` makes one for a problem, and returns what the answer says.
    """

    address: str
    apart: bool
    tag: Tag | None
    wire: asyncio.Transport
    tasks: set[asyncio.Task[None]]

    def send(self, answer: bytes) -> None: ...

    def reply(self, answer: Answer) -> Tag | None: ...


class Plain(NamedTuple):
    """What the head of a plain request means: which operation, on which experiment, with how long a body, by whom."""

    operation: "Operation"
    experiment_id: str
    content_length: int
    bearer: Bearer


Waiting: TypeAlias = tuple[Connection, Plain, bytes, float]  # the body, and when it came by the monotonic clock


class Turn(NamedTuple):
    """One turn of the event loop. now: seconds since the epoch; came_at: by the monotonic clock, the first request."""

    now: float
    came_at: float


class Operation(NamedTuple):
    """`serve` takes a request in, for an answer at the end of the turn or later. verb: what a token must allow."""

    method: str
    route: str
    verb: Verb
    serve: Callable[[Connection, Plain, bytes, Turn], None]


class Draws(NamedTuple):
    """The connections that ask for draws of one experiment, in one turn."""

    plain: Plain
    connections: list[Connection]


class Rewards(NamedTuple):
    """The rewards for one experiment that came in one turn, and the connections that wait for the answers."""

    plain: Plain
    experiment: Experiment
    increments: list[Increment]
    connections: list[Connection]


class ExpressLane:
    """Judges heads, remembers the verdicts, and serves what is plain."""

    def __init__(self, gate: Gate) -> None:
        settings = gate.services.settings
        self.heads: HeadCache[Plain] = HeadCache(
            settings.head_cache_limit_heads, settings.head_cache_limit_bytes, settings.head_cache_subject_limit_heads
        )
        self._gate = gate
        self._record = gate.record
        self._supervisor = gate.services.supervisor
        self._settings = settings
        template = "/v1/{experiment_id}"
        self._operations = {
            (b"GET", b"draw"): Operation("GET", f"{template}/draw", "draw", self._draw),
            (b"POST", b"update"): Operation("POST", f"{template}/update", "update", self._update),
            (b"POST", b"update_batch"): Operation("POST", f"{template}/update_batch", "update", self._update_batch),
        }
        self._asking: list[Waiting] = []
        self._reporting: deque[Waiting] = deque()
        self._draws: dict[str, Draws] = {}
        self._rewards: dict[str, Rewards] = {}
        self.stamp([])

    def stamp(self, first_headers: Sequence[Header]) -> None:
        """Every response from now on begins with these headers: once a second, when `date` moves on."""
        self._first_headers = first_headers
        self._accepted, self._duplicate = (answer.on_the_wire(first_headers) for answer in (ACCEPTED, DUPLICATE))

    # --- which requests --------------------------------------------------------------------------------------------

    def judge(self, head: Head) -> Plain | None:
        """What a head means, or None where it is for the application."""
        target = TARGET.fullmatch(head.target)
        if target is None or head.version != "1.1" or head.expects:
            return None
        experiment_id, name = target.groups()
        operation = self._operations.get((head.method, name))
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
        """Serve it at the end of this turn of the loop, with all that has come: one after another is twice as fast.

        Draws go first, and of rewards no more than a slice: who draws has a visitor waiting.
        """
        if not self._asking and not self._reporting:
            asyncio.get_running_loop().call_soon(self._serve)
        waiting = self._asking if plain.operation.verb == "draw" else self._reporting
        waiting.append((connection, plain, body, perf_counter()))

    def _serve(self) -> None:
        now = self._supervisor.clock()
        asking, self._asking = self._asking, []
        reporting = [self._reporting.popleft() for _ in range(min(len(self._reporting), SLICE_REQUESTS))]
        if self._reporting:
            asyncio.get_running_loop().call_soon(self._serve)
        if asking:
            turn = self._serve_each(asking, now)
            self._answer_draws(turn)
        if reporting:
            turn = self._serve_each(reporting, now)
            self._submit_rewards(turn)

    def _serve_each(self, requests: Sequence[Waiting], now: float) -> Turn:
        turn = Turn(now, requests[0][3])
        for connection, plain, body, _ in requests:
            try:
                if plain.bearer is not ANYONE:
                    plain.bearer.admit(turn.now, turn.came_at)
                plain.operation.serve(connection, plain, body, turn)
            except MultiarmError as error:
                self._refuse(connection, plain, turn, error)
            except Exception:
                self._fail(connection, plain)
        return turn

    # --- draws -------------------------------------------------------------------------------------------------------

    def _draw(self, connection: Connection, plain: Plain, _body: bytes, _turn: Turn) -> None:
        draws = self._draws.get(plain.experiment_id)
        if draws is None:
            draws = self._draws[plain.experiment_id] = Draws(plain, [])
        draws.connections.append(connection)

    def _answer_draws(self, turn: Turn) -> None:
        draws, self._draws = self._draws, {}
        for plain, connections in draws.values():
            decisions: Sequence[Decision | Exception]
            try:
                decisions = self._supervisor.draw_many(plain.experiment_id, len(connections), turn.now)
            except Exception as error:
                decisions = [error] * len(connections)
            self._answer_each(plain, turn, connections, decisions, self._answer_draw)

    def _answer_draw(self, connection: Connection, decision: Decision) -> Tag | None:
        rendered = decision.share.rendered
        if rendered is None or rendered[0] is not self._first_headers:
            rendered = self._render(decision)
        if connection.apart:
            return connection.reply(operations.drawn(decision))
        connection.send(rendered[1] + decision.token + rendered[2])
        return None

    def _render(self, decision: Decision) -> tuple[Sequence[Header], bytes, bytes]:
        """What comes before and after the decision_id, all that changes from draw to draw within a second."""
        before, after = operations.drawn(decision).on_the_wire(self._first_headers).split(decision.token, 1)
        decision.share.rendered = rendered = self._first_headers, before, after
        return rendered

    # --- rewards -----------------------------------------------------------------------------------------------------

    def _update(self, connection: Connection, plain: Plain, body: bytes, turn: Turn) -> None:
        supervisor, experiment_id = self._supervisor, plain.experiment_id
        if supervisor.in_doubt:  # then it takes more than one step
            self._serve_later(connection, plain, turn, operations.update(supervisor, experiment_id, body, plain.bearer))
            return
        try:
            rewards = self._rewards.get(experiment_id)
            experiment = supervisor.experiment(experiment_id) if rewards is None else rewards.experiment
            increment = supervisor.credit(experiment, operations.decode_update(body), turn.now)
        except Exception as error:
            self._reply(connection, plain, turn, failed(connection, plain, error))
            return
        if rewards is None:
            rewards = self._rewards[experiment_id] = Rewards(plain, experiment, [], [])
        rewards.increments.append(increment)
        rewards.connections.append(connection)

    def _submit_rewards(self, turn: Turn) -> None:
        """Those of one turn go to the store together, and come back together."""
        rewards_of_all, self._rewards = self._rewards, {}
        for rewards in rewards_of_all.values():
            reply = partial(self._answer_updates, rewards, turn)
            self._supervisor.submit(rewards.experiment, rewards.increments, turn.now, reply)

    def _answer_updates(self, rewards: Rewards, turn: Turn, start: int, outcomes: Sequence[bool | Exception]) -> None:
        connections = rewards.connections[start : start + len(outcomes)]
        self._answer_each(rewards.plain, turn, connections, outcomes, self._answer_update)

    def _answer_update(self, connection: Connection, is_new: bool) -> Tag | None:
        if connection.apart:
            return connection.reply(ACCEPTED if is_new else DUPLICATE)
        connection.send(self._accepted if is_new else self._duplicate)
        return None

    def _update_batch(self, connection: Connection, plain: Plain, body: bytes, turn: Turn) -> None:
        limit = self._settings.batch_limit_updates
        batch = operations.update_batch(self._supervisor, plain.experiment_id, body, limit, plain.bearer)
        self._serve_later(connection, plain, turn, batch)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _serve_later(self, connection: Connection, plain: Plain, turn: Turn, work: Coroutine[Any, Any, Answer]) -> None:
        """Answer when `work` is done; uvicorn cancels it where stopping takes too long."""

        async def run() -> None:
            try:
                answer = await work
            except asyncio.CancelledError:
                answer = problem(STOPPED)
            except Exception as error:
                answer = failed(connection, plain, error)
            self._reply(connection, plain, turn, answer)

        task = asyncio.get_running_loop().create_task(run())
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

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
        plain: Plain,
        turn: Turn,
        connections: Sequence[Connection],
        outcomes: Sequence[T | Exception],
        answer: Callable[[Connection, T], Tag | None],
    ) -> None:
        """What fails for one must not keep the others from their answers. Of many, those beyond a slice come later."""
        if len(connections) > SLICE_REQUESTS:
            rest = connections[SLICE_REQUESTS:], outcomes[SLICE_REQUESTS:]
            asyncio.get_running_loop().call_soon(partial(self._answer_each, plain, turn, *rest, answer))
        untagged_count = 0
        refusal, reason = None, None
        for connection, outcome in zip(connections[:SLICE_REQUESTS], outcomes[:SLICE_REQUESTS], strict=True):
            try:
                if isinstance(outcome, Exception):
                    if refusal is None or outcome is not reason:
                        refusal, reason = failed(connection, plain, outcome), outcome
                    self._reply(connection, plain, turn, refusal)
                elif (tag := answer(connection, outcome)) is None:
                    untagged_count += 1
                else:
                    self._note(plain, 200, turn, tag=tag)
            except Exception:
                self._fail(connection, plain)
        if untagged_count:
            self._note(plain, 200, turn, untagged_count)

    def _fail(self, connection: Connection, plain: Plain) -> None:
        log.exception("answer_failed", route=plain.operation.route, **(connection.tag.fields if connection.tag else {}))
        connection.wire.abort()

    def _note(self, plain: Plain, status: int, turn: Turn, count: int = 1, tag: Tag | None = None) -> None:
        """For the ledger: requests that came and were answered in the same turn took the same time."""
        method, route = plain.operation.method, plain.operation.route
        duration_s = perf_counter() - turn.came_at
        run = RequestRun(turn.now, method, route, status, duration_s, plain.experiment_id, count)
        self._record(run if tag is None else run._replace(request_id=tag.request_id, trace_id=tag.trace_id))


def failed(connection: Connection, plain: Plain, error: BaseException) -> Answer:
    if isinstance(error, MultiarmError):
        return problem(plain.bearer.told(error))
    connection.tag = connection.tag or new_tag()
    return unexpected(plain.operation.method, plain.operation.route, error, connection.tag)
