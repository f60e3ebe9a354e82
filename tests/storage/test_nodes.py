"""Rows of evidence: one writer each, absolute, and worth nothing after their epoch."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from multiarm.domain.errors import ArmNotFound, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import ThompsonGaussian
from multiarm.domain.records import ExperimentState
from multiarm.storage import experiments
from multiarm.storage.corrections import correct
from multiarm.storage.engine import create_engine
from multiarm.storage.evidence import ArmKey
from multiarm.storage.rewards import GroupResult, UpdateRequest, write_draw_counts
from multiarm.storage.schema import evidence
from postgres import KINDS, NODE, NOON, OTHER_NODE, Database, bundle, database_of, decided, plain


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def write_draws(database: Database, counts: dict[ArmKey, tuple[int, int]], node: int = NODE) -> None:
    database.run(lambda c: write_draw_counts(c, node, counts, NOON))


def reset(database: Database, state: ExperimentState) -> ExperimentState:
    database.run(lambda c: experiments.reset(c, state.uid, NOON))
    return database.load(state)


class TestEpochs:
    def test_a_row_of_an_old_epoch_reads_as_zero_and_is_written_over(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1), plain(state, 1), plain(state, 2)))
        write_draws(database, {(state.uid, 1): (0, 5), (state.uid, 2): (0, 6)})
        state = reset(database, state)
        assert state.rows == {}
        database.commit(bundle(state, plain(state, 1, 0.5)))
        assert database.load(state).rows == {1: Row((1.0, 0.5, 0.25), NOON, 1, draw_count=0)}
        assert database.count(evidence) == 2
        assert all(entry.balanced for entry in database.audit())

    def test_a_draw_count_written_over_an_old_row_leaves_nothing_of_its_sums(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1)))
        state = reset(database, state)
        write_draws(database, {(state.uid, 1): (1, 3)})
        assert database.load(state).rows == {1: Row((), 0.0, 0, 3)}
        assert all(entry.balanced for entry in database.audit())

    def test_another_nodes_old_row_counts_as_zero_too(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)), node=OTHER_NODE)
        assert [row.pull_count for _, row in database.load(state).other_rows] == [1]
        state = reset(database, state)
        assert (state.rows, state.other_rows) == ({}, [])

    def test_the_health_check_reads_this_nodes_rows_of_this_epoch(self, database: Database) -> None:
        fresh, used, gone = (database.create(name) for name in ("fresh", "used", "gone"))
        for state in (fresh, used, gone):
            database.commit(bundle(state, plain(state)))
            database.commit(bundle(state, plain(state, 2)), node=OTHER_NODE)
        reset(database, fresh)
        database.run(lambda c: experiments.mark_deleted(c, gone.uid, NOON))
        uids = [fresh.uid, used.uid, gone.uid]
        assert database.run(lambda c: experiments.own_rows(c, NODE, uids)) == {
            fresh.uid: (1, {}),
            used.uid: (0, {1: Row((1.0, 1.0, 1.0), NOON, 1)}),
        }


class TestDrawCounts:
    def test_they_are_absolute_and_writing_them_twice_changes_nothing(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1)))
        for _ in range(2):
            write_draws(database, {(state.uid, 1): (0, 7), (state.uid, 2): (0, 3)})
            assert database.load(state).rows == {1: Row((1.0, 1.0, 1.0), NOON, 1, 7), 2: Row((), 0.0, 0, 3)}
        write_draws(database, {(state.uid, 2): (0, 9)})
        assert [row.draw_count for row in database.load(state).rows.values()] == [7, 9]

    def test_a_reward_keeps_them(self, database: Database) -> None:
        state = database.create()
        write_draws(database, {(state.uid, 1): (0, 7)})
        result = database.commit(bundle(state, decided(state)))
        assert result.rows[state.uid][1] == {1: Row((1.0, 1.0, 1.0), NOON, 1, 7)}
        assert database.load(state).rows[1].draw_count == 7

    def test_stale_ones_are_dropped_and_the_others_written(self, database: Database) -> None:
        old, gone, live = (database.create(name) for name in ("old", "gone", "live"))
        reset(database, old)
        database.run(lambda c: experiments.mark_deleted(c, gone.uid, NOON))
        write_draws(
            database,
            {
                (old.uid, 1): (0, 5),
                (gone.uid, 1): (0, 5),
                (live.uid, 1): (0, 5),
                (live.uid, 9): (0, 5),  # an arm that never was
                (2**62, 1): (0, 5),  # an experiment that never was
            },
        )
        assert database.load(old).rows == {}
        assert database.load(live).rows == {1: Row((), 0.0, 0, 5)}
        assert database.count(evidence) == 1


class TestTwoNodes:
    def test_each_writes_its_own_row_and_loads_the_sum_of_all(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1, 1.0)), node=NODE)
        database.commit(bundle(state, plain(state, 1, 0.5), plain(state, 2, 0.0)), node=OTHER_NODE)
        database.commit(bundle(state, plain(state, 1, 0.25)), node=3)
        write_draws(database, {(state.uid, 1): (0, 4)}, node=NODE)
        write_draws(database, {(state.uid, 1): (0, 6)}, node=OTHER_NODE)
        for node in (NODE, OTHER_NODE, 3, 4):
            loaded = database.load(state, node)
            assert set(loaded.rows) == {NODE: {1}, OTHER_NODE: {1, 2}, 3: {1}, 4: set()}[node]
            experiment = Experiment()
            experiment.load(loaded)
            statistics = experiment.snapshot(NOON).statistics()
            assert (statistics["red"].pulls, statistics["green"].pulls) == (3, 1)
            assert statistics["red"].mean_reward == pytest.approx(1.75 / 3, rel=1e-15)
            assert statistics["red"].draws == 10
        assert all(entry.balanced for entry in database.audit())

    def test_a_key_counts_once_for_all_nodes(self, database: Database) -> None:
        state = database.create()
        assert database.commit(bundle(state, plain(state, key="a")), node=NODE).outcomes == [[True]]
        assert database.commit(bundle(state, plain(state, key="a")), node=OTHER_NODE).outcomes == [[False]]
        assert len(database.load(state).other_rows) == 0

    def test_rows_of_different_times_are_decayed_before_they_are_added(self, database: Database) -> None:
        state = database.create(half_life_s=3600.0)
        database.commit(bundle(state, plain(state, time=NOON - 3600)), node=NODE)
        database.commit(bundle(state, plain(state, time=NOON)), node=OTHER_NODE)
        experiment = Experiment()
        experiment.load(database.load(state))
        assert experiment.snapshot(NOON).statistics()["red"].effective_pulls == pytest.approx(1.5, rel=1e-12)
        [red, _] = database.audit()
        assert red.balanced
        assert red.sums == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


class TestWaitingForAnotherNode:
    """On PostgreSQL, where two write at a time: what is read is what stands when the wait is over."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[Database]:
        with database_of("postgresql", tmp_path) as made:
            yield made

    def commit_meanwhile(
        self, database: Database, work: Callable[[Connection], object], request: UpdateRequest
    ) -> GroupResult:
        """What comes of rewards that NODE commits while another node's `work`, done before, is not committed yet."""
        with ThreadPoolExecutor(1) as executor, connected(database) as other, connected(database) as watcher:
            with other.begin():
                work(other)
                committing = executor.submit(database.commit, request)
                while not someone_waits(watcher):
                    assert not committing.done()
            return committing.result(10)

    def test_rows_that_it_wrote(self, database: Database) -> None:
        state = database.create(policy=ThompsonGaussian())
        database.commit(bundle(state, plain(state, 1, 1e9, key="typo"), plain(state, 1, 2.0)))
        work = partial(correct, uid=state.uid, key="k:typo", after=5.0, node=OTHER_NODE, now=NOON, limit_rewards=9)
        result = self.commit_meanwhile(database, work, bundle(state, plain(state, 1, 3.0)))
        assert result.rows[state.uid][1][1].sums == (3.0, 10.0, 38.0)
        assert database.load(state).rows[1].sums == (3.0, 10.0, 38.0)
        assert all(entry.balanced for entry in database.audit())

    def test_an_arm_that_it_deleted(self, database: Database) -> None:
        state = database.create()
        work = partial(experiments.change_arm, uid=state.uid, arm_id="red", now=NOON, deleted=True)
        result = self.commit_meanwhile(database, work, bundle(state, plain(state, 1)))
        assert isinstance(result.outcomes[0], ArmNotFound)

    def test_an_epoch_that_it_began(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        work = partial(experiments.reset, uid=state.uid, now=NOON)
        result = self.commit_meanwhile(database, work, bundle(state, plain(state, 1)))
        assert isinstance(result.outcomes[0], StaleEpoch)
        assert database.load(state).rows == {}


@contextmanager
def connected(database: Database) -> Iterator[Connection]:
    engine = create_engine(database.url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def someone_waits(connection: Connection) -> bool:
    """For a lock in this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with connection.begin():
        return bool(connection.exec_driver_sql(query).scalar())
