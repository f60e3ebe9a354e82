"""What the server tells Prometheus; `docs/metrics.md` lists it. Labels are bounded: see `metrics_arm_limit`."""

import asyncio
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily as CounterFamily
from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import HistogramMetricFamily as HistogramFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from multiarm._version import __version__
from multiarm.domain.experiment import Experiment
from multiarm.http.answers import Answer
from multiarm.http.request_meter import RequestMeter
from multiarm.service.accountant import Accountant
from multiarm.service.supervisor import Supervisor
from multiarm.service.tally import Histogram

OTHER = "(other)"  # no id looks like this


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


class RewardCounts:
    """How many rewards each arm ever got. Its pulls fall where one is withdrawn, and a counter must not."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], tuple[int, int]] = {}

    def of(self, experiment: Experiment) -> dict[int, int]:
        """By arm number, in this epoch."""
        uid, epoch = experiment.state.uid, experiment.state.epoch
        counts = {}
        for arm in experiment.live_arms:
            key = uid, arm.number, epoch
            row = experiment.state.rows.get(arm.number)
            pulls = 0 if row is None else row.pull_count
            before, count = self._known.get(key, (0, 0))
            counts[arm.number] = count + max(pulls - before, 0)
            self._known[key] = pulls, counts[arm.number]
        return counts

    def forget_others(self, experiments: Sequence[Experiment]) -> None:
        kept = {(experiment.state.uid, experiment.state.epoch) for experiment in experiments}
        self._known = {key: value for key, value in self._known.items() if (key[0], key[2]) in kept}


class Metrics:
    """The page at /metrics: read on the event loop, and written off it."""

    def __init__(self, supervisor: Supervisor, accountant: Accountant, meter: RequestMeter, arm_limit: int) -> None:
        self._supervisor = supervisor
        self._accountant = accountant
        self._meter = meter
        self._arm_limit = arm_limit
        self._rewards = RewardCounts()

    async def page(self, accept: str, may_see: Callable[[str], bool]) -> Answer:
        """may_see: whether the caller may know of that experiment."""
        arms, ages = self._seen(may_see)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Families(lambda: [*self._of_the_server(), *of_arms(arms), *of_experiments(ages)]))
        ProcessCollector(registry=registry)
        encode, content_type = choose_encoder(accept)
        body = await asyncio.to_thread(encode, registry)
        return Answer(body, 200, ((b"content-type", content_type.encode()), (b"cache-control", b"no-store")))

    def _seen(self, may_see: Callable[[str], bool]) -> tuple[list[ArmCounts], list[Ages]]:
        """Experiments one by one, in order of creation, while their arms are within the limit; the rest as one."""
        now = self._supervisor.clock()
        arms: list[ArmCounts] = []
        ages: list[Ages] = []
        other_draws = other_rewards = 0
        experiments = list(self._supervisor.experiments.values())
        for experiment in experiments:
            experiment_id = experiment.state.experiment_id
            if not may_see(experiment_id):
                continue
            rewards, draws = self._rewards.of(experiment), experiment.draws
            if len(arms) + len(rewards) > self._arm_limit:
                other_draws += sum(draws.values())
                other_rewards += sum(rewards.values())
                continue
            arms += [
                ArmCounts(experiment_id, arm.arm_id, draws.get(arm.number, 0), rewards[arm.number])
                for arm in experiment.live_arms
            ]
            ages.append(ages_of(experiment, now))
        if other_draws or other_rewards:
            arms.append(ArmCounts(OTHER, OTHER, other_draws, other_rewards))
        self._rewards.forget_others(experiments)
        return arms, ages

    def _of_the_server(self) -> Iterator[Metric]:
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
        refused = CounterFamily("multiarm_refused_rewards", "Rewards that were not counted.", labels=["reason"])
        for reason, count in supervisor.refused_counts.copy().items():
            refused.add_metric([reason], count)
        yield refused
        health = supervisor.health
        yield Gauge("multiarm_experiments", "Experiments that are not deleted.", len(supervisor.experiments))
        yield CounterFamily("multiarm_experiment_restarts", "Restarts from stored state.", health.restart_count)
        yield CounterFamily("multiarm_experiment_quarantines", "Experiments set aside.", health.quarantine_count)
        yield Gauge("multiarm_quarantined_experiments", "Experiments set aside now.", health.quarantined_now)

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


def of_arms(arms: Sequence[ArmCounts]) -> Iterator[Metric]:
    labels = ["experiment_id", "arm_id"]
    draws = CounterFamily("multiarm_draws", "Decisions answered, in this epoch.", labels=labels)
    rewards = CounterFamily("multiarm_rewards", "Rewards counted, in this epoch.", labels=labels)
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
    for bound, more in zip([*map(repr, seen.bounds), "+Inf"], list(seen.counts), strict=True):
        count += more
        buckets.append((bound, float(count)))
    family.add_metric(list(labels), buckets, seen.total)
