"""Counts to 1e12, rewards to ±1e12, 1,000 arms: distributions all the same, without a warning."""

import math

import numpy as np
import pytest

from all_policies import POLICIES
from multiarm.domain.evidence import Evidence
from multiarm.domain.policies import AnyPolicy, Observations, Situation

COUNTS = [0.0, 1e-199, 1e-9, 1.0, 4.0, 5.0, 1e3, 1e8, 1e12]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)


def evidence_of(policy: AnyPolicy, counts: list[float], rewards: list[float]) -> Evidence:
    """An arm for each count, of as many rewards alike, but for a thousandth that are half as large."""
    n, r = np.array(counts), np.array(rewards)
    most, some = (
        policy.increments(Observations(x, np.full(n.shape, 0.5), np.full(n.shape, 2.0), np.ones(n.shape)))
        for x in (r, r / 2)
    )
    sums = n[:, None] * (0.999 * most + 0.001 * some)
    return Evidence(sums, np.zeros(n.shape), np.minimum(n, 1e15).astype(np.int64))


def check(policy: AnyPolicy, evidence: Evidence, situation: Situation) -> None:
    probabilities = policy.allocate(evidence, situation)
    assert np.isfinite(probabilities).all()
    assert probabilities.min() >= 0
    assert abs(math.fsum(probabilities.tolist()) - 1) <= 1e-12
    best = policy.probability_best(evidence, situation)
    assert best is None or (np.isfinite(best).all() and best.min() >= 0)
    assert not np.isinf(policy.interval(evidence, situation)).any()


@every_policy
@pytest.mark.parametrize("minimize", [False, True])
def test_any_counts_beside_each_other(policy: AnyPolicy, minimize: bool) -> None:
    low, high = max(policy.traits.reward_min, -1e12), min(policy.traits.reward_max, 1e12)
    rng = np.random.default_rng(11)
    situation = Situation(minimize=minimize and policy.traits.can_minimize, other_pulls=1e12, other_pull_count=10**12)
    for rewards in ([low], [high], [low, high], [0.0, 1e-9, 0.5], [low, 0.3, high], [0.0, 5e-324, 1e-310, 0.9]):
        for _ in range(8):
            counts = rng.choice(COUNTS, 6).tolist()
            check(policy, evidence_of(policy, counts, rng.choice(rewards, 6).tolist()), situation)


@every_policy
def test_a_thousand_arms(policy: AnyPolicy) -> None:
    rng = np.random.default_rng(12)
    counts = rng.integers(0, 2_000, 1000) * 1.0
    check(policy, evidence_of(policy, counts.tolist(), rng.random(1000).tolist()), Situation())


@every_policy
def test_draws_that_wait_by_the_million(policy: AnyPolicy) -> None:
    pending = np.array([0.0, 1e12, 3.0, 0.0])
    for counts in ([0.0, 0.0, 5.0, 1e6], [0.0, 0.0, 0.0, 0.0], [1.0, 1e12, 2.0, 7.0]):
        evidence = evidence_of(policy, counts, [0.2, 0.3, 0.4, 1.0])
        check(policy, evidence, Situation(pending=pending, other_pulls=1e9))
