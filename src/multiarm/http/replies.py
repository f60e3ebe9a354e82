"""The express lane's answers, on their way to those who wait."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TypeVar

import structlog

from multiarm.domain.errors import MultiarmError
from multiarm.http.answers import Answer
from multiarm.http.gate import Gate
from multiarm.http.plain import Connection, Group, Plain, Turn
from multiarm.http.problems import problem, unexpected
from multiarm.http.tags import Tag, new_tag
from multiarm.service.accountant import RequestRun

log = structlog.get_logger()
T = TypeVar("T")

SLICE_REQUESTS = 64  # answered in one turn of the loop, beside the draws


class Replies:
    """Sends answers, and notes each for the ledger."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def each(
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
            later = partial(self.each, rest, outcomes[SLICE_REQUESTS:], ready, answer)
            asyncio.get_running_loop().call_soon(later)
        sent_count = 0
        refusal, reason = None, None
        for connection, outcome in zip(connections[:SLICE_REQUESTS], outcomes[:SLICE_REQUESTS], strict=True):
            try:
                if isinstance(outcome, Exception):
                    if refusal is None or outcome is not reason:
                        refusal, reason = failed(connection, plain, outcome), outcome
                    self.one(connection, plain, turn, refusal)
                elif connection.apart:
                    self.one(connection, plain, turn, answer(outcome))
                else:
                    connection.send(ready(outcome))
                    sent_count += 1
            except Exception:
                self._give_up(connection, plain)
        if sent_count:
            self._note(plain, 200, turn, sent_count)

    def one(self, connection: Connection, plain: Plain, turn: Turn, answer: Answer) -> None:
        self._note(plain, answer.status, turn, tag=connection.reply(answer))

    def error(self, connection: Connection, plain: Plain, turn: Turn, error: Exception) -> None:
        try:
            self.one(connection, plain, turn, failed(connection, plain, error))
        except Exception:
            self._give_up(connection, plain)

    def refusal(self, connection: Connection, plain: Plain, turn: Turn, error: MultiarmError) -> None:
        """A token has expired, or sends too much; the answer may have to wait."""
        refusal = partial(self.one, connection, plain, turn, problem(error))
        delay_s = self._gate.refusals.delay_s(error, connection.address, perf_counter())
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, refusal)
        else:
            refusal()

    def _give_up(self, connection: Connection, plain: Plain) -> None:
        tag = connection.tag.fields if connection.tag else {}
        log.exception("answer_failed", route=plain.operation.route, **tag)
        connection.wire.abort()

    def _note(self, plain: Plain, status: int, turn: Turn, count: int = 1, tag: Tag | None = None) -> None:
        """Requests that were answered together took as long as the first of them."""
        method, route = plain.operation.method, plain.operation.route
        duration_s = perf_counter() - turn.came_at
        run = RequestRun(turn.now, method, route, status, duration_s, plain.experiment_id, count)
        self._gate.record(run, tag)


def failed(connection: Connection, plain: Plain, error: BaseException) -> Answer:
    if isinstance(error, MultiarmError):
        return problem(plain.bearer.told(error))
    connection.tag = connection.tag or new_tag()
    return unexpected(plain.operation.method, plain.operation.route, error, plain.experiment_id, connection.tag)
