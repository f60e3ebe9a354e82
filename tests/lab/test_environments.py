"""Environments: rewards have the means that they say, means move as they say, and what does not fit is refused."""

import msgspec
import numpy as np
import pytest

from multiarm.lab import Bernoulli, Change, Gaussian, LinearDrift, Poisson, RateChange, Revenue, WaveDrift
from multiarm.lab.environments import AnyEnvironment, lai_robbins

COUNT = 200_000
EACH: list[AnyEnvironment] = [
    Bernoulli(means=(0.02, 0.5)),
    Gaussian(means=(-3.0, 100.0), sds=(1.0, 20.0)),
    Poisson(means=(0.1, 7.0)),
    Revenue(rates=(0.03, 0.5), log_means=(3.0, 0.0), log_sds=(0.5, 1.0)),
]


@pytest.mark.parametrize("environment", EACH, ids=lambda each: type(each).__name__)
def test_rewards_have_the_means_and_the_range_that_they_say(environment: AnyEnvironment) -> None:
    rng = np.random.default_rng(1)
    for arm, mean in enumerate(environment.means_of(environment.start)):
        arms = np.full(COUNT, arm)
        rewards = environment.rewards(environment.start[arms], arms, rng)
        assert abs(rewards.mean() - mean) < 4 * rewards.std() / np.sqrt(COUNT)
        assert environment.reward_range[0] <= rewards.min() <= rewards.max() <= environment.reward_range[1]


def test_the_mean_of_revenue_by_hand() -> None:
    environment = Revenue(rates=(0.5, 0.1), log_means=(0.0, np.log(10)), log_sds=(0.0, np.sqrt(2 * np.log(2))))
    assert environment.means_of(environment.start) == pytest.approx([0.5, 2.0])


class TestMotion:
    def test_sudden_changes_last_until_the_next(self) -> None:
        changes = (Change(at=10, means=(0.2, 0.8)), Change(at=15, means=(0.5, 0.5)))
        segments = list(Bernoulli(means=(0.9, 0.1), changes=changes).segments(20))
        assert [(each.start, each.end, each.level.tolist()) for each in segments] == [
            (0, 10, [0.9, 0.1]),
            (10, 15, [0.2, 0.8]),
            (15, 20, [0.5, 0.5]),
        ]
        assert segments[1].gap == pytest.approx([0.6, 0.0])

    def test_a_change_after_the_horizon_is_none(self) -> None:
        environment = Bernoulli(means=(0.9, 0.1), changes=(Change(at=20, means=(0.2, 0.8)),))
        assert [(each.start, each.end) for each in environment.segments(20)] == [(0, 20)]

    def test_a_linear_drift(self) -> None:
        environment = Gaussian(means=(0.0, 1.0), sds=(1.0, 1.0), drift=LinearDrift(to=(2.0, 1.0), by=10))
        levels = [each.level.tolist() for each in environment.segments(12)]
        assert levels[0] == [0.0, 1.0]
        assert levels[5] == pytest.approx([1.0, 1.0])
        assert levels[11] == [2.0, 1.0]

    def test_a_wave_has_its_arms_out_of_step(self) -> None:
        drift = WaveDrift(amplitudes=(0.1, 0.2), period=8)
        levels = np.array([each.level for each in Bernoulli(means=(0.5, 0.5), drift=drift).segments(8)])
        assert levels[:, 0].max() == pytest.approx(0.6)
        assert levels[:, 1].min() == pytest.approx(0.3)
        assert levels.mean(axis=0) == pytest.approx([0.5, 0.5])
        assert levels[2] == pytest.approx([0.6, 0.3])

    def test_rates_of_revenue_change_too(self) -> None:
        changes = (RateChange(at=5, rates=(0.4, 0.1)),)
        environment = Revenue(rates=(0.1, 0.2), log_means=(0.0, 0.0), log_sds=(0.0, 0.0), changes=changes)
        assert [each.level.tolist() for each in environment.segments(10)] == [[0.1, 0.2], [0.4, 0.1]]

    def test_arms_come_in_order_of_their_arrival(self) -> None:
        environment = Poisson(means=(5.0, 1.0, 2.0), arrivals=(7, 0, 3), goal="minimize")
        segments = [(each.start, each.level.tolist(), each.gap.tolist()) for each in environment.segments(10)]
        assert segments == [(0, [1.0], [0.0]), (3, [1.0, 2.0], [0.0, 1.0]), (7, [1.0, 2.0, 5.0], [0.0, 1.0, 4.0])]


class TestLaiRobbins:
    def test_by_hand(self) -> None:
        bernoulli = 0.1 / (0.8 * np.log(0.8 / 0.9) + 0.2 * np.log(0.2 / 0.1))
        assert lai_robbins(Bernoulli(means=(0.9, 0.8))) == pytest.approx(bernoulli)
        assert lai_robbins(Gaussian(means=(0.0, 2.0), sds=(3.0, 1.0))) == pytest.approx(2 * 9 / 2)
        assert lai_robbins(Poisson(means=(2.0, 1.0))) == pytest.approx(1 / (np.log(0.5) + 1))
        assert lai_robbins(Gaussian(means=(0.0, 2.0), sds=(1.0, 3.0), goal="minimize")) == pytest.approx(9.0)

    def test_certainty_costs_nothing_in_the_long_run(self) -> None:
        assert lai_robbins(Bernoulli(means=(1.0, 0.8))) == 0
        assert lai_robbins(Gaussian(means=(0.0, 2.0), sds=(0.0, 0.0))) == 0
        assert lai_robbins(Bernoulli(means=(0.5, 0.5))) == 0

    def test_rewards_that_are_missing_make_it_steeper(self) -> None:
        whole, half = (lai_robbins(Bernoulli(means=(0.9, 0.8), missing=missing)) for missing in (0, 0.5))
        assert whole is not None
        assert half == pytest.approx(2 * whole)

    @pytest.mark.parametrize(
        "environment",
        [
            EACH[3],
            Bernoulli(means=(0.9, 0.8), arrivals=(0, 5)),
            Bernoulli(means=(0.9, 0.8), changes=(Change(at=5, means=(0.1, 0.2)),)),
            Bernoulli(means=(0.9, 0.8), drift=LinearDrift(to=(0.1, 0.2), by=5)),
        ],
    )
    def test_it_is_left_out_where_it_means_nothing(self, environment: AnyEnvironment) -> None:
        assert lai_robbins(environment) is None


@pytest.mark.parametrize(
    ("environment", "paths"),
    [
        (Bernoulli(means=(0.5,)), ["means"]),
        (Bernoulli(means=(0.5, 1.5)), ["means"]),
        (Poisson(means=(0.5, -1.0)), ["means"]),
        (Gaussian(means=(0.5, 1.5), sds=(1.0,)), ["sds"]),
        (Bernoulli(means=(0.5, 0.6), arrivals=(0,)), ["arrivals"]),
        (Bernoulli(means=(0.5, 0.6), arrivals=(1, 2)), ["arrivals"]),
        (Bernoulli(means=(0.5, 0.6), changes=(Change(at=3, means=(0.5,)),)), ["changes[0].means"]),
        (Bernoulli(means=(0.5, 0.6), changes=(Change(at=3, means=(0.5, 2.0)),)), ["changes[0].means"]),
        (Bernoulli(means=(0.5, 0.6), changes=(Change(at=3, means=(0, 0)),) * 2), ["changes"]),
        (Bernoulli(means=(0.5, 0.6), drift=LinearDrift(to=(0.5,), by=5)), ["drift.to"]),
        (Bernoulli(means=(0.5, 0.6), drift=WaveDrift(amplitudes=(0.1, 0.5), period=9)), ["drift"]),
        (Revenue(rates=(0.1, 2), log_means=(0,), log_sds=(0, 0, 0)), ["rates", "log_means", "log_sds"]),
    ],
)
def test_what_does_not_fit_is_refused(environment: AnyEnvironment, paths: list[str]) -> None:
    assert [fault.path for fault in environment.faults()] == paths


@pytest.mark.parametrize("environment", EACH, ids=lambda each: type(each).__name__)
def test_json_round_trip(environment: AnyEnvironment) -> None:
    assert msgspec.json.decode(msgspec.json.encode(environment), type=AnyEnvironment) == environment
