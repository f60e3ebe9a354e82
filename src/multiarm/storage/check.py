"""`multiarm check`: is the database whole, and do the books balance? Offline, under the directory's lock."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from multiarm.domain.errors import StartError
from multiarm.storage.books import Entry, audit
from multiarm.storage.data_directory import DataDirectory
from multiarm.storage.engine import HEAD_REVISION, create_engine, current_revision, sqlite_url, transact
from multiarm.storage.experiments import Unreadable
from multiarm.storage.schema import experiment, snapshot
from multiarm.storage.snapshots import arms_of, policy_of

NAMED = 10
READ_AT_A_TIME = 100


@dataclass(frozen=True, slots=True)
class Report:
    """integrity: SQLite's own word on the file, "ok" where it is whole; unreadable: snapshots, as `7 of 'button'`."""

    integrity: str
    entries: list[Entry]
    unreadable: list[str]

    @property
    def good(self) -> bool:
        """Unreadable snapshots are only reported: the experiments go on without them, and can be backed up."""
        return self.integrity == "ok" and all(entry.balanced for entry in self.entries)

    @property
    def summary(self) -> str:
        wrong = sum(not entry.balanced for entry in self.entries)
        pulls = sum(entry.pull_count for entry in self.entries)
        books = f"{wrong} of {len(self.entries)} arms do not balance" if wrong else "the books balance"
        said = f"Database: {self.integrity}. {len(self.entries)} arms, {pulls:,} rewards: {books}."
        if self.unreadable:
            named, more = ", ".join(self.unreadable[:NAMED]), ", …" if len(self.unreadable) > NAMED else ""
            said += f" Snapshots that cannot be read: {named}{more}."
        return said


def check_directory(path: Path) -> Report:
    """StartError where `path` is no data directory, or in use, or of another version."""
    with DataDirectory(path, create=False) as directory:
        if not directory.database.exists():
            raise StartError(f"There is no database in {path}.")
        engine = create_engine(sqlite_url(directory.database))
        try:
            with engine.connect() as connection:
                if current_revision(connection) != HEAD_REVISION:
                    raise StartError(
                        "The database is of another version; start the server once to bring it up to date."
                    )
                return transact(connection, report)
        except Unreadable as error:
            raise StartError(str(error)) from error
        except sa.exc.DBAPIError as error:
            raise StartError(f"The database cannot be read: {error.orig}.") from error
        finally:
            engine.dispose()


def report(connection: Connection) -> Report:
    integrity = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    return Report(str(integrity), list(audit(connection)), list(unreadable_snapshots(connection)))


def unreadable_snapshots(connection: Connection) -> Iterator[str]:
    query = sa.select(snapshot).add_columns(experiment.c.id).join(experiment).order_by(snapshot.c.number)
    for row in connection.execute(query, execution_options={"yield_per": READ_AT_A_TIME}):
        try:
            policy_of(row)
            arms_of(row)
        except Unreadable:
            yield f"{row.number} of {row.id!r}"
