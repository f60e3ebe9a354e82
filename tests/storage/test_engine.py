"""Migrations and transactions, on both kinds of database."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from multiarm.domain.errors import CommitUnknown, StartError
from multiarm.storage import experiments
from multiarm.storage.engine import HEAD_REVISION, MAX_ATTEMPTS, create_engine, current_revision, is_lost, migrate
from multiarm.storage.schema import experiment, metadata
from postgres import KINDS, NOON, Database, bundle, database_of, plain


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path, migrated=False) as made:
        yield made


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path, timeout_s=0.2) as made:
        yield made


@contextmanager
def closing_engine(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


def tables(connection: Connection) -> set[str]:
    with connection.begin():
        return set(sa.inspect(connection).get_table_names())


def alembic_of(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", "multiarm:storage/migrations")
    config.attributes["connection"] = connection
    return config


class TestMigrations:
    def test_an_empty_database_is_brought_to_the_head(self, empty: Database) -> None:
        assert current_revision(empty.connection) is None
        for _ in range(2):
            migrate(empty.connection)
            assert current_revision(empty.connection) == HEAD_REVISION
        assert tables(empty.connection) == set(metadata.tables) | {"alembic_version"}
        assert empty.create().epoch == 0

    def test_the_program_knows_the_last_revision(self) -> None:
        script = ScriptDirectory.from_config(alembic_of(None))
        assert script.get_heads() == [HEAD_REVISION]

    def test_the_migrated_schema_is_the_one_that_the_program_uses(self, empty: Database) -> None:
        migrate(empty.connection)
        with empty.connection.begin():
            context = MigrationContext.configure(
                empty.connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []

    def test_ids_and_keys_are_unique_among_the_living_only(self, empty: Database) -> None:
        """The parts of unique indexes that Alembic does not compare."""
        migrate(empty.connection)
        with empty.connection.begin():
            indexes = {
                index["name"]: (index["column_names"], index["unique"], set(index["dialect_options"]))
                for table in ("experiment", "arm", "reward")
                for index in sa.inspect(empty.connection).get_indexes(table)
                if str(index["name"]).startswith("uq_")
            }
        for name, columns in {
            "uq_experiment_live_id": ["id"],
            "uq_arm_live_id": ["experiment", "id"],
            "uq_reward_key": ["experiment", "key"],
        }.items():
            assert indexes[name][0] == columns
            assert indexes[name][1]
            assert any(option.endswith("_where") for option in indexes[name][2])

    def test_a_database_of_a_later_version_is_refused_and_left_alone(self, empty: Database) -> None:
        migrate(empty.connection)
        empty.run(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close())
        with pytest.raises(StartError, match="9999"):
            migrate(empty.connection)
        assert current_revision(empty.connection) == "9999"
        assert tables(empty.connection) == set(metadata.tables) | {"alembic_version"}

    def test_it_can_be_taken_back(self, empty: Database) -> None:
        migrate(empty.connection)
        with empty.connection.begin():
            command.downgrade(alembic_of(empty.connection), "base")
        assert tables(empty.connection) <= {"alembic_version"}
        migrate(empty.connection)
        assert empty.create().epoch == 0

    def test_a_migration_that_fails_leaves_nothing(self, empty: Database) -> None:
        with empty.connection.begin():
            empty.connection.exec_driver_sql("CREATE TABLE evidence (x INTEGER)")  # the last table that it makes
        with pytest.raises(sa.exc.DBAPIError):
            migrate(empty.connection)
        assert tables(empty.connection) == {"evidence"}


class TestTransactions:
    def test_what_fails_is_undone(self, database: Database) -> None:
        def work(connection: Connection) -> None:
            connection.execute(sa.update(experiment).values(epoch=7))
            raise RuntimeError

        state = database.create()
        with pytest.raises(RuntimeError):
            database.run(work)
        assert database.load(state).epoch == 0

    def test_the_outcome_of_a_commit_that_fails_is_unknown(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = database.create()
        driver_error = sqlite3.OperationalError if database.url.startswith("sqlite") else psycopg.OperationalError

        def fail(*_: object) -> None:
            raise driver_error("gone")

        with monkeypatch.context() as patch:
            patch.setattr(database.engine.dialect, "do_commit", fail)
            with pytest.raises(CommitUnknown):
                database.commit(bundle(state, plain(state)))
        database.connection.invalidate()
        database.connection.rollback()
        assert database.commit(bundle(state, plain(state))).outcomes == [[True]]

    def test_the_wait_for_a_lock_has_an_end(self, database: Database) -> None:
        """Where it has none, the lock is let go after five seconds, so that the test ends."""
        state = database.create()
        other = create_engine(database.url)
        with closing_engine(other), other.connect() as holder:
            holder.begin()
            holder.execute(sa.update(experiment).values(updated_at=NOON))
            giving_up = threading.Timer(5, holder.rollback)
            giving_up.start()
            try:
                with pytest.raises(sa.exc.OperationalError) as caught:
                    database.run(lambda c: experiments.reset(c, state.uid, NOON))
                assert is_lost(caught.value)
            finally:
                giving_up.cancel()
                giving_up.join()
        assert database.run(lambda c: experiments.reset(c, state.uid, NOON)) == 1


class TestSqlite:
    def test_the_file_is_durable_and_referentially_sound(self, tmp_path: Path) -> None:
        with database_of("sqlite", tmp_path) as database:
            pragmas = ("journal_mode", "synchronous", "foreign_keys")
            values = database.run(lambda c: [c.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas])
            assert values == ["wal", 2, 1]

    def test_even_a_transaction_that_only_reads_holds_the_write_lock(self, tmp_path: Path) -> None:
        """So that what it has read still holds when it writes."""
        with database_of("sqlite", tmp_path) as database:
            state = database.create()

            def read_while_another_writes(connection: Connection) -> None:
                experiments.load_experiment(connection, 1, state.uid)
                with (
                    closing(sqlite3.connect(tmp_path / "multiarm.db", timeout=0)) as other,
                    pytest.raises(sqlite3.OperationalError, match="locked"),
                ):
                    other.execute("UPDATE experiment SET epoch = 1")

            database.run(read_while_another_writes)


class TestPostgresql:
    def test_a_deadlock_is_tried_again_and_not_for_ever(self, tmp_path: Path) -> None:
        with database_of("postgresql", tmp_path) as database:
            state = database.create()
            attempts: list[int] = []

            def work(connection: Connection, good_attempt: int, code: str) -> int:
                attempts.append(1)
                epoch = experiments.reset(connection, state.uid, NOON)
                if len(attempts) < good_attempt:
                    connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '{code}'; END $$")
                return epoch

            for code in ("40001", "40P01"):
                attempts.clear()
                database.run(partial(work, good_attempt=3, code=code))
                assert len(attempts) == 3
            assert database.load(state).epoch == 2
            attempts.clear()
            with pytest.raises(sa.exc.OperationalError):
                database.run(lambda c: work(c, MAX_ATTEMPTS + 1, "40001"))
            assert len(attempts) == MAX_ATTEMPTS
            attempts.clear()
            with pytest.raises(sa.exc.OperationalError):
                database.run(lambda c: work(c, 2, "53100"))  # disk full: not worth another attempt
            assert len(attempts) == 1
            assert database.load(state).epoch == 2
