"""What the tests of the state stand on: a SQLite file, a PostgreSQL of Debian's package, a service on the former."""

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from multiarm.domain.arm import Arm
from multiarm.domain.crediting import observation_of
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.records import ExperimentState, Increment
from multiarm.domain.spec import CreateExperiment, Update
from multiarm.service.accountant import Accountant
from multiarm.service.batch import BatchFaults
from multiarm.service.health import RestartPolicy
from multiarm.service.housekeeping import Housekeeping
from multiarm.service.reader import Reader
from multiarm.service.rewards import request_of
from multiarm.service.state_store import StateStore
from multiarm.service.supervisor import Supervisor
from multiarm.storage import experiments
from multiarm.storage.books import Entry, audit
from multiarm.storage.engine import create_engine, migrate, sqlite_url, transact
from multiarm.storage.ledger import Ledger
from multiarm.storage.rewards import GroupResult, UpdateRequest, commit_updates
from multiarm.storage.schema import metadata

T = TypeVar("T")
Submitted: TypeAlias = "asyncio.Future[list[bool | Exception]]"
NOON = 1_772_366_400.0
NODE, OTHER_NODE = 1, 2
KINDS = ("sqlite", "postgresql")
QUICK_RESTARTS = RestartPolicy(backoff_s=0.01, backoff_limit_s=0.05, quarantine_failures=3)


class Cluster:
    """A PostgreSQL of its own in a temporary directory, on a Unix socket, until the process ends."""

    def __init__(self, programs: Path) -> None:
        self._names = count()
        self._folder = Path(tempfile.mkdtemp(prefix="multiarm-pg-"))
        user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if user:
            shutil.chown(self._folder, user)
        data = self._folder / "data"
        making = f"{programs}/initdb -D {data} -U postgres -A trust -E UTF8 --no-sync"
        subprocess.run(making.split(), check=True, capture_output=True, user=user, cwd=self._folder)
        running = [str(programs / "postgres"), "-D", str(data), "-F", "-h", "", "-k", str(self._folder)]  # -F: no fsync
        with (self._folder / "log").open("wb") as log:
            self._server = subprocess.Popen(running, user=user, cwd=self._folder, stdout=log, stderr=log)
        atexit.register(self.stop)
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self._wait()

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def create(self) -> str:
        """The name of a new database."""
        name = f"test{next(self._names)}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def stop(self) -> None:
        self._server.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for connections
        self._server.wait(30)
        shutil.rmtree(self._folder)

    def _execute(self, sql: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(sql)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                return self._execute("SELECT 1")
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or self._server.poll() is not None:
                    raise
                time.sleep(0.02)


@cache
def cluster() -> Cluster:
    """The one of this process; skips where PostgreSQL is not installed, and fails in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    other = shutil.which("postgres")
    if not found and not other:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return Cluster((found[-1] if found else Path(other or "").resolve()).parent)


@cache
def migrated_name() -> str:
    """A database that tests of what is in the tables use one after the other."""
    return cluster().create()


@dataclass
class Database:
    """A database under test, with one connection to it, and one more to read the books on."""

    url: sa.URL | str
    engine: Engine
    connection: Connection
    auditor: Engine

    def run(self, work: Callable[[Connection], T]) -> T:
        return transact(self.connection, work)

    def create(self, experiment_id: str = "button", **spec: Any) -> ExperimentState:
        """An experiment with the arms red and green, unless `spec` says otherwise; its uid is the database's."""
        request = CreateExperiment(**{"arms": ["red", "green"], **spec})
        limits = experiments.Limits()
        return self.run(lambda c: experiments.create_experiment(c, request, experiment_id, NOON, limits))

    def commit(self, *requests: UpdateRequest, node: int = NODE, now: float = NOON) -> GroupResult:
        return self.run(lambda c: commit_updates(c, node, requests, now))

    def load(self, state: ExperimentState, node: int = NODE) -> ExperimentState:
        loaded = self.run(lambda c: experiments.load_experiment(c, node, state.uid))
        assert loaded is not None
        return loaded

    def count(self, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(*where)
        return self.run(lambda c: c.scalar(query) or 0)

    def audit(self) -> list[Entry]:
        return audit_by(self.auditor)

    @property
    def balanced(self) -> bool:
        """Whether the books of all arms balance; there must be some."""
        entries = self.audit()
        assert entries
        return all(entry.balanced for entry in entries)


def audit_of(url: sa.URL | str) -> list[Entry]:
    engine = create_engine(url)
    try:
        return audit_by(engine)
    finally:
        engine.dispose()


def audit_by(engine: Engine) -> list[Entry]:
    """The books, read as `multiarm check` does: on a connection of their own."""
    with engine.connect() as connection:
        return transact(connection, lambda c: list(audit(c)))


@contextmanager
def database_of(kind: str, folder: Path, *, migrated: bool = True, timeout_s: float = 5.0) -> Iterator[Database]:
    """A database of that kind, new, or migrated and with nothing in its tables."""
    url: sa.URL | str = sqlite_url(folder / "multiarm.db")
    if kind == "postgresql":
        url = cluster().url(migrated_name() if migrated else cluster().create())
    engine, auditor = create_engine(url, timeout_s=timeout_s), create_engine(url)
    try:
        with engine.connect() as connection:
            if migrated:
                migrate(connection)
            if migrated and kind == "postgresql":
                with connection.begin():
                    connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY")
            yield Database(url, engine, connection, auditor)
    finally:
        engine.dispose()
        auditor.dispose()


def plain(
    state: ExperimentState,
    arm: int | Arm = 1,
    reward: float = 1.0,
    *,
    key: str | None = None,
    time: float = NOON,
    exposure: float | None = None,
    events: int | None = None,
) -> Increment:
    """A reward for an arm."""
    if isinstance(arm, int):
        arm = state.arms[arm]
    said = Update(reward, exposure=exposure, events=events)
    numbers = state.spec.policy.increment(observation_of(said, state.spec.reward_origin, time))
    key = None if key is None else f"k:{key}"
    return Increment(arm, numbers, time, key, reward, None, None, None, None, exposure, events)


def decided(
    state: ExperimentState,
    arm: int | Arm = 1,
    reward: float = 1.0,
    *,
    unique: int = 1,
    issued_at: float = NOON,
    propensity: float = 0.5,
    exposure: float | None = None,
    events: int | None = None,
) -> Increment:
    """A reward for a decision."""
    made = plain(state, arm, reward, time=issued_at, exposure=exposure, events=events)
    token = unique.to_bytes(16)
    said = Update(reward, exposure=exposure, events=events)
    return msgspec.structs.replace(
        made,
        numbers=state.spec.policy.increment(observation_of(said, state.spec.reward_origin, issued_at, propensity)),
        key=f"d:{token.hex()}",
        propensity=propensity,
        issued_at=issued_at,
        unique=token,
    )


def bundle(state: ExperimentState, *increments: Increment, received_at: float = NOON) -> UpdateRequest:
    """As the Supervisor makes it."""
    experiment = Experiment(spec=state.spec)
    experiment.load(state)
    return request_of(experiment, increments, received_at)


@dataclass
class Clock:
    """Stands still until it is told otherwise."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Service:
    """A Supervisor, its StateStore and its Accountant, as the server builds them, on a SQLite file."""

    supervisor: Supervisor
    store: StateStore
    accountant: Accountant
    engine: Engine
    clock: Clock
    housekeeping: Housekeeping

    def state(self, experiment_id: str = "button") -> ExperimentState:
        return self.supervisor.experiment(experiment_id).state

    async def create(self, experiment_id: str = "button", **spec: Any) -> None:
        request = {"experiment_id": experiment_id, "arms": ["red", "green"], **spec}
        await self.supervisor.create(CreateExperiment(**request))

    async def rows(self, experiment_id: str = "button") -> dict[int, Row]:
        """This node's stored rows, without the draw counts, which lag behind."""
        uid = self.state(experiment_id).uid
        [(_, rows)] = (await self.store.run(partial(experiments.own_rows, node=NODE, uids=[uid]))).values()
        return {number: row._replace(draw_count=0) for number, row in rows.items() if row.pull_count}

    def rows_in_memory(self, experiment_id: str = "button") -> dict[int, Row]:
        rows = self.state(experiment_id).rows
        return {number: row._replace(draw_count=0) for number, row in rows.items() if row.pull_count}

    def submit(self, experiment: Experiment, increments: Sequence[Increment], now: float) -> Submitted:
        """Rewards of as many requests; the future is there when each of them has its answer."""
        told: Submitted = asyncio.get_running_loop().create_future()
        outcomes: dict[int, bool | Exception] = {}

        def reply(start: int, some: Sequence[bool | Exception]) -> None:
            outcomes.update(enumerate(some, start))
            if len(outcomes) == len(increments):
                told.set_result([outcomes[index] for index in range(len(increments))])

        self.supervisor.submit(experiment, increments, now, reply)
        return told

    async def update_batch(self, experiment_id: str, updates: Sequence[Update | None], faults: BatchFaults) -> int:
        """How many were new."""
        return sum(await (await self.supervisor.submit_batch(experiment_id, updates, faults)))

    def audit(self) -> list[Entry]:
        return audit_of(str(self.engine.url))


def run_service(
    folder: Path,
    story: Callable[[Service], Awaitable[None]],
    *,
    clock: Clock | None = None,
    restart_policy: RestartPolicy = QUICK_RESTARTS,
    inline_limit_s: float = 60.0,
    budget_share: float = 1.0,
    database_timeout_s: float = 5.0,
    mailbox_size_updates: int = 100_000,
    retention_s: float = float("inf"),
) -> None:
    """Start a service on the data in `folder`, let `story` play, and stop it."""

    async def play(clock: Clock) -> None:
        engine = create_engine(sqlite_url(folder / "multiarm.db"), timeout_s=database_timeout_s)
        with engine.connect() as connection:
            migrate(connection)
            keys, current = transact(connection, partial(experiments.load_keys, now=clock.now))
        ledger = Ledger(folder / "ledger")
        accountant = Accountant(ledger, mailbox_size_rows=100_000, flush_interval_s=0.05, retention_days=90)
        store = StateStore(engine, NODE, mailbox_size_updates=mailbox_size_updates, clock=clock)
        reader = Reader(create_engine(engine.url, timeout_s=database_timeout_s, reads_only=True))
        with ThreadPoolExecutor(1) as executor:
            supervisor = Supervisor(
                store,
                accountant,
                DecisionSigner(keys, current),
                executor,
                reader=reader,
                limits=experiments.Limits(),
                restart_policy=restart_policy,
                budget_share=budget_share,
                inline_limit_s=inline_limit_s,
                decision_lifetime_s=retention_s,
                clock=clock,
            )
            accountant.start()
            store.start(asyncio.get_running_loop(), supervisor.show)
            try:
                await supervisor.load()
                housekeeping = Housekeeping(supervisor, store, reward_retention_s=retention_s)
                await story(Service(supervisor, store, accountant, engine, clock, housekeeping))
            finally:
                await supervisor.health.stop()
                await store.stop()
                await reader.stop()
                accountant.stop(10)

    asyncio.run(asyncio.wait_for(play(clock or Clock()), 60))


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.001)
