"""Rewards on their way."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiarm.domain.evidence import F64, I64

NONE = -1
BYTES_EACH = 26  # of each run and each draw of the longest delay


class Arrived(NamedTuple):
    """At most one reward a run: of run `rows[i]` for `arms[i]`, drawn at draw number `since[i]`; nan: it is missing."""

    rows: I64
    arms: I64
    reward: F64
    propensity: F64
    since: I64

    def which(self, come: NDArray[np.bool_]) -> "Arrived":
        """Some of them."""
        return Arrived(self.rows[come], self.arms[come], self.reward[come], self.propensity[come], self.since[come])


class Waiting:
    """A ring of draws, `longest` + 1 of them, and for each run and coming draw a linked list of the rewards due then.

    Bounded by its size at the start, and each list is walked for all runs at once.
    """

    def __init__(self, runs: int, longest: int) -> None:
        self._size = longest + 1
        self._all = np.arange(runs)
        shape = (self._size, runs)
        self._first = np.full(shape, NONE, dtype=np.int32)
        self._next = np.full(shape, NONE, dtype=np.int32)
        self._arms: NDArray[np.int16] = np.zeros(shape, dtype=np.int16)
        self._reward, self._propensity = np.zeros(shape), np.zeros(shape)

    def put(self, step: int, delay: I64, arms: I64, reward: F64, propensity: F64) -> None:
        """One reward of each run, due `delay` int64[R] draws from now."""
        slot = step % self._size
        due = (step + delay) % self._size
        self._arms[slot], self._reward[slot], self._propensity[slot] = arms, reward, propensity
        self._next[slot] = self._first[due, self._all]
        self._first[due, self._all] = slot

    def due(self, step: int) -> Iterator[Arrived]:
        """All that is due at this draw."""
        slots = self._first[step % self._size].astype(np.int64)
        self._first[step % self._size] = NONE
        while (rows := np.flatnonzero(slots != NONE)).size:
            at = slots[rows]
            since = step - (step - at) % self._size
            arms = self._arms[at, rows].astype(np.int64)
            yield Arrived(rows, arms, self._reward[at, rows], self._propensity[at, rows], since)
            slots[rows] = self._next[at, rows]
