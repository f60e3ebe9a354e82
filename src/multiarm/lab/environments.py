"""Where rewards come from in a simulation: arms whose means are known, and how their rewards reach the policy."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta
from scipy.special import rel_entr

from multiarm.domain.errors import InvalidField
from multiarm.domain.evidence import F64, I64
from multiarm.domain.spec import Goal
from multiarm.lab.motion import AnyDrift, Change, RateChange

ARM_LIMIT = 100

Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Deviation = Annotated[float, Meta(ge=0, le=1e9)]
Step = Annotated[int, Meta(ge=0, le=10**9)]
DelayKind = Literal["fixed", "geometric"]


class Segment(NamedTuple):
    """Draws `start` to `end` (excluded), for which nothing changes.

    level: float64[k], what can move (means, or conversion rates), of the arms that are there, in order of arrival;
    gap: float64[k], how far the mean of each is from the best.
    """

    start: int
    end: int
    level: F64
    gap: F64


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all environments. Delays are in draws: at delay 0 a reward is known before the next draw.

    A reward that is missing is waited for as long as it would have taken, and then no longer.
    """

    level_name: ClassVar[str] = "means"
    level_range: ClassVar[tuple[float, float]] = (-1e9, 1e9)
    reward_range: ClassVar[tuple[float, float]] = (-np.inf, np.inf)

    goal: Annotated[Goal, Meta(description="Whether the largest or the smallest mean is the best.")] = "maximize"
    delay: Annotated[float, Meta(ge=0, le=100_000, description="Draws until a reward is known: all, or the mean.")] = 0
    delay_kind: Annotated[DelayKind, Meta(description="fixed: always so long; geometric: by chance.")] = "fixed"
    missing: Annotated[float, Meta(ge=0, lt=1, description="Probability that a reward never comes.")] = 0
    arrivals: Annotated[tuple[Step, ...], Meta(description="The draw at which each arm joins; empty: the first.")] = ()
    drift: Annotated[AnyDrift | None, Meta(description="How means (revenue: rates) move all the time.")] = None

    @property
    def start(self) -> F64:
        """Means (or rates) of all arms at first, float64[K]."""
        raise NotImplementedError

    @property
    def turns(self) -> list[tuple[int, F64]]:
        """The draws at which they change suddenly, and to what."""
        raise NotImplementedError

    def means_of(self, level: F64) -> F64:
        """Mean rewards of all arms, float64[K], by their level."""
        return level

    def rewards(self, level: F64, arms: I64, rng: np.random.Generator) -> F64:
        """One reward for each of `arms` int64[n], whose levels are float64[n]."""
        raise NotImplementedError

    def divergences(self, best: float) -> F64 | None:
        """How much a draw of each arm tells that its mean is not `best`, float64[K]; None where that is not defined."""
        del best
        return None

    @property
    def moves(self) -> bool:
        """Whether which arms there are, or how good they are, depends on the time."""
        return self.drift is not None or bool(self.turns) or any(self.arrivals)

    @property
    def order(self) -> I64:
        """The arms in order of arrival."""
        return np.argsort(self.joined, kind="stable")

    @property
    def joined(self) -> I64:
        return np.array(self.arrivals or [0] * len(self.start), dtype=np.int64)

    def level_at(self, step: int) -> F64:
        if self.drift is not None:
            return self.drift.moved(self.start, step)
        return next((level for at, level in reversed(self.turns) if at <= step), self.start)

    def segments(self, horizon: int) -> Iterator[Segment]:
        """From 0 to the horizon. With a drift each draw is one."""
        joined, order = self.joined, self.order
        turning = {0, horizon, *self.arrivals, *(at for at, _ in self.turns)}
        edges = range(horizon + 1) if self.drift is not None else sorted(at for at in turning if at <= horizon)
        for start, end in pairwise(edges):
            there = order[: int((joined <= start).sum())]
            level = self.level_at(start)
            mean = self.means_of(level)[there]
            gap = mean - mean.min() if self.goal == "minimize" else mean.max() - mean
            yield Segment(start, end, level[there], gap)

    def faults(self) -> Iterator[InvalidField]:
        """What the types cannot say."""
        arms = len(self.start)
        if not 2 <= arms <= ARM_LIMIT:
            yield InvalidField(self.level_name, f"Between 2 and {ARM_LIMIT} arms can be simulated; got {arms}.")
        if self.arrivals and (len(self.arrivals) != arms or min(self.arrivals) > 0):
            yield InvalidField("arrivals", f"Expected the draw at which each of {arms} arms joins, one of them at 0.")
        if self.delay_kind == "fixed" and self.delay != int(self.delay):
            yield InvalidField("delay", f"A fixed delay is a whole number of draws; got {self.delay:g}.")
        if self.drift is not None and self.turns:
            yield InvalidField("changes", "Either changes or a drift, not both.")
        if any(later <= earlier for (earlier, _), (later, _) in pairwise(self.turns)):
            yield InvalidField("changes", "Each comes after the one before: let `at` rise.")
        for index, (_, level) in enumerate(self.turns):
            yield from self._level_faults(f"changes[{index}].{self.level_name}", level)
        if self.drift is not None:
            yield from self.drift.faults(arms)
            if not self.drift.misfits(arms):
                yield from self._level_faults("drift", *self.drift.extremes(self.start))
        yield from self._level_faults(self.level_name, self.start)

    def _level_faults(self, path: str, *levels: F64) -> Iterator[InvalidField]:
        low, high = self.level_range
        for level in levels:
            if len(level) != len(self.start):
                yield InvalidField(path, f"Expected one for each of the {len(self.start)} arms; got {len(level)}.")
            elif not ((level >= low) & (level <= high)).all():
                wrong = level[(level < low) | (level > high)][0]
                yield InvalidField(path, f"{self.level_name} lie between {low:g} and {high:g} here; got {wrong:g}.")
                return


class WithMeans(Environment, frozen=True, kw_only=True):
    """Base of those whose arms are told by their means."""

    means: Annotated[tuple[Number, ...], Meta(description="Mean reward of each arm.")]
    changes: Annotated[tuple[Change, ...], Meta(description="Sudden changes: {at = draw, means = [...]}.")] = ()

    @property
    def start(self) -> F64:
        return np.array(self.means, dtype=np.float64)

    @property
    def turns(self) -> list[tuple[int, F64]]:
        return [(change.at, np.array(change.means, dtype=np.float64)) for change in self.changes]


class Bernoulli(WithMeans, frozen=True, kw_only=True, tag="bernoulli"):
    """Rewards of 0 and 1: conversions. `means`: their rates, each in [0, 1]."""

    level_range = (0.0, 1.0)
    reward_range = (0.0, 1.0)

    def rewards(self, level: F64, arms: I64, rng: np.random.Generator) -> F64:
        return (rng.random(len(arms)) < level).astype(np.float64)

    def divergences(self, best: float) -> F64 | None:
        return np.asarray(rel_entr(self.start, best) + rel_entr(1 - self.start, 1 - best))


class Gaussian(WithMeans, frozen=True, kw_only=True, tag="gaussian"):
    """Normal rewards. `means`: any, up to ±1e9; `sds`: their standard deviations, each from 0 to 1e9."""

    sds: Annotated[tuple[Deviation, ...], Meta(description="Standard deviation of each arm's rewards.")]

    def rewards(self, level: F64, arms: I64, rng: np.random.Generator) -> F64:
        return level + np.array(self.sds)[arms] * rng.standard_normal(len(arms))

    def divergences(self, best: float) -> F64 | None:
        with np.errstate(divide="ignore", invalid="ignore"):  # without deviation one draw tells everything
            return np.asarray((self.start - best) ** 2 / (2 * np.array(self.sds) ** 2))

    def faults(self) -> Iterator[InvalidField]:
        yield from super().faults()
        yield from one_each("sds", self.sds, self.start)


class Poisson(WithMeans, frozen=True, kw_only=True, tag="poisson"):
    """Counts: 0, 1, 2 … `means`: each from 0 to 1e6."""

    level_range = (0.0, 1e6)
    reward_range = (0.0, np.inf)

    def rewards(self, level: F64, arms: I64, rng: np.random.Generator) -> F64:
        return rng.poisson(level, len(arms)).astype(np.float64)

    def divergences(self, best: float) -> F64 | None:
        return np.asarray(rel_entr(self.start, best) + best - self.start)


class Revenue(Environment, frozen=True, kw_only=True, tag="revenue"):
    """Mostly zeros, else log-normal: what a visitor spends. The mean of an arm is rate · exp(log_mean + log_sd² / 2).

    `rates`: of buyers, each in [0, 1]; `log_means`, `log_sds`: of the logarithm of what a buyer spends, the first up to
    ±50, the second from 0 to 5. A drift or a change moves the rates.
    """

    level_name = "rates"
    level_range = (0.0, 1.0)
    reward_range = (0.0, np.inf)

    rates: Annotated[tuple[Rate, ...], Meta(description="Share of draws with a reward above 0, of each arm.")]
    log_means: tuple[Annotated[float, Meta(ge=-50, le=50)], ...]
    log_sds: tuple[Annotated[float, Meta(ge=0, le=5)], ...]
    changes: Annotated[tuple[RateChange, ...], Meta(description="Sudden changes: {at = draw, rates = [...]}.")] = ()

    @property
    def start(self) -> F64:
        return np.array(self.rates, dtype=np.float64)

    @property
    def turns(self) -> list[tuple[int, F64]]:
        return [(change.at, np.array(change.rates, dtype=np.float64)) for change in self.changes]

    def means_of(self, level: F64) -> F64:
        return np.asarray(level * np.exp(np.array(self.log_means) + np.array(self.log_sds) ** 2 / 2))

    def rewards(self, level: F64, arms: I64, rng: np.random.Generator) -> F64:
        spent = np.array(self.log_means)[arms] + np.array(self.log_sds)[arms] * rng.standard_normal(len(arms))
        return np.where(rng.random(len(arms)) < level, np.exp(spent), 0.0)

    def faults(self) -> Iterator[InvalidField]:
        yield from super().faults()
        yield from one_each("log_means", self.log_means, self.start)
        yield from one_each("log_sds", self.log_sds, self.start)


AnyEnvironment: TypeAlias = Bernoulli | Gaussian | Poisson | Revenue


def one_each(path: str, values: tuple[float, ...], start: F64) -> Iterator[InvalidField]:
    if len(values) != len(start):
        yield InvalidField(path, f"Expected one for each of the {len(start)} arms; got {len(values)}.")


def lai_robbins(environment: Environment) -> float | None:
    """The least slope of regret against ln t that a policy can have which is good everywhere, as t → ∞.

    Σ gap / divergence over the arms that are not best (Lai and Robbins 1985). None where it has no meaning: means that
    move, arms that join late, rewards without such a divergence.
    """
    if environment.moves:
        return None
    level = environment.start
    best = float(level.min() if environment.goal == "minimize" else level.max())
    divergences = environment.divergences(best)
    if divergences is None:
        return None
    worse = level != best
    slope = float((np.abs(level - best)[worse] / divergences[worse]).sum())
    return slope / (1 - environment.missing)
