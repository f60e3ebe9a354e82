"""Snapshots at an interval: of experiments where something happened, a few at a time, and thinned as they grow old."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from multiarm.domain.experiment import Experiment
from multiarm.service.state_store import StateStore
from multiarm.service.supervisor import Supervisor
from multiarm.storage import snapshots
from multiarm.storage.snapshots import DAILY, FINE, HOURLY

ARMS_AT_A_TIME = 200
EXPERIMENTS_AT_A_TIME = 20
REST = 9  # times as long as the statistics took, before the next: they get a tenth of a core at most

Sight = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SnapshotRetention:
    """How long a snapshot is kept; the first of an hour and the first of a day longer."""

    fine_s: float = 86_400.0
    hourly_s: float = 31 * 86_400.0
    daily_s: float = 3650 * 86_400.0

    def before_by_grade(self, now: float) -> dict[int, float]:
        """Up to when those of each grade are past it."""
        hourly_s = max(self.hourly_s, self.fine_s)
        return {FINE: now - self.fine_s, HOURLY: now - hourly_s, DAILY: now - max(self.daily_s, hourly_s)}


DEFAULT_RETENTION = SnapshotRetention()


class SnapshotKeeper:
    """Remembers what it saw of each experiment last, so that one where nothing happens costs next to nothing."""

    def __init__(
        self,
        supervisor: Supervisor,
        store: StateStore,
        retention: SnapshotRetention,
        write_draw_counts: Callable[[], Awaitable[None]],
    ) -> None:
        """write_draw_counts: those that the store lacks, or the last draws before a quiet time would be in none."""
        self._supervisor = supervisor
        self._store = store
        self._retention = retention
        self._write_draw_counts = write_draw_counts
        self._seen: dict[int, Sight] = {}

    async def take_snapshots(self) -> None:
        """Of each experiment that changed since its last one."""
        by_uid = self._supervisor.by_uid
        sights = {uid: sight(experiment) for uid, experiment in by_uid.items()}
        await self._write_draw_counts()
        changed = [by_uid[uid] for uid, seen in sights.items() if self._seen.get(uid) != seen and uid in by_uid]
        for uid in self._seen.keys() - by_uid.keys():
            del self._seen[uid]
        clock = asyncio.get_running_loop().time
        for group in groups(changed):
            began_at = clock()
            outlooks = {experiment.state.uid: await self._supervisor.outlook(experiment) for experiment in group}
            duration_s = clock() - began_at
            work = partial(snapshots.take_many, outlooks=outlooks, now=self._supervisor.clock())
            await self._store.run(work)
            self._seen.update({uid: sights[uid] for uid in outlooks})
            await asyncio.sleep(REST * duration_s)

    async def forget_snapshots(self) -> None:
        """Those past their retention, up to 1,000 of each kind at a time."""
        before_by_grade = self._retention.before_by_grade(self._supervisor.clock())
        while await self._store.run(partial(snapshots.forget, before_by_grade=before_by_grade)):
            pass


def sight(experiment: Experiment) -> Sight:
    """Something else whenever rewards, draws, arms, policy or epoch changed."""
    return experiment.version, experiment.evidence_version, experiment.draw_count


def groups(experiments: Sequence[Experiment]) -> Iterator[list[Experiment]]:
    """Few enough arms in each to be written in a few milliseconds; an experiment that has more is alone."""
    group: list[Experiment] = []
    arm_count = 0
    for experiment in experiments:
        arm_count += len(experiment.state.arms)
        if group and (arm_count > ARMS_AT_A_TIME or len(group) == EXPERIMENTS_AT_A_TIME):
            yield group
            group, arm_count = [], len(experiment.state.arms)
        group.append(experiment)
    if group:
        yield group
