"""What there may be of at a time: connections, requests in the application, bytes of large bodies."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address

from multiarm.domain.errors import Unavailable

LARGE_BODY_BYTES = 64 << 10  # smaller ones are bounded by the number of connections


class Overloaded(Unavailable):
    type = "overloaded"
    title = "The server has too much to do"


class Connections:
    """How many there are, in all and from each address."""

    def __init__(self, limit: int, address_limit: int) -> None:
        self._limit = limit
        self._address_limit = address_limit
        self._counts: Counter[str] = Counter()
        self._count = 0

    def arrive(self, address: str) -> None:
        """Overloaded where it is one too many, which then does not `leave`."""
        if self._count >= self._limit:
            raise Overloaded(f"There are {self._limit:,} connections already (connection_limit).")
        if self._counts[address] >= self._address_limit:
            raise Overloaded(
                f"There are {self._address_limit:,} connections from your address already (address_connection_limit)."
            )
        self._count += 1
        self._counts[address] += 1

    def leave(self, address: str) -> None:
        self._count -= 1
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 one, all of which one machine may have."""
    if ":" not in address:
        return address
    host = IPv6Address(address.partition("%")[0])
    return str(host.ipv4_mapped or host.packed[:8].hex())


class Amount:
    """Some of what there is only so much of. `name`: of the setting. share: what one owner may have of it, 0 to 1.

    A lone taker always gets what it asks for, and an owner his first; "" owns as much as there is.
    """

    def __init__(self, limit: int, name: str, share: float = 1.0) -> None:
        self._limit = limit
        self._name = name
        self._owner_limit = limit * share
        self._used = 0
        self._used_by: Counter[str] = Counter()

    def take(self, amount: int, owner: str = "") -> None:
        """Overloaded where less is left."""
        if self._used and self._used + amount > self._limit:
            raise Overloaded(f"All of the {self._limit:,} that it may have at a time are in use ({self._name}).")
        own = self._used_by[owner]
        if owner and own and own + amount > self._owner_limit:
            raise Overloaded(f"Your part of the {self._limit:,} at a time is in use ({self._name}, subject_share).")
        self._used += amount
        self._used_by[owner] = own + amount

    def give_back(self, amount: int, owner: str = "") -> None:
        self._used -= amount
        self._used_by[owner] -= amount
        if not self._used_by[owner]:
            del self._used_by[owner]

    @contextmanager
    def taken(self, amount: int, owner: str = "") -> Iterator[None]:
        self.take(amount, owner)
        try:
            yield
        finally:
            self.give_back(amount, owner)


class LargeBody:
    """How much of the amount of large bodies one request holds."""

    __slots__ = ("_amount", "_held_bytes", "owner")

    def __init__(self, amount: Amount, owner: str = "") -> None:
        self._amount = amount
        self._held_bytes = 0
        self.owner = owner

    def grow(self, size_bytes: int) -> None:
        """It is known to be that large; Overloaded where that is too much."""
        if size_bytes > max(LARGE_BODY_BYTES, self._held_bytes):
            self._amount.take(size_bytes - self._held_bytes, self.owner)
            self._held_bytes = size_bytes

    @property
    def is_held(self) -> bool:
        return self._held_bytes > 0

    def release(self) -> None:
        if self._held_bytes:
            self._amount.give_back(self._held_bytes, self.owner)
            self._held_bytes = 0
