import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from multiarm.domain.errors import (
    ArmNotFound,
    BatchRejected,
    ExperimentGone,
    ExperimentNotFound,
    Fault,
    InvalidDecision,
    InvalidField,
    InvalidRequest,
    InvalidReward,
    MultiarmError,
    StaleEpoch,
    StoreUnavailable,
)
from multiarm.domain.spec import Update
from multiarm.service.batch import BatchFaults, faults_of
from multiarm.storage.experiments import own_rows, reset
from multiarm.storage.rewards import UpdateRequest
from postgres import NODE, NOON, Service, run_service


def rejected(faults: BatchFaults) -> BatchRejected:
    with pytest.raises(BatchRejected) as caught:
        faults.raise_any()
    return caught.value


class TestBatchFaults:
    def test_none_is_no_error(self) -> None:
        faults = BatchFaults()
        faults.raise_any()
        assert faults.faulty_count == 0

    def test_each_is_listed_with_its_path_in_the_order_of_the_batch(self) -> None:
        faults = BatchFaults()
        faults.add(7, InvalidRequest([Fault("reward", "invalid", "no number"), Fault("", "invalid", "odd")]))
        faults.add(2, InvalidReward("too much"))
        faults.add(5, InvalidField("key", "not both"))
        faults.add(3, ArmNotFound("blue"))
        faults.add(4, InvalidField("", "neither"))
        assert [(fault.path, fault.type) for fault in rejected(faults).faults] == [
            ("updates[2].reward", "invalid-reward"),
            ("updates[3].arm_id", "arm-not-found"),
            ("updates[4]", "invalid"),
            ("updates[5].key", "invalid"),
            ("updates[7].reward", "invalid"),
            ("updates[7]", "invalid"),
        ]

    @pytest.mark.parametrize(
        ("errors", "worst"),
        [
            ([StaleEpoch("e"), ArmNotFound("a"), InvalidDecision("d")], InvalidDecision),
            ([StaleEpoch("e"), ArmNotFound("a")], ArmNotFound),
            ([StaleEpoch("e"), InvalidReward("r")], InvalidReward),
        ],
    )
    def test_the_answer_is_the_first_of_422_404_410(
        self, errors: list[MultiarmError], worst: type[MultiarmError]
    ) -> None:
        for order in (errors, errors[::-1]):
            faults = BatchFaults()
            for index, error in enumerate(order):
                faults.add(index, error)
            assert type(rejected(faults).worst) is worst

    def test_a_hundred_are_listed_and_all_counted(self) -> None:
        faults = BatchFaults()
        for index in range(250):
            faults.add(index, StaleEpoch("e"))
        faults.add(250, InvalidReward("r"))
        error = rejected(faults)
        assert [fault.path for fault in error.faults] == [f"updates[{n}].decision_id" for n in range(100)]
        assert isinstance(error.worst, InvalidReward)
        assert "251 updates" in str(error)

    def test_what_is_no_fault_of_the_request_is_raised(self) -> None:
        with pytest.raises(StoreUnavailable):
            BatchFaults().add(0, StoreUnavailable("down"))

    def test_faults_outside_a_batch_have_plain_paths(self) -> None:
        assert faults_of(InvalidReward("r")) == [Fault("reward", "invalid-reward", "r")]
        assert faults_of(StaleEpoch("e")) == [Fault("decision_id", "stale-epoch", "e")]


def decided(service: Service, count: int) -> list[Update]:
    return [Update(1.0, decision_id=service.supervisor.draw("button").decision_id) for _ in range(count)]


class TestBatches:
    def test_ten_thousand_decisions_yield_to_the_loop(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def story(service: Service) -> None:
            await service.create()
            updates = decided(service, 10_000)
            ticks = 0
            ticks_before_commit: list[int] = []
            enqueue = service.store.update

            def count_ticks(request: UpdateRequest, reply: Any) -> None:
                ticks_before_commit.append(ticks)
                enqueue(request, reply)

            monkeypatch.setattr(service.store, "update", count_ticks)
            batch = asyncio.create_task(service.update_batch("button", updates, BatchFaults()))
            while not batch.done():
                await asyncio.sleep(0)
                ticks += 1
            assert batch.result() == 10_000
            assert len(ticks_before_commit) == 1  # enqueued in one step
            assert ticks_before_commit[0] >= 20
            assert service.supervisor.experiment("button").pull_count == 10_000

        run_service(tmp_path, story)

    def test_all_or_nothing(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            faults = BatchFaults()
            updates = [Update(1.0, arm_id="red"), Update(2.0, arm_id="red"), None, Update(1.0, arm_id="blue")]
            faults.add(2, InvalidRequest([Fault("reward", "invalid", "a string")]))
            with pytest.raises(BatchRejected) as caught:
                await service.update_batch("button", updates, faults)
            paths = [fault.path for fault in caught.value.faults]
            assert paths == ["updates[1].reward", "updates[2].reward", "updates[3].arm_id"]
            assert await service.rows() == service.rows_in_memory() == {}

        run_service(tmp_path, story)

    def test_duplicates_in_it_are_counted_once(self, tmp_path: Path) -> None:
        async def story(service: Service) -> None:
            await service.create()
            update = service.update_batch
            updates = [*decided(service, 3), Update(0.5, arm_id="red", key="a"), Update(0.5, arm_id="red")] * 2
            assert await update("button", updates, BatchFaults()) == 6
            assert await update("button", updates, BatchFaults()) == 2
            assert await service.rows() == service.rows_in_memory()
            assert service.supervisor.experiment("button").pull_count == 8

        run_service(tmp_path, story)

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ("reset", StaleEpoch),
            ("delete", (ExperimentNotFound, ExperimentGone)),
            ("delete_arm", ArmNotFound),
        ],
    )
    def test_one_that_is_overtaken_by_a_change_is_refused_whole(
        self, tmp_path: Path, change: str, expected: type[MultiarmError]
    ) -> None:
        """The change ends while the batch is validated, or stands before it in the store's mailbox."""

        async def story(service: Service) -> None:
            await service.create()
            supervisor = service.supervisor
            uid = service.state().uid
            updates = [*decided(service, 2_000), Update(1.0, arm_id="red")]
            changes = {
                "reset": supervisor.reset("button"),
                "delete": supervisor.delete("button"),
                "delete_arm": supervisor.delete_arm("button", "red"),
            }
            for name, other in changes.items():
                if name != change:
                    other.close()
            changing = asyncio.create_task(changes[change])
            with pytest.raises(MultiarmError) as caught:
                await service.update_batch("button", updates, BatchFaults())
            await changing
            assert isinstance(getattr(caught.value, "worst", caught.value), expected)
            stored = await service.store.run(lambda c: own_rows(c, NODE, [uid]))
            assert not any(rows for _, rows in stored.values())

        run_service(tmp_path, story)

    def test_one_during_which_the_experiment_is_reset_is_refused(self, tmp_path: Path) -> None:
        """What was validated in the old epoch must not count in the new one."""

        async def story(service: Service) -> None:
            await service.create()
            uid = service.state().uid
            epoch = await service.store.run(lambda c: reset(c, uid, NOON))
            show = partial(service.supervisor.experiment("button").reset, epoch)
            asyncio.get_running_loop().call_soon(show)  # when the batch first yields
            with pytest.raises(StaleEpoch):
                await service.update_batch("button", [Update(1.0, arm_id="red")] * 600, BatchFaults())
            assert service.state().epoch == 1
            assert await service.rows() == service.rows_in_memory() == {}

        run_service(tmp_path, story)
