"""A bounded mailbox between the event loop and an actor's own thread."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Generic, TypeVar

from multiarm.domain.errors import Busy, StoreUnavailable

M = TypeVar("M")


class Mailbox(Generic[M]):
    """First in, first out; bounded by the weight of what waits, not by time. `put` never blocks.

    One thread puts and another takes. Each counts for itself, so that `put` does without a lock.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._messages: deque[tuple[M, int]] = deque()
        self._put_weight = 0
        self._taken_weight = 0
        self._promised_weight = 0
        self._changed = Condition()
        self._awake = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """The weight of what waits."""
        return self._put_weight - self._taken_weight

    @property
    def room(self) -> int:
        """The weight that still fits."""
        return self.capacity - self._put_weight + self._taken_weight

    def put(self, message: M, weight: int = 1) -> None:
        """Leave a message, for `wake` to show. Busy where it would grow past its capacity; a lone one always fits."""
        waiting = self._put_weight - self._taken_weight
        if self._closed:
            raise StoreUnavailable("The server is shutting down.")
        if waiting and waiting + weight > self.capacity:
            raise self.busy()
        self._put_weight += weight
        self._messages.append((message, weight))

    @contextmanager
    def promised(self, weight: int) -> Iterator[None]:
        """Of messages that are still being made: Busy where, with all others that are, it would find no room."""
        taken = self._put_weight - self._taken_weight + self._promised_weight
        if taken and taken + weight > self.capacity:
            raise self.busy()
        self._promised_weight += weight
        try:
            yield
        finally:
            self._promised_weight -= weight

    def busy(self) -> Busy:
        waiting = self._put_weight - self._taken_weight + self._promised_weight
        return Busy(f"{waiting} updates wait for the database already; try again in a moment.")

    def wake(self) -> None:
        """Let the other thread look at what was put."""
        with self._changed:
            self._awake = True
            self._changed.notify()

    def take(self, limit: int) -> list[M]:
        """Wait for messages; as many as weigh `limit` together, one at least. Empty once closed and drained."""
        with self._changed:
            while not (self._messages and self._awake) and not self._closed:
                self._changed.wait()
            taken: list[M] = []
            weight = 0
            while self._messages and (not taken or weight + self._messages[0][1] <= limit):
                message, its_weight = self._messages.popleft()
                taken.append(message)
                weight += its_weight
            self._taken_weight += weight
            self._awake = bool(self._messages)
            return taken

    def close(self) -> None:
        """Take no more; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
