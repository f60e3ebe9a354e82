"""How long the answer to a bad token waits: whoever sends many gets his refusals at a fixed rate."""

from collections import OrderedDict, deque

from multiarm.auth.errors import RateLimited, Unauthorized
from multiarm.auth.pace import Pace
from multiarm.domain.errors import MultiarmError

ADDRESSES_LIMIT = 10_000
WAITING_LIMIT = 1_000


class Refusals:
    """Answered at once, a stream of bad tokens would take the time of those who belong here.

    Each address has a rate of its own, of those that were refused something lately. Only so many wait at a time, since
    those who wait hold a connection; the rest is answered at once.
    """

    def __init__(self, rate_per_s: float, delay_limit_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._delay_limit_s = delay_limit_s
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._ends: deque[float] = deque()  # by when those who wait will have been answered

    def delay_s(self, error: MultiarmError, address: str, now: float) -> float:
        """0 for an error that is no such refusal. now: of a monotonic clock."""
        if not isinstance(error, Unauthorized | RateLimited):
            return 0.0
        delay_s = self._pace_of(address).queue(now, self._delay_limit_s)
        while self._ends and self._ends[0] <= now:
            self._ends.popleft()
        if not delay_s or len(self._ends) >= WAITING_LIMIT:
            return 0.0
        self._ends.append(now + self._delay_limit_s)
        return delay_s

    def _pace_of(self, address: str) -> Pace:
        pace = self._paces.get(address)
        if pace is None:
            pace = self._paces[address] = Pace(self._rate_per_s, max(int(self._rate_per_s), 1))
        self._paces.move_to_end(address)
        if len(self._paces) > ADDRESSES_LIMIT:
            self._paces.popitem(last=False)
        return pace
