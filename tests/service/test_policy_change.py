"""Another policy while the experiment runs: no reward is credited with one policy and counted under another."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from multiarm.domain.errors import (
    ArmNotFound,
    CommitUnknown,
    DecisionRequired,
    ExperimentChanging,
    ExperimentNotFound,
    ExperimentQuarantined,
    InvalidField,
    PolicyNotChanged,
    StaleEpoch,
)
from multiarm.domain.policies import (
    EXP3,
    UCB1,
    VDBE,
    AnyPolicy,
    EpsilonGreedy,
    Thompson,
    ThompsonGaussian,
    ThompsonPoisson,
    ThompsonRevenue,
)
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec, PolicyChange, Update
from multiarm.service.batch import SLICE_UPDATES, BatchFaults
from multiarm.storage.policy_change import change_policy
from postgres import Clock, Service, run_service, until


async def change(service: Service, policy: AnyPolicy, **more: Any) -> None:
    await service.supervisor.change_policy("button", PolicyChange(policy, **more))
    assert service.state().spec.policy == policy


def is_doubtful(service: Service) -> bool:
    return service.supervisor.is_doubtful(service.state().uid)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Changes of policy wait in the store's thread until the event is set."""
    go_on = threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        assert go_on.wait(10)
        return change_policy(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("multiarm.service.administration.change_policy", slow)
        yield go_on
        go_on.set()


class TestDecisions:
    def test_drawn_before_credit_after_with_the_propensity_that_was_signed(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(policy=EpsilonGreedy(epsilon=0.5))
            supervisor = service.supervisor
            await supervisor.update("button", Update(1.0, decision_id=supervisor.draw("button").decision_id))
            early = [supervisor.draw("button") for _ in range(40)]
            await change(service, EXP3())
            expected = {1: 0.0, 2: 0.0}
            for decision in early[:20]:
                assert await supervisor.update("button", Update(1.0, decision_id=decision.decision_id))
                expected[decision.arm.number] += 1 / decision.propensity
            rows = await service.rows()
            extra = {n: rows[n].sums[3] - expected[n] for n in rows}
            assert sorted(round(value, 9) for value in extra.values()) in (
                [0.0, 2.0],
                [2.0],
            )  # the first: ε = ½, both best
            late = [supervisor.draw("button") for _ in range(20)]
            await change(service, Thompson())
            for decision in early[20:] + late:
                assert await supervisor.update("button", Update(1.0, decision_id=decision.decision_id))
            for decision in early + late:
                assert not await supervisor.update("button", Update(0.0, decision_id=decision.decision_id))
            await change(service, EXP3())
            for decision in early[20:] + late:
                expected[decision.arm.number] += 1 / decision.propensity
            rows = await service.rows()
            assert sum(row.sums[3] for row in rows.values()) == pytest.approx(sum(expected.values()) + 2.0, rel=1e-12)
            assert sum(row.pull_count for row in rows.values()) == 61
            assert service.rows_in_memory() == rows
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_are_stale_after_a_restart(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            decision = service.supervisor.draw("button")
            await service.supervisor.update("button", Update(1.0, arm_id="red", key="k"))
            await change(service, EXP3(), restart=True)
            experiment = service.supervisor.experiment("button")
            assert (experiment.state.epoch, experiment.draw_count, experiment.pull_count) == (1, 0, 0)
            with pytest.raises(StaleEpoch):
                await service.supervisor.update("button", Update(1.0, decision_id=decision.decision_id))
            with pytest.raises(DecisionRequired):
                await service.supervisor.update("button", Update(1.0, arm_id="red"))
            fresh = service.supervisor.draw("button")
            assert await service.supervisor.update("button", Update(1.0, decision_id=fresh.decision_id))
            await change(service, Thompson(), restart=True)
            assert not await service.supervisor.update("button", Update(1.0, arm_id="red", key="k"))
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_go_on_being_drawn_and_their_count_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            with held(monkeypatch) as go_on:
                changing = asyncio.create_task(change(service, ThompsonPoisson()))
                await asyncio.sleep(0.01)
                for _ in range(100):
                    service.supervisor.draw("button")
                go_on.set()
                await changing
            assert service.supervisor.experiment("button").draw_count == 100
            service.supervisor.draw("button")
            await service.housekeeping.write_draw_counts()
            assert sum(row.draw_count for row in service.state().rows.values()) in {0, 100, 101}

        async def later(service: Service) -> None:
            assert service.supervisor.experiment("button").draw_count == 101
            assert service.state().spec.policy == ThompsonPoisson()

        run_service(tmp_path, story)
        run_service(tmp_path, later)


class Crowd:
    """Clients that report rewards in every way there is, and try again where they are told to."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.rng = random.Random(1)
        self.accepted_count = 0
        self.again_count = 0
        self.over = False

    def decision_id(self) -> str:
        return self.service.supervisor.draw("button").decision_id

    def update(self) -> Update:
        return Update(self.rng.random(), decision_id=self.decision_id())

    async def one_by_one(self) -> None:
        while not self.over:
            counted = await self.service.supervisor.update("button", self.update())
            self.accepted_count += counted
            await asyncio.sleep(0)

    async def by_turns(self) -> None:
        """As the express lane does it."""
        supervisor = self.service.supervisor
        while not self.over:
            updates = [self.update() for _ in range(5)]
            while updates:
                if supervisor.in_doubt:
                    counted = await supervisor.update("button", updates.pop())
                    self.accepted_count += counted
                    continue
                experiment, now = supervisor.experiment("button"), self.service.clock()
                increments = [supervisor.credit(experiment, update, now) for update in updates]
                outcomes = await self.service.submit(experiment, increments, now)
                self.accepted_count += sum(outcome is True for outcome in outcomes)
                updates = [u for u, o in zip(updates, outcomes, strict=True) if isinstance(o, ExperimentChanging)]
                self.again_count += len(updates)
            await asyncio.sleep(0)

    async def by_batches(self) -> None:
        while not self.over:
            batch = [self.update() for _ in range(2 * SLICE_UPDATES + 10)]
            while batch:
                try:
                    counted = await self.service.update_batch("button", batch, BatchFaults())
                except ExperimentChanging:
                    self.again_count += 1
                else:
                    self.accepted_count += counted
                    batch = []

    async def policies(self, changes: int) -> None:
        kinds: list[AnyPolicy] = [EXP3(), ThompsonPoisson(), VDBE(), UCB1(), ThompsonRevenue(), Thompson()]
        for _, policy in zip(range(changes), cycle(kinds), strict=False):
            await self.service.supervisor.change_policy("button", PolicyChange(policy))
            await asyncio.sleep(self.rng.random() * 0.01)
        self.over = True


class TestUnderLoad:
    def test_every_accepted_reward_counts_once_under_the_policy_of_the_day(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            crowd = Crowd(service)
            clients = [crowd.one_by_one() for _ in range(30)] + [crowd.by_turns() for _ in range(10)]
            await asyncio.gather(crowd.policies(30), crowd.by_batches(), crowd.by_batches(), *clients)
            rows = await service.rows()
            assert sum(row.pull_count for row in rows.values()) == crowd.accepted_count > 1_000
            assert service.rows_in_memory() == rows
            assert {len(row.sums) for row in rows.values()} == {len(service.state().spec.policy.traits.columns)}
            entries = service.audit()
            assert sum(entry.pull_count for entry in entries) == crowd.accepted_count
            assert all(entry.balanced for entry in entries)

        run_service(tmp_path, story, clock=Clock())


class TestDoubt:
    def test_a_loading_asked_for_before_the_change_does_not_end_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            decisions = [supervisor.draw("button").decision_id for _ in range(3)]
            with held(monkeypatch) as go_on:
                reloading = [
                    asyncio.create_task(supervisor.reload(supervisor.experiment("button"))),
                    asyncio.create_task(supervisor.load()),
                ]
                await asyncio.sleep(0)
                changing = asyncio.create_task(change(service, EXP3()))
                await asyncio.gather(*reloading)
                await asyncio.sleep(0.01)
                assert is_doubtful(service)
                updating = [
                    asyncio.create_task(supervisor.update("button", Update(1.0, decision_id=decision_id)))
                    for decision_id in decisions
                ]
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in updating)
                go_on.set()
                await changing
                assert await asyncio.gather(*updating) == [True] * 3
            assert not supervisor.in_doubt
            assert {len(row.sums) for row in (await service.rows()).values()} == {4}
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_many_who_wait_load_it_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            loads: list[ExperimentState] = []
            load = supervisor.experiment("button").load

            def watched(state: ExperimentState) -> None:
                loads.append(state)
                load(state)

            monkeypatch.setattr(supervisor.experiment("button"), "load", watched)
            with held(monkeypatch) as go_on:
                changing = asyncio.create_task(change(service, ThompsonPoisson()))
                await asyncio.sleep(0.01)
                updates = [supervisor.update("button", Update(1.0, arm_id="red", key=f"{n}")) for n in range(200)]
                waiting = asyncio.gather(*updates)
                await asyncio.sleep(0.01)
                go_on.set()
                assert await waiting == [True] * 200
                await changing
            assert len(loads) == 2  # the change itself, and for all who waited

        run_service(tmp_path, story)

    def test_a_caller_who_leaves_leaves_none_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            with held(monkeypatch) as go_on:
                changing = asyncio.create_task(change(service, EXP3()))
                await asyncio.sleep(0.01)
                changing.cancel()
                with suppress(asyncio.CancelledError):
                    await changing
                assert is_doubtful(service)
                go_on.set()
                await until(lambda: not is_doubtful(service))
            assert service.state().spec.policy == EXP3()

        run_service(tmp_path, story)

    def test_a_refusal_leaves_none_behind(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            before = service.state()
            with pytest.raises(PolicyNotChanged):
                await service.supervisor.change_policy("button", PolicyChange(EXP3()))
            with pytest.raises(ExperimentNotFound):
                await service.supervisor.change_policy("knob", PolicyChange(EXP3()))
            assert not service.supervisor.in_doubt
            assert service.state() is before
            await service.create("timely", half_life_s=60.0)
            with pytest.raises(InvalidField):
                await service.supervisor.change_policy("timely", PolicyChange(EXP3()))
            assert not service.supervisor.in_doubt

        run_service(tmp_path, story)

    @pytest.mark.parametrize("happened", [True, False])
    def test_a_commit_whose_outcome_is_unknown_is_looked_up(self, tmp_path: Path, happened: bool) -> None:
        async def story(service: Service) -> None:
            await service.create()
            decision = service.supervisor.draw("button")
            with capture_logs(), pytest.raises(CommitUnknown), unknown_commit(service, happened=happened):
                await service.supervisor.change_policy("button", PolicyChange(EXP3()))
            assert is_doubtful(service)
            assert await service.supervisor.update("button", Update(1.0, decision_id=decision.decision_id))
            assert not service.supervisor.in_doubt
            assert service.state().spec.policy == (EXP3() if happened else Thompson())
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)


@contextmanager
def unknown_commit(service: Service, *, happened: bool) -> Iterator[None]:
    dialect: Any = service.engine.dialect
    commit = dialect.do_commit

    def fail(connection: Any) -> None:
        if happened:
            commit(connection)
        raise service.engine.dialect.loaded_dbapi.OperationalError("disk I/O error")

    dialect.do_commit = fail
    try:
        yield
    finally:
        del dialect.do_commit


class TestWhatWasCreditedBefore:
    def test_a_batch_is_told_to_try_again(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            batch = [Update(1.0, decision_id=supervisor.draw("button").decision_id) for _ in range(3 * SLICE_UPDATES)]
            sending = asyncio.create_task(service.update_batch("button", batch, BatchFaults()))
            await asyncio.sleep(0)
            changing = asyncio.create_task(change(service, EXP3()))
            with pytest.raises(ExperimentChanging, match="nothing was counted"):
                await sending
            await changing
            assert not await service.rows()
            assert await service.update_batch("button", batch, BatchFaults()) == len(batch)
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)

    def test_so_are_those_of_a_turn_that_was_refused_as_a_whole(self, tmp_path: Path) -> None:
        """They would be counted one by one, after the change."""

        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            experiment, now = supervisor.experiment("button"), service.clock()
            updates = [Update(1.0, arm_id="red", key="a"), Update(1.0, arm_id="green", key="b")]
            increments = [supervisor.credit(experiment, update, now) for update in updates]
            deleting = asyncio.create_task(supervisor.delete_arm("button", "green"))
            await asyncio.sleep(0)
            told = service.submit(experiment, increments, now)
            changing = asyncio.create_task(change(service, ThompsonPoisson()))
            await asyncio.sleep(0)
            assert [type(outcome) for outcome in await told] == [ExperimentChanging] * 2
            await asyncio.gather(deleting, changing)
            assert not await service.rows()
            assert await supervisor.update("button", updates[0])
            with pytest.raises(ArmNotFound):
                await supervisor.update("button", updates[1])
            assert all(entry.balanced for entry in service.audit())

        run_service(tmp_path, story)


class TestQuarantine:
    def test_another_policy_lifts_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("poisoned")

        async def story(service: Service) -> None:
            await service.create(policy=UCB1())
            supervisor, uid = service.supervisor, service.state().uid
            supervisor.experiment("button").allocation = None
            while supervisor.health.of(uid).status != "quarantined":
                with suppress(Exception):
                    supervisor.draw("button")
                await asyncio.sleep(0.001)
            with pytest.raises(ExperimentQuarantined, match="policy with another policy"):
                supervisor.draw("button")
            await change(service, ThompsonGaussian())
            assert supervisor.health.of(uid).failure_count == 0
            assert supervisor.draw("button").arm.arm_id in {"red", "green"}

        monkeypatch.setattr(UCB1, "allocate", fail)
        with capture_logs():
            run_service(tmp_path, story)


class TestPending:
    def test_a_reward_that_was_counted_is_waited_for_no_longer(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(policy=UCB1())
            supervisor = service.supervisor
            experiment = supervisor.experiment("button")
            assert experiment.pending is not None

            def waiting() -> int:
                assert experiment.pending is not None
                return sum(experiment.pending.counts(service.clock()).values())

            decisions = [supervisor.draw("button") for _ in range(10)]
            assert waiting() == 10
            updates = [Update(1.0, decision_id=decision.decision_id) for decision in decisions]
            assert await supervisor.update("button", updates[0])
            assert waiting() == 9
            assert not await supervisor.update("button", updates[0])
            assert waiting() == 9
            assert await service.update_batch("button", [*updates[:5], updates[4]], BatchFaults()) == 4
            assert waiting() == 5
            await change(service, Thompson())
            assert supervisor.experiment("button").pending is None
            assert await supervisor.update("button", updates[5])
            await change(service, UCB1())
            assert waiting() == 0
            assert await supervisor.update("button", updates[6])
            assert waiting() == 0

        run_service(tmp_path, story)


class TestHeadStart:
    def test_an_arm_that_joins_begins_where_the_others_are(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create(policy=EXP3())
            supervisor = service.supervisor
            for _ in range(50):
                await supervisor.update("button", Update(1.0, decision_id=supervisor.draw("button").decision_id))
            expected = supervisor.experiment("button").snapshot(service.clock()).head_start()
            assert expected > 10
            await supervisor.add_arm("button", ArmSpec(arm_id="late"))
            assert [arm.head_start for arm in service.state().arms.values()] == [0.0, 0.0, expected]
            await supervisor.set_arm_enabled("button", "late", False)
            await supervisor.set_arm_enabled("button", "late", True)

        async def later(service: Service) -> None:
            assert service.state().arms[3].head_start > 10
            await service.supervisor.reset("button")
            assert [arm.head_start for arm in service.state().arms.values()] == [0.0] * 3
            assert await service.supervisor.reload(service.supervisor.experiment("button"))
            assert [arm.head_start for arm in service.state().arms.values()] == [0.0] * 3

        run_service(tmp_path, story)
        run_service(tmp_path, later)

    def test_is_none_where_means_are_compared(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            await service.supervisor.update("button", Update(1.0, arm_id="red"))
            await service.supervisor.add_arm("button", ArmSpec(arm_id="late"))
            assert [arm.head_start for arm in service.state().arms.values()] == [0.0] * 3

        run_service(tmp_path, story)


def test_surprises_are_those_that_the_rows_met(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create(policy=VDBE())
        crowd = Crowd(service)
        updates = [crowd.update() for _ in range(60)]
        counted = await asyncio.gather(*(service.supervisor.update("button", update) for update in updates))
        assert all(counted)
        rows = await service.rows()
        assert service.rows_in_memory() == rows
        assert all(0 < row.sums[4] / row.sums[3] < 1 for row in rows.values())
        assert all(entry.balanced for entry in service.audit())

    run_service(tmp_path, story)
