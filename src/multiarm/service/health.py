"""Health: failed experiments are restarted from stored state, and set aside where they keep failing."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import structlog

from multiarm.domain.errors import Busy, ExperimentQuarantined, ExperimentRestarting, StoreUnavailable
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment

log = structlog.get_logger()


class Health(msgspec.Struct, frozen=True):
    """What `GET /v1/{experiment_id}` says of it."""

    status: Literal["running", "restarting", "quarantined"] = "running"
    failure_count: int = 0
    last_error: str | None = None


HEALTHY = Health()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Wait `backoff_s`, doubled at each failure up to `backoff_limit_s`; after `quarantine_failures` set aside.

    Failures further apart than `calm_s` are not counted together.
    """

    backoff_s: float = 0.1
    backoff_limit_s: float = 30.0
    quarantine_failures: int = 5

    @property
    def calm_s(self) -> float:
        return 2 * self.backoff_limit_s

    def delay_s(self, failure_count: int) -> float:
        return float(min(self.backoff_s * 2 ** (failure_count - 1), self.backoff_limit_s))


class HealthKeeper:
    """Knows which experiments failed, and restarts them. `reload` loads one from the store, True where it is there."""

    def __init__(
        self,
        policy: RestartPolicy,
        reload: Callable[[Experiment], Awaitable[bool]],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._reload = reload
        self._clock = clock
        self._monotonic = monotonic
        self.restart_count = self.quarantine_count = 0
        self.known: dict[int, Health] = {}  # by uid, of those that ever failed
        self._failed_at: dict[int, float] = {}
        self._restarts: dict[int, asyncio.Task[None]] = {}

    @property
    def quarantined_now(self) -> int:
        return sum(health.status == "quarantined" for health in self.known.values())

    def of(self, uid: int) -> Health:
        return self.known.get(uid, HEALTHY)

    def is_running(self, uid: int) -> bool:
        return uid not in self.known or self.known[uid].status == "running"

    def require_running(self, uid: int) -> None:
        """Raise ExperimentQuarantined or ExperimentRestarting where it may not draw."""
        health = self.known.get(uid)
        if health is None or health.status == "running":
            return
        if health.status == "quarantined":
            raise ExperimentQuarantined(
                f"It failed {health.failure_count} times ({health.last_error}). Rewards are still taken. "
                "PUT /v1/{experiment_id}/enable tries it again as it is stored, PUT …/policy with another policy. If "
                "that fails too, PUT …/restore starts again from a snapshot (GET …/history lists them), PUT …/reset "
                "with nothing."
            )
        raise ExperimentRestarting(f"It failed ({health.last_error}) and is restarted from its stored state.")

    def failed(self, experiment: Experiment, error: BaseException) -> None:
        """Count a failure; restart after a pause, or quarantine."""
        uid = experiment.state.uid
        health = self.of(uid)
        if health.status != "running":
            return
        self._count(experiment, error)

    def forget(self, uid: int) -> None:
        """Healthy until it fails again: it was deleted, or someone lifted its quarantine."""
        self.known.pop(uid, None)
        self._failed_at.pop(uid, None)
        task = self._restarts.pop(uid, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def stop(self) -> None:
        tasks = list(self._restarts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self, experiment: Experiment, error: BaseException) -> None:
        uid = experiment.state.uid
        now = self._monotonic()
        calm = now - self._failed_at.get(uid, now) > self._policy.calm_s
        count = 1 if calm else self.of(uid).failure_count + 1
        quarantined = count >= self._policy.quarantine_failures
        self._failed_at[uid] = now
        self.known[uid] = Health("quarantined" if quarantined else "restarting", count, short(error))
        log.error(
            "experiment_quarantined" if quarantined else "experiment_failed",
            experiment_id=experiment.state.experiment_id,
            failure_count=count,
            error=short(error),
        )
        if quarantined:
            self.quarantine_count += 1
        else:
            self._restarts[uid] = asyncio.get_running_loop().create_task(
                self._restart(experiment, self._policy.delay_s(count))
            )

    async def _restart(self, experiment: Experiment, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        uid = experiment.state.uid
        try:
            while True:
                try:
                    found = await self._reload(experiment)
                    break
                except (Busy, StoreUnavailable):  # no fault of the experiment's
                    await asyncio.sleep(self._policy.backoff_limit_s)
            if not found:
                self.forget(uid)
                return
            if experiment.enabled_arms:
                experiment.adopt(await asyncio.to_thread(experiment.snapshot(self._clock()).allocate))
        except Exception as error:
            self._count(experiment, error)
            return
        self.known[uid] = msgspec.structs.replace(self.of(uid), status="running")
        self.restart_count += 1
        self._restarts.pop(uid, None)
        log.info("experiment_restarted", experiment_id=experiment.state.experiment_id)


def inconsistency(experiment: Experiment, epoch: int, stored: Mapping[int, Row]) -> str | None:
    """What is wrong with an experiment in memory, set beside its stored rows; None where nothing is."""
    if experiment.state.epoch != epoch:
        return f"epoch {experiment.state.epoch} in memory, {epoch} in the store"
    for number in experiment.state.rows.keys() | stored.keys():
        mine, theirs = experiment.state.rows.get(number, Row()), stored.get(number, Row())
        if not all(math.isfinite(value) for value in mine.sums):
            return f"the evidence of arm number {number} is not finite"
        if mine[:3] != theirs[:3]:
            return f"the evidence of arm number {number} differs from the store's"
    allocation = experiment.allocation
    if allocation is not None and not is_distribution(allocation.probabilities):
        return "the probabilities do not form a distribution"
    return None


def is_distribution(probabilities: Sequence[float]) -> bool:
    """None negative, sum 1 within 1e-9; nan is neither."""
    return all(p >= 0 for p in probabilities) and abs(sum(probabilities) - 1) <= 1e-9


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
