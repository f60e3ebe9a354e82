"""Snapshots of a running service: when they are taken, what they say, and starting again from one."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from multiarm.domain.errors import (
    Busy,
    ExperimentNotFound,
    ExperimentQuarantined,
    InvalidField,
    NotRestored,
    SnapshotNotFound,
    StaleEpoch,
)
from multiarm.domain.policies import EXP3, UCB1, Thompson
from multiarm.domain.spec import ArmSpec, ExperimentSpec, PolicyChange, Restore, Update
from multiarm.service import history
from multiarm.service.history import HistoryPoint
from multiarm.service.housekeeping import Housekeeping
from multiarm.service.snapshots import ARMS_AT_A_TIME, EXPERIMENTS_AT_A_TIME, SnapshotKeeper, groups
from multiarm.storage import snapshots
from postgres import NOON, Clock, Service, run_service

DAY = 86_400.0


async def points(service: Service, experiment_id: str = "button", limit: int = 1_000) -> list[HistoryPoint]:
    return await service.supervisor.history(experiment_id, 0.0, 1e11, limit)


async def reward(service: Service, arm_id: str = "red", value: float = 1.0, count: int = 1) -> None:
    for _ in range(count):
        assert await service.supervisor.update("button", Update(value, arm_id=arm_id))


class TestAtActions:
    def test_each_leaves_one_of_the_state_before_it(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            await reward(service, count=3)
            await supervisor.set_enabled("button", False)
            await supervisor.set_enabled("button", True)
            await supervisor.add_arm("button", ArmSpec("blue"))
            await supervisor.set_arm_enabled("button", "blue", False)
            await supervisor.set_arm_enabled("button", "blue", True)
            await supervisor.delete_arm("button", "blue")
            await supervisor.change_policy("button", PolicyChange(UCB1()))
            await supervisor.reset("button")
            taken = await points(service)
            assert [point.reason for point in taken] == [
                *("create", "disable", "enable", "add_arm", "disable_arm", "enable_arm", "delete_arm"),
                *("policy", "reset"),
            ]
            assert [point.arms["red"].pulls for point in taken] == [0] + [3] * 8
            assert ["blue" in point.arms for point in taken] == [False] * 4 + [True] * 3 + [False] * 2
            assert {point.epoch for point in taken} == {0}

        run_service(tmp_path, story)

    def test_they_say_what_stats_said(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(half_life_s=3_600.0, reward_origin=0.25)
            for arm_id in ("red", "green"):
                await reward(service, arm_id, 1.0, 2)
            await reward(service, "red", 0.0, 2)
            service.clock.now += 1_800
            for _ in range(5):
                service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            said = await service.supervisor.stats("button")
            await service.supervisor.reset("button")
            arms = (await points(service))[-1].arms
            for arm_id, statistics in said.items():
                for name in ("share", "probability_best", "mean_reward", "effective_pulls", "interval"):
                    assert getattr(arms[arm_id], name) == pytest.approx(getattr(statistics, name), rel=1e-12), name
                assert (arms[arm_id].pulls, arms[arm_id].draws) == (statistics.pulls, statistics.draws)

        run_service(tmp_path, story)

    def test_nobody_waits_for_statistics_that_cost_much(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            monkeypatch.setattr(Thompson, "expected_cost_s", lambda *_: 1.0)
            await service.supervisor.reset("button")
            await reward(service)
            await service.housekeeping.snapshots.take_snapshots()
            hurried, leisurely = (await points(service))[1:]
            assert hurried.arms["red"].share is None
            assert leisurely.arms["red"].share is not None

        run_service(tmp_path, story)

    def test_a_policy_that_fails_keeps_no_one_from_an_action(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> Any:
            raise ZeroDivisionError

        async def story(service: Service) -> None:
            await service.create()
            await reward(service)
            monkeypatch.setattr(Thompson, "interval", fails)
            with capture_logs() as logs:
                await service.supervisor.reset("button")
            assert [entry["event"] for entry in logs] == ["snapshot_without_statistics"]
            point = (await points(service))[-1]
            assert (point.reason, point.arms["red"].pulls, point.arms["red"].interval) == ("reset", 1, None)

        run_service(tmp_path, story)


class TestAtAnInterval:
    def test_only_of_those_that_changed(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            take = service.housekeeping.snapshots.take_snapshots
            await service.create(half_life_s=60.0)
            await service.create("idle", half_life_s=60.0)
            for minute in range(4):
                service.clock.now = NOON + 60 * minute
                if minute == 1:
                    await reward(service)
                if minute == 2:
                    service.supervisor.draw("button")
                await take()
            assert [point.taken_at - NOON for point in await points(service)] == [0.0, 60.0, 120.0]
            last = (await points(service))[-1]
            assert sum(arm.draws for arm in last.arms.values()) == 1, "draws that no other job has stored yet"
            assert len(await points(service, "idle")) == 1

        async def after_a_restart(service: Service) -> None:
            await service.housekeeping.snapshots.take_snapshots()
            assert len(await points(service)) == 3

        run_service(tmp_path, story)
        run_service(tmp_path, after_a_restart)

    def test_one_that_is_deleted_meanwhile_is_left_out(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            for name in ("button", "other"):
                await service.create(name)
                await service.supervisor.update(name, Update(1.0, arm_id="red"))
            taking = asyncio.create_task(service.housekeeping.snapshots.take_snapshots())
            await asyncio.sleep(0)
            await service.supervisor.delete("other")
            await taking
            assert [point.reason for point in await points(service)] == ["create", "interval"]

        run_service(tmp_path, story)

    def test_they_are_thinned(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            keeper = service.housekeeping.snapshots
            await service.create()
            for minute in range(120):
                service.clock.now = NOON + 60 * minute
                await reward(service)
                await keeper.take_snapshots()
            await keeper.forget_snapshots()
            assert len(await points(service)) == 1 + 120
            service.clock.now = NOON + 2 * DAY
            await keeper.forget_snapshots()
            assert [point.taken_at - NOON for point in await points(service)] == [0.0, 3_600.0]
            service.clock.now = NOON + 32 * DAY
            await keeper.forget_snapshots()
            assert [point.taken_at - NOON for point in await points(service)] == [0.0]
            service.clock.now = NOON + 3_651 * DAY
            await keeper.forget_snapshots()
            assert await points(service) == []

        run_service(tmp_path, story)

    @pytest.mark.parametrize("interval_s", [0.0, 60.0])
    def test_an_interval_of_0_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval_s: float) -> None:
        looks: list[float] = []

        async def look(_: SnapshotKeeper) -> None:
            looks.append(interval_s)

        async def story(service: Service) -> None:
            monkeypatch.setattr(SnapshotKeeper, "take_snapshots", look)
            housekeeping = Housekeeping(service.supervisor, service.store, snapshot_interval_s=interval_s)
            housekeeping.start()
            await asyncio.sleep(0)  # each job begins at once
            await housekeeping.stop()
            assert looks == [interval_s] * (interval_s > 0)

        run_service(tmp_path, story)

    def test_a_group_is_small(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            for number, arm_count in enumerate([1] * 25 + [150, 150, 900, 10]):
                await service.create(f"x{number}", arms=[f"a{n}" for n in range(arm_count)])
            made = [len(group) for group in groups(list(service.supervisor.by_uid.values()))]
            assert made == [EXPERIMENTS_AT_A_TIME, 6, 1, 1, 1]
            assert 25 - EXPERIMENTS_AT_A_TIME + 150 <= ARMS_AT_A_TIME

        run_service(tmp_path, story)


class TestHistory:
    def test_where_arms_are_many_points_are_few(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(arms=[f"a{n}" for n in range(500)], policy=UCB1())
            for second in range(120):
                service.clock.now = NOON + second
                await service.supervisor.set_enabled("button", True)
            found = await points(service)
            assert 50 <= len(found) <= 100
            assert found[-1].taken_at == NOON + 119
            assert all(len(point.arms) == 500 for point in found)

        run_service(tmp_path, story)

    def test_one_is_read_at_a_time_and_few_wait(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reading: set[int] = set()
        together: list[int] = []

        def read(connection: Connection, numbers: list[int]) -> list[Any]:
            reading.add(numbers[0])
            together.append(len(reading))
            return snapshots.read(connection, numbers)

        def points_of(rows: list[Any], spec: ExperimentSpec) -> list[HistoryPoint]:
            made = history.points_of(rows, spec)
            reading.remove(rows[0].number)
            return made

        async def story(service: Service) -> None:
            for number in range(17):
                await service.create(f"x{number}")
            monkeypatch.setattr("multiarm.service.supervisor.points_of", points_of)
            monkeypatch.setattr(
                "multiarm.service.supervisor.snapshots", SimpleNamespace(chosen=snapshots.chosen, read=read)
            )
            asked = [asyncio.create_task(points(service, f"x{number}")) for number in range(17)]
            done = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(done[16], Busy)
            assert [len(found) for found in done[:16] if isinstance(found, list)] == [1] * 16
            assert together == [1] * 16
            assert len(await points(service, "x16")) == 1

        run_service(tmp_path, story)

    def test_of_none_there_is_none(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            with pytest.raises(ExperimentNotFound):
                await points(service, "nobody")

        run_service(tmp_path, story)


class TestRestore:
    def test_memory_is_what_the_store_says(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            await reward(service, count=3)
            early = supervisor.draw("button")
            await supervisor.reset("button")
            late = supervisor.draw("button")
            await reward(service, "green")
            snapshot_id = (await points(service))[-1].snapshot_id
            restored = await supervisor.restore("button", Restore(snapshot_id=snapshot_id))
            assert (restored.snapshot_id, restored.taken_at, restored.state.epoch) == (snapshot_id, NOON, 2)
            assert service.rows_in_memory() == await service.rows()
            experiment = supervisor.experiment("button")
            assert (experiment.state.epoch, experiment.pull_count, experiment.draw_count) == (2, 3, 0)
            for decision in (early, late):
                with pytest.raises(StaleEpoch):
                    await supervisor.update("button", Update(1.0, decision_id=decision.decision_id))
            fresh = supervisor.draw("button")
            assert await supervisor.update("button", Update(1.0, decision_id=fresh.decision_id))
            await service.housekeeping.write_draw_counts()
            await service.housekeeping.check_health()
            assert supervisor.health.of(experiment.state.uid).failure_count == 0
            assert all(entry.balanced for entry in service.audit())

        async def after_a_restart(service: Service) -> None:
            experiment = service.supervisor.experiment("button")
            assert (experiment.state.epoch, experiment.pull_count, experiment.draw_count) == (2, 4, 1)

        run_service(tmp_path, story)
        run_service(tmp_path, after_a_restart)

    def test_a_reward_that_waits_meanwhile_is_stale(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            restoring = asyncio.create_task(service.supervisor.restore("button", Restore(at=NOON)))
            await asyncio.sleep(0)  # it is enqueued
            with pytest.raises(StaleEpoch):
                await service.supervisor.update("button", Update(1.0, arm_id="red"))
            await restoring
            assert service.rows_in_memory() == await service.rows() == {}

        run_service(tmp_path, story)

    @pytest.mark.parametrize("request_", [Restore(), Restore(snapshot_id=1, at=NOON)])
    def test_it_is_one_or_the_other(self, tmp_path: Path, request_: Restore) -> None:
        async def story(service: Service) -> None:
            await service.create()
            with pytest.raises(InvalidField, match="either snapshot_id or at"):
                await service.supervisor.restore("button", request_)

        run_service(tmp_path, story)

    def test_what_is_refused_changed_nothing(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(policy=Thompson())
            await reward(service)
            await service.supervisor.change_policy("button", PolicyChange(EXP3(), restart=True))
            before = service.rows_in_memory(), len(await points(service))
            with pytest.raises(NotRestored):
                await service.supervisor.restore("button", Restore(at=NOON))
            with pytest.raises(SnapshotNotFound):
                await service.supervisor.restore("button", Restore(at=NOON - 1))
            assert (service.rows_in_memory(), len(await points(service))) == before
            assert service.state().epoch == 1

        run_service(tmp_path, story)

    def test_it_lifts_a_quarantine(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            experiment = service.supervisor.experiment("button")
            health, uid = service.supervisor.health, experiment.state.uid
            with capture_logs():
                while health.of(uid).status != "quarantined":
                    health.failed(experiment, ZeroDivisionError())
                    await asyncio.sleep(0.005)
            with pytest.raises(ExperimentQuarantined, match="PUT …/restore starts again from a snapshot"):
                service.supervisor.draw("button")
            await service.supervisor.restore("button", Restore(at=NOON))
            assert health.is_running(uid)
            service.supervisor.draw("button")

        run_service(tmp_path, story, clock=Clock())
