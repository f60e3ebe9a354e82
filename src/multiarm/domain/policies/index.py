"""Index policies: each arm has an index, mean plus bonus, and the largest is drawn. Here is what they share."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies.base import NOTHING_ELSE, Policy, Situation, Traits, moments, pooled_mean
from multiarm.domain.policies.epsilon_greedy import TIE_TOLERANCE, Booleans, is_best
from multiarm.domain.policies.softmax import beside_unknown

CELLS = 64  # the next draws are dealt out in so many parts …
ZOOMS = 3  # … and the parts where the indices come level are cut up again, so often in all


class Standing(NamedTuple):
    """Arms as an index sees them: what does not change with further draws. Each float64[..., K], or with an axis more.

    mean: of the rewards, in [0, 1]; minimize: 1 − mean, for the smallest is the best; variance: Σ(r − mean)² / pulls.
    """

    mean: F64
    variance: F64
    arm_count: int
    minimize: bool


class IndexPolicy(Policy, frozen=True):
    """Base of the index policies.

    Means use rewards; bonuses and t use the draws that are not rewarded yet as well, else a cached allocation and late
    rewards would send everything to one arm. While arms have neither reward nor draw, they come first, sharing equally.
    One that waits for its first reward gets 1/K of the traffic. The prior of an arm counts in its pulls and in its
    mean, not in t. With a half-life t is the sum of the discounted pulls, as in D-UCB (Garivier and Moulines 2011, §3).

    `batch_draws`, default 1, the papers' policies: the allocation is the mix that the index would choose over so many
    draws, means as they are and pulls rising, so that propensities are not all 0 and 1.
    """

    own_traits = Traits(reward_min=0.0, reward_max=1.0, takes_pending=True, random_share=0.05)

    batch_draws: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Draws over which the index's choices are mixed.")
    ] = 1

    def index(self, arms: Standing, pulls: F64, t: F64) -> F64:
        """The larger, the better; falls as `pulls` rise. pulls: above 0, draws pending included; t: at least 1."""
        raise NotImplementedError

    def allocate(self, evidence: Evidence, situation: Situation = NOTHING_ELSE) -> F64:
        pulls, mean = pooled_mean(evidence, situation)
        pending = np.zeros_like(pulls) if situation.pending is None else np.broadcast_to(situation.pending, pulls.shape)
        t = (evidence.pulls + pending).sum(axis=-1, keepdims=True) + situation.other_pulls
        t = np.maximum(t + (self.batch_draws - 1), 1.0)
        unknown = np.isnan(mean)
        mean = np.where(unknown, 0.0, mean).clip(0.0, 1.0)  # rounding alone can take it further
        if situation.minimize:
            mean = np.where(unknown, 0.0, 1 - mean)
        squares = moments(evidence, situation, 0.0)[2]
        variance = squares / np.where(pulls > 0, pulls, 1.0)
        arms = Standing(mean, variance, pulls.shape[-1], situation.minimize)
        counted = np.where(unknown, 1.0, pulls) + pending
        untried = unknown & (pending == 0)
        first = np.minimum(untried, self.batch_draws / np.maximum(untried.sum(axis=-1, keepdims=True), 1))
        first = first / self.batch_draws
        left = np.maximum(1 - first.sum(axis=-1, keepdims=True), 0.0)
        rest = beside_unknown(self._mix(arms, counted, t, unknown), unknown)
        return np.asarray(first + left * rest)

    def _mix(self, arms: Standing, counted: F64, t: F64, unknown: Booleans) -> F64:
        """What the index chooses, float64[..., K], among the arms of which something is known."""
        if self.batch_draws == 1:
            index = np.where(unknown, -np.inf, self.index(arms, counted, t))
            best = is_best(index)
            return np.asarray(best / best.sum(axis=-1, keepdims=True))
        by_cell = arms._replace(mean=arms.mean[..., None], variance=arms.variance[..., None])
        hidden = unknown[..., None]

        def index_at(draws: F64) -> F64:
            return np.where(hidden, -np.inf, self.index(by_cell, counted[..., None] + draws, t[..., None]))

        return dealt_out(index_at, counted.shape, self.batch_draws)


def dealt_out(index_at: Callable[[F64], F64], shape: tuple[int, ...], draws: int) -> F64:
    """Shares float64[..., K] of the next `draws` draws, each going where the index is largest: water-filling.

    index_at(further draws [..., K, G]) -> indices of the same shape, falling along the last axis. Exact to the draw up
    to 64 draws, beyond that to about 1 / 1,000 of them. What stands level shares equally.
    """
    cells = min(CELLS, draws)
    steps = np.arange(cells + 1) / cells
    low, width = np.zeros(shape), np.full(shape, float(draws))
    for zoom in range(ZOOMS):
        level = index_at(low[..., None] + width[..., None] * steps)
        part = np.broadcast_to((width / cells)[..., None], (*shape, cells))
        left = draws - low.sum(axis=-1, keepdims=True)
        full, tied = split_at_level(level[..., :-1], part, left)
        if draws <= CELLS or zoom == ZOOMS - 1:
            break
        # by the levels where cells begin too much is dealt out above a level, by those where they end too little
        surely, level_too = split_at_level(level[..., 1:], part, left)
        high = low + np.minimum(surely + level_too + part[..., 0], width)
        low = low + np.maximum(full - part[..., 0], 0.0)
        width = np.maximum(high - low, 0.0)
    open_part = tied.sum(axis=-1, keepdims=True)
    share = (left - full.sum(axis=-1, keepdims=True)) / np.where(open_part > 0, open_part, 1.0)
    dealt = np.maximum(low + full + tied * share, 0.0)
    return np.asarray(dealt / dealt.sum(axis=-1, keepdims=True))


def split_at_level(level: F64, part: F64, left: F64) -> tuple[F64, F64]:
    """Of `left` draws, dealt to cells [..., K, G] of `part` draws each, the highest first: float64[..., K] twice.

    What goes to an arm's cells above the level that the last draw reaches, and what its cells at that level can take.
    """
    flat = level.reshape(*level.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    dealt = np.cumsum(np.take_along_axis(part.reshape(flat.shape), order, axis=-1), axis=-1)
    last = np.minimum((dealt < left * (1 - 1e-12)).sum(axis=-1, keepdims=True), flat.shape[-1] - 1)
    reached = np.take_along_axis(np.take_along_axis(flat, order, axis=-1), last, axis=-1)[..., None]
    bounded = np.where(np.isfinite(reached), reached, 0.0)
    near = np.abs(np.where(np.isfinite(level), level, np.inf) - bounded) <= TIE_TOLERANCE * np.abs(bounded)
    tied = (level == reached) | (near & np.isfinite(reached))
    return (part * ((level > reached) & ~tied)).sum(axis=-1), (part * tied).sum(axis=-1)
