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

Here draws are served; rewards are gathered for the store in `gathering`, and all answers leave through `replies`.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from time import perf_counter

from multiarm.auth.bearer import ANYONE
from multiarm.domain.allocation import Share
from multiarm.domain.errors import MultiarmError
from multiarm.http import operations
from multiarm.http.answers import Header
from multiarm.http.bodies import is_json
from multiarm.http.gate import Gate
from multiarm.http.gathering import Gathering
from multiarm.http.head import Head
from multiarm.http.head_cache import HeadCache
from multiarm.http.plain import OPERATIONS, Connection, Group, Plain, Turn, Waiting
from multiarm.http.replies import SLICE_REQUESTS, Replies

TARGET = re.compile(rb"/v1/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/(draw|update|update_batch)")
NEVER_TWICE = re.compile(rb"cookie|baggage|b3|x-b3-.*|date|idempotency-key|.*(trace|span).*|.*(request|correlation)-id")


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
        self._replies = Replies(gate)
        self._gathering = Gathering(gate, self._replies)
        self._turn: Turn | None = None  # while something that came in it waits for its end
        self._is_scheduled = False
        self._asking: dict[str, Group] = {}
        self._reporting: deque[Waiting] = deque()
        self.stamp([])

    def stamp(self, first_headers: Sequence[Header]) -> None:
        """Every response from now on begins with these headers: once a second, when `date` moves on."""
        self._first_headers = first_headers
        self._gathering.stamp(first_headers)
        self._draw_heads: dict[int, bytes] = {}  # by the length of the body
        self._ends: dict[bytes, bytes] = {}  # of draws' bodies: many arms have the same, which should lie in one place

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
                asyncio.get_running_loop().call_soon(self._replies.refusal, connection, plain, turn, error)
                return
        if body:
            self._reporting.append((connection, plain, body, turn))
            return
        group = self._asking.get(plain.experiment_id)
        if group is None:
            group = self._asking[plain.experiment_id] = Group(plain, turn, [])
        group.connections.append(connection)

    def _begin_turn(self) -> Turn:
        self._schedule()
        self._turn = Turn(self._supervisor.clock(), perf_counter())
        return self._turn

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._serve)

    def _serve(self) -> None:
        asking, self._asking, self._turn, self._is_scheduled = self._asking, {}, None, False
        for group in asking.values():
            self._draw(group)
        arrived = [self._reporting.popleft() for _ in range(min(len(self._reporting), SLICE_REQUESTS))]
        if self._reporting:
            self._schedule()
        if self._gathering.go_on(arrived):
            self._schedule()

    # --- draws -------------------------------------------------------------------------------------------------------

    def _draw(self, group: Group) -> None:
        count = len(group.connections)
        drawn: Sequence[tuple[Share, bytes] | Exception]
        try:
            decisions = self._supervisor.draw_many(group.plain.experiment_id, count, group.turn.now)
            drawn = list(zip(decisions.shares, decisions.tokens, strict=True))
        except Exception as error:
            drawn = [error] * count
        self._replies.each(group, drawn, self._drawn, lambda drawn: operations.drawn(*drawn))

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
        share.rendered = rendered = len(body), before, self._ends.setdefault(after, after)
        return rendered
