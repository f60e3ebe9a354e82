"""What `allocate` costs, for every policy: `python benchmarks/policy_costs.py` puts the table into docs/policies.md.

Processor time of one recompute, the best of many, with evidence of some hundred rewards an arm. A policy that
keeps tables of what it computed is measured with new numbers each time (cold), and with one arm changed.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import get_args

import numpy as np

from multiarm.domain.evidence import Evidence
from multiarm.domain.policies import AnyPolicy, Observations, ThompsonGaussian, ThompsonRevenue, TopTwo

PAGE = Path(__file__).parent.parent / "docs" / "policies.md"
MARKERS = ("<!-- costs: begin -->\n", "<!-- costs: end -->")
ARM_COUNTS = (2, 10, 100, 1000)
LEAST_ROUNDS, LEAST_S = 5, 0.3


def evidence_of(policy: AnyPolicy, arm_count: int, rng: np.random.Generator) -> Evidence:
    """Rewards of 0 and 1 in thirds and more, a few hundred an arm."""
    counts = rng.integers(100, 1000, arm_count)
    rows = []
    for number_of_rewards, mean in zip(counts, rng.uniform(0.2, 0.4, arm_count), strict=True):
        rewards = (rng.random(number_of_rewards) < mean) * rng.uniform(0.5, 1.0, number_of_rewards)
        ones = np.ones(number_of_rewards)
        numbers = policy.increments(Observations(rewards, ones / arm_count, ones, ones))
        sums = np.zeros(numbers.shape[1])
        for number in numbers:
            sums += policy.completed(tuple(number.tolist()), tuple(sums.tolist()), arm_count)
        rows.append(sums)
    return Evidence(np.array(rows), np.zeros(arm_count), counts)


def best_ms(allocate: Callable[[Evidence], object], evidences: Iterator[Evidence]) -> float:
    """Milliseconds of processor time, each with the next evidence."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < LEAST_ROUNDS or time.perf_counter() - started < LEAST_S:
        evidence = next(evidences)
        begin = time.process_time()
        allocate(evidence)
        times.append(time.process_time() - begin)
    return 1e3 * min(times)


def variants(evidence: Evidence, *, arms: int | None) -> Iterator[Evidence]:
    """The same evidence with the numbers of the first `arms` (None: all) a little different each time."""
    for number in count(1):
        sums = evidence.sums.copy()
        sums[:arms] *= 1 + 1e-7 * number * (1.0 if arms is None else 1.5)
        yield Evidence(sums, evidence.as_of, evidence.pull_count)


def rows() -> list[tuple[str, list[float]]]:
    policies: list[tuple[str, AnyPolicy]] = [
        (f"`{kind.__struct_config__.tag}`", kind()) for kind in get_args(AnyPolicy) if kind is not ThompsonRevenue
    ]
    policies.append(("`top_two` of `thompson_gaussian`", TopTwo(model=ThompsonGaussian())))
    policies.append(("`thompson_revenue`, `clt`", ThompsonRevenue()))
    found = []
    for name, policy in policies:
        rng = np.random.default_rng(1)
        found.append((name, [best_ms(policy.allocate, repeat(evidence_of(policy, k, rng))) for k in ARM_COUNTS]))
    hurdle = ThompsonRevenue(model="hurdle_lognormal")
    rng = np.random.default_rng(1)
    evidences = [evidence_of(hurdle, k, rng) for k in ARM_COUNTS]
    for name, arms in (("all arms new", None), ("one arm changed", 1)):
        costs = [best_ms(hurdle.allocate, variants(evidence, arms=arms)) for evidence in evidences]
        found.append((f"`thompson_revenue`, `hurdle_lognormal`, {name}", costs))
    return found


def table(found: list[tuple[str, list[float]]]) -> str:
    lines = [f"| policy | {' | '.join(f'{k:,} arms' for k in ARM_COUNTS)} |", "|---|" + "--:|" * len(ARM_COUNTS)]
    lines += [f"| {name} | {' | '.join(map(shown, costs))} |" for name, costs in found]
    return "\n".join(lines) + "\n"


def shown(cost_ms: float) -> str:
    return f"{cost_ms:.2g}" if cost_ms < 10 else f"{cost_ms:.0f}"


def main() -> None:
    made = table(rows())
    sys.stdout.write(made)
    page = PAGE.read_text()
    begin, end = MARKERS
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{begin}{made}{end}", page))


if __name__ == "__main__":
    main()
