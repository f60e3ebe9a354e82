"""How the server listens and stops: uvicorn's, with our clock for connections and one deadline for all of stopping."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator

import uvicorn

from multiarm.http.express import ExpressLane
from multiarm.http.protocol import Protocol

TICKS_A_SECOND = 10  # of uvicorn's main loop
TICKS_A_TIMEOUT_CHECK = 5


class Deadline:
    """One for the whole of stopping, from the signal on."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._ends_at: float | None = None

    @property
    def started(self) -> bool:
        return self._ends_at is not None

    def start(self) -> None:
        self._ends_at = self._ends_at or time.monotonic() + self.timeout_s

    def passed_s(self) -> float:
        """Since the signal."""
        return self.timeout_s - self.left_s()

    def left_s(self, reserve_s: float = 0.0) -> float:
        """What is left, less what those after need; never quite nothing."""
        self.start()
        return max((self._ends_at or 0.0) - time.monotonic() - reserve_s, 0.1)


class Server(uvicorn.Server):
    """uvicorn, but a signal that asks it to stop is not raised again after a clean stop: the exit status is 0."""

    def __init__(
        self, config: uvicorn.Config, deadline: Deadline, lane: ExpressLane | None, shutdown_delay_s: float
    ) -> None:
        super().__init__(config)
        self._deadline = deadline
        self._lane = lane
        self._shutdown_delay_s = shutdown_delay_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        should_exit = await super().on_tick(counter)
        if self._lane is not None and counter % TICKS_A_SECOND == 0:
            self._lane.stamp(self.server_state.default_headers)
        if counter % TICKS_A_TIMEOUT_CHECK == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.check_time(now)
        return should_exit and (self.force_exit or self._deadline.passed_s() >= self._shutdown_delay_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer whoever still waits when there is no more time."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, Protocol):
                connection.give_up()

    def handle_exit(self, sig: int, _frame: object) -> None:
        self._deadline.start()
        super().handle_exit(sig, None)
