"""The Registry: the experiments in memory, and how memory stays the shadow of the database."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from multiarm.domain.errors import CommitUnknown, ExperimentNotFound
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import ExperimentState
from multiarm.service.state_store import ShownRows, StateStore
from multiarm.storage import experiments as db

T = TypeVar("T")


class Registry(ABC):
    """The experiments by id and by uid, in order of creation.

    Memory changes in the `then` of the StateStore, in step with its commits. Where the outcome of a commit is unknown,
    what it may have touched is in doubt, and loaded again before anything else is done to it.
    """

    def __init__(self, store: StateStore) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.by_uid: dict[int, Experiment] = {}
        self._store = store
        self._doubtful: set[int] = set()
        self._all_doubtful = False

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
        await self._store.run(partial(db.load_experiments, node=self._store.node), self._reconcile)

    async def reload(self, experiment: Experiment) -> bool:
        """Replace an experiment's memory with its stored state. False where it is deleted."""
        uid = experiment.state.uid

        def then(state: ExperimentState | None) -> None:
            self._doubtful.discard(uid)
            if state is None:
                self.drop([uid])
            else:
                experiment.load(state)

        work = partial(db.load_experiment, node=self._store.node, uid=uid)
        return await self._store.run(work, then) is not None

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
        try:
            return await self._store.run(work, then)
        except CommitUnknown:
            self._all_doubtful = True
            raise

    @property
    def in_doubt(self) -> bool:
        return self._all_doubtful or bool(self._doubtful)

    def doubt(self, uid: int) -> None:
        """A commit of its rewards may have happened or not."""
        if uid in self.by_uid:
            self._doubtful.add(uid)

    def is_doubtful(self, uid: int) -> bool:
        return self._all_doubtful or uid in self._doubtful

    async def settle_doubts(self) -> None:
        """Load everything again where an administrative change is in doubt, else those whose rewards are."""
        if self._all_doubtful:
            await self.load()
        for uid in list(self._doubtful):
            if uid in self.by_uid:  # still, for each reload takes its time
                await self.reload(self.by_uid[uid])

    async def settled(self, experiment_id: str) -> Experiment:
        """The experiment, loaded again first where it is in doubt."""
        if self.in_doubt:
            await self.settle_doubts()
        return self.experiment(experiment_id)

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
            self._doubtful.discard(uid)
            self.forget(uid)

    def _reconcile(self, states: Sequence[ExperimentState]) -> None:
        self._all_doubtful = False
        self._doubtful.clear()
        self.drop(list(self.by_uid.keys() - {state.uid for state in states}))
        for state in states:
            experiment = self.by_uid.get(state.uid)
            if experiment is None:
                self.put(state)
            else:
                experiment.load(state)
