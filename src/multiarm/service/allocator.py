"""The Allocator: keeps allocations fresh within a budget, and the costly ones off the event loop."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from multiarm.domain.allocation import Allocation
from multiarm.domain.experiment import Experiment
from multiarm.domain.snapshot import Snapshot


class Budget:
    """A share of one core, for the whole process: what was spent is earned back at `share` seconds a second."""

    def __init__(self, share: float, *, burst_s: float = 0.005, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._burst_s = burst_s
        self._clock = clock
        self._credit_s = burst_s
        self._earned_until = clock()

    def allows(self) -> bool:
        now = self._clock()
        self._credit_s = min(self._burst_s, self._credit_s + (now - self._earned_until) * self._share)
        self._earned_until = now
        return self._credit_s > 0

    def spend(self, duration_s: float) -> None:
        self._credit_s -= duration_s


class Allocator:
    """Refreshes an experiment's allocation when a draw finds it out of date.

    New evidence and the passing of time wait for the budget; a change of arms, policy, guardrails or epoch does
    not. What is expected to take longer than `inline_limit_s` is computed in `executor`, and until it is there draws
    use the old vector without the arms that are gone, or an even split. on_failure is told of policies that fail there.
    """

    def __init__(
        self,
        budget: Budget,
        executor: Executor,
        *,
        inline_limit_s: float = 0.001,
        on_failure: Callable[[Experiment, Exception], None],
    ) -> None:
        self._budget = budget
        self._executor = executor
        self._inline_limit_s = inline_limit_s
        self._on_failure = on_failure
        self._running: dict[int, int] = {}  # uid → version under way
        self._stopgaps: dict[int, Allocation] = {}
        self._costs: dict[int, tuple[int, float]] = {}  # uid → (arm count, seconds)

    def refresh(self, experiment: Experiment, now: float) -> Allocation:
        """The allocation to draw from now."""
        current = experiment.allocation
        changed = current is None or current.version != experiment.version
        if current is not None and not changed and not self._budget.allows():
            return current
        if self.expected_cost_s(experiment) <= self._inline_limit_s:
            allocation, duration_s = timed(experiment.snapshot(now))
            self._spent(experiment, allocation, duration_s)
            return experiment.adopt(allocation)
        self._start(experiment, now)
        if current is None or changed:
            return self._stopgap(experiment)
        return current

    def expected_cost_s(self, experiment: Experiment) -> float:
        """What it took lately with as many arms, or the policy's own guess."""
        arm_count = len(experiment.enabled_arms)
        known_count, cost_s = self._costs.get(experiment.state.uid, (0, 0.0))
        return cost_s if known_count == arm_count else experiment.state.spec.policy.expected_cost_s(arm_count)

    def forget(self, uid: int) -> None:
        """The experiment was deleted."""
        for remembered in (self._running, self._stopgaps, self._costs):
            remembered.pop(uid, None)

    def _spent(self, experiment: Experiment, allocation: Allocation, duration_s: float) -> None:
        self._budget.spend(duration_s)
        arm_count, cost_s = self._costs.get(experiment.state.uid, (0, 0.0))
        if arm_count == len(allocation.arms):  # half the old, so that one hiccup does not decide for long
            duration_s = (cost_s + duration_s) / 2
        self._costs[experiment.state.uid] = len(allocation.arms), duration_s

    def _start(self, experiment: Experiment, now: float) -> None:
        """Compute in the executor, unless that is under way for this version already."""
        uid, version = experiment.state.uid, experiment.version
        if self._running.get(uid) == version:
            return
        self._running[uid] = version
        future = asyncio.get_running_loop().run_in_executor(self._executor, timed, experiment.snapshot(now))
        future.add_done_callback(lambda done: self._finish(experiment, version, done))

    def _finish(self, experiment: Experiment, version: int, done: "asyncio.Future[tuple[Allocation, float]]") -> None:
        uid = experiment.state.uid
        if self._running.get(uid) == version:
            del self._running[uid]
            self._stopgaps.pop(uid, None)
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, Exception):
            self._on_failure(experiment, error)
        elif error is None:
            allocation, duration_s = done.result()
            self._spent(experiment, allocation, duration_s)
            experiment.adopt(allocation)

    def _stopgap(self, experiment: Experiment) -> Allocation:
        """The old vector over the arms enabled now, or an even split; not adopted, made once a version."""
        known = self._stopgaps.get(experiment.state.uid)
        if known is not None and known.version == experiment.version:
            return known
        arms = experiment.enabled_arms
        current = experiment.allocation
        made = None if current is None else current.restricted(arms, experiment.version)
        made = made or Allocation.over(arms, [1 / len(arms)] * len(arms), version=experiment.version)
        self._stopgaps[experiment.state.uid] = made
        return made


def timed(snapshot: Snapshot) -> tuple[Allocation, float]:
    start = time.perf_counter()
    return snapshot.allocate(), time.perf_counter() - start
