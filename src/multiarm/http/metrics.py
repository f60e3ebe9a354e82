"""What the server tells Prometheus; `docs/metrics.md` lists it. Labels are bounded: see `metrics_arm_limit`."""

import asyncio
import platform
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily as CounterFamily
from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import HistogramMetricFamily as HistogramFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from multiarm._version import __version__
from multiarm.auth.scopes import Scopes
from multiarm.domain.experiment import Experiment
from multiarm.http.answers import Answer
from multiarm.http.request_meter import RequestMeter
from multiarm.service.accountant import Accountant
from multiarm.service.supervisor import Supervisor
from multiarm.service.tally import Histogram
from multiarm.settings import Settings

OTHER = "(other)"  # no id looks like this
READ_AT_A_TIME = 200  # experiments, on the event loop


class ArmCounts(NamedTuple):
    experiment_id: str
    arm_id: str
    draws: int
    rewards: int


class Ages(NamedTuple):
    """In seconds; None: there is none yet."""

    experiment_id: str
    allocation_s: float | None
    evidence_s: float | None


class View:
    """What those see who may read the same experiments.

    Counters must not fall: `(other)` only ever gets what came since the last page, and keeps it when an experiment
    goes, or gets labels of its own.
    """

    def __init__(self, scopes: Scopes, arm_limit: int) -> None:
        self._scopes = scopes
        self._arm_limit = arm_limit
        self._known: dict[int, tuple[int, int]] = {}  # uid → draws and rewards of the last page
        self._other_draws = self._other_rewards = 0

    async def seen(self, experiments: Sequence[Experiment], now: float) -> tuple[list[ArmCounts], list[Ages]]:
        """Experiments one by one, in order of creation, while their arms are within the limit; the rest as one."""
        arms: list[ArmCounts] = []
        ages: list[Ages] = []
        known: dict[int, tuple[int, int]] = {}
        other_draws, other_rewards = self._other_draws, self._other_rewards
        for index, experiment in enumerate(experiments, 1):
            if index % READ_AT_A_TIME == 0:
                await asyncio.sleep(0)
            experiment_id, uid = experiment.state.experiment_id, experiment.state.uid
            if not self._scopes.allow("read", experiment_id):
                continue
            draws, rewards = known[uid] = experiment.counts_since
            if len(arms) + len(experiment.live_arms) <= self._arm_limit:
                arms += [
                    ArmCounts(experiment_id, arm_id, *counts)
                    for arm_id, counts in experiment.counts_since_by_arm().items()
                ]
                ages.append(ages_of(experiment, now))
            else:
                draws_before, rewards_before = self._known.get(uid, (0, 0))
                other_draws += draws - draws_before
                other_rewards += rewards - rewards_before
        self._known, self._other_draws, self._other_rewards = known, other_draws, other_rewards
        if other_draws or other_rewards:
            arms.append(ArmCounts(OTHER, OTHER, other_draws, other_rewards))
        return arms, ages


class Metrics:
    """The page at /metrics: read on the event loop, bit by bit, and written off it. One is made at a time."""

    def __init__(self, supervisor: Supervisor, accountant: Accountant, meter: RequestMeter, settings: Settings) -> None:
        self._supervisor = supervisor
        self._accountant = accountant
        self._meter = meter
        self._settings = settings
        self._views: dict[Hashable, View] = {}  # the one that was asked for last comes last
        self._one_at_a_time = asyncio.Lock()
        self._making: dict[tuple[Hashable, str], asyncio.Task[Answer]] = {}

    async def page(self, accept: str, scopes: Scopes) -> Answer:
        """Of the experiments that `scopes` may read. Who asks while the same page is being made, gets that one."""
        encode, content_type = encoder_of(accept)
        key = scopes.reach("read"), content_type
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._made(scopes, encode, content_type))
            making.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(making)

    async def _made(self, scopes: Scopes, encode: Callable[[Collector], bytes], content_type: str) -> Answer:
        async with self._one_at_a_time:
            supervisor = self._supervisor
            arms, ages = await self._view(scopes).seen(list(supervisor.experiments.values()), supervisor.clock())
            quarantined = supervisor.health.quarantined_now
            registry = CollectorRegistry(auto_describe=False)
            registry.register(
                Families(lambda: [*self._of_the_server(quarantined), *of_arms(arms), *of_experiments(ages)])
            )
            ProcessCollector(registry=registry)
            body = await asyncio.to_thread(encode, registry)
        return Answer(body, 200, ((b"content-type", content_type.encode()), (b"cache-control", b"no-store")))

    def _view(self, scopes: Scopes) -> View:
        reach = scopes.reach("read")
        view = self._views.pop(reach) if reach in self._views else View(scopes, self._settings.metrics_arm_limit)
        self._views[reach] = view
        if len(self._views) > self._settings.metrics_reader_limit:
            del self._views[next(iter(self._views))]
        return view

    def _of_the_server(self, quarantined_count: int) -> Iterator[Metric]:
        supervisor, store, accountant = self._supervisor, self._supervisor.store, self._accountant
        yield info("multiarm_build", "What runs.", version=__version__, python=platform.python_version())
        yield from self._of_requests()
        yield histogram("multiarm_commit_duration_seconds", "Commits of rewards.", store.commit_durations_s)
        yield histogram("multiarm_commit_updates", "Updates in each commit of rewards.", store.commit_sizes)
        yield Gauge("multiarm_store_mailbox_updates", "Updates that wait for the database.", store.waiting_updates)
        yield Gauge("multiarm_store_mailbox_limit_updates", "Updates that may wait for it.", store.capacity_updates)
        yield Gauge("multiarm_store_available", "1 where the database answers, else 0.", float(store.available))
        yield Gauge("multiarm_ledger_lag_seconds", "No row of the ledger has waited longer.", accountant.lag_s)
        written = CounterFamily("multiarm_ledger_rows", "Rows written to the ledger.", labels=["table"])
        dropped = CounterFamily("multiarm_ledger_dropped_rows", "Rows that the ledger lacks.", labels=["table"])
        for family, counts in ((written, accountant.written), (dropped, accountant.dropped)):
            for table, count in counts.items():
                family.add_metric([table], count)
            yield family
        yield CounterFamily("multiarm_duplicates", "Rewards that were counted before.", supervisor.duplicate_count)
        yield CounterFamily("multiarm_corrections", "Rewards put right or withdrawn.", supervisor.correction_count)
        refused = CounterFamily("multiarm_refused_rewards", "Rewards that were not counted.", labels=["reason"])
        for reason, count in supervisor.refused_counts.copy().items():
            refused.add_metric([reason], count)
        yield refused
        health = supervisor.health
        yield Gauge("multiarm_experiments", "Experiments that are not deleted.", len(supervisor.experiments))
        yield CounterFamily("multiarm_experiment_restarts", "Restarts from stored state.", health.restart_count)
        yield CounterFamily("multiarm_experiment_quarantines", "Experiments set aside.", health.quarantine_count)
        yield Gauge("multiarm_quarantined_experiments", "Experiments set aside now.", quarantined_count)

    def _of_requests(self) -> Iterator[Metric]:
        labels = ["method", "route", "status_class"]
        counts = CounterFamily("multiarm_http_requests", "Requests answered.", labels=labels)
        about = "From a request's arrival to its answer."
        durations = HistogramFamily("multiarm_http_request_duration_seconds", about, labels=labels)
        for (method, route, status_class), seen in self._meter.durations_s.copy().items():
            values = [method, route, f"{status_class}xx"]
            counts.add_metric(values, sum(seen.counts))
            add_histogram(durations, values, seen)
        yield counts
        yield durations


class Families(Collector):
    """What a registry collects from."""

    def __init__(self, families: Callable[[], list[Metric]]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families()


def encoder_of(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # it asks for a version that is none
        return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


def of_arms(arms: Sequence[ArmCounts]) -> Iterator[Metric]:
    labels = ["experiment_id", "arm_id"]
    draws = CounterFamily("multiarm_draws", "Decisions answered.", labels=labels)
    rewards = CounterFamily("multiarm_rewards", "Rewards counted.", labels=labels)
    for arm in arms:
        draws.add_metric([arm.experiment_id, arm.arm_id], arm.draws)
        rewards.add_metric([arm.experiment_id, arm.arm_id], arm.rewards)
    yield draws
    yield rewards


def of_experiments(ages: Sequence[Ages]) -> Iterator[Metric]:
    allocations = Gauge(
        "multiarm_allocation_age_seconds", "Since what draws go by was computed.", labels=["experiment_id"]
    )
    evidence = Gauge("multiarm_evidence_age_seconds", "Since the last reward's time.", labels=["experiment_id"])
    for experiment_id, allocation_s, evidence_s in ages:
        if allocation_s is not None:
            allocations.add_metric([experiment_id], allocation_s)
        if evidence_s is not None:
            evidence.add_metric([experiment_id], evidence_s)
    yield allocations
    yield evidence


def ages_of(experiment: Experiment, now: float) -> Ages:
    allocation = experiment.allocation
    times = [row.as_of for row in experiment.state.rows.values() if row.sums]
    return Ages(
        experiment.state.experiment_id,
        None if allocation is None else max(now - allocation.computed_at, 0.0),
        max(now - max(times), 0.0) if times else None,
    )


def info(name: str, text: str, **labels: str) -> Metric:
    family = Gauge(f"{name}_info", text, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def histogram(name: str, text: str, seen: Histogram) -> Metric:
    family = HistogramFamily(name, text, labels=[])
    add_histogram(family, (), seen)
    return family


def add_histogram(family: HistogramFamily, labels: Sequence[str], seen: Histogram) -> None:
    buckets, count = [], 0
    for bound, more in zip([*map(floatToGoString, seen.bounds), "+Inf"], list(seen.counts), strict=True):
        count += more
        buckets.append((bound, float(count)))
    family.add_metric(list(labels), buckets, seen.total)
