"""Rewards: credited by their experiment, counted by the store in one piece, shown in memory after the commit."""

import asyncio
from abc import ABC
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import compress
from typing import TypeAlias, TypeVar

import msgspec

from multiarm.domain.crediting import key_of_caller, key_of_decision
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
from multiarm.domain.records import NOBODY_KNOWN, Actor, ForeignDecision, Increment
from multiarm.domain.spec import Update
from multiarm.service.accountant import Accountant
from multiarm.service.batch import SLICE_UPDATES, BatchFaults
from multiarm.service.health import HealthKeeper
from multiarm.service.registry import Registry
from multiarm.service.state_store import StateStore, settle
from multiarm.storage.audit import Act, recorded_correction
from multiarm.storage.columns import RewardRun
from multiarm.storage.corrections import Corrected, correct
from multiarm.storage.experiments import Limits
from multiarm.storage.rewards import Outcome, UpdateRequest

E = TypeVar("E", bound=Exception)
Reply: TypeAlias = Callable[[int, Sequence[bool | Exception]], None]


class Rewards(Registry, ABC):
    """What the Supervisor does with rewards. refused_counts: of those that it did not count, by type of the error."""

    clock: Callable[[], float]
    health: HealthKeeper
    _limits: Limits

    def __init__(self, store: StateStore, accountant: Accountant) -> None:
        super().__init__(store)
        self.duplicate_count = self.correction_count = 0
        self.refused_counts = Counter({Busy.type: 0})  # which alerts ask for
        self._accountant = accountant
        self._one_at_a_time = asyncio.Lock()

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
            refused_count = len(increments) - room
            reply(room, [self._refused(self.store.busy(), refused_count)] * refused_count)
            increments = increments[:room]
        if increments:
            self._submit(experiment, request_of(experiment, increments, now), 0, reply)

    def _submit(self, experiment: Experiment, request: UpdateRequest, start: int, reply: Reply) -> None:
        policy, count = experiment.state.spec.policy, len(request.increments)

        def replied(outcome: Outcome) -> None:
            if isinstance(outcome, list):
                reply(start, outcome)
            elif count == 1 or isinstance(outcome, StoreUnavailable | Busy):
                reply(start, [self._refused(outcome, count)] * count)
            elif self._is_credited_with(policy, experiment):
                for index, increment in enumerate(request.increments, start):
                    self._submit(experiment, msgspec.structs.replace(request, increments=[increment]), index, reply)
            else:
                reply(start, [self._refused(policy_changed(), count)] * count)

        try:
            self._commit(experiment, request, replied)
        except MultiarmError as error:
            replied(error)

    @asynccontextmanager
    async def reading(self, update_count: int) -> AsyncIterator[None]:
        """A batch's turn to be read: one at a time, so that draws wait for no more than a slice of one.

        update_count: about as many as it has; Busy at once where they would find no room.
        """
        with ExitStack() as promise:
            try:
                promise.enter_context(self.store.promised(update_count))
            except Busy as error:
                raise self._refused(error, update_count) from None
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
        increments = await self._credited(experiment, updates, now, faults)
        faults.raise_any()
        refusal: MultiarmError | None = None
        if self.by_uid.get(experiment.state.uid) is not experiment:
            refusal = ExperimentNotFound(experiment_id)
        elif experiment.state.epoch != epoch:
            refusal = StaleEpoch("The experiment was reset while the batch was read; nothing was counted.")
        elif not self._is_credited_with(policy, experiment):
            refusal = policy_changed()
        if refusal is not None:
            raise self._refused(refusal, len(increments))
        return self._counting(experiment, increments, now)

    async def _credited(
        self, experiment: Experiment, updates: Sequence[Update | None], now: float, faults: BatchFaults
    ) -> list[Increment]:
        """What a batch adds, a slice in a turn of the loop; `faults` gets what is wrong with it."""
        increments: list[Increment] = []
        known: dict[Update, Increment] = {}  # the same words add the same; where few come again, nobody looks
        for start in range(0, len(updates), SLICE_UPDATES):
            if start:
                await asyncio.sleep(0)
            looks = 2 * len(known) <= start
            for index, update in enumerate(updates[start : start + SLICE_UPDATES], start):
                if update is None:
                    continue
                try:
                    increment = known.get(update) if looks else None
                    if increment is None:
                        increment = experiment.credit(update, now)
                        if looks:
                            known[update] = increment
                    increments.append(increment)
                except Exception as error:
                    faults.add(index, self._explained(experiment, error))
        return increments

    async def correct_decision(
        self, experiment_id: str, decision_id: str, reward: float | None, actor: Actor = NOBODY_KNOWN
    ) -> bool:
        """Put the reward of a decision right; None: withdraw it. False where it stands like that already."""
        experiment = await self.settled(experiment_id)
        try:
            claims = experiment.claims_of(decision_id)
        except Exception as error:
            raise self._in_words(experiment, error) from error
        try:
            return await self._corrected(experiment, key_of_decision(claims), reward, actor)
        except RewardNotFound:
            experiment.require_young(claims, self.clock())
            raise

    async def correct_key(
        self, experiment_id: str, key: str, reward: float | None, actor: Actor = NOBODY_KNOWN
    ) -> bool:
        """The same of a reward that came with a key of the caller's."""
        return await self._corrected(await self.settled(experiment_id), key_of_caller(key), reward, actor)

    async def _corrected(self, experiment: Experiment, key: str, reward: float | None, actor: Actor) -> bool:
        uid, experiment_id, now = experiment.state.uid, experiment.state.experiment_id, self.clock()

        def then(done: Corrected | None) -> None:
            if done is not None:
                self.correction_count += 1
                self._show_corrected(uid, done)
                run = RewardRun(now, experiment_id, uid, done.epoch, [done.increment], [True], done.origin)
                said = run._replace(correction=True, corrects=done.before, withdrawn=done.after is None)
                self._accountant.record_rewards(said)

        limit = self._limits.corrected_rewards
        work = partial(correct, uid=uid, key=key, after=reward, node=self.store.node, now=now, limit_rewards=limit)
        recorded = recorded_correction(work, Act("correct", actor, now, uid), experiment_id)
        try:
            return await self.store.run(recorded, then) is not None
        except CommitUnknown:
            self.doubt(uid)
            raise

    def _show_corrected(self, uid: int, done: Corrected) -> None:
        experiment = self.by_uid.get(uid)
        if done.state is None:
            self.show({uid: (done.epoch, {done.increment.arm.number: done.row})})
        elif experiment is not None:
            experiment.load(done.state)

    def _counting(
        self, experiment: Experiment, increments: Sequence[Increment], now: float
    ) -> asyncio.Future[list[bool]]:
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()

        def replied(outcome: Outcome) -> None:
            settle(future, outcome if isinstance(outcome, list) else self._refused(outcome, len(increments)))

        try:
            self._commit(experiment, request_of(experiment, increments, now), replied)
        except MultiarmError as error:
            raise self._refused(error, len(increments)) from None
        return future

    def is_credited_right(self, experiment: Experiment, version: int) -> bool:
        """Whether what was credited when the experiment was of that version would still be so."""
        is_there = self.by_uid.get(experiment.state.uid) is experiment
        return is_there and experiment.version == version and not self.in_doubt

    def _is_credited_with(self, policy: AnyPolicy, experiment: Experiment) -> bool:
        """Whether what was credited with `policy` would still be right."""
        return not self.is_doubtful(experiment.state.uid) and experiment.state.spec.policy == policy

    def _explained(self, experiment: Experiment, error: Exception) -> MultiarmError:
        """Why a reward was refused, in words for the caller; what nobody foresaw is a failure of the experiment."""
        return self._refused(self._in_words(experiment, error), 1)

    def _refused(self, error: E, count: int) -> E:
        """Note why so many rewards were not counted, now that it is final."""
        self.refused_counts[error.type if isinstance(error, MultiarmError) else MultiarmError.type] += count
        return error

    def _in_words(self, experiment: Experiment, error: Exception) -> MultiarmError:
        if isinstance(error, MultiarmError):
            return error
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
                experiment.rewarded(list(compress(increments, outcome)))
            elif isinstance(outcome, CommitUnknown):
                self.doubt(request.uid)
            reply(outcome)

        self.store.update(request, committed)


def request_of(experiment: Experiment, increments: Sequence[Increment], now: float) -> UpdateRequest:
    state = experiment.state
    if experiment.adds_only:
        return UpdateRequest(state.uid, state.epoch, state.spec.half_life_s, increments, now)
    policy, arm_count = state.spec.policy, len(experiment.enabled_arms)
    return UpdateRequest(state.uid, state.epoch, state.spec.half_life_s, increments, now, policy, arm_count)


def policy_changed() -> ExperimentChanging:
    return ExperimentChanging("Its policy was changed while the request was read; nothing was counted. Try again.")
