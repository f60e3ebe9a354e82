"""What is wrong with a batch: every fault with its path and type, and which of them decides the answer."""

from collections.abc import Callable
from operator import itemgetter

from multiarm.domain.errors import FAULT_LIMIT, BatchRejected, Fault, Gone, Invalid, MultiarmError, NotFound

SLICE_UPDATES = 250  # looked at between two turns of the loop: a large batch must not hold up the draws
_PRECEDENCE: tuple[type[MultiarmError], ...] = (Invalid, NotFound, Gone)


class BatchFaults:
    """Collects faults. The batch is answered as the first of 422, 404 and 410 that occurs; 100 faults are listed."""

    def __init__(self, told: Callable[[MultiarmError], MultiarmError] = lambda error: error) -> None:
        """told: what of an error its sender may know."""
        self._told = told
        self._faults: list[tuple[int, Fault]] = []
        self.faulty_count = 0
        self._worst: MultiarmError | None = None

    def add(self, index: int, error: MultiarmError) -> None:
        """Update number `index` is at fault. What is no fault of the request (503, say) is raised at once."""
        error = self._told(error)
        if not isinstance(error, _PRECEDENCE):
            raise error
        self.faulty_count += 1
        if self._worst is None or rank(error) < rank(self._worst):
            self._worst = error
        room = FAULT_LIMIT - len(self._faults)
        self._faults.extend((index, fault) for fault in faults_of(error, f"updates[{index}]")[:room])

    @property
    def full(self) -> bool:
        """No more faults will be listed, so that nobody need look for details."""
        return len(self._faults) >= FAULT_LIMIT

    def raise_any(self) -> None:
        """BatchRejected where there was a fault."""
        if self._worst is not None:
            self._faults.sort(key=itemgetter(0))  # what could not be decoded was found first
            raise BatchRejected(self._worst, [fault for _, fault in self._faults], self.faulty_count)


def rank(error: MultiarmError) -> int:
    return next(place for place, kind in enumerate(_PRECEDENCE) if isinstance(error, kind))


def faults_of(error: MultiarmError, prefix: str = "") -> list[Fault]:
    """The error as faults, their paths below `prefix`."""
    return [fault._replace(path=joined(prefix, fault.path)) for fault in error.as_faults()]


def joined(prefix: str, path: str) -> str:
    return f"{prefix}.{path}" if prefix and path else prefix or path
