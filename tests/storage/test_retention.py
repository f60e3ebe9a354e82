import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from multiarm.domain.policies import EpsilonGreedy
from multiarm.storage import experiments
from multiarm.storage.books import audit
from multiarm.storage.retention import STEP_ROWS, Step, deleted_experiments, prune, purge
from multiarm.storage.schema import arm, baseline, evidence, experiment, metadata, reward
from postgres import KINDS, NOON, OTHER_NODE, Database, bundle, database_of, decided, plain

DAY = 86_400.0


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def pruned(database: Database, before: float) -> list[int]:
    """Prune all that is past `before`; how many rewards each step deleted."""
    deleted, number = [], 0
    while True:
        step = database.run(partial(prune, after_number=number, before=before))
        deleted.append(step.deleted_count)
        if step.next_number is None:
            return deleted
        number = step.next_number


def purged(database: Database) -> list[int]:
    """Purge what was deleted; how many rewards each step deleted."""
    deleted = []
    while uids := database.run(deleted_experiments):
        number: int | None = 0
        while number is not None:
            step = database.run(partial(purge, after_number=number, uids=uids))
            deleted.append(step.deleted_count)
            number = step.next_number
    return deleted


class TestPruning:
    def test_what_is_past_retention_goes_and_the_rest_stays(self, database: Database) -> None:
        state = database.create()
        for key, age in [("old", 2.0), ("edge", 1.0), ("new", 0.5)]:
            database.commit(bundle(state, plain(state, key=key), received_at=NOON - age * DAY))
        assert pruned(database, NOON - DAY) == [1]
        assert database.run(lambda c: set(c.scalars(sa.select(reward.c.key)))) == {"k:edge", "k:new"}
        assert database.balanced
        assert database.run(lambda c: prune(c, 0, NOON - DAY)) == Step(0, None)

    def test_ts_keeps_nothing_and_loses_nothing(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, key="lately", time=NOON - 9 * DAY), received_at=NOON))
        database.commit(bundle(state, plain(state, key="long ago", time=NOON), received_at=NOON - 9 * DAY))
        pruned(database, NOON - DAY)
        assert database.run(lambda c: c.scalars(sa.select(reward.c.key)).all()) == ["k:lately"]

    def test_a_decision_goes_by_its_time_of_issue(self, database: Database) -> None:
        """The clock jumped back between draw and reward; while the decision is accepted, its key is remembered."""
        state = database.create()
        ahead, behind = decided(state, unique=1, issued_at=NOON + DAY), decided(state, unique=2, issued_at=NOON)
        database.commit(bundle(state, ahead, behind, received_at=NOON))
        assert pruned(database, NOON + DAY / 2) == [1]
        assert database.commit(bundle(state, ahead)).outcomes == [[False]]
        assert pruned(database, NOON + DAY + 1) == [1]
        assert database.balanced

    def test_a_key_counts_again_once_it_is_forgotten(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, key="a")))
        pruned(database, NOON + 1)
        assert database.commit(bundle(state, plain(state, key="a"))).outcomes == [[True]]
        assert database.load(state).rows[1].pull_count == 2
        assert database.balanced

    def test_twenty_thousand_rewards_go_five_thousand_at_a_time(self, database: Database) -> None:
        rng = random.Random(1)
        state = database.create(half_life_s=DAY, arms=["red", "green", "blue"])
        for batch in range(4):
            increments = [
                decided(state, rng.randint(1, 3), rng.random(), unique=batch * 5_000 + n, issued_at=NOON - n)
                for n in range(4_000)
            ] + [
                plain(state, rng.randint(1, 3), rng.random(), time=NOON - rng.random() * 30 * DAY) for _ in range(1_000)
            ]
            database.commit(bundle(state, *increments), node=1 + batch % 2)
        evidence_before = (database.load(state).rows, database.load(state).other_rows)
        assert database.balanced
        first = database.run(lambda c: prune(c, 0, NOON + 1))
        assert first.deleted_count == STEP_ROWS == 5_000
        assert database.count(reward) == 15_000
        assert database.balanced
        assert sum(pruned(database, NOON + 1)) == 15_000
        assert database.balanced
        assert database.count(baseline) == 3
        assert database.run(lambda c: c.scalar(sa.select(sa.func.sum(baseline.c.pull_count)))) == 20_000
        assert (database.load(state).rows, database.load(state).other_rows) == evidence_before

    @pytest.mark.parametrize("half_life_s", [None, DAY])
    def test_a_row_that_stands_for_many_goes_as_many(self, database: Database, half_life_s: float | None) -> None:
        state = database.create(half_life_s=half_life_s, arms=["red", "green"])
        old, late = plain(state, 1, 0.3, time=NOON - DAY), plain(state, 2, 0.7)
        database.commit(bundle(state, *[old] * 1_000, late, *[old] * 500))
        database.commit(bundle(state, *[late] * 7, received_at=NOON + 2))
        before = database.load(state).rows
        assert {number: row.pull_count for number, row in before.items()} == {1: 1_500, 2: 8}
        assert database.balanced
        assert pruned(database, NOON + 1) == [1_501]
        assert database.balanced
        assert pruned(database, NOON + 3) == [7]
        assert database.balanced
        assert database.run(lambda c: c.scalar(sa.select(sa.func.sum(baseline.c.pull_count)))) == 1_508
        assert database.load(state).rows == before

    def test_rewards_of_past_epochs_and_arms_balance_too(self, database: Database) -> None:
        state = database.create(half_life_s=DAY)
        database.commit(bundle(state, plain(state, 1), plain(state, 2)))
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        state = database.load(state)
        database.commit(bundle(state, decided(state, 1, 0.5, issued_at=NOON + 2), plain(state, 2)))
        database.run(lambda c: experiments.change_arm(c, state.uid, "red", NOON, deleted=True))
        assert pruned(database, NOON + 1) == [3]
        assert database.balanced
        assert pruned(database, NOON + 3) == [1]
        assert database.balanced
        assert [entry.expected_pull_count for entry in database.audit()] == [1, 1]

    def test_the_books_balance_where_rewards_cancel_out(self, database: Database) -> None:
        """To 1e-9 of what was added, not of what is left of it: rounding alone remains here."""
        state = database.create(policy=EpsilonGreedy())
        for key, value in [("c", 0.1), ("b", 0.2), ("a", -0.3)]:
            database.commit(bundle(state, plain(state, 1, value, key=key)))
        assert database.balanced
        for value in (0.7, -0.4, -0.3):
            database.commit(bundle(state, plain(state, 1, value)), node=OTHER_NODE)
        assert database.balanced
        pruned(database, NOON + 1)
        assert database.balanced


class TestBooks:
    def test_they_say_which_arm_is_wrong(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1), plain(state, 2, 0.5)))
        database.run(lambda c: c.execute(sa.update(evidence).where(evidence.c.arm == 2).values(sums="[1,0.5,0.2501]")))
        assert [(entry.arm_id, entry.balanced) for entry in database.audit()] == [("red", True), ("green", False)]
        database.run(lambda c: c.execute(sa.delete(reward).where(reward.c.arm == 1)))
        [red, _] = database.audit()
        assert (red.pull_count, red.expected_pull_count, red.balanced) == (1, 0, False)

    def test_reading_them_leaves_the_connection_as_it_was(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        options = database.connection.get_execution_options()
        assert [entry.balanced for entry in database.run(lambda c: list(audit(c)))] == [True, True]
        assert database.connection.get_execution_options() == options
        assert database.run(lambda c: experiments.mark_deleted(c, state.uid, NOON)) == [state.uid]


class TestPurging:
    def test_nothing_of_a_deleted_experiment_is_left(self, database: Database) -> None:
        gone, kept = database.create("gone"), database.create("kept")
        for state in (gone, kept):
            database.commit(bundle(state, plain(state, key="old"), received_at=NOON - DAY))
            pruned(database, NOON - 1)
            database.commit(bundle(state, *[plain(state, key=f"{n}") for n in range(5_001)]))
        assert purged(database) == []
        database.run(lambda c: experiments.mark_deleted(c, gone.uid, NOON))
        again = database.create("gone")
        database.commit(bundle(again, plain(again, key="1")))
        steps = purged(database)
        assert sum(steps) == 5_001 + 1 + 1 + 2  # rewards, evidence, baseline, arms
        assert max(steps) <= STEP_ROWS
        assert database.count(experiment, experiment.c.uid == gone.uid) == 0
        for table in (arm, evidence, baseline, reward):
            assert database.count(table, table.c.experiment == gone.uid) == 0, table.name
        assert database.load(kept).rows[1].pull_count == 5_002
        assert database.load(again).rows[1].pull_count == 1
        assert database.balanced

    def test_an_experiment_of_many_arms_goes_in_steps_too(self, database: Database) -> None:
        database.create("wide", arms=[f"a{n}" for n in range(1_000)])
        for n in range(6):
            database.create(f"wide-{n}", arms=[f"a{m}" for m in range(1_000)])
        database.run(lambda c: experiments.mark_deleted(c, None, NOON))
        assert purged(database) == [5_000, 2_000, 0]
        assert database.count(arm) == 0

    def test_pruning_what_waits_to_be_purged_keeps_no_books_of_it(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        database.run(lambda c: experiments.mark_deleted(c, state.uid, NOON))
        assert pruned(database, NOON + 1) == [1]
        assert database.count(baseline) == 0

    def test_after_clear_only_the_keys_that_sign_are_left(self, database: Database) -> None:
        database.run(lambda c: experiments.load_keys(c, NOON))
        for name in ("one", "two", "three"):
            state = database.create(name)
            database.commit(bundle(state, plain(state, key="a")))
        database.run(lambda c: experiments.mark_deleted(c, None, NOON))
        assert sum(purged(database)) == 3 * (1 + 1 + 2)  # rewards, evidence, arms
        counts = {table.name: database.count(table) for table in metadata.sorted_tables}
        assert {name for name, count in counts.items() if count} == {"signing_key"}
        assert database.load(database.create("one")).rows == {}
