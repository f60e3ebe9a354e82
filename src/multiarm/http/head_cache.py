"""What the heads of requests mean, by their exact bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

LARGEST_HEAD_BYTES = 2048


class HeadCache(Generic[V]):
    """Remembers the verdicts of the full parser, within a number of heads and of bytes; the oldest goes first.

    A head comes in at its second sight: one that never comes again would only push out others. `known` is for
    look-ups.
    """

    def __init__(self, limit_heads: int, limit_bytes: int) -> None:
        self.known: OrderedDict[bytes, V] = OrderedDict()
        self.size_bytes = 0
        self._limit_heads = limit_heads
        self._limit_bytes = limit_bytes
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes, of as many heads as may be remembered

    def admit(self, head: bytes, meaning: V) -> None:
        if len(head) > min(LARGEST_HEAD_BYTES, self._limit_bytes) or not self._limit_heads:
            return
        mark = hash(head)
        if mark in self._seen:
            del self._seen[mark]
            self._remember(head, meaning)
            return
        self._seen[mark] = None
        if len(self._seen) > self._limit_heads:
            self._seen.popitem(last=False)

    def _remember(self, head: bytes, meaning: V) -> None:
        if head not in self.known:
            self.size_bytes += len(head)
        self.known[head] = meaning
        while len(self.known) > self._limit_heads or self.size_bytes > self._limit_bytes:
            oldest, _ = self.known.popitem(last=False)
            self.size_bytes -= len(oldest)
