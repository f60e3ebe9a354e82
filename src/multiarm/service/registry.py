"""The Registry: the experiments in memory, and how memory stays the shadow of the database."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import TypeVar

from sqlalchemy import Connection

from multiarm.domain.errors import CommitUnknown, ExperimentNotFound, MultiarmError, StoreUnavailable
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import ExperimentState
from multiarm.service.state_store import ShownRows, StateStore
from multiarm.storage import experiments as db

T = TypeVar("T")


class Registry(ABC):
    """The experiments by id and by uid, in order of creation.

    Memory changes in the `then` of the StateStore, in step with its commits. Where the outcome of a commit is unknown,
    what it may have touched is in doubt, and loaded again before anything else is done to it. A doubt has a number, and
    so has each loading: what was asked for before a doubt arose does not settle it.
    """

    def __init__(self, store: StateStore) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.by_uid: dict[int, Experiment] = {}
        self.store = store
        self._reloads: dict[int, asyncio.Task[bool]] = {}
        self._numbers = count()
        self._doubtful: dict[int, int] = {}  # uid → number of its last doubt
        self._all_doubtful: int | None = None

    @abstractmethod
    def build(self, state: ExperimentState) -> Experiment:
        """An experiment in memory, as it is stored."""

    @abstractmethod
    def forget(self, uid: int) -> None:
        """The experiment is gone; let go of whatever else is known of it."""

    def experiment(self, experiment_id: str) -> Experiment:
        """The live experiment of that id, or ExperimentNotFound."""
        try:
            return self.experiments[experiment_id]
        except KeyError:
            raise ExperimentNotFound(experiment_id) from None

    async def load(self) -> None:
        """Make memory what the store says, for every experiment."""
        then = partial(self._reconcile, asked=next(self._numbers))
        await self.store.run(partial(db.load_experiments, node=self.store.node), then)

    async def reload(self, experiment: Experiment) -> bool:
        """Replace an experiment's memory with its stored state. False where it is deleted."""
        uid = experiment.state.uid
        asked = next(self._numbers)

        def then(state: ExperimentState | None) -> None:
            self._settle(uid, asked)
            if state is None:
                self.drop([uid])
            else:
                experiment.load(state)

        work = partial(db.load_experiment, node=self.store.node, uid=uid)
        return await self.store.run(work, then) is not None

    def show(self, rows: ShownRows) -> None:
        """Memory replaces what a group changed; the store calls this after each commit."""
        for uid, (epoch, shown) in rows.items():
            experiment = self.by_uid.get(uid)
            if experiment is not None and experiment.state.epoch == epoch:
                experiment.show(shown)

    # --- changes, and those whose outcome is not known ---------------------------------------------------------

    async def change(self, work: Callable[[Connection], T], then: Callable[[T], None]) -> T:
        """An administrative change: `work` in a transaction, `then` in memory after its commit."""
        await self.settle_doubts()
        return await self.change_settled(work, then)

    async def change_settled(self, work: Callable[[Connection], T], then: Callable[[T], None]) -> T:
        """The same for whoever has just settled what he builds on: it is enqueued before anything else happens."""
        try:
            return await self.store.run(work, then)
        except CommitUnknown:
            self._all_doubtful = next(self._numbers)
            raise

    async def change_in_doubt(self, uid: int, work: Callable[[Connection], T], then: Callable[[T], None]) -> T:
        """The same where rewards that memory credits meanwhile would be wrong: until it is done, they wait."""
        doubt = self.doubt(uid)

        def settled(result: T) -> None:
            self._settle(uid, doubt)
            then(result)

        try:
            return await self.change_settled(work, settled)
        except StoreUnavailable:
            raise
        except MultiarmError:  # nothing was changed
            self._settle(uid, doubt)
            raise

    @property
    def in_doubt(self) -> bool:
        return self._all_doubtful is not None or bool(self._doubtful)

    def doubt(self, uid: int) -> int:
        """A commit of its rewards may have happened or not. Returns the number of the doubt."""
        number = next(self._numbers)
        if uid in self.by_uid:
            self._doubtful[uid] = number
        return number

    def is_doubtful(self, uid: int) -> bool:
        return self._all_doubtful is not None or uid in self._doubtful

    async def settle_doubts(self) -> None:
        """Load everything again where an administrative change is in doubt, else those whose rewards are."""
        if self._all_doubtful is not None:
            await self.load()
        for uid in list(self._doubtful):
            if uid in self.by_uid and uid in self._doubtful:  # still, for each reload takes its time
                await self._reloaded(uid)

    async def settled(self, experiment_id: str) -> Experiment:
        """The experiment, loaded again first where it is in doubt, until it is not."""
        while self.in_doubt:
            await self.settle_doubts()
            experiment = self.experiments.get(experiment_id)
            if experiment is None or not self.is_doubtful(experiment.state.uid):
                break
        return self.experiment(experiment_id)

    async def _reloaded(self, uid: int) -> None:
        """Many wait for the same: it is loaded once for all of them."""
        reload = self._reloads.get(uid)
        if reload is None:
            reload = self._reloads[uid] = asyncio.create_task(self._reload_once(uid))
        await asyncio.shield(reload)

    async def _reload_once(self, uid: int) -> bool:
        """What is done is not there any more: whoever waited on it again would keep the loop for himself."""
        try:
            return await self.reload(self.by_uid[uid])
        finally:
            del self._reloads[uid]

    def _settle(self, uid: int, number: int) -> None:
        """The store has answered what was asked under that number."""
        if self._doubtful.get(uid, number) <= number:
            self._doubtful.pop(uid, None)

    # --- memory ------------------------------------------------------------------------------------------------

    def put(self, state: ExperimentState) -> None:
        experiment = self.build(state)
        self.experiments[state.experiment_id] = experiment
        self.by_uid[state.uid] = experiment

    def drop(self, uids: Sequence[int]) -> None:
        for uid in uids:
            experiment = self.by_uid.pop(uid, None)
            if experiment is None:
                continue
            if self.experiments.get(experiment.state.experiment_id) is experiment:
                del self.experiments[experiment.state.experiment_id]
            self._doubtful.pop(uid, None)
            self.forget(uid)

    def _reconcile(self, states: Sequence[ExperimentState], asked: int) -> None:
        if self._all_doubtful is not None and self._all_doubtful <= asked:
            self._all_doubtful = None
        for uid in list(self._doubtful):
            self._settle(uid, asked)
        self.drop(list(self.by_uid.keys() - {state.uid for state in states}))
        for state in states:
            experiment = self.by_uid.get(state.uid)
            if experiment is None:
                self.put(state)
            else:
                experiment.load(state)
