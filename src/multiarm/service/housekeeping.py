"""Housekeeping: what is done at intervals. Draw counts, health, retention, snapshots, and purging what was deleted."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice

import structlog

from multiarm.domain.errors import Unavailable
from multiarm.domain.evidence import Row
from multiarm.service.health import inconsistency
from multiarm.service.snapshots import DEFAULT_RETENTION, SnapshotKeeper, SnapshotRetention
from multiarm.service.state_store import StateStore
from multiarm.service.supervisor import Supervisor
from multiarm.storage import audit, retention, rewards
from multiarm.storage import experiments as db
from multiarm.storage.evidence import ArmKey

log = structlog.get_logger()

CHECKED_AT_A_TIME = 200
WRITTEN_AT_A_TIME = 5_000
PROBE_TIMEOUT_S = 10.0  # what waits before it included


class Housekeeping:
    """Runs beside the Supervisor, on the event loop; its database work goes through the StateStore, bit by bit."""

    def __init__(
        self,
        supervisor: Supervisor,
        store: StateStore,
        *,
        draw_count_interval_s: float = 1.0,
        health_interval_s: float = 5.0,
        retention_interval_s: float = 60.0,
        reward_retention_s: float = float("inf"),
        audit_retention_s: float = float("inf"),
        snapshot_interval_s: float = 60.0,
        snapshot_retention: SnapshotRetention = DEFAULT_RETENTION,
    ) -> None:
        """snapshot_interval_s: 0 for none, but those of administrative actions."""
        self._supervisor = supervisor
        self._store = store
        self._retention_s = reward_retention_s
        self._audit_retention_s = audit_retention_s
        self.snapshots = SnapshotKeeper(supervisor, store, snapshot_retention, self.write_draw_counts)
        self._jobs: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (draw_count_interval_s, self.write_draw_counts),
            (health_interval_s, self.check_health),
            (health_interval_s, self.probe_store),
            (retention_interval_s, self.prune),
            (draw_count_interval_s, self.purge),
            (retention_interval_s, self.snapshots.forget_snapshots),
            (retention_interval_s, self.forget_acts),
        ]
        if snapshot_interval_s:
            self._jobs.append((snapshot_interval_s, self.snapshots.take_snapshots))
        self._tasks: list[asyncio.Task[None]] = []
        self._written: dict[int, tuple[int, dict[int, int]]] = {}  # uid → (epoch, draws by arm number)
        self._unchecked: list[int] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(every(interval_s, job)) for interval_s, job in self._jobs]

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Stop the jobs, and write the draw counts a last time, if that takes no longer than `timeout_s`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                await self.write_draw_counts()
        except Exception as error:
            log.warning("draw_counts_not_written", error=repr(error))

    async def write_draw_counts(self) -> None:
        """Store the draw counts that changed since they were last stored."""
        counts: dict[ArmKey, tuple[int, int]] = {}
        current: dict[int, tuple[int, dict[int, int]]] = {}
        for uid, experiment in self._supervisor.by_uid.items():
            epoch, draws = experiment.state.epoch, experiment.draws
            written_epoch, written = self._written.get(uid, (epoch, {}))
            if written_epoch != epoch:
                written = {}
            changed = {n: count for n, count in draws.items() if written.get(n) != count} if draws != written else {}
            if changed:
                counts.update({(uid, number): (epoch, count) for number, count in changed.items()})
                current[uid] = epoch, dict(draws)
        items = iter(counts.items())
        while chunk := dict(islice(items, WRITTEN_AT_A_TIME)):
            await self._store.run(
                partial(rewards.write_draw_counts, node=self._store.node, counts=chunk, now=self._supervisor.clock())
            )
        self._written.update(current)
        for uid in self._written.keys() - self._supervisor.by_uid.keys():
            del self._written[uid]

    async def check_health(self) -> None:
        """Compare the next 200 experiments in memory with the store, in step with its commits."""
        await self._supervisor.settle_doubts()
        if not self._unchecked:
            self._unchecked = list(self._supervisor.by_uid)
        uids, self._unchecked = self._unchecked[:CHECKED_AT_A_TIME], self._unchecked[CHECKED_AT_A_TIME:]
        if uids:
            await self._store.run(partial(db.own_rows, node=self._store.node, uids=uids), self._compare)

    async def probe_store(self) -> None:
        """So that readiness is true also where no reward comes."""
        await self._store.probe(PROBE_TIMEOUT_S)

    def _compare(self, stored: dict[int, tuple[int, dict[int, Row]]]) -> None:
        for uid, (epoch, rows) in stored.items():
            experiment = self._supervisor.by_uid.get(uid)
            if experiment is None or self._supervisor.is_doubtful(uid) or not self._supervisor.health.is_running(uid):
                continue
            problem = inconsistency(experiment, epoch, rows)
            if problem is not None:
                self._supervisor.health.failed(experiment, RuntimeError(problem))

    async def prune(self) -> None:
        """Move rewards past retention into the baseline, 5,000 at a time."""
        number: int | None = 0
        before = self._supervisor.clock() - self._retention_s
        pruned_count = 0
        while number is not None:
            step = await self._store.run(partial(retention.prune, after_number=number, before=before))
            pruned_count += step.deleted_count
            number = step.next_number
        if pruned_count:
            log.info("rewards_pruned", reward_count=pruned_count)

    async def forget_acts(self) -> None:
        """Remove entries of the audit trail past their retention, 5,000 at a time."""
        before = self._supervisor.clock() - self._audit_retention_s
        while await self._store.run(partial(audit.forget, before=before)) == audit.FORGOTTEN_PER_STEP:
            pass

    async def purge(self) -> None:
        """Remove what deleted experiments held, 5,000 rows at a time."""
        while uids := await self._store.run(retention.deleted_experiments):
            number: int | None = 0
            while number is not None:
                step = await self._store.run(partial(retention.purge, after_number=number, uids=uids))
                number = step.next_number


async def every(interval_s: float, job: Callable[[], Awaitable[None]]) -> None:
    """Run `job` at once and then at the interval, or as fast as it goes; one that fails is logged and tried again."""
    clock = asyncio.get_running_loop().time
    while True:
        began_at = clock()
        try:
            await job()
        except Unavailable as error:
            log.warning("housekeeping_postponed", job=job.__name__, reason=str(error))
        except Exception as error:
            log.exception("housekeeping_failed", job=job.__name__, error=repr(error))
        await asyncio.sleep(max(began_at + interval_s - clock(), 0))
