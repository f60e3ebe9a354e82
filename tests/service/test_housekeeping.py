import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from multiarm.domain.errors import DecisionExpired, StoreUnavailable
from multiarm.domain.evidence import Row
from multiarm.domain.spec import Update
from multiarm.service import housekeeping as module
from multiarm.service.housekeeping import every
from multiarm.storage import experiments
from postgres import NODE, NOON, Clock, Service, run_service, until

DAY = 86_400.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def stored_draws(service: Service, experiment_id: str = "button") -> dict[int, int]:
    uid = service.state(experiment_id).uid
    [(_, rows)] = (await service.store.run(partial(experiments.own_rows, node=NODE, uids=[uid]))).values()
    return {number: row.draw_count for number, row in rows.items()}


def drawn_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "multiarm.db")) as connection:
        return int(connection.execute("SELECT coalesce(sum(draw_count), 0) FROM evidence").fetchone()[0])


class TestDrawCounts:
    def test_they_reach_the_store_within_a_second_and_at_the_stop(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            service.housekeeping.start()
            try:
                for _ in range(50):
                    service.supervisor.draw("button")
                await until(lambda: drawn_in(tmp_path) == 50, 1.0 + 2.0)  # and room for a busy machine
                service.supervisor.draw("button")
            finally:
                await service.housekeeping.stop()
            counts = await stored_draws(service)
            assert counts == service.supervisor.experiment("button").draws
            assert sum(counts.values()) == 51

        async def after_a_restart(service: Service) -> None:
            assert service.supervisor.experiment("button").draw_count == 51

        run_service(tmp_path, story)
        run_service(tmp_path, after_a_restart)

    def test_a_reset_begins_again_at_zero(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create("button", arms=["red"])
            for _ in range(3):
                service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            assert await stored_draws(service) == {1: 3}
            await service.supervisor.reset("button")
            assert service.supervisor.experiment("button").draw_count == 0
            for _ in range(3):
                service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            assert await stored_draws(service) == {1: 3}
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            assert await stored_draws(service) == {1: 3}

        run_service(tmp_path, story)

    def test_a_reload_loses_no_draw(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create("button", arms=["red"])
            service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            service.supervisor.draw("button")
            await service.supervisor.reload(service.supervisor.experiment("button"))
            assert service.supervisor.experiment("button").draw_count == 2

        run_service(tmp_path, story)

    def test_only_what_changed_is_written(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            await service.store.stop()
            await service.housekeeping.write_draw_counts()  # has nothing to write, so it does not ask the store
            service.supervisor.draw("button")
            with pytest.raises(StoreUnavailable):
                await service.housekeeping.write_draw_counts()
            await service.housekeeping.stop()  # says so in the log, and goes on stopping

        run_service(tmp_path, story)


class TestHealthCheck:
    @pytest.mark.parametrize(
        "row", [Row((9.0, 9.0, 9.0), NOON, 9), Row((float("nan"), 1.0, 1.0), NOON, 1), None], ids=str
    )
    def test_memory_that_differs_from_the_store_is_found_and_mended(self, tmp_path: Path, row: Row | None) -> None:
        async def story(service: Service) -> None:
            for name in ("button", "other"):
                await service.create(name)
                await service.supervisor.update(name, Update(1.0, arm_id="red"))
            health = service.supervisor.health
            await service.housekeeping.check_health()
            assert health.of(service.state().uid).failure_count == 0
            rows = service.state().rows
            if row is None:
                del rows[1]
            else:
                rows[1] = row
            await service.housekeeping.check_health()
            uid = service.state().uid
            assert health.of(uid).status == "restarting"
            await until(lambda: health.is_running(uid))
            assert service.rows_in_memory() == await service.rows() != {}
            service.supervisor.draw("button")
            assert health.of(service.state("other").uid).failure_count == 0

        run_service(tmp_path, story)

    def test_it_finds_nothing_in_the_midst_of_updates(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            update = service.supervisor.update
            for _ in range(20):
                sent = [asyncio.ensure_future(update("button", Update(1.0, arm_id="red"))) for _ in range(10)]
                await service.housekeeping.check_health()
                await asyncio.gather(*sent)
            assert service.supervisor.health.of(service.state().uid).failure_count == 0

        run_service(tmp_path, story)

    def test_a_few_rounds_see_every_experiment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            for number in range(5):
                await service.create(f"e{number}", arms=[])
            service.state("e4").epoch = 7
            health = service.supervisor.health
            uid = service.state("e4").uid
            for failure_count in (0, 0, 1):
                await service.housekeeping.check_health()
                assert health.of(uid).failure_count == failure_count
            await until(lambda: health.is_running(uid))
            assert service.state("e4").epoch == 0

        monkeypatch.setattr(module, "CHECKED_AT_A_TIME", 2)

        run_service(tmp_path, story)


class TestRetention:
    def test_keys_are_remembered_and_decisions_taken_for_as_long_as_rewards_are_kept(self, tmp_path: Path) -> None:
        clock = Clock()

        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            first, second = (Update(1.0, decision_id=supervisor.draw("button").decision_id) for _ in range(2))
            assert await supervisor.update("button", first)
            clock.now += 30 * DAY
            await service.housekeeping.prune()
            assert not await supervisor.update("button", first)
            clock.now += 1.0
            await service.housekeeping.prune()
            for update in (first, second):
                with pytest.raises(DecisionExpired):
                    await supervisor.update("button", update)
            assert supervisor.experiment("button").pull_count == 1
            assert all(entry.balanced for entry in service.audit())
            assert await service.rows() == service.rows_in_memory() != {}

        run_service(tmp_path, story, clock=clock, retention_s=30 * DAY)

    def test_what_was_deleted_is_purged(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            await service.supervisor.delete("button")
            await service.housekeeping.purge()
            count = "SELECT (SELECT count(*) FROM reward) + (SELECT count(*) FROM experiment)"
            assert await service.store.run(lambda c: c.exec_driver_sql(count).scalar()) == 0

        run_service(tmp_path, story)


class TestEvery:
    @pytest.mark.parametrize("error", [StoreUnavailable("down"), RuntimeError("bug")])
    def test_a_job_that_fails_is_tried_again(self, error: Exception) -> None:
        async def story() -> None:
            calls: list[int] = []

            async def job() -> None:
                calls.append(1)
                if len(calls) == 1:
                    raise error

            task = asyncio.create_task(every(0.001, job))
            await until(lambda: len(calls) == 3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()

        asyncio.run(story())
