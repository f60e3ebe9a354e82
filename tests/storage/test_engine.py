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
from multiarm.domain.evidence import Row
from multiarm.storage import experiments, schema
from multiarm.storage.check import check_directory
from multiarm.storage.data_directory import DataDirectory
from multiarm.storage.engine import (
    HEAD_REVISION,
    MAX_ATTEMPTS,
    create_engine,
    current_revision,
    is_lost,
    is_postgresql,
    migrate,
    sqlite_url,
)
from multiarm.storage.schema import experiment, metadata
from postgres import KINDS, NOON, Database, bundle, database_of, plain
from support import RunningServer, reward, stats


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


class TestFromTheFirstVersion:
    """Databases of 0001, with rows in them."""

    @pytest.fixture
    def old(self, empty: Database) -> Database:
        """One experiment with an arm of each kind, evidence, and rewards."""
        with empty.connection.begin():
            command.upgrade(alembic_of(empty.connection), "0001")
        empty.run(lambda c: fill_first(c, FIRST_SPEC))
        return empty

    def test_it_is_brought_to_the_head_and_keeps_its_rows(self, old: Database) -> None:
        assert current_revision(old.connection) == "0001"
        migrate(old.connection)
        assert current_revision(old.connection) == HEAD_REVISION
        state = old.run(lambda c: experiments.load_experiment(c, 1, 7))
        assert state is not None
        assert [(a.arm_id, a.enabled, a.deleted, a.head_start) for a in state.arms.values()] == [
            ("red", True, False, 0.0),
            ("green", False, True, 0.0),
        ]
        assert state.rows == {1: Row((2.0, 1.25, 1.0625), NOON, 2, 5)}
        stored = old.run(lambda c: list(c.execute(sa.select(schema.reward).order_by(schema.reward.c.number))))
        assert [(row.key, row.reward, row.exposure, row.events) for row in stored] == [
            (None, 1.0, None, None),
            ("k:a", 0.25, None, None),
        ]
        assert all(entry.balanced for entry in old.audit())

    def test_it_counts_on_from_there(self, old: Database) -> None:
        migrate(old.connection)
        state = old.run(lambda c: experiments.load_experiment(c, 1, 7))
        assert state is not None
        again, new = plain(state, key="a"), plain(state, key="b")
        assert old.commit(bundle(state, again, new)).outcomes == [[False, True]]
        assert old.load(state).rows[1].pull_count == 3
        assert all(entry.balanced for entry in old.audit())

    def test_its_schema_is_that_of_a_new_one(self, old: Database) -> None:
        migrate(old.connection)
        with old.connection.begin():
            context = MigrationContext.configure(
                old.connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []

    def test_the_way_back_keeps_the_rows_too(self, old: Database) -> None:
        migrate(old.connection)
        state = old.run(lambda c: experiments.load_experiment(c, 1, 7))
        assert state is not None
        old.commit(bundle(state, *[plain(state, reward=0.5)] * 3))
        with old.connection.begin():
            command.downgrade(alembic_of(old.connection), "0001")
        assert old.count(experiment) == 1
        stored = old.run(lambda c: c.exec_driver_sql("SELECT reward FROM reward ORDER BY reward").scalars().all())
        assert stored == [0.25, 0.5, 0.5, 0.5, 1.0]
        migrate(old.connection)
        assert all(entry.balanced for entry in old.audit())


def test_a_server_starts_on_a_data_directory_of_the_first_version(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    with database_of("sqlite", tmp_path, migrated=False) as old:
        with old.connection.begin():
            command.upgrade(alembic_of(old.connection), "0001")
        old.run(lambda c: fill_first(c, FIRST_SPEC))
    with RunningServer(tmp_path, settings={"reward_retention_days": 3_650}) as server:
        client = server.client()
        assert stats(client, "button")["red"]["pulls"] == 2
        assert reward(client, "button", arm_id="red", reward=1, key="a") == {"accepted": 0, "duplicates": 1}
        assert reward(client, "button", arm_id="red", reward=1, key="b") == {"accepted": 1, "duplicates": 0}
        assert server.terminate() == 0
    assert check_directory(tmp_path).good


FIRST_SPEC = '{"policy":{"type":"thompson","prior":{"alpha":1.0,"beta":1.0}},"random_share":0.0}'


def fill_first(connection: Connection, spec: str) -> None:
    """As 0001 wrote it."""
    for statement in (
        (
            "INSERT INTO experiment (uid, id, spec, enabled, epoch, next_arm_number, created_at, updated_at)"
            f" VALUES (7, 'button', '{spec}', true, 0, 3, {NOON}, {NOON})"
        ),
        (
            "INSERT INTO arm (experiment, number, id, payload, prior, enabled, deleted_at)"
            f" VALUES (7, 1, 'red', NULL, NULL, true, NULL), (7, 2, 'green', NULL, NULL, false, {NOON})"
        ),
        (
            "INSERT INTO evidence (experiment, arm, node, epoch, sums, as_of, pull_count, draw_count, updated_at)"
            f" VALUES (7, 1, 1, 0, '[2.0,1.25,1.0625]', {NOON}, 2, 5, {NOON})"
        ),
        (
            "INSERT INTO reward (experiment, key, arm, epoch, evidence_time, received_at, reward, node)"
            f" VALUES (7, NULL, 1, 0, {NOON}, {NOON}, 1.0, 1), (7, 'k:a', 1, 0, {NOON}, {NOON}, 0.25, 1)"
        ),
    ):
        connection.exec_driver_sql(statement).close()


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
        driver_error = psycopg.OperationalError if is_postgresql(database.connection) else sqlite3.OperationalError

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


@pytest.mark.parametrize("slash", ["", "/"])
def test_who_only_reads_makes_no_file_and_finds_one_of_any_name(tmp_path: Path, slash: str) -> None:
    path = Path(f"{slash}{tmp_path}") / "a b#ü&= %20?c=d" / "multiarm.db"
    path.parent.mkdir()
    reader = create_engine(sqlite_url(path), reads_only=True)
    with pytest.raises(sa.exc.OperationalError, match="unable to open"):
        reader.connect()
    assert list(path.parent.iterdir()) == []
    writer = create_engine(sqlite_url(path))
    with writer.connect() as connection, connection.begin():
        connection.exec_driver_sql("CREATE TABLE there (is_one)").close()
    with reader.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["there"]
    assert path.exists()
    for engine in (reader, writer):
        engine.dispose()
