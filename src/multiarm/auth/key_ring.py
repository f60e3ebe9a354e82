"""The keys that are believed now, read again at an interval and when a token names one that is not among them."""

import asyncio
import time
from collections.abc import Callable

import structlog

from multiarm.auth.claims import JoseHeader
from multiarm.auth.errors import InvalidToken, KeysUnavailable, UnknownKey
from multiarm.auth.key_source import KeySource, KeysUnreadable, NoKeys
from multiarm.auth.keys import Key
from multiarm.domain.errors import StartError

log = structlog.get_logger()


class KeyRing:
    """Keys that cannot be read again are believed for `lifetime_s` more.

    on_change: called when they are others; what they verified may not hold any more.
    """

    def __init__(
        self,
        source: KeySource,
        *,
        interval_s: float = 300.0,
        backoff_s: float = 10.0,
        lifetime_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self.on_change: Callable[[], None] = lambda: None
        self._interval_s, self._backoff_s, self._lifetime_s = interval_s, backoff_s, lifetime_s
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._given_up = False
        self._read_at = self._tried_at = -float("inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """For the first time; StartError where that cannot be."""
        try:
            await self._read()
        except KeysUnreadable as error:
            raise StartError(str(error)) from None

    def start(self) -> None:
        self._task = asyncio.create_task(self._refresh_forever())

    async def stop(self) -> None:
        for task in (self._task, self._refreshing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def find(self, header: JoseHeader) -> Key:
        """The one key for a token; UnknownKey where there is none, InvalidToken where its algorithm is another."""
        if self._given_up:
            raise KeysUnavailable("They could not be read for too long; the log says why. Try again.")
        lone = len(self._keys) == 1 and self._keys[0].key_id is None
        named = self._keys if lone or header.kid is None else [key for key in self._keys if key.key_id == header.kid]
        if not named:
            raise UnknownKey("No key of this server has the token's `kid`.")
        fitting = [key for key in named if key.algorithm == header.alg]
        if not fitting:
            raise InvalidToken("The token's `alg` is not the one of its key, or is not allowed (jwt_algorithms).")
        if len(fitting) > 1:
            raise InvalidToken("The token must name its key (`kid`): there are several.")
        return fitting[0]

    async def refresh(self) -> bool:
        """Read the keys now, for a token that none of them fits; False where that was tried a moment ago."""
        if self._refreshing is None and self._clock() - self._tried_at < self._backoff_s:
            return False
        await self._refresh()
        return True

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._refresh()

    async def _refresh(self) -> None:
        """Once for all who ask at the same time; a failure is logged, and the keys stay."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._read_or_log())
        await asyncio.shield(self._refreshing)

    async def _read_or_log(self) -> None:
        try:
            await self._read()
        except (KeysUnreadable, StartError) as error:
            log.warning("keys_not_read", reason=str(error))
        except Exception:
            log.exception("keys_not_read")
        finally:
            self._refreshing = None
        if self._keys and self._clock() - self._read_at > self._lifetime_s:
            log.error("keys_given_up", not_read_for_s=self._lifetime_s)
            self._keys, self._given_up = (), True
            self.on_change()

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            keys = await self._source()
        except NoKeys:
            self._show(())
            raise
        self._show(keys)

    def _show(self, keys: tuple[Key, ...]) -> None:
        self._read_at, self._given_up = self._clock(), False
        if keys != self._keys:
            self._keys = keys
            self.on_change()
            log.info("keys_read", keys=[f"{key.algorithm} {key.key_id or ''}".strip() for key in keys])
