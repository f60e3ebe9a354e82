"""Turns: of what takes much memory, one at a time is done; who comes meanwhile waits, and when many do is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from multiarm.domain.errors import Busy


class Turns:
    """limit: of those under way, the one that has its turn included. what: they do, for who is refused."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._count = 0
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """In order of arrival; Busy at once beyond the limit."""
        if self._count >= self._limit:
            raise Busy(f"{self._count} requests {self._what} already; try again in a moment.")
        self._count += 1
        try:
            async with self._one_at_a_time:
                yield
        finally:
            self._count -= 1
