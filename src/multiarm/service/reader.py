"""Reads the database beside the StateStore and its queue: for what need not be in step with the commits."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine

from multiarm.domain.errors import StoreUnavailable
from multiarm.storage.engine import is_lost

log = structlog.get_logger()
T = TypeVar("T")


class Reader:
    """One thread, with an engine that only reads. What waits for it is bounded by `request_limit`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="reader")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds; StoreUnavailable where the database does not answer."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, work)

    async def stop(self) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._engine.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except Exception as error:
            if not is_lost(error):
                raise
            log.warning("database_not_read", error=repr(error))
            self._engine.dispose()
            raise StoreUnavailable("The database does not answer. Try again in a moment.") from error
