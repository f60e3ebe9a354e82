"""Rewards on their way: each comes once, in its run, when it is due."""

from collections import defaultdict

import numpy as np
import pytest

from multiarm.lab.waiting import Waiting

RUNS, STEPS = 7, 300


@pytest.mark.parametrize("longest", [1, 3, 20, 299])
def test_every_reward_comes_once_when_it_is_due(longest: int) -> None:
    rng = np.random.default_rng(longest)
    waiting = Waiting(RUNS, longest)
    expected: dict[int, set[tuple[int, int, float, float, int]]] = defaultdict(set)
    for step in range(STEPS):
        delay, arms = rng.integers(0, longest + 1, RUNS), rng.integers(0, 4, RUNS)
        reward, propensity = rng.random(RUNS), rng.random(RUNS)
        waiting.put(step, delay, arms, reward, propensity)
        for run in range(RUNS):
            due = (run, int(arms[run]), float(reward[run]), float(propensity[run]), step)
            expected[step + int(delay[run])].add(due)
        found = []
        for arrived in waiting.due(step):
            assert len(set(arrived.rows.tolist())) == len(arrived.rows)
            found += list(zip(*(values.tolist() for values in arrived), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == expected[step]
