"""Copies of the database: made while a server writes to it, and put in place where there is none."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import StartError
from multiarm.storage.check import report
from multiarm.storage.data_directory import COPY_FILE, DATABASE_FILE, LOCK_FILE, NODE_FILE, DataDirectory, sync
from multiarm.storage.engine import (
    HEAD_REVISION,
    Driver,
    create_engine,
    current_revision,
    migrate,
    sqlite_url,
    transact,
)
from multiarm.storage.experiments import Unreadable
from multiarm.storage.schema import evidence, experiment

STEP_PAGES = 4_096
SQLITE_ENDS = ("", "-journal", "-wal", "-shm")
LEFT_BEHIND = {
    LOCK_FILE,
    NODE_FILE,
    f"{NODE_FILE}.new",
    *(COPY_FILE + end for end in SQLITE_ENDS),
}  # by a copy that a crash cut off


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds; experiments that are not deleted, rewards whose rows are there. books: what was verified."""

    size_bytes: int
    experiment_count: int
    reward_count: int
    books: str
    node: int | None


def back_up(data: Path, file: Path) -> Copied:
    """Copy the database of the data directory `data`, in use or not, as it stands at one moment after the call.

    `file` appears whole and verified, or not at all. StartError where that cannot be, or it exists.
    """
    source = data / DATABASE_FILE
    if not source.is_file():
        raise StartError(f"There is no database in {data}.")
    if os.path.lexists(file):
        raise StartError(f"{file} exists; choose another name, or remove it first.")
    if not file.parent.is_dir():
        raise StartError(f"There is no directory {file.parent}.")
    room = file.with_name(f"{file.name}.part")
    with explained(f"{file} cannot be written"), made_in(room) as directory:
        try:
            copied = copy(source, room / COPY_FILE, upgrade=False)
            put(room / COPY_FILE, file)
        finally:
            shutil.rmtree(directory.path, ignore_errors=True)
    return copied


def restore(file: Path, path: Path) -> Copied:
    """Make a data directory of a backup, brought to this program's version; an interrupted try can be repeated.

    It keeps the node that wrote last, so that this one goes on with its rows. StartError where `path` holds anything,
    or the backup is not whole.
    """
    if not file.is_file():
        raise StartError(f"There is no file {file}.")
    with explained(f"{path} cannot be written"), made_in(path) as directory:
        try:
            copied = copy(file, path / COPY_FILE, upgrade=True)
            if copied.node is not None:
                directory.adopt(copied.node)
            put(path / COPY_FILE, directory.database)
        finally:
            remove(path / COPY_FILE)
    return copied


@contextmanager
def made_in(path: Path) -> Iterator[DataDirectory]:
    """A private directory, held by its lock: a new one, an empty one, or one with nothing but a copy cut off."""
    require_empty(path)
    with DataDirectory(path, takes_over=True) as directory:
        require_empty(path)  # nobody was faster
        yield directory


def require_empty(path: Path) -> None:
    if path.is_dir() and (found := sorted({entry.name for entry in path.iterdir()} - LEFT_BEHIND)):
        raise StartError(f"{path} is not empty, it holds {found[0]}; choose another name.")


def copy(source: Path, target: Path, *, upgrade: bool) -> Copied:
    """A verified copy of a database, and what is in it."""
    read_into(source, target)
    return examined(target, upgrade=upgrade)


def read_into(source: Path, target: Path) -> None:
    """As `source` stands at one moment, whatever is written to it meanwhile; `target` is made anew."""
    remove(target)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    uri = f"file:{quote(str(source.resolve()))}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reading,
        closing(sqlite3.connect(target, isolation_level=None)) as writing,
    ):
        writing.execute("PRAGMA synchronous=OFF")  # it is synced once it is whole
        reading.execute("BEGIN")  # or each commit of the server's would make the copy begin again
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reading.backup(writing, pages=STEP_PAGES, progress=listen)


def listen(*_: int) -> None:
    """Called after each step of a copy: back in Python, Ctrl-C is heard."""


def examined(path: Path, *, upgrade: bool) -> Copied:
    """What is in a copy that nobody uses; StartError where it is damaged. All of it is in the one file afterwards.

    Books of an earlier version can be read only once the copy has been upgraded.
    """
    engine = create_engine(sqlite_url(path))
    try:
        with engine.connect() as connection:
            revision = current_revision(connection)
            if revision is None:
                raise StartError("It is no database of multiarm.")
            if upgrade:
                migrate(connection)
            elif revision > HEAD_REVISION:
                raise StartError(f"The database is of version {revision}, which this multiarm does not know.")
            copied = transact(connection, lambda c: counted(c, path, balances=upgrade or revision == HEAD_REVISION))
            with Driver(connection) as driver:
                driver.cursor.execute("PRAGMA journal_mode=DELETE")
            return copied
    finally:
        engine.dispose()


def counted(connection: Connection, path: Path, *, balances: bool) -> Copied:
    if balances:
        found = report(connection)
        good, said, rewards = found.good, found.summary, "sum(pull_count)"
    else:
        integrity = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        good, rewards = integrity == "ok", "count(*)"
        said = f"Database: {integrity}, of an earlier version: its books are checked when it is restored."
    if not good:
        raise StartError(f"The copy is not good. {said}")
    live = sa.select(sa.func.count()).select_from(experiment).where(experiment.c.deleted_at.is_(None))
    return Copied(
        path.stat().st_size,
        connection.scalar(live) or 0,
        connection.exec_driver_sql(f"SELECT {rewards} FROM reward").scalar() or 0,
        said,
        connection.scalar(sa.select(evidence.c.node).order_by(evidence.c.updated_at.desc()).limit(1)),
    )


def put(part: Path, file: Path) -> None:
    """Give a whole copy its name, for good; StartError where the name is taken."""
    sync(part)
    try:
        os.link(part, file)
    except FileExistsError:
        raise StartError(f"{file} exists; choose another name, or remove it first.") from None
    except OSError:  # a disk without hard links
        part.rename(file)
    sync(file.parent)


def remove(database: Path) -> None:
    for end in SQLITE_ENDS:
        database.with_name(database.name + end).unlink(missing_ok=True)


@contextmanager
def explained(cannot: str) -> Iterator[None]:
    """What a disk or a database says, as StartError."""
    try:
        yield
    except Unreadable as error:
        raise StartError(str(error)) from error
    except sa.exc.DBAPIError as error:
        raise StartError(f"The copy cannot be read: {error.orig}.") from error
    except sqlite3.Error as error:
        raise StartError(f"The database cannot be copied: {error}.") from error
    except OSError as error:
        raise StartError(f"{cannot}: {error.strerror}.") from error
