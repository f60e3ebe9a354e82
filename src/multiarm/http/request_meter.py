"""How many requests of each kind were answered, and how long that took."""

from collections import Counter
from typing import NamedTuple

from multiarm.service.tally import Histogram

BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
OTHER_METHOD = "other"  # a client may send any word for one


class Kind(NamedTuple):
    """Requests that are counted together: by template of the path, and class of the status, 2 for 2xx."""

    method: str
    route: str
    status_class: int


class RequestMeter:
    """Both doors report here, the express lane once for all that it answered in a turn."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self.durations_s: dict[tuple[str, str], Histogram] = {}

    def note(self, method: str, route: str, status: int, duration_s: float, count: int = 1) -> None:
        if method not in METHODS:
            method = OTHER_METHOD
        self.counts[Kind(method, route, status // 100)] += count
        durations = self.durations_s.get((method, route))
        if durations is None:
            durations = self.durations_s[method, route] = Histogram(BOUNDS_S)
        durations.observe(duration_s, count)
