"""Regret at full size against reference figures; writes docs/regret.md and its plots. Exit status 1 where one is off.

T = 10,000 draws; 2,000 runs, and 20,000 of Thompson sampling, whose regret has a heavy tail. About ten minutes on two
idle cores.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from math import hypot
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from multiarm.domain.policies import IMED, KLUCB, UCB1, AnyPolicy, KLUCBPlus, Thompson
from multiarm.lab import Bernoulli, Entry, Outcome, Result, Study, simulate
from multiarm.lab.output import write

DOCS = Path(__file__).parent.parent / "docs"
HORIZON, RUNS, THOMPSON_RUNS, SEED = 10_000, 2_000, 20_000, 1
ERRORS = 3.0  # joint standard errors that a figure may be away
DELAY = 1_000
ROUGHLY = 2.0  # assumed: the figures with a delay are rough and come without an error


class Reference(NamedTuple):
    """A figure to meet: mean regret and its standard error."""

    policy: AnyPolicy
    regret: float
    error: float


class Case(NamedTuple):
    name: str
    title: str
    means: tuple[float, ...]
    delay: float
    references: tuple[Reference, ...]


class Measured(NamedTuple):
    case: Case
    reference: Reference
    outcome: Outcome
    seconds: float

    @property
    def away(self) -> float:
        """From the reference, in joint standard errors."""
        error = hypot(self.outcome.regret_se or 0.0, self.reference.error)
        return (self.outcome.regret_mean - self.reference.regret) / error

    @property
    def good(self) -> bool:
        return abs(self.away) <= ERRORS


FIVE = (0.5, 0.45, 0.4, 0.35, 0.3)
CASES = (
    Case(
        "two",
        "Two arms, 0.9 and 0.8",
        (0.9, 0.8),
        0,
        (
            Reference(UCB1(), 87.7, 0.4),
            Reference(KLUCB(), 15.4, 0.2),
            Reference(KLUCBPlus(), 10.3, 0.2),
            Reference(Thompson(), 10.4, 0.3),
            Reference(IMED(), 10.3, 0.1),
        ),
    ),
    Case(
        "five",
        "Five arms, 0.5, 0.45, 0.4, 0.35 and 0.3",
        FIVE,
        0,
        (
            Reference(UCB1(), 293.5, 0.8),
            Reference(KLUCB(), 112.1, 0.7),
            Reference(KLUCBPlus(), 73.3, 0.6),
            Reference(Thompson(), 75.7, 0.9),
            Reference(IMED(), 75.7, 0.7),
        ),
    ),
    Case(
        "delay",
        f"The five arms, each reward known {DELAY:,} draws later",
        FIVE,
        DELAY,
        (Reference(UCB1(), 297.0, ROUGHLY), Reference(KLUCB(), 164.0, ROUGHLY)),
    ),
)


def main() -> int:
    """The exit status."""
    console = Console()
    measured = [measure(case, reference, console) for case in CASES for reference in case.references]
    console.print(table(measured))
    sizes = [save_plot(case, [each for each in measured if each.case is case]) for case in CASES]
    (DOCS / "regret.md").write_text(page(measured), encoding="utf-8")
    console.print(f"Written to docs/regret.md; plots of {', '.join(f'{size / 1000:.0f}' for size in sizes)} kB")
    return 0 if all(each.good for each in measured) else 1


def measure(case: Case, reference: Reference, console: Console) -> Measured:
    runs = THOMPSON_RUNS if isinstance(reference.policy, Thompson) else RUNS
    study = Study(
        environment=Bernoulli(means=case.means, delay=case.delay),
        policies=(Entry(policy=reference.policy),),
        horizon=HORIZON,
        runs=runs,
        seed=SEED,
    )
    begun = time.perf_counter()
    outcome = simulate(study, processes=os.cpu_count() or 1).outcomes[0]
    answer = Measured(case, reference, outcome, time.perf_counter() - begun)
    console.print(f"{case.name}: {' '.join(cells(answer))}; {answer.seconds:.0f} s", highlight=False)
    return answer


def cells(measured: Measured) -> list[str]:
    outcome, reference = measured.outcome, measured.reference
    return [
        outcome.entry.name,
        f"{reference.regret:.1f} ± {reference.error:.1f}",
        f"{outcome.regret_mean:.2f} ± {outcome.regret_se or 0:.2f}",
        f"{outcome.study.runs:,}",
        f"{measured.away:+.1f}",
    ]


def table(measured: Sequence[Measured]) -> Table:
    answer = Table(
        "arms", "policy", "reference", "multiarm ± s.e.", "runs", "away, in s.e.", title="Regret at 10,000 draws"
    )
    for each in measured:
        answer.add_row(each.case.name, *cells(each), style="" if each.good else "red")
    return answer


def save_plot(case: Case, measured: Sequence[Measured]) -> int:
    """docs/regret-….svg; its size in bytes. Policies differ in their number of runs: the title says the common one."""
    outcomes = tuple(each.outcome for each in measured)
    study = msgspec.structs.replace(outcomes[0].study, policies=tuple(outcome.entry for outcome in outcomes))
    with TemporaryDirectory() as directory:
        write([Result(study, outcomes)], Path(directory))
        picture = (Path(directory) / "regret.svg").read_bytes()
    (DOCS / f"regret-{case.name}.svg").write_bytes(picture)
    return len(picture)


def page(measured: Sequence[Measured]) -> str:
    parts = [INTRODUCTION]
    for case in CASES:
        rows = [each for each in measured if each.case is case]
        parts.append(f"## {case.title}\n")
        parts.append("| policy | reference | multiarm ± s.e. | runs | away, in joint s.e. |\n|---|---|---|---|---|")
        parts.extend(f"| {' | '.join(cells(each))} |" for each in rows)
        parts.append(f"\n![Cumulative regret over time]({f'regret-{case.name}.svg'})\n")
    minutes = sum(each.seconds for each in measured) / 60
    parts.append(f"Measured in {minutes:.0f} minutes on {os.cpu_count()} cores, Python {platform.python_version()}.\n")
    return "\n".join(parts)


INTRODUCTION = f"""# Regret against reference figures

Written by `make regret`, which fails where a figure is more than {ERRORS:g} joint standard errors away.

Rewards are 0 or 1, an experiment has {HORIZON:,} draws. The conventions, on which the figures depend: each arm is drawn
once at first, in random order; ties are broken evenly; t is the number of pulls so far; regret is the pseudo-regret,
Σ (best mean − mean of the arm drawn). The policies are the code that serves, `policy.sample` on the evidence of many
runs at once. Bands in the plots hold the middle half of the runs. The references with a delay are rough and come
without an error; ± {ROUGHLY:g} is assumed.
"""

if __name__ == "__main__":
    sys.exit(main())
