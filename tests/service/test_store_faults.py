"""A database that is locked, a disk that is full, a commit whose outcome nobody knows."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from multiarm.domain.errors import CommitUnknown, ExperimentNotFound, StoreUnavailable
from multiarm.domain.experiment import Experiment
from multiarm.domain.spec import ArmSpec, Update
from multiarm.service.batch import BatchFaults
from postgres import Service, run_service
from small_disk import SmallDisk


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def pulls(service: Service, experiment_id: str = "button") -> int:
    """The same in memory and in the store."""
    assert service.rows_in_memory(experiment_id) == await service.rows(experiment_id)
    return service.supervisor.experiment(experiment_id).pull_count


def availability(service: Service) -> bool:
    return service.store.available


class TestLockedDatabase:
    def test_updates_are_refused_draws_go_on_and_all_is_well_afterwards(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            update = Update(1.0, arm_id="red", key="a")
            with closing(sqlite3.connect(tmp_path / "multiarm.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                began_at = time.monotonic()
                waiting = asyncio.create_task(supervisor.update("button", update))
                while not waiting.done():
                    decision = supervisor.draw("button")
                    await asyncio.sleep(0.001)
                with pytest.raises(StoreUnavailable) as caught:
                    waiting.result()
                assert not isinstance(caught.value, CommitUnknown)
                assert 0.2 <= time.monotonic() - began_at < 3
                assert availability(service) is False
                with pytest.raises(StoreUnavailable):
                    await supervisor.reset("button")
                assert supervisor.experiment("button").pull_count == service.state().epoch == 0
                other.execute("ROLLBACK")
            assert await supervisor.update("button", update)
            assert await supervisor.update("button", Update(0.0, decision_id=decision.decision_id))
            assert availability(service) is True
            assert await pulls(service) == 2

        run_service(tmp_path, story, database_timeout_s=0.2)


class TestFullDisk:
    def test_nothing_is_half_counted_and_it_recovers(self, disk: SmallDisk) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            assert await supervisor.update("button", Update(1.0, arm_id="red", key="before"))
            decisions = [supervisor.draw("button").decision_id for _ in range(500)]
            batch = [Update(1.0, decision_id=decision_id) for decision_id in decisions]
            single = Update(1.0, arm_id="red", key="meanwhile")
            disk.fill()
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await service.update_batch("button", batch, BatchFaults())
                with pytest.raises(StoreUnavailable):
                    await supervisor.update("button", single)
                assert supervisor.draw("button").arm.arm_id in {"red", "green"}
                assert supervisor.experiment("button").pull_count == 1
            disk.empty()
            assert await supervisor.update("button", single)
            assert await service.update_batch("button", batch, BatchFaults()) == 500
            assert await service.update_batch("button", batch, BatchFaults()) == 0
            assert await pulls(service) == 502
            assert all(entry.balanced for entry in service.audit())

        run_service(disk.path, story)


@contextmanager
def unknown_commits(service: Service, *, happened: bool) -> Iterator[None]:
    """Each commit inside the block fails, after it happened or before."""
    dialect: Any = service.engine.dialect
    commit: Callable[[Any], None] = dialect.do_commit

    def fail(connection: Any) -> None:
        if happened:
            commit(connection)
        raise sqlite3.OperationalError("disk I/O error")

    dialect.do_commit = fail
    try:
        yield
    finally:
        del dialect.do_commit


@pytest.mark.parametrize("happened", [True, False], ids=["it happened", "it did not happen"])
class TestUnknownCommit:
    def test_the_experiment_is_loaded_before_its_next_update(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create("button")
            await service.create("other")
            await supervisor.update("button", Update(1.0, arm_id="red"))
            keyed = Update(1.0, arm_id="red", key="a")
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await supervisor.update("button", keyed)
            assert supervisor.experiment("button").pull_count == 1
            assert await supervisor.update("other", Update(1.0, arm_id="red"))
            assert await supervisor.update("button", Update(0.0, arm_id="green"))
            assert await pulls(service) == 2 + happened
            assert await supervisor.update("button", keyed) is not happened
            assert await pulls(service) == 3
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_after_a_reset_the_next_update_counts_in_the_epoch_that_is(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            await supervisor.update("button", Update(1.0, arm_id="red"))
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await supervisor.reset("button")
            assert await supervisor.update("button", Update(1.0, arm_id="green"))
            assert await pulls(service) == (1 if happened else 2)

        run_service(tmp_path, story)

    def test_after_adding_an_arm_memory_knows_the_arms_that_are(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await supervisor.add_arm("button", ArmSpec(arm_id="blue"))
            await supervisor.update("button", Update(1.0, arm_id="red"))
            assert len(supervisor.experiment("button").live_arms) == (3 if happened else 2)

        run_service(tmp_path, story)

    def test_after_deleting_it_can_be_deleted_again(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await supervisor.delete("button")
            with suppress(ExperimentNotFound):
                await supervisor.delete("button")
            with pytest.raises(ExperimentNotFound):
                supervisor.draw("button")
            await service.create("button")

        run_service(tmp_path, story)

    def test_a_reward_of_one_that_is_deleted_meanwhile_leaves_the_others_alone(
        self, tmp_path: Path, happened: bool
    ) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            for name in ("button", "other"):
                await service.create(name)
            rewarding = asyncio.create_task(supervisor.update("button", Update(1.0, arm_id="red")))
            await asyncio.sleep(0)
            supervisor.drop([service.state("button").uid])  # as the reply to a deletion does
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await rewarding
            assert await supervisor.update("other", Update(1.0, arm_id="red"))
            await service.create("third")

        run_service(tmp_path, story)

    def test_after_creating_it_is_there_or_can_be_created(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            with unknown_commits(service, happened=happened), pytest.raises(CommitUnknown):
                await service.create("button")
            with suppress(ExperimentNotFound):
                await service.supervisor.delete("button")
            await service.create("button")
            assert service.supervisor.draw("button").arm.arm_id in {"red", "green"}

        run_service(tmp_path, story)


def test_the_log_says_once_a_minute_what_the_database_said(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create()
        with capture_logs() as logs, closing(sqlite3.connect(tmp_path / "multiarm.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await service.supervisor.update("button", Update(1.0, arm_id="red"))
        [said] = [entry for entry in logs if entry["event"] == "database_failed"]
        assert "database is locked" in said["error"]

    run_service(tmp_path, story, database_timeout_s=0.1)


class TestDoubts:
    def test_those_that_arise_while_another_is_settled_are_settled_too_and_nobody_spins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor, uid = service.supervisor, service.state().uid
            reload, settle_doubts = supervisor.reload, supervisor.settle_doubts
            reloads, rounds = [], []
            waiting: list[asyncio.Task[bool]] = []

            async def update() -> bool:
                return await supervisor.update("button", Update(1.0, arm_id="red"))

            async def reload_amid_doubts(experiment: Experiment) -> bool:
                found = await reload(experiment)
                reloads.append(experiment)
                if len(reloads) < 3:
                    supervisor.doubt(uid)
                    waiting.append(asyncio.create_task(update()))  # before anyone hears that this has ended
                return found

            async def settle_doubts_counted() -> None:
                rounds.append(uid)
                assert len(rounds) < 100, "the loop is kept from everyone else"
                await settle_doubts()

            monkeypatch.setattr(supervisor, "reload", reload_amid_doubts)
            monkeypatch.setattr(supervisor, "settle_doubts", settle_doubts_counted)
            supervisor.doubt(uid)
            assert await update()
            assert await asyncio.gather(*waiting) == [True, True]
            assert len(reloads) == 3
            assert not supervisor.in_doubt

        run_service(tmp_path, story)
