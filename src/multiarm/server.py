"""The composition root: builds the actors, starts them in order, stops them in reverse."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
import structlog

from multiarm import process
from multiarm.authentication import SECONDS_A_DAY, authentication, require_authentication
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import StartError, Unavailable
from multiarm.http.app import build_app
from multiarm.http.config import Config
from multiarm.http.express import ExpressLane
from multiarm.http.gate import Gate
from multiarm.http.listening import Deadline, Server
from multiarm.http.protocol import Protocol
from multiarm.http.waiting_room import waiting_room
from multiarm.service.accountant import Accountant
from multiarm.service.health import RestartPolicy
from multiarm.service.housekeeping import Housekeeping
from multiarm.service.reader import Reader
from multiarm.service.snapshots import SnapshotRetention
from multiarm.service.state_store import StateStore
from multiarm.service.supervisor import Supervisor
from multiarm.settings import Settings
from multiarm.storage import experiments as db
from multiarm.storage.data_directory import DataDirectory
from multiarm.storage.engine import create_engine, migrate, sqlite_url, transact
from multiarm.storage.ledger import Ledger

if TYPE_CHECKING:
    from multiarm.auth.verifier import Verifier

log = structlog.get_logger()

BACKLOG_CONNECTIONS = 2048
FLUSH_RESERVE_S = 3  # of the time to stop, for the store and the ledger after the last request


class Running(NamedTuple):
    """A server that answers: where, and with how many experiments."""

    url: str
    experiment_count: int


def serve(settings: Settings, on_started: Callable[[Running], None] = lambda _: None) -> None:
    """Run until SIGTERM or SIGINT. StartError where it cannot start."""
    require_authentication(settings)
    process.prepare()
    with (
        contextlib.closing(bound_socket(settings.host, settings.port)) as listener,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        runner.run(run_server(settings, listener, on_started))


async def run_server(settings: Settings, listener: socket.socket, on_started: Callable[[Running], None]) -> None:
    deadline = Deadline(settings.shutdown_delay_s + settings.shutdown_timeout_s)
    async with contextlib.AsyncExitStack() as stack:
        async with waiting_room(listener, settings):
            supervisor, accountant, store, verifier = await stack.enter_async_context(actors(settings, deadline))

        def not_ready() -> str | None:
            if deadline.started:
                return "The server is shutting down."
            return store.complaint

        gate = build_app(supervisor, accountant, settings, not_ready, verifier)
        lane = ExpressLane(gate) if settings.express_lane else None
        if lane is not None and verifier is not None:
            verifier.when_forgotten = lane.heads.forget
        server = Server(server_config(gate, lane, settings), deadline, lane, settings.shutdown_delay_s)
        process.settle()
        on_started(Running(url_of(listener), len(supervisor.experiments)))
        await server.serve(sockets=[listener])
        log.info("stopping")
    log.info("stopped")


@contextlib.asynccontextmanager
async def actors(
    settings: Settings, deadline: Deadline
) -> AsyncIterator[tuple[Supervisor, Accountant, StateStore, "Verifier | None"]]:
    """Start the actors in order; stop them in reverse, each after it has finished what waits, by the deadline."""
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(DataDirectory(settings.data_path))
        engine = create_engine(sqlite_url(directory.database), timeout_s=settings.database_timeout_s)
        signer = await asyncio.to_thread(open_database, engine)
        accountant = build_accountant(directory, settings)
        accountant.start()
        stack.push_async_callback(lambda: asyncio.to_thread(accountant.stop, deadline.left_s()))
        store = StateStore(
            engine,
            directory.node,
            mailbox_size_updates=settings.store_mailbox_size_updates,
            group_limit_updates=settings.store_group_limit_updates,
        )
        reading = partial(
            create_engine, sqlite_url(directory.database), timeout_s=settings.database_timeout_s, reads_only=True
        )
        reader = Reader(reading())
        stack.push_async_callback(reader.stop)
        executor = ThreadPoolExecutor(1, thread_name_prefix="allocator")
        stack.callback(executor.shutdown, wait=False, cancel_futures=True)
        supervisor = build_supervisor(store, accountant, signer, executor, reader=reader, settings=settings)
        store.start(asyncio.get_running_loop(), supervisor.show)
        stack.push_async_callback(lambda: store.stop(deadline.left_s(reserve_s=1)))
        try:
            await supervisor.load()
        except Unavailable as error:
            raise StartError(str(error)) from error
        stack.push_async_callback(supervisor.health.stop)
        housekeeping = build_housekeeping(supervisor, store, settings)
        housekeeping.start()
        stack.push_async_callback(lambda: housekeeping.stop(deadline.left_s(reserve_s=2)))
        verifier = await stack.enter_async_context(authentication(settings, reading()))
        yield supervisor, accountant, store, verifier


def open_database(engine: sa.Engine) -> DecisionSigner:
    """Bring the database up to date, and load the signing keys, made at the first start."""
    try:
        with engine.connect() as connection:
            migrate(connection)
            keys, current = transact(connection, partial(db.load_keys, now=time.time()))
        return DecisionSigner(keys, current)
    except sa.exc.DBAPIError as error:
        raise StartError(
            f"The database cannot be opened ({error.orig}). Is the disk full or read-only, the file in use or damaged? "
            "`multiarm check` looks at it."
        ) from error
    except ValueError as error:
        raise StartError(f"{error} Restore the database from a backup.") from error


def build_accountant(directory: DataDirectory, settings: Settings) -> Accountant:
    ledger = Ledger(
        directory.ledger,
        segment_s=settings.ledger_segment_s,
        segment_limit_bytes=settings.ledger_segment_limit_bytes,
    )
    return Accountant(
        ledger,
        mailbox_size_rows=settings.ledger_mailbox_size_rows,
        flush_interval_s=settings.ledger_flush_interval_s,
        retention_days=settings.ledger_retention_days,
    )


def build_supervisor(
    store: StateStore,
    accountant: Accountant,
    signer: DecisionSigner,
    executor: ThreadPoolExecutor,
    *,
    reader: Reader,
    settings: Settings,
) -> Supervisor:
    return Supervisor(
        store,
        accountant,
        signer,
        executor,
        reader=reader,
        limits=db.Limits(
            settings.experiment_limit,
            settings.arm_limit,
            settings.arms_ever_limit,
            settings.payload_limit_bytes,
            settings.snapshot_action_limit,
            settings.correction_limit_rewards,
        ),
        restart_policy=RestartPolicy(
            settings.restart_backoff_s, settings.restart_backoff_limit_s, settings.quarantine_failures
        ),
        budget_share=settings.allocation_budget_share,
        inline_limit_s=settings.allocation_inline_limit_s,
        decision_lifetime_s=settings.reward_retention_days * SECONDS_A_DAY,
        history_limit_rows=settings.history_limit_rows,
        history_reader_limit=settings.history_reader_limit,
    )


def build_housekeeping(supervisor: Supervisor, store: StateStore, settings: Settings) -> Housekeeping:
    return Housekeeping(
        supervisor,
        store,
        draw_count_interval_s=settings.draw_count_interval_s,
        health_interval_s=settings.health_interval_s,
        retention_interval_s=settings.retention_interval_s,
        reward_retention_s=settings.reward_retention_days * SECONDS_A_DAY,
        audit_retention_s=settings.audit_retention_days * SECONDS_A_DAY,
        snapshot_interval_s=settings.snapshot_interval_s,
        snapshot_retention=SnapshotRetention(
            settings.snapshot_fine_days * SECONDS_A_DAY,
            settings.snapshot_hourly_days * SECONDS_A_DAY,
            settings.snapshot_daily_days * SECONDS_A_DAY,
        ),
    )


def server_config(gate: Gate, lane: ExpressLane | None, settings: Settings) -> Config:
    return Config(
        gate,
        settings,
        lane,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(int(settings.shutdown_timeout_s) - FLUSH_RESERVE_S, 1),
        backlog=BACKLOG_CONNECTIONS,
    )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG_CONNECTIONS)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(
            f"It cannot listen on {host}, port {port}: {reason}; choose another with --host or --port."
        ) from None


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
