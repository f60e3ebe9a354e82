"""Administration: experiments and arms come, change and go; each change is a transaction, then shown in memory."""

import uuid
from abc import ABC
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from multiarm.domain.arm import Arm
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec, CreateExperiment, PolicyChange, check_creation
from multiarm.service.allocator import Allocator
from multiarm.service.health import HealthKeeper
from multiarm.service.registry import Registry
from multiarm.storage import experiments as db
from multiarm.storage.policy_change import change_policy


class Administration(Registry, ABC):
    """What is asked of the Supervisor now and then."""

    clock: Callable[[], float]
    health: HealthKeeper
    _limits: db.Limits
    _allocator: Allocator

    async def create(self, request: CreateExperiment) -> str:
        check_creation(request, self._limits.payload_bytes)
        experiment_id = request.experiment_id or str(uuid.uuid4())
        work = partial(
            db.create_experiment,
            request=request,
            experiment_id=experiment_id,
            now=self.clock(),
            limits=self._limits,
        )
        await self.change(work, self.put)
        return experiment_id

    async def delete(self, experiment_id: str) -> None:
        uid = (await self.settled(experiment_id)).state.uid
        await self.change(partial(db.mark_deleted, uid=uid, now=self.clock()), self.drop)

    async def clear(self) -> None:
        await self.change(partial(db.mark_deleted, uid=None, now=self.clock()), self.drop)

    async def reset(self, experiment_id: str) -> None:
        experiment = await self.settled(experiment_id)
        await self._lift_quarantine(experiment)
        work = partial(db.reset, uid=experiment.state.uid, now=self.clock())
        await self.change(work, experiment.reset)

    async def set_enabled(self, experiment_id: str, enabled: bool) -> None:
        experiment = await self.settled(experiment_id)
        if enabled:
            await self._lift_quarantine(experiment)
        work = partial(db.set_enabled, uid=experiment.state.uid, enabled=enabled, now=self.clock())
        await self.change(work, lambda _: experiment.set_enabled(enabled))

    async def add_arm(self, experiment_id: str, spec: ArmSpec) -> str:
        experiment = await self.settled(experiment_id)
        now = self.clock()
        work = partial(
            db.add_arm,
            uid=experiment.state.uid,
            spec=spec,
            now=now,
            limits=self._limits,
            head_start=experiment.snapshot(now).head_start(),
        )
        return (await self.change_settled(work, experiment.put_arm)).arm_id

    async def delete_arm(self, experiment_id: str, arm_id: str) -> None:
        await self._change_arm(experiment_id, arm_id, deleted=True)

    async def set_arm_enabled(self, experiment_id: str, arm_id: str, enabled: bool) -> None:
        await self._change_arm(experiment_id, arm_id, enabled=enabled)

    async def change_policy(self, experiment_id: str, change: PolicyChange) -> None:
        """While the experiment runs. Rewards that come meanwhile wait, to be credited with the new policy."""
        experiment = await self.settled(experiment_id)
        uid = experiment.state.uid

        def then(state: ExperimentState) -> None:
            experiment.load(state)
            self._allocator.forget(uid)  # another policy takes another time
            if not self.health.is_running(uid):
                self.health.forget(uid)

        work = partial(
            change_policy,
            uid=uid,
            policy=change.policy,
            random_share=change.random_share,
            restart=change.restart,
            node=self._store.node,
            now=self.clock(),
        )
        await self.change_in_doubt(uid, work, then)

    async def _change_arm(self, experiment_id: str, arm_id: str, **change: bool) -> None:
        experiment = await self.settled(experiment_id)

        def work(connection: Connection) -> Arm:
            return db.change_arm(connection, experiment.state.uid, arm_id, self.clock(), **change)

        await self.change(work, experiment.put_arm)

    async def _lift_quarantine(self, experiment: Experiment) -> None:
        if not self.health.is_running(experiment.state.uid):
            await self.reload(experiment)
            self.health.forget(experiment.state.uid)
