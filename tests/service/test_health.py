import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from multiarm.domain.allocation import Allocation
from multiarm.domain.errors import ExperimentQuarantined, ExperimentRestarting
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import NOTHING_ELSE, EpsilonGreedy, Thompson
from multiarm.domain.policies.base import Policy
from multiarm.domain.spec import Update
from multiarm.service.health import HealthKeeper, RestartPolicy, inconsistency
from postgres import NOON, QUICK_RESTARTS, Clock, Service, run_service, until

POISON = 0.123  # an ε at which the poisoned policy fails


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


class Raises(Policy, frozen=True, tag="raises"):
    def allocate(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("poisoned")


class AnswersNan(Policy, frozen=True, tag="answers_nan"):
    def allocate(self, *_: Any, **__: Any) -> Any:
        return np.full(2, np.nan)


class RefusesRewards(Policy, frozen=True, tag="refuses_rewards"):
    def increment(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("poisoned")


class Poison:
    """Makes ε-greedy fail at ε = POISON, in memory and when loaded again, until it is off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = True
        healthy = EpsilonGreedy.allocate

        def allocate(policy: EpsilonGreedy, evidence: Evidence, situation: Any = None) -> Any:
            if self.on and policy.epsilon == POISON:
                raise RuntimeError("poisoned")
            return healthy(policy, evidence, situation or NOTHING_ELSE)

        monkeypatch.setattr(EpsilonGreedy, "allocate", allocate)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    return Poison(monkeypatch)


def replace_policy(service: Service, policy: Any) -> None:
    state = service.state()
    state.spec = msgspec.structs.replace(state.spec, policy=policy)
    service.supervisor.experiment("button").allocation = None


class TestRestartPolicy:
    def test_the_pause_doubles_up_to_its_limit(self) -> None:
        policy = RestartPolicy(0.1, 1.0, 9)
        assert [policy.delay_s(count) for count in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert policy.delay_s(1_000) == 1.0


class Watched:
    """A HealthKeeper, the restarts that it made, and whether they work."""

    def __init__(self, *, good: bool, found: bool = True, policy: RestartPolicy = QUICK_RESTARTS) -> None:
        self.good, self.found = good, found
        self.reloads = 0
        self.clock = Clock()
        self.experiment = Experiment(Thompson(), ["red", "green"])
        self.keeper = HealthKeeper(policy, self.reload, clock=self.clock, monotonic=self.clock)

    @property
    def status(self) -> str:
        return self.keeper.of(0).status

    async def reload(self, _: Experiment) -> bool:
        self.reloads += 1
        if not self.good:
            raise RuntimeError("still broken")
        return self.found

    async def fail(self) -> None:
        """Fail once, and wait until the restarts are over."""
        self.keeper.failed(self.experiment, RuntimeError("broken"))
        await until(lambda: self.status != "restarting")


class TestHealthKeeper:
    def test_a_failed_one_is_restarted_and_its_failures_remembered(self) -> None:
        async def story() -> None:
            watched = Watched(good=True)
            assert watched.keeper.is_running(0)
            watched.keeper.failed(watched.experiment, RuntimeError("broken"))
            assert not watched.keeper.is_running(0)
            with pytest.raises(ExperimentRestarting, match="broken"):
                watched.keeper.require_running(0)
            await until(lambda: watched.status == "running")
            watched.keeper.require_running(0)
            health = watched.keeper.of(0)
            assert (health.failure_count, health.last_error, watched.reloads) == (1, "RuntimeError: broken", 1)
            assert watched.experiment.allocation is not None  # it was tried out before it was let loose

        asyncio.run(story())

    def test_one_that_keeps_failing_is_set_aside(self) -> None:
        async def story() -> None:
            watched = Watched(good=False)
            await watched.fail()
            assert (watched.status, watched.keeper.of(0).failure_count) == ("quarantined", 3)
            assert watched.reloads == 2
            with pytest.raises(ExperimentQuarantined, match="still broken"):
                watched.keeper.require_running(0)
            watched.keeper.failed(watched.experiment, RuntimeError("again"))
            assert watched.keeper.of(0).failure_count == 3

        asyncio.run(story())

    def test_failures_far_apart_are_not_counted_together(self) -> None:
        async def story() -> None:
            watched = Watched(good=True, policy=RestartPolicy(0.001, 10.0, 3))
            for _ in range(5):
                await watched.fail()
                assert watched.keeper.of(0).failure_count == 1
                watched.clock.now += 21.0
            for _ in range(2):
                await watched.fail()
            assert (watched.status, watched.keeper.of(0).failure_count) == ("running", 2)
            await watched.fail()
            assert watched.status == "quarantined"

        asyncio.run(story())

    def test_one_that_was_deleted_meanwhile_is_forgotten(self) -> None:
        async def story() -> None:
            watched = Watched(good=True, found=False)
            await watched.fail()
            assert watched.keeper.of(0).failure_count == 0

        asyncio.run(story())

    def test_forgetting_and_stopping_end_the_restart(self) -> None:
        async def story() -> None:
            for end in ("forget", "stop"):
                watched = Watched(good=True, policy=RestartPolicy(60.0, 60.0, 3))
                watched.keeper.failed(watched.experiment, RuntimeError("broken"))
                await asyncio.sleep(0)
                if end == "forget":
                    watched.keeper.forget(0)
                    assert watched.status == "running"
                else:
                    await watched.keeper.stop()
                await asyncio.sleep(0)
                assert len(asyncio.all_tasks()) == 1
                assert watched.reloads == 0

        asyncio.run(story())


class TestInconsistency:
    def experiment(self) -> Experiment:
        experiment = Experiment(Thompson(), ["red", "green"])
        experiment.show({1: Row((1.0, 0.5, 0.25), NOON, 1, 5)})
        experiment.adopt(experiment.snapshot(NOON).allocate())
        return experiment

    def test_draw_counts_may_differ_and_empty_rows_are_none(self) -> None:
        stored = {1: Row((1.0, 0.5, 0.25), NOON, 1, 9), 2: Row((), 0.0, 0, 3)}
        assert inconsistency(self.experiment(), 0, stored) is None

    @pytest.mark.parametrize(
        ("epoch", "stored"),
        [
            (1, {1: Row((1.0, 0.5, 0.25), NOON, 1)}),
            (0, {}),
            (0, {1: Row((1.0, 0.5, 0.25), NOON, 2)}),
            (0, {1: Row((1.0, 0.5, 0.2500001), NOON, 1)}),
            (0, {1: Row((1.0, 0.5, 0.25), NOON, 1), 2: Row((1.0, 0.0, 0.0), NOON, 1)}),
        ],
    )
    def test_anything_else_that_differs_is_found(self, epoch: int, stored: dict[int, Row]) -> None:
        assert inconsistency(self.experiment(), epoch, stored)

    def test_what_is_not_finite_is_found_even_where_the_store_has_it_too(self) -> None:
        experiment = self.experiment()
        row = Row((float("inf"), 0.5, 0.25), NOON, 1)
        experiment.show({1: row})
        assert inconsistency(experiment, 0, {1: row})

    def test_probabilities_that_do_not_sum_to_one_are_found(self) -> None:
        experiment = self.experiment()
        experiment.allocation = Allocation.over(list(experiment.enabled_arms), [0.5, 0.4], version=experiment.version)
        assert inconsistency(experiment, 0, experiment.state.rows)


class TestPoisonedPolicy:
    @pytest.mark.parametrize("policy", [Raises(), AnswersNan()])
    def test_it_is_restarted_from_the_stored_state(self, tmp_path: Path, policy: Policy) -> None:
        async def story(service: Service) -> None:
            await service.create()
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            replace_policy(service, policy)
            for _ in range(2):
                with pytest.raises(ExperimentRestarting):
                    service.supervisor.draw("button")
            await until(lambda: service.supervisor.health.is_running(service.state().uid))
            assert service.state().spec.policy == Thompson()
            service.supervisor.draw("button")
            assert service.rows_in_memory() == await service.rows() != {}
            assert service.supervisor.health.of(service.state().uid).failure_count == 1

        run_service(tmp_path, story)

    def test_one_that_fails_off_the_loop_is_restarted_too(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            replace_policy(service, Raises())
            assert service.supervisor.draw("button").propensity == 0.5
            uid = service.state().uid
            await until(lambda: service.supervisor.health.of(uid).failure_count == 1)
            await until(lambda: service.supervisor.health.is_running(uid))
            assert service.state().spec.policy == Thompson()

        run_service(tmp_path, story, inline_limit_s=0.0)

    def test_one_that_refuses_rewards_counts_nothing(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            replace_policy(service, RefusesRewards())
            with pytest.raises(ExperimentRestarting):
                await service.supervisor.update("button", Update(1.0, arm_id="red"))
            await until(lambda: service.supervisor.health.is_running(service.state().uid))
            assert await service.supervisor.update("button", Update(1.0, arm_id="red"))
            assert service.supervisor.experiment("button").pull_count == 1

        run_service(tmp_path, story)

    @pytest.mark.parametrize("lift", ["reset", "enable"])
    def test_one_that_keeps_failing_is_set_aside_until_someone_lifts_it(
        self, tmp_path: Path, poison: Poison, lift: str
    ) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create("button", policy=EpsilonGreedy(epsilon=POISON))
            await service.create("healthy")
            uid = service.state().uid
            with pytest.raises(ExperimentRestarting):
                supervisor.draw("button")
            await until(lambda: supervisor.health.of(uid).status == "quarantined")
            assert supervisor.health.of(uid).failure_count == QUICK_RESTARTS.quarantine_failures
            with pytest.raises(ExperimentQuarantined):
                supervisor.draw("button")
            for name in ("button", "healthy"):
                assert await supervisor.update(name, Update(0.5, arm_id="red"))
            supervisor.draw("healthy")
            stats = await supervisor.stats("button")
            assert (stats["red"].pulls, stats["red"].mean_reward, stats["green"].mean_reward) == (1, 0.5, None)
            assert {(arm.share, arm.probability_best, arm.interval) for arm in stats.values()} == {(None, None, None)}
            assert supervisor.health.of(service.state("healthy").uid).failure_count == 0

            poison.on = False
            with pytest.raises(ExperimentQuarantined):
                supervisor.draw("button")
            await (supervisor.reset("button") if lift == "reset" else supervisor.set_enabled("button", True))
            supervisor.draw("button")
            assert supervisor.experiment("button").pull_count == (0 if lift == "reset" else 1)
            assert supervisor.health.of(uid).failure_count == 0

        run_service(tmp_path, story)

    @pytest.mark.usefixtures("poison")
    def test_stats_of_one_whose_policy_fails_there_are_counts_and_means(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create("button", policy=EpsilonGreedy(epsilon=POISON))
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            stats = await service.supervisor.stats("button")
            assert [(arm.pulls, arm.share) for arm in stats.values()] == [(1, None), (0, None)]
            assert service.supervisor.health.of(service.state().uid).failure_count == 1

        run_service(tmp_path, story)
