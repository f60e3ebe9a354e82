"""Which tokens were revoked, as the database has it: looked up at an interval, beside the store and its queue."""

import asyncio
from collections.abc import Callable

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from multiarm.domain.errors import StartError
from multiarm.storage.revocations import Revocation, newer_than

log = structlog.get_logger()


class Revocations:
    """Has a connection of its own, which only reads: under the greatest load a revocation is in force in time.

    While the database does not answer, what is known stays known. on_change: called when there is something new.
    """

    def __init__(self, engine: Engine, *, interval_s: float = 0.25) -> None:
        self._engine = engine
        self.on_change: Callable[[], None] = lambda: None
        self._interval_s = interval_s
        self._connection: Connection | None = None
        self._last_number = 0
        self._token_ids: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def is_revoked(self, token_id: str | None, subject: str, issued_at: float) -> bool:
        return token_id in self._token_ids or issued_at < self._not_before.get(subject, 0.0)

    async def load(self) -> None:
        """For the first time; StartError where that cannot be."""
        try:
            self._show(await asyncio.to_thread(self._read))
        except DBAPIError as error:
            raise StartError(f"The revoked tokens cannot be read from the database ({error.orig}).") from error

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_forever())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._give_up_connection)
        self._engine.dispose()

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                self._show(await asyncio.to_thread(self._read))
                self._failing = False
            except Exception as error:
                if not self._failing:
                    log.warning("revocations_not_read", error=repr(error))
                self._failing = True
                await asyncio.to_thread(self._give_up_connection)

    def _show(self, found: list[Revocation]) -> None:
        for revocation in found:
            self._last_number = revocation.number
            if revocation.token_id is not None:
                self._token_ids.add(revocation.token_id)
            if revocation.subject is not None and revocation.not_before is not None:
                known = self._not_before.get(revocation.subject, 0.0)
                self._not_before[revocation.subject] = max(known, revocation.not_before)
        if found:
            self.on_change()

    def _read(self) -> list[Revocation]:
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            return newer_than(self._connection, self._last_number)

    def _give_up_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except DBAPIError as error:
                log.warning("database_close_failed", error=repr(error))
