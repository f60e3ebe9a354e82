"""What a decision and a reward cost within one process, beside MABWiser and River, run on core 0.

python in_process.py > costs.json

Five arms, after 1,000 rewards. The libraries do different work for it: only multiarm's draw knows its exact propensity
and signs a decision id, only its update checks one.
"""

import importlib
import random
import statistics
import sys
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import msgspec

from multiarm import Experiment, MultiarmError, Update
from multiarm.domain.policies import AnyPolicy
from works import ARMS

RUNS = 7
RUN_S = 0.02
PULLS = 1_000
NOW = 1_000.0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds a call, run by run."""

    library: str
    policy: str
    call: str
    us: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.us)


def measured(library: str, policy: str, call: str, function: Callable[[], object]) -> Cost:
    timer = timeit.Timer(function)
    count = 1
    while (taken := timer.timeit(count)) < RUN_S / 2 and count < 1 << 20:
        count *= 2
    count = max(int(count * RUN_S / taken), 1)
    return Cost(library=library, policy=policy, call=call, us=[timer.timeit(count) / count * 1e6 for _ in range(RUNS)])


def costs() -> Iterator[Cost]:
    for policy in get_args(AnyPolicy):
        try:
            yield from of_multiarm(policy)
        except (MultiarmError, TypeError) as error:  # it needs more than arms, such as a context
            sys.stderr.write(f"{policy.__name__} is left out: {error}\n")
    yield from of_mabwiser()
    yield from of_river()


def of_multiarm(policy: Any) -> Iterator[Cost]:
    """`draw` from an allocation as it stands (index policies, which count the draws that wait, make a new one each
    time); and after an update, which makes the draw recompute it."""
    rng = random.Random(1)
    experiment = Experiment(policy(), ARMS)
    for _ in range(PULLS):
        decision = experiment.draw(NOW, rng)
        experiment.update(Update(reward=float(rng.random() < 0.1), decision_id=decision.decision_id), NOW)
    by_decision = Update(reward=1.0, decision_id=decision.decision_id)
    by_arm = by_decision if policy().traits.needs_decision else Update(reward=1.0, arm_id=ARMS[0])

    def update_and_draw() -> None:
        experiment.update(by_arm, NOW)
        experiment.draw(NOW, rng)

    name = policy.__name__
    yield measured("multiarm", name, "draw", lambda: experiment.draw(NOW, rng))
    if by_arm is not by_decision:
        yield measured("multiarm", name, "update", lambda: experiment.update(by_arm, NOW))
    yield measured("multiarm", name, "update by decision id", lambda: experiment.update(by_decision, NOW))
    yield measured("multiarm", name, "update, then draw", update_and_draw)


def of_mabwiser() -> Iterator[Cost]:
    module = importlib.import_module("mabwiser.mab")
    rng = random.Random(1)
    arms = [rng.choice(ARMS) for _ in range(PULLS)]
    rewards = [int(rng.random() < 0.1) for _ in range(PULLS)]
    for policy in (
        module.LearningPolicy.ThompsonSampling(),
        module.LearningPolicy.EpsilonGreedy(),
        module.LearningPolicy.UCB1(),
    ):
        mab = module.MAB(ARMS, policy)
        mab.fit(arms, rewards)
        name = type(policy).__name__.lstrip("_")
        yield measured("MABWiser", name, "draw", mab.predict)
        yield measured("MABWiser", name, "update", partial(mab.partial_fit, [ARMS[0]], [1]))


def of_river() -> Iterator[Cost]:
    bandit, proba = importlib.import_module("river.bandit"), importlib.import_module("river.proba")
    for policy in (
        bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=1),
        bandit.EpsilonGreedy(epsilon=0.1, seed=1),
        bandit.UCB(delta=1, seed=1),
    ):
        rng = random.Random(1)
        for _ in range(PULLS):
            policy.update(rng.choice(ARMS), rng.random() < 0.1)
        name = type(policy).__name__
        yield measured("River", name, "draw", partial(policy.pull, ARMS))
        yield measured("River", name, "update", partial(policy.update, ARMS[0], True))


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(list(costs())))
