"""P(best): closed forms, an independent high-precision integral, and laws that hold for any arms."""

import importlib
import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from multiarm.domain.posterior_base import Density, tail_ratio
from multiarm.domain.posteriors import BetaPosterior, GammaPosterior, NormalPosterior, StudentPosterior
from multiarm.domain.probability import EXTREME, ORDINARY, probability_best

mp: Any = importlib.import_module("mpmath")  # it has no types

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Arm = tuple[float, float]  # alpha, beta


def beta_best(*arms: Arm, least: float = ORDINARY) -> Floats:
    alpha, beta = np.array(arms, dtype=np.float64).T
    return probability_best(BetaPosterior(alpha, beta), least)


def normal_best(mean: Sequence[float], scale: Sequence[float], least: float = ORDINARY) -> Floats:
    return probability_best(NormalPosterior(np.array(mean, dtype=np.float64), np.array(scale, dtype=np.float64)), least)


def random_arms(rng: np.random.Generator, arm_count: int) -> tuple[Floats, Floats]:
    """Any parameters at all: half of them from 1e-3 to 1e8, half near a common rate, so that the arms compete."""
    alpha, beta = 10 ** rng.uniform(-3, 8, (2, arm_count))
    rate = rng.choice([1e-4, 0.03, 0.5, 0.99])
    count = 10 ** rng.uniform(0, 8, arm_count)
    sampled = rate + np.sqrt(rate * (1 - rate) / count) * rng.normal(size=arm_count)
    sampled = np.clip(sampled, 0.0, 1.0)
    prior = 10 ** rng.uniform(-3, 0, arm_count)
    related = rng.random(arm_count) < 0.5
    alpha = np.where(related, prior + count * sampled, alpha)
    beta = np.where(related, prior + count * (1 - sampled), beta)
    return alpha, beta


class TestClosedForms:
    def test_one_arm_is_certainly_the_best(self) -> None:
        assert beta_best((3.0, 4.0)).tolist() == [1.0]
        assert normal_best([-2.0], [1e-9]).tolist() == [1.0]

    def test_an_arm_against_a_uniform_one_wins_with_its_mean(self) -> None:
        # P(X > U) = E[X] for U uniform on [0, 1].
        assert beta_best((2.0, 1.0), (1.0, 1.0)) == pytest.approx([2 / 3, 1 / 3], abs=1e-14)
        assert beta_best((30.0, 970.0), (1.0, 1.0)) == pytest.approx([0.03, 0.97], abs=1e-14)
        assert beta_best((1e8, 3e8), (1.0, 1.0)) == pytest.approx([0.25, 0.75], abs=1e-12)
        assert beta_best((1e-3, 1e8), (1.0, 1.0)) == pytest.approx([1e-11, 1.0], rel=1e-4)

    @pytest.mark.parametrize(
        "alpha",
        [
            [1e-3, 1e-3, 1.0],
            [1e8, 1.0, 1e-3, 2e8, 35.0],
            [1e-3, 1e9],  # 1e-12
            np.geomspace(1e-3, 1e8, 20).tolist(),
            np.geomspace(1e-3, 1e8, 300).tolist(),
        ],
    )
    def test_powers_of_uniform_numbers_win_in_proportion(self, alpha: list[float]) -> None:
        # X_k ~ Beta(a_k, 1) is the a_k-th root of a uniform number, so -log X_k is exponential with rate a_k.
        best = beta_best(*((a, 1.0) for a in alpha))
        assert best == pytest.approx(np.array(alpha) / sum(alpha), rel=1e-9, abs=0)

    @pytest.mark.parametrize("successes", [1, 2, 7, 300])
    @pytest.mark.parametrize("failures", [1e-3, 0.5, 30.0, 1e8])
    def test_two_arms_one_of_them_with_whole_successes(self, successes: int, failures: float) -> None:
        for alpha in (1e-3, 1.0, 40.5, 1e8):
            for beta in (1e-3, 1.0, 4e3, 1e8):
                expected = two_arm_sum(successes, failures, alpha, beta)
                one, other = (float(successes), failures), (alpha, beta)
                # Once more on the other side of logit 0, where failures and successes change places.
                for found in (beta_best(one, other)[0], beta_best(one[::-1], other[::-1])[1]):
                    assert found == pytest.approx(expected, rel=0, abs=1e-11)
                    assert found == pytest.approx(expected, rel=1e-3, abs=1e-15)

    def test_two_normals(self) -> None:
        for scale in ([1.0, 1.0], [1.0, 1e-12], [1e-12, 1.0], [3.0, 0.01]):
            spread = math.hypot(*scale)
            for deviations in np.arange(-7.0, 7.5, 0.5).tolist():
                expected = math.erfc(-deviations / math.sqrt(2)) / 2  # down to 1.3e-12
                best = normal_best([deviations * spread, 0.0], scale)
                assert best[0] == pytest.approx(expected, rel=1e-5, abs=0)

    def test_three_normals_of_which_two_are_fixed(self) -> None:
        best = normal_best([0.0, 1.0, -1.0], [1e-12, 1e-12, 1.0])
        above_one = math.erfc(2 / math.sqrt(2)) / 2
        assert best == pytest.approx([0.0, 1 - above_one, above_one], abs=1e-12)

    @pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e-12, 1.0, 1e12])
    @pytest.mark.parametrize("mean", [0.0, 1.0, -1e9])
    def test_equal_normals_share_equally(self, mean: float, scale: float) -> None:
        assert normal_best([mean, mean], [scale, scale]) == pytest.approx([0.5, 0.5], abs=1e-14)
        # An arm that knows nothing beside them: it is above them or below.
        best = normal_best([mean, mean, mean], [scale, scale, 1e12 * scale])
        assert best == pytest.approx([0.25, 0.25, 0.5], abs=1e-11)


# What `reference` says of arms for which it takes some seconds.
WORKED_OUT: list[tuple[list[Arm], list[float]]] = [
    (
        [(1e-3, 1e-3), (1e-3, 0.1), (0.1, 1e-3), (3e-3, 2e-3)],
        [0.22672449625263, 5.941413491253028e-05, 0.6207225374816626, 0.1524935521307946],
    ),
    (
        [(1.0, 1e3), (3.0, 2.5e3), (0.01, 7.0), (1e3, 1e6), (1e-3, 1.0)],
        [0.2725534877851679, 0.407569932453479, 0.03969542574306246, 0.27378933700666036, 0.0063918170116298795],
    ),
    (
        [(1e8, 1e8), (1e8 + 9e3, 1e8), (1e8 - 5e3, 1e8), (0.5, 0.5)],
        [0.13254902759593237, 0.28656368776254215, 0.08091087912040408, 0.4999764055211211],
    ),
    (
        [(1e-3, 1e8), (1e-3, 1.1e8), (2e-3, 1e8)],
        [0.2500233511779029, 0.2499283090307381, 0.5000483397913591],
    ),
    (
        [(1.0, 1.0), (30.0, 270.0), (1e4 + 120, 9e4), (1e8, 9e8)],
        [0.8924934246889655, 0.052227696581547994, 0.04858584714949435, 0.006693031579991796],
    ),
    (
        [(99600.0, 100000.0), (100000.0, 100000.0), (20.4, 20.0)],
        [0.12491757578552537, 0.3510048525454325, 0.5240775716690419],
    ),
    (
        [(98100.0, 100000.0), (100000.0, 100000.0), (21.9, 20.0)],
        [0.00046231817851336997, 0.3829686719483395, 0.6165690098731469],
    ),
    (
        [(97000.0, 100000.0), (100000.0, 100000.0), (23.0, 20.0)],
        [2.4508883462197204e-07, 0.3220017550829958, 0.6779979998281694],
    ),
]


class TestAgainstHighPrecision:
    @pytest.mark.parametrize(
        "arms",
        [
            [(1e-3, 1e-3), (1e8, 1e8)],
            [(1e-3, 1e8), (1e8, 1e-3)],
            [(86.05, 1.09), (38572386.9, 895.95), (1e8, 5.0), (1e6, 30.0)],
        ],
        ids=str,
    )
    def test_beta_arms(self, arms: list[Arm]) -> None:
        expected = reference(arms)
        assert math.fsum(expected) == pytest.approx(1.0, abs=1e-13)
        self.compare(arms, expected)

    @pytest.mark.parametrize(("arms", "expected"), WORKED_OUT, ids=str)
    def test_more_beta_arms(self, arms: list[Arm], expected: list[float]) -> None:
        self.compare(arms, expected)

    def compare(self, arms: list[Arm], expected: list[float]) -> None:
        for least in (ORDINARY, EXTREME):
            best = beta_best(*arms, least=least)
            assert best == pytest.approx(expected, abs=1e-11)
            for value, wanted in zip(best, expected, strict=True):
                if wanted > 1e-12:
                    assert value == pytest.approx(wanted, rel=1e-5, abs=0)

    def test_modes_of_well_known_arms_keep_their_digits(self) -> None:
        mode = BetaPosterior(np.array([1e12 + 3e6, 1e12]), np.array([1e12, 3e6])).mode
        assert mode == pytest.approx([float(mp.log1p(mp.mpf("3e-6"))), float(mp.log(1e12 / 3e6))], rel=1e-10, abs=0)

    def test_the_log_density(self) -> None:
        # Where p = α/(α+β) rounds to nearly 1, and where e^d overflows.
        for alpha, beta in ((1e8, 1e-3), (1e-3, 1e8), (1e8, 1e8), (1e-3, 1e-3), (2.0, 5.0)):
            posterior = BetaPosterior(np.array([alpha]), np.array([beta]))
            drops = np.array([1.2, 2.6, 4.3, 6.5, 9.0]) ** 2 / 2
            edges = posterior.edges(drops, drops)
            assert (np.diff(edges) >= 0).all()
            found = posterior.log_density(np.zeros((1, 1), dtype=np.intp), edges)
            with mp.workdps(40):
                mode = mp.log(mp.mpf(alpha) / mp.mpf(beta))
                values = [logit_density((alpha, beta), 0, mode + mp.mpf(float(d))) for d in edges[0]]
                wanted = [float(mp.log(value / max(values))) for value in values]
            assert found[0] == pytest.approx(wanted, rel=1e-10, abs=1e-10)
            assert max(wanted[0], wanted[-1]) < -40


class TestTinyProbabilities:
    """Right to a relative 1e-3 down to 1e-300, where that is asked for."""

    @pytest.mark.parametrize("scale", [[1.0, 1.0], [1.0, 1e-6], [1e-6, 1.0], [3.0, 0.01], [1e-3, 1e12]])
    def test_two_normals(self, scale: list[float]) -> None:
        for deviations in (3, 6, 8, 8.9, 9.1, 10, 14, 20, 27, 33, 36.9):
            expected = float(mp.erfc(deviations / mp.sqrt(2)) / 2)  # down to 2e-298
            gap = deviations * math.hypot(*scale)
            best = normal_best([0.0, gap], scale, EXTREME)
            assert best[0] == pytest.approx(expected, rel=1e-4, abs=0)
            assert normal_best([gap, 0.0], scale, EXTREME)[1] == pytest.approx(expected, rel=1e-4, abs=0)

    @pytest.mark.parametrize("leader_count", [1, 2, 12, 300])
    @pytest.mark.parametrize(
        ("successes", "failures", "power"),
        [
            (1, 40.0, 1e-3),
            (1, 1e6, 3.0),  # from 1e-18 on
            (3, 1e8, 2.0),
            (3, 300.0, 60.0),
            (40, 50.0, 700.0),
            (300, 300.0, 800.0),
            (300, 1e4, 30.0),
            (30, 40.0, 1e6),
            (1500, 1e4, 170.0),
        ],
    )
    def test_beta_beside_the_greatest_of_some(
        self, successes: int, failures: float, power: float, leader_count: int
    ) -> None:
        # The greatest of variables Beta(a_j, 1) is Beta(Σ a_j, 1).
        powers = np.linspace(0.5, 1.5, leader_count) * power if leader_count > 1 else np.array([power])
        expected = two_arm_sum(successes, failures, float(powers.sum()), 1.0)
        leaders = [(float(a), 1.0) for a in powers]
        best = beta_best((float(successes), failures), *leaders, least=EXTREME)
        if expected > EXTREME:
            assert best[0] == pytest.approx(expected, rel=1e-3, abs=0)
        else:
            assert best[0] < 2 * EXTREME
        assert best.sum() == pytest.approx(1.0, abs=1e-14)

    @pytest.mark.parametrize("alpha", [2.5, 500.0, 1e4])
    @pytest.mark.parametrize("successes", [1, 7, 300])
    def test_two_beta_arms(self, successes: int, alpha: float) -> None:
        checked = 0
        for failures in (0.5, 30.0, 1e3, 1e6, 1e8):
            for beta in (1e-3, 0.5, 20.0, 1e4, 1e8):
                expected = two_arm_sum(successes, failures, alpha, beta)
                if not EXTREME < expected < 1e-3:
                    continue
                one, other = (float(successes), failures), (alpha, beta)
                assert beta_best(one, other, least=EXTREME)[0] == pytest.approx(expected, rel=1e-3, abs=0)
                found = beta_best(one[::-1], other[::-1], least=EXTREME)[1]
                assert found == pytest.approx(expected, rel=1e-3, abs=0)
                checked += 1
        assert checked > 0

    @pytest.mark.parametrize("seed", range(40))
    def test_shorter_panels_change_nothing(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        arm_count = int(rng.integers(2, 21))
        spread = 10 ** rng.uniform(-2, 0, arm_count)
        family: list[Density] = [
            BetaPosterior(*random_arms(rng, arm_count)),
            NormalPosterior(5 * rng.normal(size=arm_count) * spread, spread),
            GammaPosterior(*10 ** rng.uniform(-2, 4, (2, arm_count))),
            StudentPosterior(3 * rng.normal(size=arm_count), spread, 10 ** rng.uniform(0.5, 6, arm_count)),
        ]
        posterior = family[seed % 4]
        best, finer = probability_best(posterior, EXTREME), probability_best(Finer(posterior), EXTREME)
        assert best == pytest.approx(finer, rel=1e-3, abs=EXTREME)
        assert best == pytest.approx(probability_best(posterior), rel=1e-3, abs=1e-12)
        assert best == pytest.approx(probability_best(posterior, 1e-100), rel=1e-3, abs=1e-100)

    @pytest.mark.parametrize("arms", [arms for arms, _ in WORKED_OUT], ids=str)
    def test_the_far_windows_alone_say_the_same(self, arms: list[Arm], monkeypatch: pytest.MonkeyPatch) -> None:
        # Where the ordinary windows are enough, they are all that is looked at; here they never are.
        best = beta_best(*arms, least=EXTREME)
        monkeypatch.setattr("multiarm.domain.probability._CLOSE_DROP", -1.0)
        far = beta_best(*arms, least=EXTREME)
        assert far == pytest.approx(best, rel=1e-5, abs=0)
        assert far == pytest.approx(best, rel=0, abs=1e-11)

    def test_where_the_ordinary_windows_seem_enough_but_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        arms = [(500.0, 9500.0), (600.0, 9400.0), (900.0, 9100.0)]
        best = beta_best(*arms, least=EXTREME)
        assert 1e-60 < best[0] < 1e-25
        monkeypatch.setattr("multiarm.domain.probability._CLOSE_DROP", math.inf)
        assert beta_best(*arms, least=EXTREME).tolist() == best.tolist()

    def test_ten_well_known_arms_far_apart(self) -> None:
        # All ten meet far from their modes: the product of ten tails has a narrow peak.
        rate = np.linspace(0.05, 0.12, 10)
        scale = np.sqrt(rate * (1 - rate) / 1e4)
        for posterior in (
            BetaPosterior(1 + 1e4 * rate, 1 + 1e4 * (1 - rate)),
            NormalPosterior(rate, scale),
            StudentPosterior(rate, scale, np.full(10, 1e4)),
            GammaPosterior(1 + 1e4 * rate, np.full(10, 1e4)),
        ):
            best, finer = probability_best(posterior, EXTREME), probability_best(Finer(posterior), EXTREME)
            assert best[0] < 1e-80
            assert best == pytest.approx(finer, rel=1e-4, abs=0)

    def test_many_arms_are_evaluated_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rate = np.linspace(0.05, 0.12, 10)
        posterior = BetaPosterior(1 + 1e4 * rate, 1 + 1e4 * (1 - rate))
        whole = probability_best(posterior, EXTREME)
        monkeypatch.setattr("multiarm.domain.probability._BLOCK_ROW_COUNT", 40)
        assert probability_best(posterior, EXTREME) == pytest.approx(whole, rel=1e-12, abs=0)

    @pytest.mark.parametrize("least", [0.0, 1e-301, 1e-16, 1.0, math.nan])
    def test_what_is_least_out_of_range(self, least: float) -> None:
        with pytest.raises(ValueError, match="least must lie between"):
            beta_best((1.0, 1.0), (2.0, 2.0), least=least)


class TestLaws:
    @pytest.mark.parametrize("seed", range(60))
    def test_shorter_panels_change_nothing(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        posterior = BetaPosterior(*random_arms(rng, int(rng.integers(2, 21))))
        best, finer = probability_best(posterior), probability_best(Finer(posterior))
        assert best == pytest.approx(finer, rel=1e-3, abs=1e-15)
        assert best == pytest.approx(finer, rel=0, abs=5e-12)

    def test_no_panel_straddles_the_end_of_a_window(self) -> None:
        # Each density falls off a cliff where the other's panels are a thousand times longer.
        for failures in ((95.92209532, 399.03245509), (400.0, 96.0), (5.0, 300.0)):
            posterior = BetaPosterior(np.array([1e-3, 1e-3]), np.array(failures))
            assert probability_best(posterior) == pytest.approx(probability_best(Finer(posterior)), rel=0, abs=1e-12)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        st.lists(st.tuples(st.floats(-3, 8), st.floats(-3, 8)), min_size=1, max_size=12),
        st.randoms(use_true_random=False),
    )
    def test_order_and_twins(self, exponents: list[tuple[float, float]], random: Any) -> None:
        arms = [(10**a, 10**b) for a, b in exponents]
        arms.append(arms[0])
        best = beta_best(*arms)
        assert (best >= 0).all()
        assert best.sum() == pytest.approx(1.0, abs=1e-12)
        assert best[-1] == pytest.approx(best[0], abs=1e-15)
        order = random.sample(range(len(arms)), len(arms))
        assert beta_best(*(arms[k] for k in order)) == pytest.approx(best[order], abs=1e-12)

    @pytest.mark.parametrize("seed", range(20))
    def test_failures_for_successes_makes_the_best_the_worst(self, seed: int) -> None:
        # For two arms: the one that is best by its successes is worst by its failures.
        (a, b), (c, d) = np.array(random_arms(np.random.default_rng(seed), 2)).T.tolist()
        assert beta_best((a, b), (c, d)) == pytest.approx(beta_best((b, a), (d, c))[::-1], abs=1e-11)

    def test_a_hopeless_arm_changes_little(self) -> None:
        arms = [(30.0, 270.0), (33.0, 260.0), (1.0, 4.0)]
        alone = beta_best(*arms)
        for hopeless in ((1e3, 1e8), (1.0, 1e8), (1e-3, 1e8)):
            best = beta_best(*arms, hopeless)
            assert best[3] < 1e-8
            assert best[:3] == pytest.approx(alone, abs=1e-8)

    def test_a_better_arm_takes_from_the_others(self) -> None:
        shares = [beta_best((30.0 + more, 270.0), (33.0, 260.0), (1.0, 4.0)) for more in range(0, 60, 3)]
        steps = np.diff(shares, axis=0)
        assert (steps[:, 0] > 0).all()
        assert (steps[:, 1:] < 0).all()

    def test_moving_and_stretching_the_line_changes_nothing(self) -> None:
        mean, scale = np.array([0.0, 1.0, 1.5, -3.0]), np.array([1.0, 0.5, 1e-3, 7.0])
        best = normal_best(mean.tolist(), scale.tolist())
        for shift, factor in ((1e3, 1.0), (0.0, 1e12), (-7.0, 1e-12), (0.0, 1e-200)):
            moved = NormalPosterior((mean + shift) * factor, scale * factor)
            assert probability_best(moved) == pytest.approx(best, abs=1e-11)


class TestShapes:
    @pytest.mark.parametrize("parameters", [(1.0, 1.0), (1e-3, 1e-3), (1e8, 3e8), (1e12, 1e12)])
    @pytest.mark.parametrize("arm_count", [2, 7, 20, 1000])
    def test_equal_arms_share_equally(self, arm_count: int, parameters: Arm) -> None:
        assert beta_best(*[parameters] * arm_count) == pytest.approx([1 / arm_count] * arm_count, rel=1e-10)

    def test_a_thousand_arms_of_all_ages_in_bounded_memory(self) -> None:
        rng = np.random.default_rng(5)
        count = 10 ** rng.uniform(0, 12, 1000)
        tracemalloc.start()
        best = probability_best(BetaPosterior(0.1 * count + 1e-3, 0.9 * count + 1e-3))
        anything = probability_best(BetaPosterior(*10 ** rng.uniform(-3, 12, (2, 1000))))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 45e6  # 52e6 without blocks
        for probabilities in (best, anything):
            assert (probabilities >= 0).all()
            assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
        assert best.max() < 0.5

    def test_many_arms_are_evaluated_in_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        posterior = BetaPosterior(*random_arms(np.random.default_rng(3), 20))
        whole = probability_best(posterior)
        monkeypatch.setattr("multiarm.domain.probability._BLOCK_ROW_COUNT", 40)
        assert probability_best(posterior) == pytest.approx(whole, rel=1e-12)

    def test_leading_dimensions(self) -> None:
        alpha, beta = np.random.default_rng(2).uniform(0.5, 40, (2, 3, 4, 5))
        best = probability_best(BetaPosterior(alpha, beta))
        assert best.shape == (3, 4, 5)
        for i in range(3):
            for j in range(4):
                assert best[i, j].tolist() == beta_best(*zip(alpha[i, j], beta[i, j], strict=True)).tolist()

    def test_another_family(self) -> None:
        # The largest of Gumbel variables with locations m_k is the k-th with probability e^(m_k) / Σ e^(m_j).
        location = np.array([0.0, 1.0, -2.0, 0.5, -20.0])
        expected = np.exp(location) / np.exp(location).sum()
        assert probability_best(Gumbel(location)) == pytest.approx(expected, rel=1e-8, abs=0)


@dataclass(frozen=True)
class Finer:
    """Another posterior, with each panel cut in three and a little more of each tail."""

    posterior: Density

    @property
    def mode(self) -> Floats:
        return self.posterior.mode

    def edges(self, below: Floats, above: Floats) -> Floats:
        edges = self.posterior.edges(below, above)
        parts = [edges[:, :-1] + np.diff(edges) * third / 3 for third in range(3)]
        return np.sort(np.concatenate([*parts, edges[:, [0, -1]], edges[:, [0, -1]] * 1.05], axis=1), axis=1)

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        return self.posterior.log_density(arms, distance)

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        return self.posterior.tail(arms, distance)

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.posterior[index])


@dataclass(frozen=True)
class Gumbel:
    """A family of its own, with one exponential tail: `log f(m + d) = -d - e^-d`."""

    mode: Floats

    def edges(self, below: Floats, above: Floats) -> Floats:
        del below, above
        edges = np.array([-3.8, -3.1, -2.5, -1.8, -1, 0, 1, 2.5, 5, 8, 12, 17, 23, 30, 42])
        return np.tile(edges, (len(self.mode), 1))

    def log_density(self, arms: Indices, distance: Floats) -> Floats:
        del arms
        relative: Floats = 1.0 - distance - np.exp(-distance)
        return relative

    def tail(self, arms: Indices, distance: Floats) -> Floats:
        del arms
        return tail_ratio(np.expm1(-distance), -np.exp(-distance), np.exp(-distance))

    def __getitem__(self, index: Indices | tuple[int, ...]) -> Self:
        return type(self)(self.mode[index])


def two_arm_sum(successes: int, failures: float, alpha: float, beta: float) -> float:
    """P(Beta(successes, failures) > Beta(alpha, beta)) as a sum (Evan Miller, Bayesian A/B testing)."""
    with mp.workdps(30):
        a, f, everything = mp.mpf(alpha), mp.mpf(failures), mp.mpf(alpha) + mp.mpf(beta) + mp.mpf(failures)
        term = mp.exp(log_beta(a, mp.mpf(beta) + f) - log_beta(a, mp.mpf(beta)))
        total = term
        for i in range(successes - 1):
            term *= (a + i) / (everything + i) * (f + i) / (i + 1)
            total += term
        return float(total)


def log_beta(alpha: Any, beta: Any) -> Any:
    return mp.loggamma(alpha) + mp.loggamma(beta) - mp.loggamma(alpha + beta)


def logit_density(arm: Arm, normaliser: Any, y: Any) -> Any:
    return mp.exp(mp.mpf(arm[0]) * y - (mp.mpf(arm[0]) + mp.mpf(arm[1])) * mp.log(1 + mp.exp(y)) - normaliser)


def reference_edges(arm: Arm) -> list[float]:
    """Panels that 12 nodes integrate to 1e-15: by falls of the log-density, and about its mode and its knee."""
    mode = math.log(arm[0] / arm[1])
    top = logit_density(arm, 0, mp.mpf(mode))

    def fall(distance: float) -> float:
        return float(mp.log(top / logit_density(arm, 0, mp.mpf(mode + distance))))

    edges = [mode]
    for side in (-1, 1):
        for level in range(1, 14):
            low, high = 0.0, 1e6
            while high - low > 1e-3 * high and high > 1e-9:
                middle = math.sqrt(max(low, high * 1e-3) * high)
                low, high = (middle, high) if fall(side * middle) < (0.75 * level) ** 2 / 2 else (low, middle)
            edges.append(mode + side * high)
    lowest, highest = min(edges), max(edges)
    knees = [centre + step for centre in (0.0, mode) for step in (-20, -14, -9, -5, -2, 0, 2, 5, 9, 14, 20)]
    return sorted(edges + [knee for knee in knees if lowest < knee < highest])


def reference(arms: list[Arm]) -> list[float]:
    """P(best) in 30 digits: exact normalisation, every arm's panels uncombined, each F by integrals of its own."""
    rule = np.transpose(np.polynomial.legendre.leggauss(12)).tolist()
    with mp.workdps(30):
        edges = [reference_edges(arm) for arm in arms]
        normalisers = [log_beta(mp.mpf(a), mp.mpf(b)) for a, b in arms]

        def integral(k: int, start: Any, end: Any) -> Any:
            half, centre = (end - start) / 2, (end + start) / 2
            values = (w * logit_density(arms[k], normalisers[k], centre + half * x) for x, w in rule)
            return half * mp.fsum(values)

        best = [mp.mpf(0)] * len(arms)
        below = [mp.mpf(0)] * len(arms)
        for start, end in pairwise(map(mp.mpf, sorted(set().union(*edges)))):
            inside = [k for k, own in enumerate(edges) if own[0] <= start and end <= own[-1]]
            if all(own[0] <= start for own in edges):
                for x, w in rule:
                    y = (end + start) / 2 + (end - start) / 2 * x
                    cdf = [below[k] + (integral(k, start, y) if k in inside else 0) for k in range(len(arms))]
                    for k in inside:
                        others = mp.fprod(cdf[:k] + cdf[k + 1 :])
                        best[k] += w * (end - start) / 2 * logit_density(arms[k], normalisers[k], y) * others
            for k in inside:
                below[k] += integral(k, start, end)
        return [float(value) for value in best]
