"""Rewards in the express lane: those of a few turns of the loop go to the store together, and come back together.

A commit costs as much for one reward as for a hundred. So the store is not woken at once, but when turns brought
nothing more, or when enough is there.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import NamedTuple

from multiarm.domain.experiment import Experiment
from multiarm.domain.records import Increment
from multiarm.http import operations
from multiarm.http.answers import Answer, Header
from multiarm.http.gate import STOPPED, Gate
from multiarm.http.plain import UPDATE, Group, Plain, Waiting
from multiarm.http.replies import Replies
from multiarm.service.state_store import GATHER_LIMIT_S

GATHER_LIMIT_REQUESTS = 256
QUIET_TURNS = 3  # for a few microseconds: turns of the loop that find nothing are short


class Rewards(NamedTuple):
    """Those of one experiment. version: of the experiment, when they were credited.

    credited: what each body adds, for the same words add the same.
    """

    experiment: Experiment
    version: int
    waiting: list[Waiting]
    increments: list[Increment]
    credited: dict[bytes, Increment]


class Gathering:
    """Credits rewards as they come, and has them counted when there are no more."""

    def __init__(self, gate: Gate, replies: Replies) -> None:
        self._supervisor = gate.services.supervisor
        self._settings = gate.services.settings
        self._replies = replies
        self._gathered: dict[str, Rewards] = {}  # by experiment
        self._count = self._quiet_turns = 0
        self._until = 0.0
        self.stamp([])

    def stamp(self, first_headers: Sequence[Header]) -> None:
        """Every response from now on begins with these headers."""
        self._counted = {is_new: answer.on_the_wire(first_headers) for is_new, answer in operations.COUNTED.items()}

    def go_on(self, arrived: Sequence[Waiting]) -> bool:
        """At the end of a turn of the loop, what came in it; whether the next turn must go on with it."""
        if arrived:
            self._credit(arrived)
            self._quiet_turns = 0
        else:
            self._quiet_turns += 1
        if not self._gathered:
            return False
        if self._quiet_turns < QUIET_TURNS and self._count < GATHER_LIMIT_REQUESTS and perf_counter() < self._until:
            return True
        self._submit()
        return False

    def _credit(self, arrived: Sequence[Waiting]) -> None:
        supervisor, gathered = self._supervisor, self._gathered
        if not gathered:
            self._count, self._until = 0, perf_counter() + GATHER_LIMIT_S
        self._count += len(arrived)
        together = None if supervisor.in_doubt else UPDATE  # what takes no more than one step
        for waiting in arrived:
            connection, plain, body, turn = waiting
            if plain.operation is not together:
                self._serve_alone(waiting)
                continue
            rewards = gathered.get(plain.experiment_id)
            try:
                if rewards is None:
                    experiment = supervisor.experiment(plain.experiment_id)
                    rewards = gathered[plain.experiment_id] = Rewards(experiment, experiment.version, [], [], {})
                increment = rewards.credited.get(body)
                if increment is None:
                    increment = supervisor.credit(rewards.experiment, operations.decode_update(body), turn.now)
                    rewards.credited[body] = increment
            except Exception as error:
                self._replies.error(connection, plain, turn, error)
                continue
            rewards.increments.append(increment)
            rewards.waiting.append(waiting)

    def _submit(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for experiment, version, waiting, increments, _ in gathered.values():
            if not self._supervisor.is_credited_right(experiment, version):
                for one in waiting:
                    self._serve_alone(one)
            elif waiting:
                _, plain, _, turn = waiting[0]
                group = Group(plain, turn, [connection for connection, *_ in waiting])
                received_at = waiting[-1][3].now  # before none of the decisions that they are for
                self._supervisor.submit(experiment, increments, received_at, partial(self._answer, group))
        self._supervisor.store.wake()

    def _answer(self, group: Group, start: int, outcomes: Sequence[bool | Exception]) -> None:
        part = group._replace(connections=group.connections[start : start + len(outcomes)])
        self._replies.each(part, outcomes, self._counted.__getitem__, operations.COUNTED.__getitem__)

    def _serve_alone(self, waiting: Waiting) -> None:
        """Answer by itself, when that can be done; uvicorn cancels it where stopping takes too long."""
        connection, plain, body, turn = waiting

        async def run() -> None:
            try:
                answer = await self._counted_alone(plain, body)
            except asyncio.CancelledError:
                self._replies.error(connection, plain, turn, STOPPED)
            except Exception as error:
                self._replies.error(connection, plain, turn, error)
            else:
                self._replies.one(connection, plain, turn, answer)

        task = asyncio.get_running_loop().create_task(run())
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def _counted_alone(self, plain: Plain, body: bytes) -> Answer:
        supervisor, experiment_id, bearer = self._supervisor, plain.experiment_id, plain.bearer
        if plain.operation is UPDATE:
            return await operations.update(supervisor, experiment_id, body, bearer)
        limit = self._settings.batch_limit_updates
        return await operations.update_batch(supervisor, experiment_id, body, limit, bearer)
