"""What came of a study: figures for people, for JSON and for Parquet."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from multiarm.domain.evidence import F64, I64
from multiarm.lab.environments import lai_robbins
from multiarm.lab.simulation import Curves
from multiarm.lab.study import Entry, Study

FOUND = 0.95  # of the runs: from there on the best arm counts as found
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table; see docs/lab.md for what the figures mean."""

    label: str
    delay: float
    regret_mean: float
    regret_se: float | None
    regret_quantiles: dict[str, float]
    best_arm_share: float
    reward_gain: float
    reward_gain_relative: float | None
    found_at: int | None
    runs: int
    horizon: int
    policy: dict[str, Any]
    random_share: float
    floor: float
    half_life_draws: float | None


@dataclass(frozen=True)
class Outcome:
    """Of one policy in all runs."""

    entry: Entry
    study: Study
    curves: Curves

    @property
    def regret(self) -> F64:
        """At the end, float64[runs]."""
        return self.curves.regret[:, -1]

    @property
    def regret_mean(self) -> float:
        return float(self.regret.mean())

    @property
    def regret_se(self) -> float | None:
        """Standard error of that mean; None for a single run."""
        return None if self.study.runs < 2 else float(self.regret.std(ddof=1) / np.sqrt(self.study.runs))

    @property
    def draws_between(self) -> I64:
        """Draws of all runs between the points of the curve, int64[S]."""
        return np.diff(self.study.steps, prepend=0) * self.study.runs

    @property
    def shares(self) -> F64:
        """Of each arm, float64[S, K], in the draws since the point before."""
        return np.asarray(self.curves.shown / self.draws_between[:, None])

    @property
    def best_arm_shares(self) -> F64:
        """The same, float64[S], of whichever arm was best then."""
        return np.asarray(self.curves.right / self.draws_between)

    @property
    def best_arm_share(self) -> float:
        """Of all draws."""
        return float(self.curves.right.sum() / self.draws_between.sum())

    @property
    def found_at(self) -> int | None:
        """The first point of the curve from which on, to the end, ≥ 95 % of runs knew the best arm."""
        wrong = np.flatnonzero(self.curves.found < FOUND * self.study.runs)
        first = int(wrong[-1]) + 1 if len(wrong) else 0
        return int(self.study.steps[first]) if first < len(self.study.steps) else None


@dataclass(frozen=True)
class Equal:
    """An equal split of the traffic, worked out: what it loses against the best arm, and what it earns."""

    regret: float
    reward: float


@dataclass(frozen=True)
class Result:
    """Of a study: one Outcome for each policy, in order."""

    study: Study
    outcomes: tuple[Outcome, ...]

    @cached_property
    def equal(self) -> Equal:
        return equal_split(self.study)

    @cached_property
    def rows(self) -> list[Row]:
        return [self._row(outcome) for outcome in self.outcomes]

    @property
    def lai_robbins(self) -> float | None:
        return lai_robbins(self.study.environment)

    def _row(self, outcome: Outcome) -> Row:
        gain = self.equal.regret - outcome.regret_mean
        quantiles = np.quantile(outcome.regret, QUANTILES).tolist()
        return Row(
            label=outcome.entry.name,
            delay=self.study.environment.delay,
            regret_mean=outcome.regret_mean,
            regret_se=outcome.regret_se,
            regret_quantiles={f"{at:g}": value for at, value in zip(QUANTILES, quantiles, strict=True)},
            best_arm_share=outcome.best_arm_share,
            reward_gain=gain,
            reward_gain_relative=gain / abs(self.equal.reward) if self.equal.reward else None,
            found_at=outcome.found_at,
            runs=self.study.runs,
            horizon=self.study.horizon,
            policy=msgspec.to_builtins(outcome.entry.policy),
            random_share=outcome.entry.random_share,
            floor=outcome.entry.floor,
            half_life_draws=outcome.entry.half_life_draws,
        )


def equal_split(study: Study) -> Equal:
    """Over the arms that are there at the time."""
    environment, order = study.environment, study.environment.order
    regret = reward = 0.0
    for segment in environment.segments(study.horizon):
        draws, there = segment.end - segment.start, order[: len(segment.level)]
        level = np.zeros(len(order))
        level[there] = segment.level
        regret += draws * float(segment.gap.mean())
        reward += draws * float(environment.means_of(level)[there].mean())
    return Equal(regret, reward)
