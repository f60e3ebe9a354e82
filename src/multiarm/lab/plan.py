"""`multiarm plan`: before an experiment, what each way of running it costs, when it ends, and what it guarantees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf, isfinite, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from multiarm.domain.errors import InvalidField, raise_all
from multiarm.domain.stopping import glr_winner, informed, mixture_winner, probability_winner
from multiarm.lab.designs import GroupSequential, fixed_size, group_sequential
from multiarm.lab.plan_allocation import equal_split, thompson, top_two
from multiarm.lab.plan_numbers import percent
from multiarm.lab.plan_simulation import (
    Outcome,
    Rule,
    Shares,
    World,
    simulate,
    simulate_fixed,
    simulate_looks,
)

F64 = NDArray[np.float64]
Progress = Callable[[float], None]

PEEK_VISITORS = 1000
PEEK_LIMIT = 1500  # looks within the horizon; with more visitors than that, looks are further apart
PEEK_THRESHOLD = 0.95
RUN_ARM_LIMIT = 40_000
VISITOR_LIMIT = 1e10
LEAST_EFFECT = 1e-14  # base rate × lift²; below it sample sizes would not fit their integers


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The question. Rewards are 0 or 1 (a conversion).

    base_rate: of all arms but one, in (0, 1); lift: how much better that one is, relative, > 0 (0.1: +10 %);
    arms: 2 to 20; visitors_per_day: > 0, in all arms together; delay_hours: until a visitor's reward is known, ≥ 0;
    horizon_days: how long visitors are counted, verdict or not; alpha: the error allowed, in (0, 0.5); power: of the
    tests planned beforehand, in (alpha, 1); looks: of the group-sequential test, 1 to 50; random_share: part of the
    bandits' traffic that is split evenly, 0 to 1. Of the simulation: runs, 100 to 20,000 experiments; seed, ≥ 0;
    resolution, 20 to 1,000: blocks of visitors are 1/resolution of those so far.
    """

    base_rate: float = 0.02
    lift: float = 0.10
    arms: int = 2
    visitors_per_day: float = 20_000.0
    delay_hours: float = 6.0
    horizon_days: float = 60.0
    alpha: float = 0.05
    power: float = 0.80
    looks: int = 5
    random_share: float = 0.0
    runs: int = 2000
    seed: int = 1
    resolution: int = 100

    @property
    def better_rate(self) -> float:
        return self.base_rate * (1 + self.lift)

    @property
    def visitors(self) -> int:
        """Until the horizon."""
        return int(self.visitors_per_day * self.horizon_days)

    @property
    def delay_visitors(self) -> int:
        return ceil(self.visitors_per_day * self.delay_hours / 24 - 1e-9)

    @property
    def peek_visitors(self) -> int:
        return PEEK_VISITORS * max(ceil(self.visitors / (PEEK_VISITORS * PEEK_LIMIT)), 1)

    def days(self, visitors: float) -> float:
        return visitors / self.visitors_per_day

    def check(self) -> None:
        """Raise InvalidField, or InvalidRequest for several, unless all is in range."""
        raise_all(list(self._faults()))

    def _faults(self) -> Iterator[InvalidField]:
        for name, low, high, meaning in (
            ("base_rate", 0, 1, "a conversion rate lies between 0 and 1 (2 % is 0.02)"),
            ("lift", 0, inf, "the lift hoped for is above 0 (+10 % is 0.1)"),
            ("visitors_per_day", 0, inf, "somebody must come"),
            ("horizon_days", 0, inf, "the horizon lies ahead"),
            ("alpha", 0, 0.5, "the error allowed lies between 0 and 0.5 (5 % is 0.05)"),
            ("power", self.alpha, 1, "the power lies between alpha and 1 (80 % is 0.8)"),
        ):
            if not low < getattr(self, name) < high:
                yield InvalidField(name, f"Got {getattr(self, name):g}: {meaning}.")
        for name, least, most in (
            ("arms", 2, 20),
            ("looks", 1, 50),
            ("runs", 100, 20_000),
            ("seed", 0, 2**63),
            ("resolution", 20, 1000),
        ):
            if not least <= getattr(self, name) <= most:
                yield InvalidField(name, f"Got {getattr(self, name)}: it lies between {least:,} and {most:,}.")
        if not 0 <= self.delay_hours < inf:
            yield InvalidField("delay_hours", f"Got {self.delay_hours:g}: rewards come after 0 hours or more.")
        if not 0 <= self.random_share <= 1:
            yield InvalidField("random_share", f"Got {self.random_share:g}: it is a part of the traffic, 0 to 1.")
        yield from self._misfits()

    def _misfits(self) -> Iterator[InvalidField]:
        """What no field says alone."""
        if 0 < self.base_rate < 1 and self.lift > 0 and not self.better_rate < 1:
            yield InvalidField(
                "lift", f"{self.base_rate:g} · (1 + {self.lift:g}) = {self.better_rate:g}: no rate reaches 1."
            )
        if self.base_rate > 0 and self.lift > 0 and self.base_rate * self.lift**2 < LEAST_EFFECT:
            yield InvalidField(
                "lift", f"Got {self.lift:g}: at a base rate of {self.base_rate:g} no traffic shows that."
            )
        if self.runs * self.arms > RUN_ARM_LIMIT:
            yield InvalidField(
                "runs", f"{self.runs:,} runs × {self.arms} arms pass {RUN_ARM_LIMIT:,}; take fewer runs."
            )
        visitors = self.visitors_per_day * self.horizon_days
        if visitors > 0 and isfinite(visitors) and not 100 <= visitors <= VISITOR_LIMIT:
            yield InvalidField(
                "horizon_days", f"{visitors:,.0f} visitors until the horizon: from 100 to 10¹⁰ can be planned."
            )


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the experiment. key: stable, for JSON; guarantee: in words, of `guaranteed` ways a bound."""

    key: str
    name: str
    guarantee: str
    guaranteed: bool
    better: Outcome
    equal: Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """fixed_size: visitors an arm; sequential: looks and boundaries; ways: in the order to show them."""

    plan: Plan
    fixed_size: int
    sequential: GroupSequential
    ways: tuple[Way, ...]


def answer(plan: Plan, on_progress: Progress = lambda _: None) -> Answer:
    """Simulate every way in both worlds. on_progress: called with the part done, in [0, 1].

    Raises InvalidField or InvalidRequest. The same plan gives the same answer. Cost: about 20 s for the default plan;
    in proportion to runs, and for more arms to runs × arms.
    """
    plan.check()
    size = fixed_size(plan.base_rate, plan.better_rate, plan.arms, plan.alpha, plan.power)
    sequential = group_sequential(
        plan.base_rate, plan.better_rate, arms=plan.arms, alpha=plan.alpha, power=plan.power, looks=plan.looks
    )
    rates = np.full(plan.arms, plan.base_rate)
    better = rates.copy()
    better[0] = plan.better_rate
    worlds = [
        World(each, plan.visitors, plan.delay_visitors, plan.peek_visitors, plan.resolution, plan.random_share)
        for each in (better, rates)
    ]
    both = [
        outcomes(plan, world, size, sequential, number=number, on_progress=partial(halved, on_progress, number))
        for number, world in enumerate(worlds)
    ]
    on_progress(1.0)
    ways = tuple(
        replace(way, better=both[0][way.key], equal=both[1][way.key]) for way in ways_of(plan, Outcome.open(0))
    )
    return Answer(plan, size, sequential, ways)


def halved(on_progress: Progress, number: int, part: float) -> None:
    on_progress((number + part) / 2)


def told(on_progress: Progress, visitors: int, index: int, count: int, visitor: int) -> None:
    """Progress of course number `index` of `count`: blocks are even in the square root of the visitors, roughly."""
    on_progress((index + sqrt(visitor / visitors)) / count)


def outcomes(
    plan: Plan, world: World, size: int, sequential: GroupSequential, *, number: int, on_progress: Progress
) -> dict[str, Outcome]:
    """By the key of the way. number: of the world, for its own chance; each trajectory has its own too."""
    found = {
        "fixed": simulate_fixed(world, size, plan.alpha, plan.runs, chance(plan, number, 0)),
        "sequential": simulate_looks(world, sequential, plan.runs, chance(plan, number, 1)),
    }
    courses = courses_of(plan)
    for index, (keys, shares, rules, peeks) in enumerate(courses):
        results = simulate(
            world,
            shares,
            rules,
            alpha=plan.alpha,
            runs=plan.runs,
            rng=chance(plan, number, 2 + index),
            peeking=partial(probability_winner, threshold=PEEK_THRESHOLD) if peeks else None,
            on_block=partial(told, on_progress, world.visitors, index, len(courses)),
        )
        found.update(zip(keys, results, strict=True))
    return found


def courses_of(plan: Plan) -> list[tuple[list[str], Shares, list[Rule], bool]]:
    """What is simulated: the ways that share an allocation, the allocation, their rules, and whether one peeks."""
    always: Rule = partial(mixture_winner, alpha=plan.alpha)
    prior = informed(plan.base_rate, plan.base_rate * plan.lift)
    tuned: Rule = partial(mixture_winner, alpha=plan.alpha, prior=prior)
    glr: Rule = partial(glr_winner, alpha=plan.alpha)
    courses: list[tuple[list[str], Shares, list[Rule], bool]] = [
        (["equal_always", "equal_tuned"], equal_split, [always, tuned], False),
        (["thompson_always", "thompson_tuned", "thompson_glr", "thompson_peek"], thompson, [always, tuned, glr], True),
    ]
    if plan.arms > 2:  # with two arms it is the equal split
        courses.append((["top_two_always", "top_two_tuned"], top_two, [always, tuned], False))
    return courses


def chance(plan: Plan, *path: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=path))


def ways_of(plan: Plan, nothing: Outcome) -> list[Way]:
    """All ways, their outcomes still to come."""
    at_most = f"≤ {percent(plan.alpha)}"
    anytime = f"{at_most}, however often you look"
    tied = percent(plan.alpha * plan.arms / (plan.arms - 1))
    looks = f"{plan.looks} look{'s' if plan.looks > 1 else ''}"
    rows = [
        ("fixed", "fixed test", f"{at_most} (approx.), one look at its end", True),
        ("sequential", f"test with {looks}", f"{at_most} (approx.), {looks}, as planned", True),
        ("equal_always", "equal split, always-valid", anytime, True),
        ("equal_tuned", "equal split, always-valid, tuned", anytime, True),
        ("thompson_always", "Thompson, always-valid", anytime, True),
        ("thompson_tuned", "Thompson, always-valid, tuned", anytime, True),
        ("thompson_glr", "Thompson, GLR", f"{anytime} (A/A: ≤ {tied})", True),
        ("top_two_always", "top-two, always-valid", anytime, True),
        ("top_two_tuned", "top-two, always-valid, tuned", anytime, True),
        ("thompson_peek", f"Thompson until P(best) > {percent(PEEK_THRESHOLD)}", "NO GUARANTEE", False),
    ]
    return [Way(*row, nothing, nothing) for row in rows if plan.arms > 2 or not row[0].startswith("top_two")]
