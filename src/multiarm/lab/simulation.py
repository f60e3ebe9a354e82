"""Many experiments at once, draw by draw, on the code that serves.

Shapes: R runs, K arms, k of them there so far, C statistics, S points of a curve. Arms are numbered in their order of
arrival here, so that those that are there come first. Arrays lie in memory by statistic, arm and run: numpy then takes
sums over arms, which are few, along whole runs, which are many.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from multiarm.domain.allocation import guarded
from multiarm.domain.evidence import F64, FORGOTTEN, I64, Evidence
from multiarm.domain.policies.base import Observations, Situation, choose
from multiarm.lab.environments import Segment
from multiarm.lab.study import Entry, Study
from multiarm.lab.waiting import BYTES_EACH, Arrived, Waiting

Number = TypeVar("Number", np.float64, np.int64)

RUN_ARMS_AT_ONCE = 5_000  # so that numpy has enough to do, and what a draw touches stays in the cache
RUNS_AT_ONCE = 1_000
WAITING_LIMIT_BYTES = 64 << 20
LONGEST_DELAY = 20  # of geometric delays, in means: 2 in 10⁹ would be longer


class Curves(NamedTuple):
    """What is kept of R runs at S points of the curve.

    regret: float64[R, S]. shown: int64[S, K], draws of each arm since the point before, summed over the runs; right:
    int64[S], those of an arm that was best; found: int64[S], runs in which the best arm had the best mean so far.
    """

    regret: F64
    shown: I64
    right: I64
    found: I64


def play(study: Study, entry: Entry, runs: int, seed: np.random.SeedSequence) -> Curves:
    """`runs` experiments of one policy."""
    return Runs(study, entry, runs, np.random.default_rng(seed)).play()


def runs_at_once(study: Study) -> int:
    """How many; it depends on nothing but the study, for the figures depend on it."""
    by_memory = WAITING_LIMIT_BYTES // (BYTES_EACH * (longest_delay(study) + 1))
    return max(min(RUNS_AT_ONCE, RUN_ARMS_AT_ONCE // len(study.environment.start), by_memory), 1)


def longest_delay(study: Study) -> int:
    """In draws; what comes after the horizon need not be told apart."""
    delay = study.environment.delay * (LONGEST_DELAY if study.environment.delay_kind == "geometric" else 1)
    return min(int(np.ceil(delay)), study.horizon)


class Runs:
    """Experiments under way."""

    def __init__(self, study: Study, entry: Entry, runs: int, rng: np.random.Generator) -> None:
        self._study, self._entry, self._rng = study, entry, rng
        self._environment, self._policy = study.environment, entry.policy
        self._traits = entry.policy.traits
        self._order = study.environment.order
        self._rows, self._ones = np.arange(runs), np.ones(runs)
        arms = len(self._order)
        self._sums = np.zeros((len(self._traits.columns), arms, runs))
        self._pull_count = np.zeros((arms, runs), dtype=np.int64)
        self._as_of = np.zeros((arms, runs))
        self._pending = np.zeros((arms, runs))
        self._head_start = np.zeros((arms, runs))
        longest = longest_delay(study)
        self._waiting = Waiting(runs, longest) if longest else None
        self._longest = longest
        self._there = 0
        self._evenly = 0.0  # what the guardrails split evenly

    def play(self) -> Curves:
        study, runs, arms = self._study, len(self._rows), len(self._order)
        points = {step: index for index, step in enumerate(study.steps.tolist())}
        regret, shown = np.zeros(runs), np.zeros(arms, dtype=np.int64)
        right = 0
        curves = empty_curves(runs, len(points), arms)
        for segment in self._environment.segments(study.horizon):
            if len(segment.level) > self._there:
                self._arrive(len(segment.level), segment.start)
            for step in range(segment.start, segment.end):
                drawn = self._step(step, segment)
                gap = segment.gap[drawn]
                regret += gap
                right += int((gap == 0).sum())
                shown += np.bincount(drawn, minlength=arms)
                point = points.get(step + 1)
                if point is not None:
                    curves.regret[:, point] = regret
                    curves.shown[point, self._order] = shown
                    curves.right[point], curves.found[point] = right, self._found(segment.gap == 0)
                    shown[:], right = 0, 0
        return curves

    def _step(self, step: int, segment: Segment) -> I64:
        """One draw of each run, and the rewards that come after it; the arms drawn."""
        environment, rng = self._environment, self._rng
        drawn, propensity = self._draw(step)
        reward = environment.rewards(segment.level[drawn], self._order[drawn], rng)
        if environment.missing:
            reward[rng.random(len(reward)) < environment.missing] = np.nan
        if self._waiting is None:
            self._credit(Arrived(self._rows, drawn, reward, propensity, np.full(len(drawn), step)), step)
            return drawn
        self._pending[drawn, self._rows] += 1
        self._waiting.put(step, self._delays(), drawn, reward, propensity)
        for arrived in self._waiting.due(step):
            self._pending[arrived.arms, arrived.rows] -= 1
            self._credit(arrived, step)
        return drawn

    def _draw(self, step: int) -> tuple[I64, F64]:
        """An arm for each run, and its propensity where the policy needs it (else 1)."""
        policy, entry, rng = self._policy, self._entry, self._rng
        evidence, situation = self._evidence(step), self._situation()
        if self._traits.needs_decision:
            probabilities, _ = guarded(policy.allocate(evidence, situation), entry.random_share, entry.floor)
            drawn = choose(probabilities, rng)
            return drawn, probabilities[self._rows, drawn]
        drawn = policy.sample(evidence, rng, situation)
        if self._evenly > 0:  # the guardrails' part of the traffic, as a coin
            any_arm = rng.integers(0, self._there, len(drawn))
            drawn = np.where(rng.random(len(drawn)) < self._evenly, any_arm, drawn)
        return drawn, self._ones

    def _credit(self, arrived: Arrived, step: int) -> None:
        """Add the rewards up, as the server does. At most one of each run, so none is lost in the indexing."""
        if self._environment.missing:
            arrived = arrived.which(~np.isnan(arrived.reward))
        cells = arrived.arms * len(self._rows) + arrived.rows
        sums, as_of, pull_count = cells_of(self._sums), cells_of(self._as_of), cells_of(self._pull_count)
        ones = self._ones[: len(cells)]
        numbers = self._policy.increments(Observations(arrived.reward, arrived.propensity, ones, ones))
        row = sums.take(cells, axis=-1).T
        forgets = self._entry.half_life_draws is not None
        if forgets:
            row = row * self._weight(step - as_of[cells])[:, None]
            as_of[cells] = step
        if self._traits.path_columns:
            numbers = self._policy.completed_many(numbers, row, self._there)
        if forgets:
            numbers = numbers * self._weight(step - arrived.since)[:, None]
        sums[:, cells] = (row + numbers).T
        pull_count[cells] += 1

    def _evidence(self, step: int) -> Evidence:
        there = self._there
        sums = self._sums[:, :there]
        if self._entry.half_life_draws is not None:
            sums = sums * self._weight(step - self._as_of[:there])
        return Evidence(sums.transpose(2, 1, 0), self._as_of[:there].T, self._pull_count[:there].T)

    def _situation(self) -> Situation:
        there = self._there
        waits = self._traits.takes_pending and self._waiting is not None
        return Situation(
            pending=self._pending[:there].T if waits else None,
            head_start=self._head_start[:there].T if self._head_start.any() else None,
            minimize=self._environment.goal == "minimize",
        )

    def _arrive(self, count: int, step: int) -> None:
        """From now on there are so many arms; each that joins others may begin with something."""
        if 0 < self._there < count:
            evidence, situation = self._evidence(step), self._situation()
            for run in self._rows:
                own = Evidence(evidence.sums[run], evidence.as_of[run], evidence.pull_count[run])
                begun = None if situation.head_start is None else situation.head_start[run]
                alone = Situation(head_start=begun, minimize=situation.minimize)
                self._head_start[self._there : count, run] = self._policy.head_start(own, alone)
        self._there = count
        self._evenly = float(guarded(np.zeros(count), self._entry.random_share, self._entry.floor)[0].sum())

    def _delays(self) -> I64:
        """Of the rewards of one draw of each run."""
        runs, mean = len(self._rows), self._environment.delay
        if self._environment.delay_kind == "fixed":
            return np.full(runs, self._longest, dtype=np.int64)
        return np.minimum(self._rng.geometric(1 / (1 + mean), runs) - 1, self._longest)

    def _weight(self, age: F64 | I64) -> F64:
        """What is left of 1 after so many draws."""
        weight = np.exp2(-age / (self._entry.half_life_draws or np.inf))
        return np.where(weight >= FORGOTTEN, weight, 0.0)

    def _found(self, best: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
        """In how many runs an arm that is best has a better mean so far than each that is not."""
        pulls, reward = self._sums[0, : self._there], self._sums[1, : self._there]
        sign = -1 if self._environment.goal == "minimize" else 1
        mean = np.where(pulls > 0, sign * reward / np.where(pulls > 0, pulls, 1.0), -np.inf)
        others = mean[~best].max(axis=0) if not best.all() else -np.inf
        return int((mean[best].max(axis=0) > others).sum())


def cells_of(array: NDArray[Number]) -> NDArray[Number]:
    """The same memory with arms and runs in one axis: cell arm · R + run."""
    return array.reshape(*array.shape[:-2], -1)


def empty_curves(runs: int, points: int, arms: int) -> Curves:
    whole = np.zeros(points, dtype=np.int64)
    return Curves(np.zeros((runs, points)), np.zeros((points, arms), dtype=np.int64), whole, whole.copy())


def joined(parts: list[Curves]) -> Curves:
    """The curves of all runs together."""
    return Curves(
        np.concatenate([part.regret for part in parts]),
        np.sum([part.shown for part in parts], axis=0),
        np.sum([part.right for part in parts], axis=0),
        np.sum([part.found for part in parts], axis=0),
    )
