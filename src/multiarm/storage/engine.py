"""Connections: what SQLite and PostgreSQL each need to be a safe home for the state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event

from multiarm.domain.errors import CommitUnknown, DatabaseGone, StartError

HEAD_REVISION = "0009"
RETRIED_SQLSTATES = frozenset({"40001", "40P01"})  # PostgreSQL: serialization failure, deadlock
MAX_ATTEMPTS = 5
CACHED_STATEMENTS = 256  # prepared, by the driver
GONE = (
    "The database file was removed or replaced under the running server; nothing was changed. Put it back, or stop the "
    "server and start it on a restored backup."
)

T = TypeVar("T")


def sqlite_url(path: Path) -> sa.URL:
    return sa.URL.create("sqlite", database=str(path))


def create_engine(url: sa.URL | str, *, timeout_s: float = 5.0, reads_only: bool = False) -> Engine:
    """An engine with one connection; `timeout_s` bounds the wait for a lock. reads_only: it takes none, and makes no
    file where there is none.
    """
    place = sa.make_url(url)
    if place.get_backend_name() != "sqlite":
        timeouts = {"options": f"-c lock_timeout={timeout_s * 1000:.0f}", "connect_timeout": max(int(timeout_s), 1)}
        return sa.create_engine(
            place, pool_size=1, max_overflow=0, isolation_level="READ COMMITTED", connect_args=timeouts
        )
    if reads_only:  # `ro` could not open a log that a crash left
        file = Path(place.database or "").absolute().as_uri()
        place = sa.URL.create("sqlite", database=file, query={"mode": "rw", "uri": "true"})
    engine = sa.create_engine(place, connect_args={"timeout": timeout_s, "cached_statements": CACHED_STATEMENTS})

    @event.listens_for(engine, "connect")
    def configure(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # the driver's own BEGIN would leave reads outside the transaction
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "cache_size=-32768",
            "journal_size_limit=67108864",
        ):
            dbapi_connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        with Driver(connection) as driver:
            driver.cursor.execute("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


class DatabaseFile:
    """The file that an engine's database lies in, as it is now; PostgreSQL has none."""

    def __init__(self, engine: Engine) -> None:
        is_file = engine.dialect.name == "sqlite" and engine.url.database
        self._path = Path(engine.url.database or "") if is_file else None
        self._id = self._found()

    def require_in_place(self) -> None:
        """DatabaseGone where another stands in its place, or none: what is written to it would be lost."""
        if self._found() != self._id:
            raise DatabaseGone(GONE)

    def _found(self) -> tuple[int, int] | None:
        """Device and inode. As long as the file is open, no other gets the same."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


class Driver:
    """The driver's own cursor, for the statements of every commit: around each, SQLAlchemy takes longer than SQLite.

    mark: its sign for a parameter. Errors are SQLAlchemy's all the same.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.raw: Any = connection.connection.dbapi_connection
        self.mark = "%s" if is_postgresql(connection) else "?"

    def __enter__(self) -> Self:
        try:
            self.cursor: Any = self.raw.cursor()
        except self._error_class as error:
            raise self._as_sqlalchemy(error) from error
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.cursor.close()
        if isinstance(error, self._error_class):
            raise self._as_sqlalchemy(error) from error

    @property
    def _error_class(self) -> type[Exception]:
        error_class: type[Exception] = self.connection.dialect.loaded_dbapi.Error
        return error_class

    def _as_sqlalchemy(self, error: Exception) -> Exception:
        dialect = self.connection.dialect
        lost = dialect.is_disconnect(cast("Any", error), self.raw, None)
        return sa.exc.DBAPIError.instance(
            None, None, error, self._error_class, connection_invalidated=lost, dialect=dialect
        )


class RawTransaction:
    """A transaction on SQLite that SQLAlchemy knows nothing of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with Driver(connection) as driver:
            driver.cursor.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        with Driver(self._connection) as driver:
            self._connection.dialect.do_commit(driver.raw)

    def rollback(self) -> None:
        with Driver(self._connection) as driver:
            self._connection.dialect.do_rollback(driver.raw)


def is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def transact(connection: Connection, work: Callable[[Connection], T], *, raw: bool = False) -> T:
    """Run `work` in a transaction of its own; on PostgreSQL again after a deadlock or serialization failure.

    raw: on SQLite `work` uses nothing but a Driver. CommitUnknown where the commit itself failed: it may have happened
    all the same.
    """
    for _attempt in range(MAX_ATTEMPTS):
        try:
            return once(connection, work, raw=raw)
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in RETRIED_SQLSTATES:
                raise
            failure = error
    raise failure


def once(connection: Connection, work: Callable[[Connection], T], *, raw: bool = False) -> T:
    transaction = RawTransaction(connection) if raw and not is_postgresql(connection) else connection.begin()
    try:
        result = work(connection)
    except BaseException:
        transaction.rollback()
        raise
    try:
        transaction.commit()
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES:
            raise
        raise CommitUnknown("The commit failed, and may have happened all the same; repeat it with its key.") from error
    return result


def is_lost(error: BaseException) -> bool:
    """Whether the disk or the connection failed, and not the request."""
    if isinstance(error, sa.exc.DBAPIError):
        request_failed = isinstance(error, sa.exc.IntegrityError | sa.exc.DataError | sa.exc.ProgrammingError)
        return error.connection_invalidated or not request_failed
    return isinstance(error, OSError | CommitUnknown | DatabaseGone)


def migrate(connection: Connection) -> None:
    """Bring the database to this program's version; StartError where it is of a later one."""
    revision = current_revision(connection)
    if revision == HEAD_REVISION:
        return
    # imported here: a start that has nothing to migrate does without
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "multiarm:storage/migrations")
    config.attributes["connection"] = connection
    try:
        with connection.begin():
            command.upgrade(config, "head")
    except CommandError as error:
        raise StartError(
            f"The database is of version {revision}, which this multiarm does not know; start a newer one."
        ) from error


def current_revision(connection: Connection) -> str | None:
    with connection.begin():
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return revision
