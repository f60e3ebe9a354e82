"""A clock that jumps: nothing is inflated, forgotten early or held up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from multiarm.domain.errors import ExperimentRestarting
from multiarm.domain.policies import EpsilonGreedy
from multiarm.domain.spec import Update
from postgres import NOON, Clock, Service, run_service, until

DAY = 86_400.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


class TestClockThatJumpsBack:
    def test_decisions_and_decay_stay_sane(self, tmp_path: Path) -> None:
        clock = Clock()

        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create(half_life_s=DAY)
            await supervisor.update("button", Update(1.0, arm_id="red"))
            early = Update(1.0, decision_id=supervisor.draw("button").decision_id)
            clock.now -= DAY
            assert await supervisor.update("button", early)
            assert not await supervisor.update("button", early)
            assert await supervisor.update("button", Update(0.0, arm_id="green"))
            supervisor.draw("button")
            allocation = supervisor.experiment("button").allocation
            assert allocation is not None
            assert allocation.evidence_version == supervisor.experiment("button").evidence_version
            stats = await supervisor.stats("button")
            assert sum(arm.pulls for arm in stats.values()) == 3
            for arm in stats.values():
                assert 0 <= arm.effective_pulls <= arm.pulls
                assert arm.mean_reward is None or 0 <= arm.mean_reward <= 1
            assert await service.rows() == service.rows_in_memory()
            clock.now += 2 * DAY
            later = await supervisor.stats("button")
            for name, arm in later.items():
                assert arm.pulls == stats[name].pulls
                assert arm.effective_pulls < stats[name].effective_pulls or arm.pulls == 0
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story, clock=clock)

    def test_retention_forgets_nothing_early(self, tmp_path: Path) -> None:
        clock = Clock()

        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            plain = Update(1.0, arm_id="red", key="a")
            ahead = Update(1.0, decision_id=supervisor.draw("button").decision_id)
            assert await supervisor.update("button", plain)
            clock.now -= DAY
            assert await supervisor.update("button", ahead)
            clock.now = NOON + 1.5 * DAY  # past what was received at the jump, within what was decided before it
            await service.housekeeping.prune()
            for update in (plain, ahead):
                assert not await supervisor.update("button", update)
            assert supervisor.experiment("button").pull_count == 2
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story, clock=clock, retention_s=2 * DAY)


class RunningAway(Clock):
    """A day later at each look."""

    def __call__(self) -> float:
        self.now += DAY
        return self.now


class TestClockThatJumpsAhead:
    def test_what_keeps_failing_is_set_aside_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Intervals are told by the monotonic clock: failures moments apart count together."""

        def fail(*_: object) -> None:
            raise RuntimeError("poisoned")

        async def story(service: Service) -> None:
            await service.create(policy=EpsilonGreedy())
            monkeypatch.setattr(EpsilonGreedy, "allocate", fail)
            with pytest.raises(ExperimentRestarting):
                service.supervisor.draw("button")
            await until(lambda: service.supervisor.health.of(service.state().uid).status == "quarantined", 2)

        run_service(tmp_path, story, clock=RunningAway())
