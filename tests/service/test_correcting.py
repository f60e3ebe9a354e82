"""Corrections in the service: memory shows them after their commit, in order, whatever else is under way."""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from multiarm.domain.errors import CommitUnknown, DecisionExpired, RewardNotFound, StoreUnavailable
from multiarm.domain.policies import UCB1, VDBE, EpsilonGreedy, ThompsonGaussian
from multiarm.domain.spec import Update
from multiarm.storage import engine
from multiarm.storage.rewards import commit_updates
from postgres import NOON, OTHER_NODE, Clock, Service, bundle, plain, run_service


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


async def in_step(service: Service) -> None:
    assert service.rows_in_memory() == await service.rows()
    assert all(entry.balanced for entry in service.audit())


def test_memory_shows_it_and_a_restart_too(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=EpsilonGreedy())
        await service.supervisor.update("button", Update(3.0, arm_id="red", key="a"))
        assert await service.supervisor.correct_key("button", "a", 5.0)
        assert service.state().rows[1].sums == (1.0, 5.0, 25.0)
        await in_step(service)

    async def later(service: Service) -> None:
        assert service.state().rows[1].sums == (1.0, 5.0, 25.0)
        assert not await service.supervisor.correct_key("button", "a", 5.0)
        assert await service.supervisor.correct_key("button", "a", None)
        assert service.supervisor.experiment("button").pull_count == 0
        assert not await service.supervisor.update("button", Update(3.0, arm_id="red", key="a"))

    run_service(tmp_path, story)
    run_service(tmp_path, later)


def test_it_comes_after_the_updates_that_were_sent_before_it(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=EpsilonGreedy())
        rng, supervisor = random.Random(3), service.supervisor
        waiting: list[asyncio.Task[bool]] = []
        values: dict[str, float | None] = {}
        for index in range(400):
            if values and rng.random() < 0.5:
                key = rng.choice(list(values))
                values[key] = rng.choice([None, rng.random()])
                waiting.append(asyncio.create_task(supervisor.correct_key("button", key, values[key])))
            else:
                key = f"{index}"
                values[key] = rng.random()
                update = Update(values[key] or 0.0, arm_id=rng.choice(["red", "green"]), key=key)
                waiting.append(asyncio.create_task(supervisor.update("button", update)))
            if rng.random() < 0.1:
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        stand = [value for value in values.values() if value is not None]
        rows = service.rows_in_memory().values()
        assert sum(row.pull_count for row in rows) == len(stand)
        assert sum(row.sums[1] for row in rows) == pytest.approx(sum(stand), abs=1e-9)
        await in_step(service)

    run_service(tmp_path, story)


def test_it_is_no_reward_that_a_draw_waits_for(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=UCB1(), arms=["red"])
        supervisor, experiment = service.supervisor, service.supervisor.experiment("button")
        rewarded = supervisor.draw("button").decision_id
        await supervisor.update("button", Update(1.0, decision_id=rewarded))
        supervisor.draw("button")
        assert experiment.pending is not None
        for value in (0.0, None, 1.0):
            assert await supervisor.correct_decision("button", rewarded, value)
            assert experiment.pending.counts(NOON) == {1: 1}

    run_service(tmp_path, story)


def test_a_decision_as_old_as_retention_is_put_right_while_its_row_is_there(tmp_path: Path) -> None:
    """Its reward came later than it, so it may still be: then it is gone for good."""
    clock = Clock()

    async def story(service: Service) -> None:
        await service.create(policy=EpsilonGreedy())
        decision_id = service.supervisor.draw("button").decision_id
        clock.now += 90
        await service.supervisor.update("button", Update(1.0, decision_id=decision_id))
        clock.now += 90
        assert await service.supervisor.correct_decision("button", decision_id, 2.0)
        clock.now += 90
        await service.housekeeping.prune()
        with pytest.raises(DecisionExpired):
            await service.supervisor.correct_decision("button", decision_id, 3.0)
        with pytest.raises(RewardNotFound):
            await service.supervisor.correct_key("button", "never", 3.0)
        assert service.supervisor.experiment("button").pull_count == 1
        await in_step(service)

    run_service(tmp_path, story, clock=clock, retention_s=100)


def test_a_locked_database_changes_nothing(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=EpsilonGreedy())
        await service.supervisor.update("button", Update(3.0, arm_id="red", key="a"))
        with closing(sqlite3.connect(tmp_path / "multiarm.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreUnavailable):
                await service.supervisor.correct_key("button", "a", 5.0)
            other.execute("ROLLBACK")
        assert service.state().rows[1].sums == (1.0, 3.0, 9.0)
        assert await service.supervisor.correct_key("button", "a", 5.0)
        await in_step(service)

    run_service(tmp_path, story, database_timeout_s=0.2)


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_of_unknown_outcome_is_looked_up_before_the_next_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=EpsilonGreedy())
        supervisor = service.supervisor
        await supervisor.update("button", Update(3.0, arm_id="red", key="a"))

        def once(connection: Any, work: Any, *, raw: bool = False) -> Any:
            transaction = connection.begin()
            work(connection)
            transaction.commit() if happened else transaction.rollback()
            raise CommitUnknown("nobody knows")

        with monkeypatch.context() as patched:
            patched.setattr(engine, "once", once)
            with pytest.raises(CommitUnknown):
                await supervisor.correct_key("button", "a", 5.0)
        assert supervisor.is_doubtful(service.state().uid)
        await supervisor.update("button", Update(1.0, arm_id="red"))
        assert service.state().rows[1].sums[1] == (6.0 if happened else 4.0)
        assert await supervisor.correct_key("button", "a", 5.0) is not happened
        await in_step(service)

    run_service(tmp_path, story)


def test_the_walk_of_a_policy_goes_on_below_zero(tmp_path: Path) -> None:
    """A row that another node's reward was taken out of: VDBE divides by one more than its pulls."""

    async def story(service: Service) -> None:
        await service.create(policy=VDBE())
        await service.supervisor.update("button", Update(1.0, arm_id="red", key="a"))
        with closing(sqlite3.connect(tmp_path / "multiarm.db")) as database, database:
            database.execute("UPDATE evidence SET node = 77")
        await service.supervisor.load()
        assert await service.supervisor.correct_key("button", "a", None)
        assert service.state().rows[1].pull_count == -1
        assert await service.supervisor.update("button", Update(1.0, arm_id="red"))
        arm = (await service.supervisor.stats("button"))["red"]
        assert (arm.pulls, arm.mean_reward) == (1, 1.0)
        await in_step(service)

    run_service(tmp_path, story)


def test_a_huge_reward_that_another_node_counted_is_out_of_memory_at_once(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=ThompsonGaussian())
        supervisor, state = service.supervisor, service.supervisor.experiment("button").state
        few = [plain(state, 1, float(index)) for index in range(5)]
        request = bundle(state, *few, plain(state, 1, 1e9, key="typo"))
        await supervisor.store.run(partial(commit_updates, node=OTHER_NODE, requests=[request], now=NOON))
        await supervisor.update("button", Update(7.0, arm_id="red"))
        await supervisor.load()
        supervisor.draw("button")
        experiment = supervisor.experiment("button")
        counts = experiment.counts_since
        assert experiment.pull_count == 7
        assert await supervisor.correct_key("button", "typo", None)
        known = supervisor.experiment("button").snapshot(NOON).evidence
        assert (int(known.pull_count[0]), known.sums[0].tolist()) == (6, [6.0, 17.0, 79.0])
        assert supervisor.experiment("button").counts_since == counts
        await in_step(service)

    run_service(tmp_path, story)
