"""The Supervisor against a model of it, and what the model does not show."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from multiarm.domain.errors import (
    ArmNotFound,
    Busy,
    ExperimentChanging,
    ExperimentExists,
    ExperimentGone,
    ExperimentNotFound,
    InvalidDecision,
    InvalidReward,
    MultiarmError,
    NoEnabledArms,
    StaleEpoch,
)
from multiarm.domain.records import Increment
from multiarm.domain.spec import ArmSpec, Update
from multiarm.service.batch import BatchFaults
from postgres import Clock, Service, Submitted, run_service, until


@dataclass
class ArmModel:
    enabled: bool = True
    draw_count: int = 0
    rewards: list[float] = field(default_factory=list)


@dataclass
class Model:
    """What an experiment should have counted. Decisions of this epoch are kept with the arm that they drew."""

    arms: dict[str, ArmModel] = field(default_factory=dict)
    deleted: list[ArmModel] = field(default_factory=list)
    decisions: list[tuple[str, ArmModel]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def count(self, key: str | None, arm: ArmModel, reward: float) -> bool:
        if key in self.seen:
            return False
        if key is not None:
            self.seen.add(key)
        arm.rewards.append(reward)
        return True

    def reset(self) -> None:
        self.stale += [decision_id for decision_id, _ in self.decisions]
        self.decisions.clear()
        self.deleted.clear()
        for arm in self.arms.values():
            arm.draw_count, arm.rewards = 0, []


class Walk:
    """A random walk through what a client can do, on a service and on the model of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.models: dict[str, Model] = {}
        self.gone: list[str] = []  # decisions of deleted experiments
        self.weights = {
            self.create: 2,
            self.delete: 1,
            self.reset: 2,
            self.add_arm: 6,
            self.delete_arm: 3,
            self.enable_arm: 6,
            self.draw: 30,
            self.update: 20,
            self.update_batch: 10,
            self.stale_update: 3,
            self.reload: 3,
        }

    async def go(self, service: Service, step_count: int) -> None:
        for _ in range(step_count):
            [step] = self.rng.choices(list(self.weights), list(self.weights.values()))
            if self.models or step == self.create:
                await step(service, self.rng.choice(list(self.models)) if self.models else "")
        await self.compare(service)

    async def create(self, service: Service, _: str) -> None:
        name = f"e{self.rng.randrange(3)}"
        if name in self.models:
            with pytest.raises(ExperimentExists):
                await service.create(name)
            return
        await service.create(name, half_life_s=None)
        self.models[name] = Model({"red": ArmModel(), "green": ArmModel()})

    async def delete(self, service: Service, name: str) -> None:
        await service.supervisor.delete(name)
        model = self.models.pop(name)
        self.gone += [decision_id for decision_id, _ in model.decisions]

    async def reset(self, service: Service, name: str) -> None:
        await service.supervisor.reset(name)
        self.models[name].reset()

    async def add_arm(self, service: Service, name: str) -> None:
        arm_id = await service.supervisor.add_arm(name, ArmSpec())
        assert arm_id not in self.models[name].arms
        self.models[name].arms[arm_id] = ArmModel()

    async def delete_arm(self, service: Service, name: str) -> None:
        arms = self.models[name].arms
        if arms:
            arm_id = self.rng.choice(list(arms))
            await service.supervisor.delete_arm(name, arm_id)
            self.models[name].deleted.append(arms.pop(arm_id))

    async def enable_arm(self, service: Service, name: str) -> None:
        arms = self.models[name].arms
        if arms:
            arm_id, enabled = self.rng.choice(list(arms)), self.rng.random() < 0.6
            await service.supervisor.set_arm_enabled(name, arm_id, enabled)
            arms[arm_id].enabled = enabled

    async def draw(self, service: Service, name: str) -> None:
        model = self.models[name]
        if not any(arm.enabled for arm in model.arms.values()):
            with pytest.raises(NoEnabledArms):
                service.supervisor.draw(name)
            return
        for _ in range(self.rng.randint(1, 4)):
            decision = service.supervisor.draw(name)
            arm = model.arms[decision.arm.arm_id]
            assert arm.enabled
            arm.draw_count += 1
            model.decisions.append((decision.decision_id, arm))

    def some_update(self, model: Model) -> tuple[Update, str | None, ArmModel] | None:
        reward = self.rng.choice([0.0, 0.25, 1.0])
        if model.decisions and self.rng.random() < 0.6:
            decision_id, arm = self.rng.choice(model.decisions)
            return Update(reward, decision_id=decision_id), decision_id, arm
        if not model.arms:
            return None
        arm_id = self.rng.choice(list(model.arms))
        key = self.rng.choice([None, f"key-{self.rng.randrange(200)}"])
        return Update(reward, arm_id=arm_id, key=key), key, model.arms[arm_id]

    async def update(self, service: Service, name: str) -> None:
        model = self.models[name]
        if (some := self.some_update(model)) is not None:
            update, key, arm = some
            assert await service.supervisor.update(name, update) == model.count(key, arm, update.reward)

    async def update_batch(self, service: Service, name: str) -> None:
        model = self.models[name]
        some = [one for one in (self.some_update(model) for _ in range(self.rng.randint(1, 40))) if one is not None]
        if not some:
            return
        fails = self.rng.random() < 0.2
        updates = [update for update, _, _ in some] + ([Update(2.0, arm_id="red")] if fails else [])
        if fails:
            with pytest.raises(MultiarmError):
                await service.update_batch(name, updates, BatchFaults())
            return
        news = [model.count(key, arm, update.reward) for update, key, arm in some]
        assert await service.update_batch(name, updates, BatchFaults()) == sum(news)

    async def stale_update(self, service: Service, name: str) -> None:
        for decisions, error in ((self.models[name].stale, StaleEpoch), (self.gone, ExperimentGone)):
            if decisions:
                with pytest.raises(error):
                    await service.supervisor.update(name, Update(1.0, decision_id=self.rng.choice(decisions)))

    async def reload(self, service: Service, name: str) -> None:
        assert await service.supervisor.reload(service.supervisor.experiment(name))

    async def compare(self, service: Service) -> None:
        assert set(service.supervisor.experiments) == set(self.models)
        for name, model in self.models.items():
            stats = await service.supervisor.stats(name)
            assert list(stats) == list(model.arms)
            for arm_id, arm in model.arms.items():
                assert (stats[arm_id].pulls, stats[arm_id].draws) == (len(arm.rewards), arm.draw_count)
                assert stats[arm_id].enabled == arm.enabled
                if arm.rewards:
                    assert stats[arm_id].mean_reward == pytest.approx(sum(arm.rewards) / len(arm.rewards), rel=1e-12)
            arms = [*model.arms.values(), *model.deleted]
            assert service.supervisor.experiment(name).pull_count == sum(len(arm.rewards) for arm in arms)
            assert service.rows_in_memory(name) == await service.rows(name)
        assert all(entry.balanced for entry in service.audit())


class TestModel:
    @pytest.mark.parametrize("seed", range(4))
    def test_memory_the_store_and_the_model_agree_restarts_included(self, tmp_path: Path, seed: int) -> None:
        walk = Walk(seed)

        async def begin(service: Service) -> None:
            await walk.go(service, 200)
            await service.housekeeping.stop()  # writes the draw counts

        async def go_on(service: Service) -> None:
            await walk.compare(service)
            await walk.go(service, 100)

        run_service(tmp_path, begin)
        run_service(tmp_path, go_on)
        assert walk.models


class TestDispatch:
    def test_a_decision_belongs_to_its_experiment(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create("one")
            await service.create("two")
            update = Update(1.0, decision_id=supervisor.draw("one").decision_id)
            with pytest.raises(InvalidDecision):
                await supervisor.update("two", update)
            await supervisor.delete("one")
            await service.create("one")
            for name in ("one", "two"):
                with pytest.raises(ExperimentGone):
                    await supervisor.update(name, update)

        run_service(tmp_path, story)

    def test_what_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            with pytest.raises(ArmNotFound):
                await supervisor.delete_arm("button", "blue")
            await supervisor.clear()
            for attempt in (supervisor.reset, supervisor.delete, supervisor.stats):
                with pytest.raises(ExperimentNotFound):
                    await attempt("button")
            with pytest.raises(ExperimentNotFound):
                supervisor.draw("button")

        run_service(tmp_path, story)

    def test_a_caller_who_leaves_does_not_undo_what_was_committed(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            supervisor = service.supervisor
            await service.create()
            update = Update(1.0, arm_id="red", key="a")
            leaving = [
                asyncio.create_task(supervisor.update("button", update)),
                asyncio.create_task(supervisor.reset("button")),
                asyncio.create_task(supervisor.add_arm("button", ArmSpec(arm_id="blue"))),
            ]
            staying = asyncio.create_task(supervisor.update("button", Update(1.0, arm_id="green")))
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            with pytest.raises(StaleEpoch):
                await staying
            assert service.state().epoch == 1
            assert [arm.arm_id for arm in supervisor.experiment("button").live_arms] == ["red", "green", "blue"]
            assert not await supervisor.update("button", update)  # its key was taken in the epoch before

        run_service(tmp_path, story)

    def test_what_was_counted_reaches_the_ledger(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            update = Update(1.0, decision_id=service.supervisor.draw("button").decision_id)
            for _ in range(2):
                await service.supervisor.update("button", update)
            assert service.accountant.stop(10)
            assert service.accountant.written == {"decisions": 1, "rewards": 2, "requests": 0}

        run_service(tmp_path, story, clock=Clock())


def submitted(service: Service, updates: Sequence[Update | Increment], name: str = "button") -> Submitted:
    """Updates of as many callers, that came in the same turn of the loop: what each of them is told."""
    supervisor = service.supervisor
    experiment, now = supervisor.experiment(name), service.clock()
    increments = [u if isinstance(u, Increment) else supervisor.credit(experiment, u, now) for u in updates]
    return service.submit(experiment, increments, now)


def red(key: str | None = None) -> Update:
    return Update(1.0, arm_id="red", key=key)


class TestRewardsOfOneTurn:
    def test_each_caller_is_told_of_his_own(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            told = await submitted(service, [red("a"), red(), red("a"), Update(0.5, arm_id="green")])
            assert told == [True, True, False, True]
            assert await submitted(service, [red("b"), red("a")]) == [True, False]
            assert [row.pull_count for row in service.rows_in_memory().values()] == [3, 1]
            assert service.rows_in_memory() == await service.rows()

        run_service(tmp_path, story)

    def test_a_reward_for_an_arm_that_is_gone_takes_no_other_along(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            deleting = asyncio.create_task(service.supervisor.delete_arm("button", "green"))
            await asyncio.sleep(0)
            told = submitted(service, [red("a"), Update(1.0, arm_id="green"), red("a"), red()])
            first, gone, again, plain = await told
            assert (first, again, plain) == (True, False, True)
            assert isinstance(gone, ArmNotFound)
            await deleting
            assert [row.pull_count for row in (await service.rows()).values()] == [2]
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_nor_does_one_that_makes_the_sums_infinite(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            sound = supervisor.credit(supervisor.experiment("button"), red(), service.clock())
            endless = msgspec.structs.replace(sound, numbers=(1.0, 1e308, 1e308))
            first, refused, last = await submitted(service, [endless, endless, red()])
            assert (first, last) == (True, True)
            assert isinstance(refused, InvalidReward)

        run_service(tmp_path, story)

    def test_all_are_told_of_a_reset(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            resetting = asyncio.create_task(service.supervisor.reset("button"))
            await asyncio.sleep(0)
            told = await submitted(service, [red(), red("a")])
            assert [type(outcome) for outcome in told] == [StaleEpoch, StaleEpoch]
            await resetting
            assert not await service.rows()

        run_service(tmp_path, story)

    def test_where_the_mailbox_is_nearly_full_as_many_as_fit(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            waiting = asyncio.create_task(service.supervisor.update("button", red()))
            await asyncio.sleep(0)
            told = await submitted(service, [red() for _ in range(4)])
            assert told[:2] == [True, True]
            assert [type(outcome) for outcome in told[2:]] == [Busy, Busy]
            assert await waiting
            assert [row.pull_count for row in (await service.rows()).values()] == [3]

        run_service(tmp_path, story, mailbox_size_updates=3)

    def test_of_a_turn_larger_than_the_mailbox_those_that_fit_are_taken(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            told = await submitted(service, [red() for _ in range(9)])
            assert told[:3] == [True] * 3
            assert [type(outcome) for outcome in told[3:]] == [Busy] * 6
            assert [row.pull_count for row in (await service.rows()).values()] == [3]

        run_service(tmp_path, story, mailbox_size_updates=3)

    def test_those_that_do_not_fit_are_told_before_the_others_are_counted(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor, now = service.supervisor, service.clock()
            experiment = supervisor.experiment("button")
            increments = [supervisor.credit(experiment, red(), now) for _ in range(5)]
            told: list[tuple[int, list[type]]] = []
            supervisor.submit(
                experiment, increments, now, lambda start, some: told.append((start, [type(each) for each in some]))
            )
            assert told == [(3, [Busy, Busy])]
            await until(lambda: len(told) == 2)
            assert told[1] == (0, [bool] * 3)

        run_service(tmp_path, story, mailbox_size_updates=3)

    def test_a_batch_for_which_there_would_be_no_room_is_not_read(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            async with supervisor.reading(2):
                with pytest.raises(Busy, match="2 updates wait"):
                    async with supervisor.reading(2):
                        pass
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(supervisor.reading(1).__aenter__(), 0.01)  # one at a time
            async with supervisor.reading(9):  # a lone one always fits
                pass
            assert await service.supervisor.update("button", red())

        run_service(tmp_path, story, mailbox_size_updates=3)

    def test_each_refused_one_is_counted_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor, batch = service.supervisor, [red() for _ in range(3)]
            counts = supervisor.refused_counts
            assert dict(counts) == {"busy": 0}
            deleting = asyncio.create_task(supervisor.delete_arm("button", "green"))
            await asyncio.sleep(0)
            green = Update(1.0, arm_id="green")
            told = await submitted(service, [red("a"), green])  # together, and then each alone
            assert [type(outcome) for outcome in told] == [bool, ArmNotFound]
            assert counts == {"busy": 0, "arm-not-found": 1}
            await deleting
            await submitted(service, [red() for _ in range(4)])
            assert counts["busy"] == 1
            filling = submitted(service, batch)
            with pytest.raises(Busy):
                await supervisor.update("button", red())
            assert counts["busy"] == 2
            with pytest.raises(Busy):
                await service.update_batch("button", batch, BatchFaults())
            assert counts["busy"] == 5
            with pytest.raises(Busy):
                await supervisor.reading(4).__aenter__()
            assert counts == {"busy": 9, "arm-not-found": 1}
            assert await filling == [True] * 3
            with pytest.raises(InvalidDecision):
                await supervisor.correct_decision("button", "none", 1.0)  # no reward was sent
            monkeypatch.setattr(supervisor, "_is_credited_with", lambda *_: False)
            with pytest.raises(ExperimentChanging):
                await service.update_batch("button", batch, BatchFaults())
            assert counts == {"busy": 9, "arm-not-found": 1, "experiment-changing": 3}

        run_service(tmp_path, story, mailbox_size_updates=3)

    def test_the_ledger_has_a_row_for_each(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            await submitted(service, [red("a"), red("a"), red()])
            assert service.accountant.stop(10)
            assert service.accountant.written["rewards"] == 3

        run_service(tmp_path, story, clock=Clock())
