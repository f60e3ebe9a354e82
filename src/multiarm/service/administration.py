"""Administration: experiments and arms come, change and go; each change is a transaction, then shown in memory.

What changes an experiment is preceded, in its transaction, by a snapshot of the state that it ends, and followed by an
entry in the audit trail.
"""

import asyncio
import uuid
from abc import ABC
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from multiarm.domain.arm import Arm
from multiarm.domain.crediting import checked_ts
from multiarm.domain.errors import InvalidField
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import NOBODY_KNOWN, Actor, ExperimentState
from multiarm.domain.spec import ArmSpec, CreateExperiment, PolicyChange, Restore, check_creation
from multiarm.service.allocator import Allocator
from multiarm.service.health import HealthKeeper
from multiarm.service.history import outlook_of
from multiarm.service.registry import Registry
from multiarm.storage import experiments as db
from multiarm.storage.audit import Act, recorded
from multiarm.storage.policy_change import change_policy
from multiarm.storage.restoring import Restored, restore
from multiarm.storage.snapshots import Outlook, Reason, before, take

log = structlog.get_logger()

# What an action waits for: the statistics of few arms, on the loop; of more, off it; of very many, of none, because a
# thousand arms are added one by one.
FEW_ARMS = 20
VERY_MANY_ARMS = 200
COSTLY_S = 0.05

T = TypeVar("T")


class Preceded(Protocol):
    """The work of a change, preceded by a snapshot."""

    def __call__(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]: ...


class Administration(Registry, ABC):
    """What is asked of the Supervisor now and then."""

    clock: Callable[[], float]
    health: HealthKeeper
    _limits: db.Limits
    _allocator: Allocator
    _executor: Executor
    _inline_limit_s: float

    async def create(self, request: CreateExperiment, actor: Actor = NOBODY_KNOWN) -> str:
        check_creation(request, self._limits.payload_bytes)
        experiment_id = request.experiment_id or str(uuid.uuid4())
        now = self.clock()

        def work(connection: Connection) -> ExperimentState:
            state = db.create_experiment(connection, request, experiment_id, now, self._limits)
            take(connection, state.uid, "create", Outlook(), now, limit=self._limits.action_snapshots)
            return state

        await self.change(recorded(work, Act("create", actor, now)), self.put)
        return experiment_id

    async def delete(self, experiment_id: str, actor: Actor = NOBODY_KNOWN) -> None:
        uid, now = (await self.settled(experiment_id)).state.uid, self.clock()
        work = partial(db.mark_deleted, uid=uid, now=now)
        await self.change(recorded(work, Act("delete", actor, now, uid)), self.drop)

    async def clear(self, actor: Actor = NOBODY_KNOWN) -> None:
        now = self.clock()
        work = partial(db.mark_deleted, uid=None, now=now)
        await self.change(recorded(work, Act("clear", actor, now)), self.drop)

    async def reset(self, experiment_id: str, actor: Actor = NOBODY_KNOWN) -> None:
        await self._lift_quarantine(await self.settled(experiment_id))
        experiment, preceded = await self._preceded(experiment_id, "reset", actor)
        work = partial(db.reset, uid=experiment.state.uid, now=self.clock())
        await self.change(preceded(work), experiment.reset)

    async def set_enabled(self, experiment_id: str, enabled: bool, actor: Actor = NOBODY_KNOWN) -> None:
        if enabled:
            await self._lift_quarantine(await self.settled(experiment_id))
        experiment, preceded = await self._preceded(experiment_id, "enable" if enabled else "disable", actor)
        work = partial(db.set_enabled, uid=experiment.state.uid, enabled=enabled, now=self.clock())
        await self.change(preceded(work), lambda _: experiment.set_enabled(enabled))

    async def add_arm(self, experiment_id: str, spec: ArmSpec, actor: Actor = NOBODY_KNOWN) -> str:
        experiment, preceded = await self._preceded(experiment_id, "add_arm", actor)
        now = self.clock()
        work = partial(
            db.add_arm,
            uid=experiment.state.uid,
            spec=spec,
            now=now,
            limits=self._limits,
            head_start=experiment.snapshot(now).head_start(),
        )
        return (await self.change_settled(preceded(work), experiment.put_arm)).arm_id

    async def delete_arm(self, experiment_id: str, arm_id: str, actor: Actor = NOBODY_KNOWN) -> None:
        preceded = await self._preceded(experiment_id, "delete_arm", actor)
        await self._change_arm(*preceded, arm_id, deleted=True)

    async def set_arm_enabled(
        self, experiment_id: str, arm_id: str, enabled: bool, actor: Actor = NOBODY_KNOWN
    ) -> None:
        preceded = await self._preceded(experiment_id, "enable_arm" if enabled else "disable_arm", actor)
        await self._change_arm(*preceded, arm_id, enabled=enabled)

    async def change_policy(self, experiment_id: str, change: PolicyChange, actor: Actor = NOBODY_KNOWN) -> None:
        """While the experiment runs. Rewards that come meanwhile wait, to be credited with the new policy."""
        experiment, preceded = await self._preceded(experiment_id, "policy", actor)
        uid = experiment.state.uid
        work = partial(
            change_policy,
            uid=uid,
            policy=change.policy,
            random_share=change.random_share,
            restart=change.restart,
            node=self.store.node,
            now=self.clock(),
        )
        await self.change_in_doubt(uid, preceded(work), partial(self._begin_anew, experiment))

    async def restore(self, experiment_id: str, request: Restore, actor: Actor = NOBODY_KNOWN) -> Restored:
        """Start again from a snapshot, in a new epoch; the state until now becomes a snapshot too."""
        if (request.snapshot_id is None) == (request.at is None):
            raise InvalidField("", "Give either snapshot_id or at.")
        at = None if request.at is None else checked_ts(request.at, self.clock(), "at")
        outlook = await self.outlook(self.experiment(experiment_id), hurried=True)
        experiment = await self.settled(experiment_id)
        uid, now = experiment.state.uid, self.clock()
        work = partial(
            restore,
            uid=uid,
            snapshot_id=request.snapshot_id,
            at=at,
            outlook=outlook,
            snapshot_limit=self._limits.action_snapshots,
            node=self.store.node,
            now=now,
        )
        named = recorded(
            work,
            Act("restore", actor, now, uid),
            lambda restored: {"snapshot_id": restored.snapshot_id, "taken_at": restored.taken_at},
        )
        return await self.change_settled(named, lambda restored: self._begin_anew(experiment, restored.state))

    async def outlook(self, experiment: Experiment, *, hurried: bool = False) -> Outlook:
        """What a snapshot says beside the evidence; nothing where it fails, or costs much and is hurried."""
        state = experiment.state
        cost_s, arm_count = self._allocator.expected_cost_s(experiment), len(state.arms)
        costly = cost_s > COSTLY_S or arm_count > VERY_MANY_ARMS
        if not self.health.is_running(state.uid) or (hurried and costly):
            return Outlook()
        work = partial(outlook_of, experiment.snapshot(self.clock()), state.epoch)
        try:
            if hurried and arm_count <= FEW_ARMS and cost_s <= self._inline_limit_s:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except Exception as error:  # `stats` says so to who asks; a snapshot does without
            log.warning("snapshot_without_statistics", experiment_id=state.experiment_id, error=repr(error))
            return Outlook()

    async def _preceded(self, experiment_id: str, reason: Reason, actor: Actor) -> tuple[Experiment, Preceded]:
        """The experiment, settled; and what puts a snapshot before the work of a change that is enqueued at once.

        The audit trail gets its entry with it.
        """
        outlook = await self.outlook(self.experiment(experiment_id), hurried=True)
        experiment = await self.settled(experiment_id)
        uid, now = experiment.state.uid, self.clock()

        def preceded(work: Callable[[Connection], T]) -> Callable[[Connection], T]:
            work = recorded(work, Act(reason, actor, now, uid))
            return before(work, uid, reason, outlook, now, limit=self._limits.action_snapshots)

        return experiment, preceded

    def _begin_anew(self, experiment: Experiment, state: ExperimentState) -> None:
        uid = state.uid
        experiment.load(state)
        self._allocator.forget(uid)  # another policy takes another time
        if not self.health.is_running(uid):
            self.health.forget(uid)

    async def _change_arm(self, experiment: Experiment, preceded: Preceded, arm_id: str, **change: bool) -> None:
        def work(connection: Connection) -> Arm:
            return db.change_arm(connection, experiment.state.uid, arm_id, self.clock(), **change)

        await self.change(preceded(work), experiment.put_arm)

    async def _lift_quarantine(self, experiment: Experiment) -> None:
        if not self.health.is_running(experiment.state.uid):
            await self.reload(experiment)
            self.health.forget(experiment.state.uid)
