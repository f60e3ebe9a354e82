"""What the heads of requests mean, by their exact bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")

LARGEST_HEAD_BYTES = 2048


class HeadCache(Generic[V]):
    """Remembers the verdicts of the full parser, within a number of heads and of bytes; the oldest goes first.

    A head comes in at its second sight: one that never comes again would only push out others. Of each owner there are
    so many at most, and his own oldest goes first; "" owns as many as there may be. `known` is for look-ups.
    """

    def __init__(self, limit_heads: int, limit_bytes: int, owner_limit_heads: int) -> None:
        self.known: OrderedDict[bytes, V] = OrderedDict()
        self.size_bytes = 0
        self._limit_heads = limit_heads
        self._limit_bytes = limit_bytes
        self._owner_limit_heads = owner_limit_heads
        self._owners: dict[bytes, str] = {}
        self._heads_of: dict[str, OrderedDict[bytes, None]] = {}
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes, of as many heads as may be remembered

    def admit(self, head: bytes, meaning: V, owner: str = "") -> None:
        if len(head) > min(LARGEST_HEAD_BYTES, self._limit_bytes) or not self._limit_heads:
            return
        mark = hash(head)
        if mark in self._seen:
            del self._seen[mark]
            self._remember(head, meaning, owner)
            return
        self._seen[mark] = None
        if len(self._seen) > self._limit_heads:
            self._seen.popitem(last=False)

    def forget(self) -> None:
        """Every head has to be judged anew."""
        self.known.clear()
        self._owners.clear()
        self._heads_of.clear()
        self.size_bytes = 0

    def _remember(self, head: bytes, meaning: V, owner: str) -> None:
        if head in self.known:
            self._drop(head)
        self.known[head] = meaning
        self.size_bytes += len(head)
        self._owners[head] = owner
        own = self._heads_of.setdefault(owner, OrderedDict())
        own[head] = None
        if owner and len(own) > self._owner_limit_heads:
            self._drop(next(iter(own)))
        while len(self.known) > self._limit_heads or self.size_bytes > self._limit_bytes:
            self._drop(next(iter(self.known)))

    def _drop(self, head: bytes) -> None:
        del self.known[head]
        self.size_bytes -= len(head)
        owner = self._owners.pop(head)
        del self._heads_of[owner][head]
        if not self._heads_of[owner]:
            del self._heads_of[owner]
