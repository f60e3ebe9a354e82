"""The families: what they say of themselves, against closed forms, scipy's distributions and their own samples."""

import importlib
import inspect
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from multiarm.domain.posteriors import (
    BetaPosterior,
    GammaPosterior,
    NormalPosterior,
    Posterior,
    StudentPosterior,
    log_gamma,
)
from multiarm.domain.probability import EXTREME, ORDINARY, probability_best

mp: Any = importlib.import_module("mpmath")  # it has no types

Floats = NDArray[np.float64]
Family = Callable[..., Posterior]

FAMILIES: list[Family] = [BetaPosterior, NormalPosterior, StudentPosterior, GammaPosterior]
SOME: dict[str, Posterior] = {  # four arms of each family, none of them hopeless
    "beta": BetaPosterior(np.array([3.0, 40.0, 1e3, 0.7]), np.array([9.0, 130.0, 3e3, 1.1])),
    "beta, flat": BetaPosterior(np.array([1e-3, 2e-3, 1e-3, 0.1]), np.array([1e-3, 1e-3, 2e-3, 0.2])),
    "beta, rare": BetaPosterior(np.array([1e-3, 2.0, 1.5, 0.5]), np.array([10.0, 1e6, 1e6, 1e6])),
    "normal": NormalPosterior(np.array([0.0, 0.3, -1.0, 0.2]), np.array([1.0, 0.5, 2.0, 1e-3])),
    "student": StudentPosterior(
        np.array([0.0, 0.3, -1, 0.2]), np.array([1, 0.5, 2, 1e-3]), np.array([1.0, 3, 30, 1e8])
    ),
    "gamma": GammaPosterior(np.array([1.0, 30.0, 1e4, 0.2]), np.array([1.0, 20.0, 1.1e4, 0.5])),
    "gamma, flat": GammaPosterior(np.array([1e-3, 1e-3, 2e-3, 0.01]), np.array([1.0, 1e5, 2.0, 30.0])),
}


def arrays(*values: ArrayLike) -> list[Floats]:
    return [np.array(each, dtype=np.float64) for each in values]


class TestStudent:
    def test_two_cauchy_arms(self) -> None:
        # Their difference is a Cauchy variable, and its scale the sum of their scales.
        for scale in (1.0, 1e-6, 1e3):
            for gap in (0.0, 1e-6, 0.5, -3.0, 100.0):
                best = probability_best(StudentPosterior(*arrays([gap, 0.0], [scale, 1.0], [1.0, 1.0])))
                assert best[0] == pytest.approx(0.5 + math.atan(gap / (1 + scale)) / math.pi, abs=1e-11)

    def test_against_high_precision(self) -> None:
        # A wide arm that knows little, beside arms up to a million times narrower. The first is worked out beforehand.
        for mean, scale, freedom, expected in (
            (
                [0.0, 0.4, 0.1],
                [1.0, 0.02, 1e-6],
                [1.0, 3.0, 30.0],
                [0.3789740865470354, 0.620854931973931, 0.00017098147845468053],
            ),
            ([0.0, 0.3], [1.0, 1e-3], [3.0, 1.0], high_precision([0.0, 0.3], [1.0, 1e-3], [3.0, 1.0])),
        ):
            assert sum(expected) == pytest.approx(1.0, abs=1e-12)
            for least in (ORDINARY, EXTREME):
                best = probability_best(StudentPosterior(*arrays(mean, scale, freedom)), least)
                assert best == pytest.approx(expected, abs=1e-10)
                assert best == pytest.approx(expected, rel=1e-4, abs=0)

    @pytest.mark.parametrize("seed", range(16))
    def test_any_mixture(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        arm_count = int(rng.integers(2, 6))
        freedom = rng.choice([1.0, 2.0, 3.0, 10.0, 30.0, 300.0, 1e4, 1e6, 1e8], arm_count)
        scale = 10 ** rng.uniform(-6, 0, arm_count)
        mean = rng.normal(size=arm_count) * (scale if seed % 2 else 1.0)
        expected = dense_panels(mean, scale, freedom)
        for least in (ORDINARY, EXTREME):
            best = probability_best(StudentPosterior(mean, scale, freedom), least)
            assert best == pytest.approx(expected, abs=1e-10)
            assert best == pytest.approx(expected, rel=1e-3, abs=1e-13)

    @pytest.mark.parametrize(
        ("freedom", "deviations"),
        [
            (1, 1e2),
            (1, 1e9),
            (3, 40),
            (3, 1e10),
            (5, 1e12),
            (30, 12),
            (30, 1e9),
            (300, 30),
            (300, 1e2),
            (1e4, 36),
            (1e8, 37),
        ],
    )
    def test_tails(self, freedom: float, deviations: float) -> None:
        # Beside an arm that is known, an arm is best with the mass of its tail: the upper one, then the lower.
        with mp.workdps(30):
            x = freedom / (freedom + mp.mpf(deviations) ** 2)
            expected = float(mp.betainc(mp.mpf(freedom) / 2, 0.5, 0, x, regularized=True) / 2)
        assert 1e-300 < expected < 1e-2
        scale, freedoms = [1.0, 1e-5], [float(freedom), 1e8]
        upper = probability_best(StudentPosterior(*arrays([0.0, deviations], scale, freedoms)), EXTREME)
        lower = probability_best(StudentPosterior(*arrays([deviations, 0.0], scale, freedoms)), EXTREME)
        assert [upper[0], lower[1]] == pytest.approx([expected] * 2, rel=1e-3, abs=0)

    def test_edges(self) -> None:
        # As many as the drops and the mode only if they are just these, of every arm.
        below, above = arrays([1.0, 10.0, 40.0, 85.0], [2.0, 30.0])
        for freedom in ([1e4, 300.0], [1.0, 1e4], [0.01, 3.0], [0.01, 0.02]):
            posterior = StudentPosterior(*arrays([0.0, 1.0], [1.0, 2.0], freedom))
            edges = posterior.edges(below, above)
            assert (np.diff(edges) >= 0).all()
            assert (edges == 0).any(axis=1).all()
            if edges.shape[1] == 7:
                assert (edges[:, 4] == 0).all()
                for k in range(2):
                    one = posterior[np.array([k])]
                    assert edges[k, [0, -1]].tolist() == one.edges(below[-1:], above[-1:])[0, [0, -1]].tolist()
            else:
                assert edges.shape[1] > 7

    def test_many_freedoms_are_a_normal(self) -> None:
        mean, scale = arrays([0.0, 1.0, 5.0], [1.0, 0.1, 2.0])
        best = probability_best(StudentPosterior(mean, scale, np.full(3, 1e12)))
        assert best == pytest.approx(probability_best(NormalPosterior(mean, scale)), abs=1e-11)

    @pytest.mark.parametrize("centre", [0.0, 1e12, -1e12])
    def test_centres_far_from_zero(self, centre: float) -> None:
        mean, scale, freedom = arrays([0.0, 0.5, 2.0], [1.0, 1e-3, 0.25], [1.0, 4.0, 1e4])
        best = probability_best(StudentPosterior(mean + centre, scale, freedom))
        assert best == pytest.approx(probability_best(StudentPosterior(mean, scale, freedom)), abs=1e-12)
        far = probability_best(StudentPosterior(*arrays([centre, 0.0], [1e-6, 1e-6], [1.0, 1.0])))
        assert far == pytest.approx([0.5 + 0.5 * np.sign(centre), 0.5 - 0.5 * np.sign(centre)], abs=1e-12)


class TestGamma:
    @pytest.mark.parametrize("shape", [1e-3, 0.5, 1.0, 30.0, 1e4])
    @pytest.mark.parametrize("other", [1e-3, 1.0, 40.5, 1e4])
    def test_two_arms(self, shape: float, other: float) -> None:
        # bX / (bX + dY) is Beta: P(X > Y) = I_{d/(b+d)}(c, a).
        for rate in (1e-290, 0.7, 1e290):
            for ratio in (1.0, other / shape, 1.01 * other / shape, 30.0):
                expected = special.betainc(other, shape, ratio / (1 + ratio))
                posterior = GammaPosterior(*arrays([shape, other], [rate, rate * ratio]))
                for least in (ORDINARY, EXTREME):
                    best = probability_best(posterior, least)
                    assert best == pytest.approx([expected, 1 - expected], rel=0, abs=1e-11)

    @pytest.mark.parametrize("shape", [1, 30, 300])
    @pytest.mark.parametrize("other", [1e-3, 7.5, 1e8, 1e12])
    def test_two_arms_one_of_them_with_a_whole_shape(self, shape: int, other: float) -> None:
        for factor in (0.8, 1.0, 1.1):
            rate = shape / other * factor
            expected = gamma_above(shape, rate, other, 1.0)
            best = probability_best(GammaPosterior(*arrays([shape, other], [rate, 1.0])))
            assert best[0] == pytest.approx(expected, rel=1e-4, abs=1e-10)
            assert best[0] == pytest.approx(expected, rel=0, abs=1e-10)

    def test_the_fastest_exponential(self) -> None:
        rate = np.geomspace(1e-4, 1e4, 30)
        best = probability_best(GammaPosterior(np.ones(30), rate).mirrored())
        assert best == pytest.approx(rate / rate.sum(), rel=1e-8, abs=0)

    @pytest.mark.parametrize("shape", [1e-3, 1.0, 1e12])
    def test_equal_arms_share_equally(self, shape: float) -> None:
        for arm_count in (1, 3, 1000):
            best = probability_best(GammaPosterior(np.full(arm_count, shape), np.full(arm_count, 1e-9)))
            assert best == pytest.approx(np.full(arm_count, 1 / arm_count), rel=1e-9)

    @pytest.mark.parametrize("shape", [1, 3, 200])
    @pytest.mark.parametrize("other", [0.5, 2.5, 300.0, 1e5])
    @pytest.mark.parametrize("magnitude", [5, 50, 150, 295])
    def test_tiny_probabilities(self, shape: int, other: float, magnitude: int) -> None:
        # The rate at which P(X > Y) has about that magnitude: X's upper tail meets Y's lower one.
        events = np.arange(shape)
        choices = special.gammaln(other + events) - special.gammaln(other) - special.gammaln(events + 1)

        def log10_above(log_rate: float) -> float:
            logs = choices + events * log_rate - (other + events) * np.logaddexp(0.0, log_rate)
            return float(special.logsumexp(logs)) / math.log(10)

        low, high = -100.0, 700.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if log10_above(middle) > -magnitude else (low, middle)
        rate = math.exp(low)
        expected = gamma_above(shape, rate, other, 1.0)
        assert EXTREME < expected < 0.1
        posterior = GammaPosterior(*arrays([shape, other], [rate, 1.0]))
        assert probability_best(posterior, EXTREME)[0] == pytest.approx(expected, rel=1e-3, abs=0)
        assert probability_best(posterior.mirrored(), EXTREME)[1] == pytest.approx(expected, rel=1e-3, abs=0)

    def test_tiny_probabilities_beside_many(self) -> None:
        # The least of exponentials is exponential with the sum of their rates: P(X < all) = E e^(-ΣrX).
        for shape in (0.5, 30.0, 400.0, 1e5):
            for exponent in (10, 100, 299):
                rates = np.linspace(1.0, 3.0, 8)
                base = rates.sum() / np.expm1(exponent * math.log(10) / shape) if shape > 0.6 * exponent else 1.0
                expected = (1 + rates.sum() / base) ** -shape
                posterior = GammaPosterior(np.array([shape, *np.ones(8)]), np.array([base, *rates])).mirrored()
                assert probability_best(posterior, EXTREME)[0] == pytest.approx(expected, rel=1e-3, abs=0)


class TestMirrored:
    @pytest.mark.parametrize("name", SOME)
    def test_the_smallest_is_the_best(self, name: str) -> None:
        posterior = SOME[name]
        for pair in ([0, 1], [1, 2], [3, 0]):  # of two arms, one is the smallest where the other is the largest
            two = posterior[np.array(pair)]
            for least in (ORDINARY, EXTREME):
                best = probability_best(two, least)
                assert probability_best(two.mirrored(), least) == pytest.approx(best[::-1], rel=1e-7, abs=0)
        assert probability_best(posterior.mirrored().mirrored()).tolist() == probability_best(posterior).tolist()

    def test_it_is_the_family_with_its_parameters_turned_round(self) -> None:
        some, other, third = arrays([1e-3, 40.0, 1e8], [1e-2, 130.0, 3e8], [1.0, 5.0, 1e6])
        for one, two in (
            (BetaPosterior(some, other), BetaPosterior(other, some)),
            (NormalPosterior(some, other), NormalPosterior(-some, other)),
            (StudentPosterior(some, other, third), StudentPosterior(-some, other, third)),
        ):
            for least in (ORDINARY, EXTREME):
                assert probability_best(one.mirrored(), least) == pytest.approx(probability_best(two, least), rel=1e-9)


class TestSamples:
    @pytest.mark.parametrize("mirrored", [False, True])
    @pytest.mark.parametrize("name", SOME)
    def test_the_largest_is_the_winner_as_often_as_it_should_be(self, name: str, mirrored: bool) -> None:
        posterior = SOME[name].mirrored() if mirrored else SOME[name]
        rng = np.random.default_rng(7)
        draws = np.concatenate([posterior[np.tile(np.arange(4), 500)].sample(rng).reshape(-1, 4) for _ in range(100)])
        expected = probability_best(posterior) * len(draws)
        observed = np.bincount(draws.argmax(axis=1), minlength=4)
        assert (expected > 5).sum() >= 3
        observed, expected = observed[expected > 5], expected[expected > 5]
        assert ((observed - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-3, df=3)

    def test_on_the_axis(self) -> None:
        rng = np.random.default_rng(8)
        shape, size = (10_000, 2), np.ones((10_000, 1))
        beta = special.expit(BetaPosterior(size * [0.5, 40.0], size * [2.0, 3.0]).sample(rng))
        gamma = np.exp(GammaPosterior(size * [0.5, 40.0], size * [2.0, 3.0]).sample(rng))
        normal = NormalPosterior(size * [0.5, 40.0], size * [2.0, 3.0]).sample(rng)
        student = StudentPosterior(size * [0.5, 40.0], size * [2.0, 3.0], size * [2.0, 30.0]).sample(rng)
        for sample, laws in (
            (beta, [stats.beta(0.5, 2.0), stats.beta(40.0, 3.0)]),
            (gamma, [stats.gamma(0.5, scale=0.5), stats.gamma(40.0, scale=1 / 3)]),
            (normal, [stats.norm(0.5, 2.0), stats.norm(40.0, 3.0)]),
            (student, [stats.t(2.0, 0.5, 2.0), stats.t(30.0, 40.0, 3.0)]),
        ):
            assert sample.shape == shape
            for k, law in enumerate(laws):
                assert stats.kstest(sample[:, k], law.cdf).pvalue > 1e-3

    def test_small_shapes_never_tie(self) -> None:
        logs = log_gamma(np.full((1000, 3), 1e-3), np.random.default_rng(9))
        assert np.isfinite(logs).all()
        assert len(np.unique(logs)) == logs.size
        # -a·log G is about exponential for small a
        assert stats.kstest(-1e-3 * logs.ravel(), stats.expon.cdf).pvalue > 1e-3


class TestIntervals:
    @pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-9])
    def test_against_scipy(self, confidence: float) -> None:
        tails = (1 - confidence) / 2
        one, two, three = arrays([[1.0, 30.0, 1e6]], [[2.0, 7.0, 2e5]], [[1.0, 20.0, 1e7]])
        for posterior, law in (
            (BetaPosterior(one, two), stats.beta(one, two)),
            (NormalPosterior(one, two), stats.norm(one, two)),
            (StudentPosterior(one, two, three), stats.t(three, one, two)),
            (GammaPosterior(one, two), stats.gamma(one, scale=1 / two)),
        ):
            expected = np.stack([law.ppf(tails), law.isf(tails)], axis=-1)
            for found in (posterior.interval(confidence), posterior.mirrored().interval(confidence)):
                assert found.shape == (1, 3, 2)
                assert found == pytest.approx(expected, rel=1e-8)
                assert (found[..., 0] < found[..., 1]).all()

    def test_the_default_is_95_per_cent(self) -> None:
        low, high = NormalPosterior(*arrays([3.0], [2.0])).interval()[0]
        assert [low, high] == pytest.approx([3 - 2 * 1.959963984540054, 3 + 2 * 1.959963984540054])

    @pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 2.0, math.nan])
    def test_a_confidence_out_of_range(self, confidence: float) -> None:
        for posterior in SOME.values():
            with pytest.raises(ValueError, match="confidence must"):
                posterior.interval(confidence)


class TestShapes:
    @pytest.mark.parametrize("name", SOME)
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_leading_dimensions(self, name: str, mirrored: bool) -> None:
        one = SOME[name]
        parameters = [getattr(one, name) for name in inspect.signature(type(one)).parameters]
        family: Any = type(one)
        stacked: Posterior = family(*(np.stack([p, p[::-1]])[:, None] for p in parameters))
        if mirrored:
            one, stacked = one.mirrored(), stacked.mirrored()
        for least in (ORDINARY, EXTREME):
            expected, best = probability_best(one, least), probability_best(stacked, least)
            assert best.shape == (2, 1, 4)
            assert best[0, 0].tolist() == expected.tolist()
            assert best[1, 0] == pytest.approx(expected[::-1], rel=1e-8)
        assert stacked.sample(np.random.default_rng(0)).shape == (2, 1, 4)
        assert stacked.interval().shape == (2, 1, 4, 2)
        assert stacked.interval()[1, 0].tolist() == one.interval()[::-1].tolist()

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
    def test_parameters_out_of_range(self, family: Family, wrong: float) -> None:
        names = inspect.signature(family).parameters
        for name in names:
            if name == "mean" and math.isfinite(wrong):
                continue
            parameters = {each: np.array([1.0, wrong if each == name else 2.0]) for each in names}
            with pytest.raises(ValueError, match=f"{name} must be finite"):
                family(**parameters)

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("shapes", [((2,), (3,)), ((), ()), ((0,), (0,)), ((2, 1), (2, 3))])
    def test_shapes_that_do_not_fit(self, family: Family, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        others = [np.ones(shapes[1])] * (2 if family is StudentPosterior else 1)
        with pytest.raises(ValueError, match="one shape"):
            family(np.ones(shapes[0]), *others)


def gamma_above(shape: int, rate: float, other: float, other_rate: float) -> float:
    """P(Gamma(shape, rate) > Gamma(other, other_rate)), the number of events of a process before another time."""
    with mp.workdps(30):
        share = mp.mpf(rate) / (mp.mpf(rate) + mp.mpf(other_rate))
        term, total = (other_rate / (mp.mpf(rate) + mp.mpf(other_rate))) ** mp.mpf(other), mp.mpf(0)
        for i in range(shape):
            total += term
            term *= share * (mp.mpf(other) + i) / (i + 1)
        return float(total)


def high_precision(mean: list[float], scale: list[float], freedom: list[float]) -> list[float]:
    """P(best) for freedoms 1, 3 and even ones, whose distribution functions are elementary."""
    with mp.workdps(25):

        def cdf(t: Any, nu: float) -> Any:
            angle = mp.atan(t / mp.sqrt(nu))
            if nu == 1:
                return 0.5 + angle / mp.pi
            if nu == 3:
                return 0.5 + (angle + mp.sin(angle) * mp.cos(angle)) / mp.pi
            terms = (mp.binomial(2 * j, j) * (mp.cos(angle) / 2) ** (2 * j) for j in range(int(nu) // 2))
            return (1 + mp.sin(angle) * mp.fsum(terms)) / 2

        def density(t: Any, nu: float) -> Any:
            return (1 + t * t / nu) ** (-(mp.mpf(nu) + 1) / 2) / (mp.sqrt(nu) * mp.beta(mp.mpf(nu) / 2, 0.5))

        arms = list(zip(map(mp.mpf, mean), map(mp.mpf, scale), freedom, strict=True))
        steps = [mp.mpf(2) ** i for i in range(-1, 40)]
        ends = sorted({m + sign * s * step for m, s, _ in arms for step in (0, *steps) for sign in (-1, 1)})
        rule = np.transpose(np.polynomial.legendre.leggauss(10)).tolist()
        best = [mp.mpf(0)] * len(arms)
        for start, end in pairwise(ends):
            for x, w in rule:
                y = (end + start) / 2 + (end - start) / 2 * x
                below = [cdf((y - m) / s, nu) for m, s, nu in arms]
                for k, (m, s, nu) in enumerate(arms):
                    others = mp.fprod(below[:k] + below[k + 1 :])
                    best[k] += w * (end - start) / 2 * density((y - m) / s, nu) / s * others
        return [float(value) for value in best]


def dense_panels(mean: Floats, scale: Floats, freedom: Floats) -> list[float]:
    """P(best) from scipy's densities and distribution functions, each arm on all arms' panels, about its own mode."""
    x, weights = np.polynomial.legendre.leggauss(20)
    best = []
    for k in range(len(mean)):
        ends = []
        for m, s, nu in zip(mean - mean[k], scale, freedom, strict=True):
            geometric = np.sqrt(nu) * np.sinh(np.linspace(0, np.arcsinh(1e14 / np.sqrt(nu)), 100))
            distances = s * np.concatenate([np.linspace(0, 12, 41), geometric])
            ends += [m - distances, m + distances]
        panels = np.unique(np.concatenate(ends))
        length = np.diff(panels)
        y = panels[:-1, None] + length[:, None] * (x + 1) / 2
        integrand = stats.t.pdf(y / scale[k], freedom[k]) / scale[k]
        for j in range(len(mean)):
            if j != k:
                integrand *= special.stdtr(freedom[j], (y - (mean[j] - mean[k])) / scale[j])
        best.append(float((integrand @ weights) @ length / 2))
    return best
