"""The Supervisor: the experiments by id. It creates, deletes and dispatches; each experiment decides for itself.

Changes of state go through the StateStore, and show in memory in its `then`: after the commit, in order, and also
where the caller has gone meanwhile.
"""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import ExperimentNotFound, ExperimentRestarting, MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import AuditEntry, Decision, Decisions, ExperimentState
from multiarm.domain.snapshot import ArmStatistics
from multiarm.service.accountant import Accountant
from multiarm.service.administration import Administration
from multiarm.service.allocator import Allocator, Budget
from multiarm.service.health import HealthKeeper, RestartPolicy
from multiarm.service.history import HistoryPoint, points_of
from multiarm.service.reader import Reader
from multiarm.service.rewards import Rewards
from multiarm.service.state_store import StateStore
from multiarm.service.turns import Turns
from multiarm.storage import audit, snapshots
from multiarm.storage import experiments as db
from multiarm.storage.columns import DecisionRun

READ_AT_A_TIME_ARMS = 5_000  # of snapshots, from the database


class Supervisor(Administration, Rewards):
    """Owns the experiments. All methods run on the event loop."""

    def __init__(
        self,
        store: StateStore,
        accountant: Accountant,
        signer: DecisionSigner,
        executor: Executor,
        *,
        reader: Reader,
        limits: db.Limits,
        restart_policy: RestartPolicy,
        budget_share: float = 0.05,
        inline_limit_s: float = 0.001,
        decision_lifetime_s: float = float("inf"),
        history_limit_rows: int = 50_000,
        history_reader_limit: int = 16,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(store, accountant)
        self.clock = clock
        self._signer = signer
        self._executor = executor
        self._reader = reader
        self._limits = limits
        self._decision_lifetime_s = decision_lifetime_s
        self._inline_limit_s = inline_limit_s
        self._history_limit_rows = history_limit_rows
        self._histories = Turns(history_reader_limit, "read a history")
        self._rng = rng or random.Random()
        self.health = HealthKeeper(restart_policy, self.reload, clock=clock)
        self._allocator = Allocator(
            Budget(budget_share), executor, inline_limit_s=inline_limit_s, on_failure=self.health.failed
        )

    def build(self, state: ExperimentState) -> Experiment:
        experiment = Experiment(
            spec=state.spec,
            signer=self._signer,
            refresh=self._allocator.refresh,
            decision_lifetime_s=self._decision_lifetime_s,
        )
        experiment.load(state)
        return experiment

    def forget(self, uid: int) -> None:
        self.health.forget(uid)
        self._allocator.forget(uid)

    # --- drawing ------------------------------------------------------------------------------------------------

    def draw(self, experiment_id: str) -> Decision:
        """Answer a draw from memory: no lock, no await, no disk."""
        return self.draw_many(experiment_id, 1, self.clock())[0]

    def draw_many(self, experiment_id: str, count: int, now: float) -> Decisions:
        """The same for `count` callers at once; all of them, or none."""
        experiment = self.experiments.get(experiment_id) or self.experiment(experiment_id)
        if experiment.state.uid in self.health.known:
            self.health.require_running(experiment.state.uid)
        try:
            decisions = experiment.draw_many(count, now, self._rng)
        except MultiarmError:
            raise
        except Exception as error:
            self.health.failed(experiment, error)
            raise ExperimentRestarting("It failed at this draw and is restarted from its stored state.") from error
        self._accountant.record_decisions(DecisionRun(experiment_id, decisions))
        return decisions

    # --- reading ------------------------------------------------------------------------------------------------

    async def stats(self, experiment_id: str) -> dict[str, ArmStatistics]:
        """Computed from the evidence as it stands; counts and means of the store where the experiment fails."""
        experiment = self.experiment(experiment_id)
        if self.health.is_running(experiment.state.uid):
            snapshot = experiment.snapshot(self.clock())
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, snapshot.statistics)
            except Exception as error:
                self.health.failed(experiment, error)
        stored = await self.store.run(partial(db.load_experiment, node=self.store.node, uid=experiment.state.uid))
        if stored is None:
            raise ExperimentNotFound(experiment_id)
        return self.build(stored).snapshot(self.clock()).statistics(counts_only=True)

    async def audit(self, experiment_id: str, limit: int, before: int | None) -> list[AuditEntry]:
        """Who changed what: the newest entries first, those before a number."""
        uid = self.experiment(experiment_id).state.uid
        return await self._reader.run(partial(audit.newest, limit=limit, before=before, uid=uid))

    async def history(self, experiment_id: str, start: float, end: float, point_limit: int) -> list[HistoryPoint]:
        """Snapshots from `start` to `end`, the last and others spread over that time; fewer where the arms are many.

        One history is read at a time; Busy where many wait for theirs.
        """
        state = self.experiment(experiment_id).state
        arm_count = max(len(state.arms), 1)
        limit = min(point_limit, max(self._history_limit_rows // arm_count, 1))
        work = partial(snapshots.chosen, uid=state.uid, start=start, end=end, point_limit=limit)
        step = max(READ_AT_A_TIME_ARMS // arm_count, 1)
        async with self._histories.turn():
            numbers = await self._reader.run(work)
            points: list[HistoryPoint] = []
            for index in range(0, len(numbers), step):
                rows = await self._reader.run(partial(snapshots.read, numbers=numbers[index : index + step]))
                points += await asyncio.to_thread(points_of, rows, state.spec)
        return points
