"""The hurdle log-normal posterior: against integrals taken another way, against chance, and where it is extreme."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import special, stats

from multiarm.domain.hurdle import HurdlePosterior, pooled_logs
from multiarm.domain.hurdle_table import tabulate
from multiarm.domain.posterior_base import Floats
from multiarm.domain.probability import probability_best

# (pulls, positives, how many logs, mean of the logs, S = Σ(ln r - mean)²)
Arm = tuple[float, float, float, float, float]

FEW = (1000.0, 5.0, 5.0, 1.0, 4.0)
NEVER_CONVERTED = (400.0, 0.0, 5.0, 1.5, 6.0)
SOME = (1000.0, 50.0, 50.0, 0.2, 40.0)
WIDE = (800.0, 20.0, 20.0, -3.0, 150.0)  # its logs vary more than a limit of 4 lets them
MANY = (1e8, 1e6, 1e6, 1.9, 1e6)
ALWAYS = (30.0, 30.0, 30.0, -3.2, 20.0)
ALMOST_ALWAYS = (31.5, 30.0, 30.0, -3.0, 0.3)

X, W = np.polynomial.legendre.leggauss(8)


def posterior(arms: Sequence[Arm], limit: float = 4.0) -> HurdlePosterior:
    pulls, positives, count, mean, spread = np.array(arms).T
    return HurdlePosterior(pulls, positives, count * mean, spread + count * mean**2, limit, count)


def panels(edges: Floats) -> tuple[Floats, Floats]:
    length = np.diff(edges)[:, None]
    return (edges[:-1, None] + length * (X + 1) / 2).ravel(), (length * W / 2).ravel()


def graded(low: float, middle: float, high: float, count: int) -> Floats:
    """Ends of panels, so many a side, closer near the middle."""
    steps = np.linspace(0, 1, count + 1) ** 2
    return np.concatenate([middle - (middle - low) * steps[:0:-1], middle + (high - middle) * steps])


class Mixture:
    """The definition: x given (θ, σ²) is normal, and those two are integrated out on a lattice, no tables."""

    def __init__(self, arm: Arm, limit: float, panel_count: int = 9) -> None:
        pulls, positives, count, mean, spread = arm
        alpha, beta = 1 + positives, 1 + pulls - positives
        shape = (count - 3) / 2
        top = min(np.log(spread / 2 / shape), np.log(limit))
        width = 1 / np.sqrt(shape)
        z, weight = panels(
            graded(top - min(9 * width, 5), top, min(np.log(limit), top + 9 * width + 30 / shape), panel_count // 2)
        )
        log_density = -shape * z - spread / 2 * np.exp(-z)  # of ln σ²
        self.variance_weight = np.exp(log_density - log_density.max()) * weight
        self.variance_weight /= self.variance_weight.sum()
        middle, spread_y = -np.log1p((beta - 1) / alpha), np.sqrt(beta / (alpha * (alpha + beta)))
        low, high = middle - 8 * spread_y - 32 / alpha, min(0.0, middle + 8 * spread_y)
        ends = graded(low, middle, high, panel_count)
        if beta < 5:  # the density ends at 0 in a fractional power
            ends = np.sort(np.append(ends, low / 10 * 0.1 ** np.arange(1, 5)))
        y, weight = panels(ends)
        log_density = alpha * (y - middle) + (beta - 1) * np.log(-np.expm1(y)) if beta > 1 else alpha * (y - middle)
        self.rate_weight = np.exp(log_density - log_density.max()) * weight
        self.rate_weight /= self.rate_weight.sum()
        self.centre = mean + y[:, None] + np.exp(z) / 2
        self.scale = np.sqrt(np.exp(z) / count)

    def density(self, x: Floats) -> Floats:
        scale = np.sqrt(2 * np.pi) * self.scale
        densities = (np.exp(-0.5 * ((each - self.centre) / self.scale) ** 2) / scale for each in x)
        return np.asarray([self.rate_weight @ f @ self.variance_weight for f in densities])

    def cdf(self, x: Floats) -> Floats:
        below = (special.ndtr((each - self.centre) / self.scale) for each in x)
        return np.asarray([self.rate_weight @ f @ self.variance_weight for f in below])


def tabulated(family: HurdlePosterior, arm: int = 0) -> tuple[Floats, Floats, Floats]:
    """Points on the axis, the normalised density there, and the weights of an integral over it."""
    ends = family.edges(np.array([40.0]), np.array([40.0]))[arm]
    distance, weight = panels(np.interp(np.linspace(0, len(ends) - 1, 4 * len(ends)), np.arange(len(ends)), ends))
    density = np.exp(family.log_density(np.array([arm]), distance))
    return family.mode[arm] + distance, density / (density @ weight), weight


@pytest.mark.parametrize("limit", [4.0, 25.0])
@pytest.mark.parametrize("arm", [FEW, NEVER_CONVERTED, SOME, WIDE, MANY, ALWAYS, ALMOST_ALWAYS])
def test_density_is_that_of_the_mixture(arm: Arm, limit: float) -> None:
    x, density, _ = tabulated(posterior([arm], limit))
    some = np.linspace(0, len(x) - 1, 40).astype(int)
    expected = Mixture(arm, limit, 24).density(x[some])
    assert np.abs(density[some] - expected).max() < 5e-6 * expected.max()
    likely = expected > 1e-7 * expected.max()
    assert density[some][likely] == pytest.approx(expected[likely], rel=3e-4)


@pytest.mark.parametrize(
    ("arms", "limit"),
    [
        ([FEW, SOME], 4.0),
        ([FEW, NEVER_CONVERTED, SOME], 10.0),
        ([FEW, MANY], 4.0),
        ([MANY, (1e8, 1.001e6, 1.001e6, 1.899, 1.0011e6)], 4.0),
        ([ALWAYS, ALMOST_ALWAYS, WIDE], 4.0),
        ([WIDE, SOME, FEW], 25.0),
    ],
)
def test_probability_best_against_integrals(arms: list[Arm], limit: float) -> None:
    family = posterior(arms, limit)
    drop = np.array([30.0])
    ends = np.sort((family.mode[:, None] + family.edges(drop, drop)).ravel())
    x, weight = panels(ends)
    mixtures = [Mixture(arm, limit) for arm in arms]
    cdf = [mixture.cdf(x) for mixture in mixtures]
    expected = []
    for arm, mixture in enumerate(mixtures):
        others = np.prod(cdf[:arm] + cdf[arm + 1 :], axis=0)
        expected.append(mixture.density(x) * others @ weight)
    assert sum(expected) == pytest.approx(1, abs=1e-7)  # the integrals themselves are right
    assert min(expected) > 1e-6  # and the case is not trivial
    error = np.abs(probability_best(family) - expected).max()
    sys.stdout.write(f"P(best) {np.round(expected, 6)}: off by {error:.1e}\n")
    assert error < 2e-6


@pytest.mark.filterwarnings("error")
def test_asking_for_smaller_probabilities_does_no_harm() -> None:
    for arms in ([FEW, NEVER_CONVERTED, SOME, WIDE], [FEW, MANY], [SOME, MANY, (1e8, 1e6, 1e6, 5.0, 1e6)]):
        family = posterior(arms)
        deep = probability_best(family, 1e-300)
        assert deep == pytest.approx(probability_best(family), abs=1e-9)
        assert (deep >= 0).all()


def test_probability_best_against_chance() -> None:
    """Chance by numpy's own Beta and Gamma, with σ² drawn again where it passes the limit."""
    arms, limit, draw_count = [FEW, NEVER_CONVERTED, SOME], 4.0, 4_000_000
    rng = np.random.default_rng(20)
    x = np.empty((len(arms), draw_count))
    for arm, (pulls, positives, count, mean, spread) in enumerate(arms):
        variance = np.full(draw_count, np.inf)
        while (again := np.flatnonzero(variance > limit)).size:
            variance[again] = spread / 2 / rng.standard_gamma((count - 3) / 2, len(again))
        log_mean = mean + variance / 2 + np.sqrt(variance / count) * rng.standard_normal(draw_count)
        x[arm] = np.log(rng.beta(1 + positives, 1 + pulls - positives, draw_count)) + log_mean
    observed = np.bincount(x.argmax(axis=0), minlength=len(arms)) / draw_count
    best = probability_best(posterior(arms, limit))
    assert (np.abs(observed - best) < 4 * np.sqrt(best * (1 - best) / draw_count)).all()


def test_the_mean_is_finite_and_grows_with_the_limit() -> None:
    """E V = E θ · e^l · E exp(σ²(1 + 1/m) / 2), a finite integral only because σ² ends."""
    pulls, positives, count, mean, spread = FEW
    means = []
    for limit in (0.5, 1.0, 4.0, 9.0, 16.0):
        x, density, weight = tabulated(posterior([FEW], limit))
        variance, w = panels(np.linspace(0, limit, 200))
        f = variance ** (-(count - 3) / 2 - 1) * np.exp(-spread / 2 / variance) * w
        expected = (1 + positives) / (2 + pulls) * np.exp(mean) * (f @ np.exp(variance * (1 + 1 / count) / 2)) / f.sum()
        means.append(np.exp(x) * density @ weight)
        assert means[-1] == pytest.approx(expected, rel=1e-4)
        beyond = x > mean + limit / 2 + 6 * np.sqrt(limit / count)
        assert density[beyond] @ weight[beyond] < 1e-8
    assert np.isfinite(means).all()
    assert (np.diff(means) > 0).all()
    assert means[-1] > 20 * means[0]


@pytest.mark.parametrize("arm", [FEW, NEVER_CONVERTED, SOME, WIDE, MANY, ALWAYS, ALMOST_ALWAYS])
@pytest.mark.parametrize("limit", [0.3, 1.05, 10.0])
def test_samples_follow_the_tabulated_distribution(arm: Arm, limit: float) -> None:
    """The limits cut off nearly all, about half, and next to nothing of the variance's posterior."""
    family = posterior([arm] * 40_000, limit)
    draws = np.sort(family.sample(np.random.default_rng(7)))
    x, density, weight = tabulated(posterior([arm], limit))
    cdf = np.interp(draws, x, np.cumsum(density * weight) - density * weight / 2)
    expected = (np.arange(len(draws)) + 0.5) / len(draws)
    assert np.abs(cdf - expected).max() < stats.kstwobign.ppf(0.9995) / np.sqrt(len(draws)) + 1e-3
    low, high = posterior([arm], limit).interval(0.9)[0]
    inside = ((np.exp(draws) > low) & (np.exp(draws) < high)).mean()
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / len(draws))


def test_intervals_are_quantiles() -> None:
    """Against the mixture's distribution function; one limit of the confidence at a time."""
    arms = [FEW, SOME, MANY, ALWAYS]
    for confidence in (0.5, 0.95, 0.999):
        ends = np.log(posterior(arms).interval(confidence))
        assert ends.shape == (4, 2)
        for arm, each in zip(arms, ends, strict=True):
            tail = (1 - confidence) / 2
            assert Mixture(arm, 4.0).cdf(each) == pytest.approx([tail, 1 - tail], abs=1e-6)
    with pytest.raises(ValueError, match="confidence"):
        posterior(arms).interval(1.0)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 7.0, 1e5])
def test_the_unit_of_the_rewards_does_not_matter(factor: float) -> None:
    rng = np.random.default_rng(3)
    rewards = [np.exp(rng.normal(mean, 0.9, size)) for mean, size in ((1.0, 6), (1.3, 40), (1.1, 900), (0.8, 3))]

    def summed(unit: float) -> HurdlePosterior:
        logs = [np.log(unit * each) for each in rewards]
        positives = np.array([float(len(each)) for each in logs])
        total, squares = np.array([each.sum() for each in logs]), np.array([(each**2).sum() for each in logs])
        number, total, squares, ready = pooled_logs(positives, total, squares)
        assert ready
        return HurdlePosterior(np.array([90.0, 800.0, 2e4, 150.0]), positives, total, squares, 4.0, number)

    plain, scaled = summed(1.0), summed(factor)
    assert probability_best(scaled) == pytest.approx(probability_best(plain), abs=1e-9)
    assert scaled.interval() == pytest.approx(factor * plain.interval(), rel=1e-9)


def test_counts_from_5_to_1e8_in_one_experiment() -> None:
    arms = [(n, max(n * 0.02, 5.0), max(n * 0.02, 5.0), 1.0, max(n * 0.02, 5.0)) for n in 250 * 10.0 ** np.arange(6)]
    arms.append((1e8, 3e7, 3e7, 1.0 - np.log(15), 3e7))  # the same mean
    best = probability_best(posterior(arms))
    assert best.sum() == pytest.approx(1, abs=1e-12)
    assert (best > 1e-6).all()
    assert best[0] == best.max()
    surely = [*arms[:-1], (1e8, 3e7, 3e7, 4.0, 3e7)]  # twenty times the mean: only the vaguest arm might be better
    assert probability_best(posterior(surely))[-1] > 0.98


def test_only_the_arm_that_changed_is_tabulated() -> None:
    arms = [(1000.0 + 10 * k, 5.0 + k, 5.0 + k, 1.0, 4.0 + k) for k in range(10)]
    tabulate.cache_clear()
    probability_best(posterior(arms))
    assert tabulate.cache_info().misses == 10
    probability_best(posterior(arms))
    posterior(arms).interval()
    assert tabulate.cache_info().misses == 10
    arms[3] = (1040.0, 8.0, 8.0, 1.0, 7.0)  # one more reward of 0
    probability_best(posterior(arms))
    assert tabulate.cache_info().misses == 11
    size = tabulate.cache_info().maxsize
    assert size is not None
    assert size <= 10_000


def test_sampling_makes_no_tables() -> None:
    tabulate.cache_clear()
    posterior([FEW, SOME]).sample(np.random.default_rng(0))
    assert tabulate.cache_info().misses == 0


@pytest.mark.parametrize("limit", [0.01, 4.0, 25.0])
@pytest.mark.filterwarnings("error")
def test_no_posterior_is_out_of_reach(limit: float) -> None:
    """No pulls, one pull, all converted, none, one price for all, logs wilder than the limit: the medians agree."""
    rng = np.random.default_rng(5)
    for pulls in (0.0, 1.0, 7.0, 1e3, 1e8):
        for share in (0.0, 0.01, 0.9, 1 - 1e-6, 1.0):
            for variance in (0.0, 1e-6, 0.1, 30.0):
                count = max(pulls * share, 5.0)
                arm = (pulls, pulls * share, count, 2.0, variance * count)
                median = np.log(posterior([arm], limit).interval(1e-6).mean())
                below = (posterior([arm] * 2500, limit).sample(rng) < median).mean()
                assert abs(below - 0.5) < 5 * np.sqrt(0.25 / 2500), arm


def test_one_price_leaves_the_rate_alone() -> None:
    """If all rewards are the same, arms differ by θ; P(best) is then that of two Beta distributions."""
    arms = [(200.0, 12.0, 12.0, np.log(9.99), 0.0), (180.0, 15.0, 15.0, np.log(9.99), 0.0)]
    theta = stats.beta([13, 16], [189, 166])
    x, w = panels(np.linspace(0, 0.4, 30))
    expected = stats.beta.pdf(x, 16, 166) * stats.beta.cdf(x, 13, 189) @ w
    assert probability_best(posterior(arms))[1] == pytest.approx(expected, abs=2e-6)
    assert posterior(arms).interval()[:, 0] == pytest.approx(9.99 * theta.ppf(0.025), rel=1e-5)


def test_arms_with_few_positives_borrow_from_all() -> None:
    """Logs 1, 3 and six of 2: mean 2, variance 1/4. Two more for the second arm, five for the third."""
    positives, total, squares = np.array([5.0, 3.0, 0.0]), np.array([10.0, 6.0, 0.0]), np.array([22.0, 12.0, 0.0])
    number, log_sum, log_square_sum, ready = pooled_logs(positives, total, squares)
    assert number.tolist() == [5, 5, 5]
    assert log_sum == pytest.approx([10, 6 + 2 * 2, 5 * 2])
    assert log_square_sum == pytest.approx([22, 12 + 2 * 4.25, 5 * 4.25])
    assert ready


def test_ready_means_five_positives_whatever_they_are() -> None:
    positives = np.array([[2.0, 2.0], [3.0, 2.0], [3.0, 2.0], [0.0, 0.0]])
    total = np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0], [0.0, 0.0]])
    squares = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 7.0], [0.0, 0.0]])
    number, log_sum, log_square_sum, ready = pooled_logs(positives, total, squares)
    assert ready.tolist() == [False, True, True, False]
    assert number.shape == log_sum.shape == log_square_sum.shape == (4, 2)
    assert np.isfinite(log_sum).all()
    assert np.isfinite(log_square_sum).all()


def test_an_arm_that_never_converts_is_dropped() -> None:
    positives, total, squares = np.array([60.0, 0.0]), np.array([30.0, 0.0]), np.array([75.0, 0.0])
    number, log_sum, log_square_sum, _ = pooled_logs(positives, total, squares)
    shares = []
    for pulls in (10.0, 100.0, 1000.0, 10_000.0):
        family = HurdlePosterior(np.array([1000.0, pulls]), positives, log_sum, log_square_sum, 4.0, number)
        shares.append(probability_best(family)[1])
    assert (np.diff(shares) < 0).all()
    assert shares[0] > 0.3
    assert shares[-1] < 1e-2


def test_leading_dimensions() -> None:
    arms = np.array([[FEW, SOME, WIDE], [NEVER_CONVERTED, MANY, ALWAYS]])
    pulls, positives, count, mean, spread = np.moveaxis(arms, -1, 0)
    family = HurdlePosterior(pulls, positives, count * mean, spread + count * mean**2, 4.0, count)
    best, interval = probability_best(family), family.interval()
    assert best.shape == (2, 3)
    assert interval.shape == (2, 3, 2)
    assert family.sample(np.random.default_rng(0)).shape == (2, 3)
    for row, each in enumerate(([FEW, SOME, WIDE], [NEVER_CONVERTED, MANY, ALWAYS])):
        assert (best[row] == probability_best(posterior(each))).all()
        assert (interval[row] == posterior(each).interval()).all()


@pytest.mark.parametrize(
    "arm", [(10.0, 4.0, 4.0, 0.0, 1.0), (10.0, -1.0, 5.0, 0.0, 1.0), (10.0, 5.0, 5.0, np.nan, 1.0)]
)
def test_refused(arm: Arm) -> None:
    with pytest.raises(ValueError, match="must be"):
        posterior([FEW, arm])


def test_limit_and_shapes_refused() -> None:
    with pytest.raises(ValueError, match="log_variance_limit"):
        posterior([FEW], 0.0)
    with pytest.raises(ValueError, match="one shape"):
        HurdlePosterior(np.ones(2), np.ones(3), np.ones(2), np.ones(2), 4.0)
