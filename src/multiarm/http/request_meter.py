"""How many requests of each kind were answered, and how long that took."""

from multiarm.service.accountant import RequestRun
from multiarm.service.tally import Histogram

BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
OTHER_METHOD = "other"  # a client may send any word for one

Kind = tuple[str, str, int]  # method, template of the path, class of the status: 2 for 2xx


class RequestMeter:
    """Both doors report here, the express lane once for all that it answered in a turn."""

    def __init__(self) -> None:
        self.durations_s: dict[Kind, Histogram] = {}

    def note(self, run: RequestRun) -> None:
        durations = self.durations_s.get((run.method, run.route, run.status // 100))
        if durations is None:
            durations = self._new(run.method, run.route, run.status // 100)
        durations.observe(run.duration_s, run.row_count)

    def _new(self, method: str, route: str, status_class: int) -> Histogram:
        kind = method if method in METHODS else OTHER_METHOD, route, status_class
        return self.durations_s.setdefault(kind, Histogram(BOUNDS_S))
