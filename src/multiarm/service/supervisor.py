"""The Supervisor: the experiments by id. It creates, deletes and dispatches; each experiment decides for itself.

Changes of state go through the StateStore, and show in memory in its `then`: after the commit, in order, and also
where the caller has gone meanwhile.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from itertools import compress
from typing import TypeAlias

import msgspec

from multiarm.domain.crediting import key_of_caller, key_of_decision
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import (
    Busy,
    CommitUnknown,
    DecisionOfAnother,
    ExperimentChanging,
    ExperimentGone,
    ExperimentNotFound,
    ExperimentRestarting,
    MultiarmError,
    RewardNotFound,
    StaleEpoch,
    StoreUnavailable,
)
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.records import Decision, ExperimentState, ForeignDecision, Increment
from multiarm.domain.snapshot import ArmStatistics
from multiarm.domain.spec import Update
from multiarm.service.accountant import Accountant
from multiarm.service.administration import Administration
from multiarm.service.allocator import Allocator, Budget
from multiarm.service.batch import SLICE_UPDATES, BatchFaults
from multiarm.service.health import HealthKeeper, RestartPolicy
from multiarm.service.history import HistoryPoint, points_of
from multiarm.service.state_store import StateStore, settle
from multiarm.storage import experiments as db
from multiarm.storage import snapshots
from multiarm.storage.columns import DecisionRun, RewardRun
from multiarm.storage.corrections import Corrected, correct
from multiarm.storage.rewards import Outcome, UpdateRequest

READ_AT_A_TIME_ARMS = 5_000  # of snapshots, from the database

Reply: TypeAlias = Callable[[int, Sequence[bool | Exception]], None]


class Supervisor(Administration):
    """Owns the experiments. All methods run on the event loop."""

    def __init__(
        self,
        store: StateStore,
        accountant: Accountant,
        signer: DecisionSigner,
        executor: Executor,
        *,
        limits: db.Limits,
        restart_policy: RestartPolicy,
        budget_share: float = 0.05,
        inline_limit_s: float = 0.001,
        decision_lifetime_s: float = float("inf"),
        history_limit_rows: int = 50_000,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(store)
        self.clock = clock
        self._accountant = accountant
        self._signer = signer
        self._executor = executor
        self._limits = limits
        self._decision_lifetime_s = decision_lifetime_s
        self._inline_limit_s = inline_limit_s
        self._history_limit_rows = history_limit_rows
        self._rng = rng or random.Random()
        self._one_at_a_time = asyncio.Lock()
        self.duplicate_count = 0
        self.refused_counts: Counter[str] = Counter()  # rewards, by type of the error
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

    # --- the hot path -------------------------------------------------------------------------------------------

    def draw(self, experiment_id: str) -> Decision:
        """Answer a draw from memory: no lock, no await, no disk."""
        return self.draw_many(experiment_id, 1, self.clock())[0]

    def draw_many(self, experiment_id: str, count: int, now: float) -> list[Decision]:
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

    async def update(self, experiment_id: str, update: Update) -> bool:
        """Count one reward, durably. False where it was counted before."""
        experiment = await self.settled(experiment_id)
        now = self.clock()
        return (await self._counting(experiment, [self.credit(experiment, update, now)], now))[0]

    def credit(self, experiment: Experiment, update: Update, now: float) -> Increment:
        """What a reward adds, for an experiment that is not in doubt; raises what is wrong with it."""
        try:
            return experiment.credit(update, now)
        except Exception as error:
            raise self._explained(experiment, error) from error

    def submit(
        self,
        experiment: Experiment,
        increments: Sequence[Increment],
        now: float,
        reply: Reply,
    ) -> None:
        """Count rewards of as many requests, in one piece if that can be; a refused one takes no other along.

        `reply` gets, from the first or a later one on, whether each was new, or why it was not counted after all: in
        parts, for those that find no room are told at once.
        """
        room = self.store.room_updates
        if room < len(increments):
            self.refused_counts[Busy.type] += len(increments) - room
            reply(room, [self.store.busy()] * (len(increments) - room))
            increments = increments[:room]
        if increments:
            self._submit(experiment, request_of(experiment, increments, now), 0, reply)

    def _submit(self, experiment: Experiment, request: UpdateRequest, start: int, reply: Reply) -> None:
        policy = experiment.state.spec.policy

        def replied(outcome: Outcome) -> None:
            if isinstance(outcome, list):
                reply(start, outcome)
            elif len(request.increments) == 1 or isinstance(outcome, StoreUnavailable | Busy):
                reply(start, [outcome] * len(request.increments))
            elif self._is_credited_with(policy, experiment):
                for index, increment in enumerate(request.increments, start):
                    self._submit(experiment, msgspec.structs.replace(request, increments=[increment]), index, reply)
            else:
                reply(start, [policy_changed()] * len(request.increments))

        try:
            self._commit(experiment, request, replied)
        except MultiarmError as error:
            replied(error)

    @asynccontextmanager
    async def reading(self, update_count: int) -> AsyncIterator[None]:
        """A batch's turn to be read: one at a time, so that draws wait for no more than a slice of one.

        update_count: about as many as it has; Busy at once where they would find no room.
        """
        with self.store.promised(update_count):
            async with self._one_at_a_time:
                yield

    async def submit_batch(
        self, experiment_id: str, updates: Sequence[Update | None], faults: BatchFaults
    ) -> asyncio.Future[list[bool]]:
        """Count a batch, all or nothing. It is on its way then; the future says for each whether it was new.

        An update that could not even be decoded is None, and `faults` has it already. BatchRejected lists them all.
        """
        experiment = await self.settled(experiment_id)
        epoch, policy = experiment.state.epoch, experiment.state.spec.policy
        now = self.clock()
        increments: list[Increment] = []
        for start in range(0, len(updates), SLICE_UPDATES):
            if start:
                await asyncio.sleep(0)
            for index, update in enumerate(updates[start : start + SLICE_UPDATES], start):
                if update is None:
                    continue
                try:
                    increments.append(experiment.credit(update, now))
                except Exception as error:
                    faults.add(index, self._explained(experiment, error))
        faults.raise_any()
        if self.by_uid.get(experiment.state.uid) is not experiment:
            raise ExperimentNotFound(experiment_id)
        if experiment.state.epoch != epoch:
            raise StaleEpoch("The experiment was reset while the batch was read; nothing was counted.")
        if not self._is_credited_with(policy, experiment):
            raise policy_changed()
        return self._counting(experiment, increments, now)

    async def correct_decision(self, experiment_id: str, decision_id: str, reward: float | None) -> bool:
        """Put the reward of a decision right; None: withdraw it. False where it stands like that already."""
        experiment = await self.settled(experiment_id)
        try:
            claims = experiment.claims_of(decision_id)
        except Exception as error:
            raise self._explained(experiment, error) from error
        try:
            return await self._corrected(experiment, key_of_decision(claims), reward)
        except RewardNotFound:
            experiment.require_young(claims, self.clock())
            raise

    async def correct_key(self, experiment_id: str, key: str, reward: float | None) -> bool:
        """The same of a reward that came with a key of the caller's."""
        return await self._corrected(await self.settled(experiment_id), key_of_caller(key), reward)

    async def _corrected(self, experiment: Experiment, key: str, reward: float | None) -> bool:
        uid, experiment_id, now = experiment.state.uid, experiment.state.experiment_id, self.clock()

        def then(done: Corrected | None) -> None:
            if done is not None:
                self.show({uid: (done.epoch, {done.increment.arm.number: done.row})})
                run = RewardRun(now, experiment_id, uid, done.epoch, [done.increment], [True], done.origin)
                self._accountant.record_rewards(run._replace(corrects=done.before, withdrawn=done.after is None))

        work = partial(correct, uid=uid, key=key, after=reward, node=self.store.node, now=now)
        try:
            return await self.store.run(work, then) is not None
        except CommitUnknown:
            self.doubt(uid)
            raise

    def _counting(
        self, experiment: Experiment, increments: Sequence[Increment], now: float
    ) -> asyncio.Future[list[bool]]:
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._commit(experiment, request_of(experiment, increments, now), partial(settle, future))
        return future

    def _is_credited_with(self, policy: AnyPolicy, experiment: Experiment) -> bool:
        """Whether what was credited with `policy` would still be right."""
        return not self.is_doubtful(experiment.state.uid) and experiment.state.spec.policy == policy

    def _explained(self, experiment: Experiment, error: Exception) -> MultiarmError:
        """Why a reward was refused, in words for the caller; what nobody foresaw is a failure of the experiment."""
        explained = error if isinstance(error, MultiarmError) else self._foreseen(experiment, error)
        self.refused_counts[explained.type] += 1
        return explained

    def _foreseen(self, experiment: Experiment, error: Exception) -> MultiarmError:
        if isinstance(error, ForeignDecision):
            other = self.by_uid.get(error.uid)
            return ExperimentGone() if other is None else DecisionOfAnother(other.state.experiment_id)
        self.health.failed(experiment, error)
        return ExperimentRestarting("It failed at this reward; nothing was counted. Try again.")

    def _commit(self, experiment: Experiment, request: UpdateRequest, reply: Callable[[Outcome], None]) -> None:
        """Enqueue for the group commit; the reply comes after memory has been shown the rows."""
        experiment_id, origin = experiment.state.experiment_id, experiment.state.spec.reward_origin

        def committed(outcome: Outcome) -> None:
            if isinstance(outcome, list):
                uid, epoch, increments = request.uid, request.epoch, request.increments
                run = RewardRun(request.received_at, experiment_id, uid, epoch, increments, outcome, origin)
                self._accountant.record_rewards(run)
                self.duplicate_count += outcome.count(False)
                if experiment.pending is not None:
                    experiment.rewarded(compress(increments, outcome))
            else:
                reason = outcome.type if isinstance(outcome, MultiarmError) else MultiarmError.type
                self.refused_counts[reason] += len(request.increments)
                if isinstance(outcome, CommitUnknown):
                    self.doubt(request.uid)
            reply(outcome)

        self.store.update(request, committed)

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

    async def history(self, experiment_id: str, start: float, end: float, point_limit: int) -> list[HistoryPoint]:
        """Snapshots from `start` to `end`, the last and others spread over that time; fewer where the arms are many."""
        state = self.experiment(experiment_id).state
        arm_count = max(len(state.arms), 1)
        limit = min(point_limit, max(self._history_limit_rows // arm_count, 1))
        work = partial(snapshots.chosen, uid=state.uid, start=start, end=end, point_limit=limit)
        numbers = await self.store.run(work)
        points: list[HistoryPoint] = []
        step = max(READ_AT_A_TIME_ARMS // arm_count, 1)
        for index in range(0, len(numbers), step):
            rows = await self.store.run(partial(snapshots.read, numbers=numbers[index : index + step]))
            points += await asyncio.to_thread(points_of, rows, state.spec)
        return points


def request_of(experiment: Experiment, increments: Sequence[Increment], now: float) -> UpdateRequest:
    state = experiment.state
    if experiment.adds_only:
        return UpdateRequest(state.uid, state.epoch, state.spec.half_life_s, increments, now)
    policy, arm_count = state.spec.policy, len(experiment.enabled_arms)
    return UpdateRequest(state.uid, state.epoch, state.spec.half_life_s, increments, now, policy, arm_count)


def policy_changed() -> ExperimentChanging:
    return ExperimentChanging("Its policy was changed while the request was read; nothing was counted. Try again.")
