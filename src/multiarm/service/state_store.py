"""The StateStore: owns the database, in its own thread. What waits is committed as one group."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, Engine

from multiarm.domain.errors import Busy, CommitUnknown, DatabaseGone, StoreUnavailable
from multiarm.domain.evidence import Row
from multiarm.service.mailbox import Mailbox
from multiarm.service.reports import FailureReport
from multiarm.service.tally import Histogram
from multiarm.storage.engine import DatabaseFile, is_lost, transact
from multiarm.storage.evidence import KnownRows
from multiarm.storage.experiments import beat
from multiarm.storage.rewards import GroupResult, Outcome, UpdateRequest, commit_updates

log = structlog.get_logger()
T = TypeVar("T")

GATHER_LIMIT_S = 0.002
LARGE_GROUP_UPDATES = 256
SILENT = "The database does not answer."
COMMIT_BOUNDS_S = (5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMIT_BOUNDS_UPDATES = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536)

ShownRows = dict[int, tuple[int, dict[int, Row]]]
Reply = Callable[[Any], None]


class UpdateMessage(msgspec.Struct, frozen=True, gc=False):
    request: UpdateRequest
    reply: Reply


class WorkMessage(msgspec.Struct, frozen=True):
    """Any other transaction, administrative or reading: never grouped."""

    work: Callable[[Connection], Any]
    reply: Reply


Message = UpdateMessage | WorkMessage


class StateStore:
    """All access to the database, in order, through one bounded mailbox.

    Replies are called on the event loop, in the order of the commits, after `on_rows` has shown what a group
    changed: with the result, or with the exception that says why nothing was changed. `complaint`: what is wrong with
    the database, from a failure of disk or connection on, until something is written again; None where it answers.
    """

    def __init__(
        self,
        engine: Engine,
        node: int,
        *,
        mailbox_size_updates: int = 100_000,
        group_limit_updates: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.node = node
        self.complaint: str | None = None
        self._gathering = self._arrived = False
        self._gather_until = 0.0
        self._engine = engine
        self._file = DatabaseFile(engine)
        self._mailbox: Mailbox[Message] = Mailbox(mailbox_size_updates)
        self._group_limit = group_limit_updates
        self._clock = clock
        self.commit_durations_s = Histogram(COMMIT_BOUNDS_S)
        self.commit_sizes = Histogram(COMMIT_BOUNDS_UPDATES)
        self._connection: Connection | None = None
        self._known = KnownRows()
        self._failures = FailureReport()
        self._thread = threading.Thread(target=self._run, name="state-store", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop, on_rows: Callable[[ShownRows], None]) -> None:
        self._loop = loop
        self._on_rows = on_rows
        self._thread.start()

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Finish what waits, then close the database."""
        self._mailbox.close()
        await asyncio.to_thread(self._thread.join, timeout_s)

    # --- on the event loop -------------------------------------------------------------------------------------

    def update(self, request: UpdateRequest, reply: Reply) -> None:
        """Enqueue; Busy where the mailbox is full. `reply` gets list[bool], for each increment whether it was new."""
        self._put(UpdateMessage(request, reply), len(request.increments))

    @property
    def waiting_updates(self) -> int:
        return self._mailbox.waiting

    @property
    def capacity_updates(self) -> int:
        return self._mailbox.capacity

    @property
    def room_updates(self) -> int:
        """How many more may wait."""
        return self._mailbox.room

    def busy(self) -> Busy:
        """For those beyond `room_updates`."""
        return self._mailbox.busy()

    def promised(self, update_count: int) -> AbstractContextManager[None]:
        """Room for updates that are still being read; Busy where there is none."""
        return self._mailbox.promised(update_count)

    @property
    def available(self) -> bool:
        return self.complaint is None

    async def probe(self, timeout_s: float) -> None:
        """Write, and so learn whether it is `available`. StoreUnavailable where it is not."""
        work = partial(beat, node=self.node, now=self._clock())
        try:
            async with asyncio.timeout(timeout_s):  # `wait_for` of Python 3.11 may lose a cancellation
                await self.run(work, self._found_well)
        except TimeoutError:
            self.complaint = SILENT
            raise StoreUnavailable(f"The database has not answered for {timeout_s:g} s.") from None

    def _found_well(self, _written: object) -> None:
        self.complaint = None

    async def run(self, work: Callable[[Connection], T], then: Callable[[T], object] | None = None) -> T:
        """Run `work` in a transaction of its own. `then` gets its result on the loop, in step with the commits.

        `then` is called even where the caller has gone by then.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def reply(result: T | BaseException) -> None:
            if then is not None and not isinstance(result, BaseException):
                try:
                    then(result)
                except Exception as error:
                    result = error
            settle(future, result)

        self._put(WorkMessage(work, reply), 1)
        return await future

    def _put(self, message: Message, weight: int) -> None:
        self._mailbox.put(message, weight)
        self._arrived = True
        if not self._gathering:
            self._gathering = True
            self._gather_until = time.monotonic() + GATHER_LIMIT_S
            self._loop.call_soon(self._gather)

    def wake(self) -> None:
        """Commit what waits: whoever calls has gathered it himself."""
        self._gathering = False
        self._mailbox.wake()

    def _gather(self) -> None:
        """Wake the thread after a turn that brought nothing more: a small group costs as much as a large one."""
        if not self._gathering:
            return
        small = self._mailbox.waiting < LARGE_GROUP_UPDATES
        if small and self._arrived and time.monotonic() < self._gather_until:
            self._arrived = False
            self._loop.call_soon(self._gather)
        else:
            self._gathering = False
            self._mailbox.wake()

    # --- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while messages := self._mailbox.take(self._group_limit):
            for is_update, group in groupby(messages, key=lambda message: isinstance(message, UpdateMessage)):
                if is_update:
                    self._commit_group([message for message in group if isinstance(message, UpdateMessage)])
                else:
                    for message in group:
                        self._work(message)
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _work(self, message: Message) -> None:
        assert isinstance(message, WorkMessage)
        self._known.forget()
        try:
            result = transact(self._connected(), message.work)
        except Exception as error:
            result = self._explained(error)
        self._deliver({}, [message.reply], [result])

    def _commit_group(self, messages: Sequence[UpdateMessage]) -> None:
        requests = [message.request for message in messages]
        work = partial(commit_updates, node=self.node, requests=requests, now=self._clock(), known=self._known)
        began_at = time.monotonic()
        try:
            result = transact(self._connected(), work, raw=True)
        except Exception as error:
            self._known.forget()
            if is_lost(error):
                result = GroupResult([self._explained(error)] * len(requests), {})
            else:
                log.warning("group_failed", error=repr(error), request_count=len(requests))
                result = self._commit_one_by_one(requests)
        self.commit_durations_s.observe(time.monotonic() - began_at)
        self.commit_sizes.observe(sum(len(request.increments) for request in requests))
        self._deliver(result.rows, [message.reply for message in messages], result.outcomes)

    def _commit_one_by_one(self, requests: Sequence[UpdateRequest]) -> GroupResult:
        """Each request in a savepoint, so that a bad one fails alone."""

        def work(connection: Connection) -> GroupResult:
            outcomes: list[Outcome] = []
            rows: ShownRows = {}
            for request in requests:
                try:
                    with connection.begin_nested():
                        single = commit_updates(connection, self.node, [request], self._clock())
                except Exception as error:
                    if is_lost(error):
                        raise
                    outcomes.append(error)
                    continue
                outcomes.extend(single.outcomes)
                for uid, (epoch, shown) in single.rows.items():
                    rows.setdefault(uid, (epoch, {}))[1].update(shown)
            return GroupResult(outcomes, rows)

        try:
            return transact(self._connected(), work)
        except Exception as error:
            return GroupResult([self._explained(error)] * len(requests), {})

    def _judge(self, rows: ShownRows, outcomes: Sequence[object]) -> None:
        """Reading may go well where writing does not: only rewards and probes show that all is well again."""
        failures = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]
        if failures:
            self.complaint = str(failures[0]) if isinstance(failures[0], DatabaseGone) else SILENT
        elif rows:
            self.complaint = None

    def _connected(self) -> Connection:
        self._file.require_in_place()
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _explained(self, error: Exception) -> Exception:
        """The error for the caller; a connection that may be broken is given up."""
        if not is_lost(error):
            return error
        self._failures.note(error)
        if isinstance(error, DatabaseGone):  # as long as the connection is open, the file can be saved
            return error
        self._give_up_connection()
        if isinstance(error, CommitUnknown):
            return error
        return StoreUnavailable("The database does not answer; nothing was changed. Try again in a moment.")

    def _give_up_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception as error:
            log.warning("database_close_failed", error=repr(error))

    def _deliver(self, rows: ShownRows, replies: Sequence[Reply], outcomes: Sequence[Any]) -> None:
        """One wake-up of the loop for the whole group."""

        def on_loop() -> None:
            try:
                self._on_rows(rows)
            except Exception:
                log.exception("rows_not_shown")
            self._judge(rows, outcomes)
            for reply, outcome in zip(replies, outcomes, strict=True):
                try:
                    reply(outcome)
                except Exception:  # what fails for one caller must not keep the others from their answers
                    log.exception("reply_failed")

        try:
            self._loop.call_soon_threadsafe(on_loop)
        except RuntimeError:  # the loop is closed: nobody waits for the answer any more
            log.warning("reply_dropped")


def settle(future: "asyncio.Future[T]", result: T | BaseException) -> None:
    """Resolve a future, unless whoever awaited it has gone."""
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
