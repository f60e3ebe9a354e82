"""Regret as in the literature, seeded; benchmarks/regret.py does the same at full size."""

from math import hypot

import pytest

from multiarm.domain.policies import IMED, KLUCB, UCB1, KLUCBPlus, Thompson
from multiarm.lab import Bernoulli, Entry, Study, simulate

POLICIES = tuple(Entry(policy=policy) for policy in (UCB1(), KLUCB(), KLUCBPlus(), Thompson(), IMED()))


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((0.9, 0.8), [(87.7, 0.4), (15.4, 0.2), (10.3, 0.2), (10.4, 0.3), (10.3, 0.1)]),
        ((0.5, 0.45, 0.4, 0.35, 0.3), [(293.5, 0.8), (112.1, 0.7), (73.3, 0.6), (75.7, 0.9), (75.7, 0.7)]),
    ],
    ids=["two arms", "five arms"],
)
def test_regret_of_10_000_draws(means: tuple[float, ...], expected: list[tuple[float, float]]) -> None:
    study = Study(environment=Bernoulli(means=means), policies=POLICIES, horizon=10_000, runs=200, seed=1)
    for row, (regret, error) in zip(simulate(study, processes=2).rows, expected, strict=True):
        assert row.regret_se is not None
        away = (row.regret_mean - regret) / hypot(row.regret_se, error)
        assert abs(away) < 3, f"{row.label}: {row.regret_mean:.1f} ± {row.regret_se:.1f}, not {regret} ± {error}"
