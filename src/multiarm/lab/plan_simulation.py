"""Many experiments at once, in blocks of visitors, until each rule has its verdict or the horizon comes.

Visitor v's reward is known once `delay` more visitors have come, for every way alike. Visitors come evenly, so a time
is a number of visitors. Shapes: R runs, K arms; arm 0 is the best one where there is one.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from typing import Self

import numpy as np
from numpy.typing import NDArray

from multiarm.domain.stopping import NO_WINNER, fixed_winner, glr_statistic, leader, pair_z
from multiarm.lab.designs import GroupSequential

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Shares = Callable[[F64, F64], F64]
Rule = Callable[[F64, F64], I64]

STALE = 1.02  # an allocation is computed again once so many times the rewards are known
HOPEFUL = 0.8  # P(best) > 0.95 takes a likelihood ratio of about 1.35 (in nats); below this it is not computed
SHRINK = 0.8  # experiments that are over are dropped once the rest is a smaller part than this


@dataclass(frozen=True, slots=True)
class World:
    """rates: of K arms; visitors: until the horizon; delay_visitors: who come before a reward is known;
    peek_visitors: between two looks of a rule that peeks; resolution: blocks are 1/resolution of the visitors so far;
    random_share: part of a bandit's traffic that is split evenly."""

    rates: F64
    visitors: int
    delay_visitors: int
    peek_visitors: int = 1000
    resolution: int = 100
    random_share: float = 0.0

    @property
    def best(self) -> int:
        """0, or NO_WINNER where all arms are equal."""
        return 0 if self.rates[0] > self.rates[-1] else NO_WINNER


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of R experiments under one rule; visitors count from the start.

    ended: float64[R], visitors at the end of the test, inf where the horizon came first. declared: int64[R], the
    winner, or NO_WINNER. worse_until_end, worse_until_horizon: float64[R], visitors who were shown a worse arm.
    """

    ended: F64
    declared: I64
    worse_until_end: F64
    worse_until_horizon: F64

    @classmethod
    def open(cls, runs: int) -> Self:
        return cls(
            np.full(runs, np.inf),
            np.full(runs, NO_WINNER, dtype=np.int64),
            np.full(runs, np.nan),
            np.full(runs, np.nan),
        )

    def end(self, rows: I64, at: int, world: World, *, winners: I64, shown: I64, worse: F64) -> None:
        """Those rows end `at` visitors: `winners` (or none) are declared, everybody after is `shown` that arm."""
        self.ended[rows] = at
        self.declared[rows] = winners
        self.worse_until_end[rows] = worse
        wrong = (shown != world.best) & (world.best != NO_WINNER)
        self.worse_until_horizon[rows] = worse + np.where(wrong, world.visitors - at, 0)

    def close(self, worse: F64, rows: I64) -> None:
        """The horizon has come: `worse` float64[R] of the rows."""
        still = rows[np.isinf(self.ended[rows])]
        left = np.isinf(self.ended[rows])
        self.worse_until_end[still] = self.worse_until_horizon[still] = worse[left]


def block_edges(world: World) -> I64:
    """Where blocks of visitors begin and end, int64[B + 1], from 0 to the horizon.

    A block is 1/resolution of the visitors so far, of the delay before the first reward, and ends where a rule peeks.
    """
    edges = [0]
    while edges[-1] < world.visitors:
        at = edges[-1]
        block = max(max(at, world.delay_visitors) // world.resolution, 1)
        peek = (at // world.peek_visitors + 1) * world.peek_visitors
        end = at + block if at < world.delay_visitors else min(at + block, peek)
        edges.append(min(end, world.visitors))
    return np.array(edges, dtype=np.int64)


@dataclass(slots=True)
class Runs:
    """Experiments under way that share an allocation: what was shown, what is known, and what is on its way."""

    ids: I64
    share: F64
    worse: F64
    pulls: F64
    successes: F64
    on_the_way: deque[tuple[int, I64, I64]] = field(default_factory=deque)
    known: int = 0
    computed_at: float = 0.0

    @classmethod
    def begun(cls, runs: int, arms: int) -> Self:
        zeros = np.zeros((runs, arms))
        return cls(np.arange(runs), np.full((runs, arms), 1 / arms), np.zeros(runs), zeros, zeros.copy())

    def show(self, start: int, end: int, world: World, rng: np.random.Generator) -> None:
        even = world.random_share / len(world.rates)
        counts = rng.multinomial(end - start, even + (1 - world.random_share) * self.share)
        wins = rng.binomial(counts, world.rates)
        if world.best != NO_WINNER:
            self.worse = self.worse + counts[:, 1:].sum(axis=-1)
        self.on_the_way.append((end, counts.astype(np.int32), wins.astype(np.int32)))

    def learn(self, until: int) -> bool:
        """Count the rewards of the visitors up to number `until`; whether there were any."""
        before = self.known
        while self.on_the_way and self.on_the_way[0][0] <= until:
            self.known, counts, wins = self.on_the_way.popleft()
            self.pulls += counts
            self.successes += wins
        return self.known > before

    def reallocate(self, shares: Shares, rows: I64) -> None:
        """Compute the shares of these rows, or of all where they are out of date."""
        if self.known >= STALE * self.computed_at:
            self.share = shares(self.pulls, self.successes)
            self.computed_at = self.known
        elif len(rows):
            self.share[rows] = shares(self.pulls[rows], self.successes[rows])

    def drop(self, keep: NDArray[np.bool_]) -> None:
        self.ids, self.share, self.worse = self.ids[keep], self.share[keep], self.worse[keep]
        self.pulls, self.successes = self.pulls[keep], self.successes[keep]
        self.on_the_way = deque((end, counts[keep], wins[keep]) for end, counts, wins in self.on_the_way)


def simulate(
    world: World,
    shares: Shares,
    rules: Sequence[Rule],
    *,
    alpha: float,
    runs: int,
    rng: np.random.Generator,
    peeking: Callable[[F64], I64] | None = None,
    on_block: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """An Outcome for each of `rules`, and last for `peeking`, which sees the shares, every `peek_visitors`.

    One set of experiments serves all rules: a verdict changes nothing before it. No rule may declare a winner whose
    `glr_statistic` is below ln(K/α): that is how most experiments are passed over quickly.
    """
    state = Runs.begun(runs, len(world.rates))
    outcomes = [Outcome.open(runs) for _ in (*rules, *([peeking] if peeking else []))]
    by_evidence, by_peeking = outcomes[: len(rules)], outcomes[len(rules) :]
    for start, end in pairwise(block_edges(world).tolist()):
        state.show(start, end, world, rng)
        if state.learn(end - world.delay_visitors):
            evidence = judge(state, rules, by_evidence, alpha, at=end, world=world)
            rows = np.empty(0, dtype=np.int64)
            if by_peeking and end % world.peek_visitors == 0:
                rows = np.flatnonzero(np.isinf(by_peeking[0].ended[state.ids]) & (evidence > HOPEFUL))
            state.reallocate(shares, rows)
            if peeking is not None and len(rows):
                settle(state, by_peeking[0], rows, peeking(state.share[rows]), at=end, world=world)
        on_block(end)
        going = np.any([np.isinf(outcome.ended[state.ids]) for outcome in outcomes], axis=0)
        if going.sum() < SHRINK * len(going):
            state.drop(going)
        if not len(state.ids):
            break
    for outcome in outcomes:
        outcome.close(state.worse, state.ids)
    return outcomes


def judge(
    state: Runs, rules: Sequence[Rule], outcomes: Sequence[Outcome], alpha: float, *, at: int, world: World
) -> F64:
    """Ask each rule about the experiments where a verdict is possible at all; the likelihood ratio of each, in nats."""
    evidence = glr_statistic(state.pulls, state.successes)
    possible = evidence >= log(len(world.rates) / alpha)
    for rule, outcome in zip(rules, outcomes, strict=True):
        rows = np.flatnonzero(possible & np.isinf(outcome.ended[state.ids]))
        if len(rows):
            settle(state, outcome, rows, rule(state.pulls[rows], state.successes[rows]), at=at, world=world)
    return evidence


def settle(state: Runs, outcome: Outcome, rows: I64, winners: I64, *, at: int, world: World) -> None:
    sure = winners != NO_WINNER
    rows, winners = rows[sure], winners[sure]
    outcome.end(state.ids[rows], at, world, winners=winners, shown=winners, worse=state.worse[rows])


def simulate_fixed(world: World, size: int, alpha: float, runs: int, rng: np.random.Generator) -> Outcome:
    """One look at `size` visitors an arm, when the last reward is known; traffic is split evenly until then.

    Without a winner the arm that did best is shown, without a claim.
    """
    arms = len(world.rates)
    outcome, everyone = Outcome.open(runs), np.arange(runs)
    end = size * arms + world.delay_visitors
    if end > world.visitors:
        outcome.close(worse_of_equal(world, world.visitors, runs), everyone)
        return outcome
    pulls = np.full((runs, arms), float(size))
    successes = rng.binomial(size, world.rates, (runs, arms)).astype(np.float64)
    winners = fixed_winner(pulls, successes, alpha)
    shown = leader(pulls, successes)
    outcome.end(everyone, end, world, winners=winners, shown=shown, worse=worse_of_equal(world, end, runs))
    return outcome


def simulate_looks(world: World, design: GroupSequential, runs: int, rng: np.random.Generator) -> Outcome:
    """Each look waits for its rewards; those of visitors who come meanwhile count at the next look only.

    An arm is declared once it has crossed, at this look or an earlier one, the boundary against each other arm.
    """
    arms = len(world.rates)
    outcome, before = Outcome.open(runs), 0
    successes = np.zeros((runs, arms))
    crossed = np.zeros((runs, arms, arms), dtype=bool) | np.eye(arms, dtype=bool)
    for size, boundary in zip(design.sizes.tolist(), design.boundaries.tolist(), strict=True):
        successes += rng.binomial(size - before, world.rates, (runs, arms))
        before, end = size, size * arms + world.delay_visitors
        if end > world.visitors:
            break
        pulls = np.full((runs, arms), float(size))
        crossed |= pair_z(pulls, successes) >= boundary
        won = np.asarray(crossed.all(axis=-1))
        last = size == design.sizes[-1]
        rows = np.flatnonzero(np.isinf(outcome.ended) & (won.any(axis=-1) | last))
        best = np.argmax(np.where(won[rows], successes[rows], -1.0), axis=-1)
        winners = np.where(won[rows].any(axis=-1), best, NO_WINNER)
        shown = np.where(winners == NO_WINNER, leader(pulls[rows], successes[rows]), winners)
        outcome.end(rows, end, world, winners=winners, shown=shown, worse=worse_of_equal(world, end, len(rows)))
    outcome.close(worse_of_equal(world, world.visitors, runs), np.arange(runs))
    return outcome


def worse_of_equal(world: World, visitors: int, runs: int) -> F64:
    """Visitors who were shown a worse arm out of so many split evenly, float64[R]."""
    share = 0.0 if world.best == NO_WINNER else 1 - 1 / len(world.rates)
    return np.full(runs, visitors * share)
