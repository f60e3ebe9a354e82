import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiarm.domain.arm import Arm
from multiarm.domain.errors import ArmNotFound, ExperimentGone, InvalidReward, MultiarmError, StaleEpoch
from multiarm.domain.evidence import Row
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import VDBE, EpsilonGreedy, ThompsonExponential, ThompsonPoisson
from multiarm.domain.records import ExperimentState, Increment
from multiarm.domain.spec import Update
from multiarm.storage import experiments
from multiarm.storage.retention import prune
from multiarm.storage.schema import evidence, reward
from postgres import KINDS, NODE, NOON, Database, bundle, database_of, decided, plain

HOUR = 3600.0


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def reset(database: Database, state: ExperimentState) -> ExperimentState:
    database.run(lambda c: experiments.reset(c, state.uid, NOON))
    return database.load(state)


def delete_arm(database: Database, state: ExperimentState, arm_id: str) -> None:
    database.run(lambda c: experiments.change_arm(c, state.uid, arm_id, NOON, deleted=True))


def pull_counts(database: Database, state: ExperimentState) -> dict[int, int]:
    return {number: row.pull_count for number, row in database.load(state).rows.items()}


class TestCounting:
    def test_a_reward_adds_its_numbers_and_its_row(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy(), reward_origin=1.0)
        given = decided(state, 2, 3.5, unique=7, issued_at=NOON - 1.25)
        result = database.commit(bundle(state, given, received_at=NOON + 0.5))
        assert result.outcomes == [[True]]
        assert result.rows == {state.uid: (0, {2: Row((1.0, 2.5, 6.25), NOON - 1.25, 1, 0)})}
        assert database.load(state).rows == result.rows[state.uid][1]
        stored = database.run(lambda c: c.execute(sa.select(reward)).one())
        assert tuple(stored)[1:] == (
            state.uid,
            f"d:{(7).to_bytes(16).hex()}",
            2,
            0,
            NOON - 1.25,
            NOON + 0.5,
            NOON - 1.25,
            3.5,
            0.5,
            NODE,
            None,
            None,
            None,
            1,
        )

    def test_the_rows_returned_are_those_that_now_stand(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1, 1.0), plain(state, 2, 0.5)))
        result = database.commit(bundle(state, plain(state, 1, 0.25)))
        assert result.rows == {state.uid: (0, {1: Row((2.0, 1.25, 1.0625), NOON, 2, 0)})}
        assert database.load(state).rows[2] == Row((1.0, 0.5, 0.25), NOON, 1, 0)

    def test_one_group_may_touch_many_experiments(self, database: Database) -> None:
        states = [database.create(f"e{n}", arms=["red"]) for n in range(500)]  # more than one query's parameters
        result = database.commit(*(bundle(state, plain(state, key="a")) for state in states))
        assert result.outcomes == [[True]] * 500
        assert set(result.rows) == {state.uid for state in states}
        loaded = database.run(lambda c: experiments.load_experiments(c, NODE))
        assert [state.rows[1].pull_count for state in loaded] == [1] * 500

    def test_a_batch_of_ten_thousand(self, database: Database) -> None:
        state = database.create()
        increments = [decided(state, 1 + n % 2, n % 2, unique=n) for n in range(10_000)]
        assert database.commit(bundle(state, *increments)).outcomes == [[True] * 10_000]
        assert database.commit(bundle(state, *increments)).outcomes == [[False] * 10_000]
        assert database.load(state).rows == {
            1: Row((5000.0, 0.0, 0.0), NOON, 5000),
            2: Row((5000.0, 5000.0, 5000.0), NOON, 5000),
        }
        assert database.count(reward) == 10_000

    def test_sums_that_would_not_stay_finite_are_refused_whole(self, database: Database) -> None:
        state = database.create()
        huge = msgspec.structs.replace(plain(state), numbers=(1.0, 1e308, 0.0))
        database.commit(bundle(state, huge))
        with pytest.raises(InvalidReward):
            database.commit(bundle(state, plain(state, 2), huge))
        with pytest.raises(InvalidReward):
            database.commit(bundle(state, msgspec.structs.replace(plain(state), numbers=(1.0, math.nan, 0.0))))
        assert pull_counts(database, state) == {1: 1}
        assert database.count(reward) == 1

    def test_a_damaged_row_is_named_and_left_as_it_is(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        database.run(lambda c: c.execute(sa.update(evidence).values(sums="[1,2")))
        with pytest.raises(experiments.Unreadable, match="the evidence of arm number 1"):
            database.commit(bundle(state, plain(state)))
        assert database.count(reward) == 1


class TestDuplicates:
    def test_a_key_counts_once_wherever_it_comes_again(self, database: Database) -> None:
        state = database.create()
        a, b, c, d = (plain(state, 1, 1.0, key=key) for key in "abcd")
        assert database.commit(bundle(state, a, b, a)).outcomes == [[True, True, False]]
        assert database.commit(bundle(state, c, a), bundle(state, c, d)).outcomes == [[True, False], [False, True]]
        assert database.commit(bundle(state, a, b, c, d)).outcomes == [[False] * 4]
        assert pull_counts(database, state) == {1: 4}
        assert database.count(reward) == 4

    def test_the_first_wins_whatever_the_others_say(self, database: Database) -> None:
        state = database.create()
        first, second = plain(state, 2, 0.25, key="a"), plain(state, 1, 1.0, key="a")
        database.commit(bundle(state, first, second), bundle(state, second))
        database.commit(bundle(state, second))
        assert database.load(state).rows == {2: Row((1.0, 0.25, 0.0625), NOON, 1)}
        assert database.run(lambda c: c.scalars(sa.select(reward.c.reward)).all()) == [0.25]

    def test_a_group_of_duplicates_alone_shows_no_rows(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, decided(state)))
        assert database.commit(bundle(state, decided(state, 1, 0.0))).rows == {}

    def test_keys_are_remembered_across_epochs(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, key="a"), decided(state, unique=1)))
        state = reset(database, state)
        again = bundle(state, plain(state, key="a"), decided(state, unique=1), plain(state, key="b"))
        assert database.commit(again).outcomes == [[False, False, True]]
        assert pull_counts(database, state) == {1: 1}

    def test_keys_are_those_of_one_experiment(self, database: Database) -> None:
        one, two = database.create("one"), database.create("two")
        outcomes = database.commit(bundle(one, plain(one, key="a")), bundle(two, plain(two, key="a"))).outcomes
        assert outcomes == [[True], [True]]

    def test_a_decision_and_a_callers_key_never_meet(self, database: Database) -> None:
        state = database.create()
        hexadecimal = (1).to_bytes(16).hex()
        outcomes = database.commit(
            bundle(state, decided(state, unique=1), plain(state, key=hexadecimal), plain(state, key=f"d:{hexadecimal}"))
        ).outcomes
        assert outcomes == [[True, True, True]]

    def test_a_plain_reward_is_never_a_duplicate(self, database: Database) -> None:
        state = database.create()
        assert database.commit(*[bundle(state, *[plain(state)] * 3)] * 2).outcomes == [[True] * 3] * 2
        assert database.commit(bundle(state, plain(state), plain(state, key="a"))).outcomes == [[True, True]]
        assert pull_counts(database, state) == {1: 8}
        assert database.balanced

    def test_plain_rewards_that_came_together_and_are_alike_take_one_row(self, database: Database) -> None:
        """Sums are those of as many rewards, on their own rows, to the last digits."""
        state, apart = database.create("together", half_life_s=HOUR), database.create("apart", half_life_s=HOUR)
        increments = [
            plain(state, 1, 0.1, time=NOON - 1e3),
            plain(state, 1, 0.7),
            plain(state, 2, 0.7),
            plain(state, 2, 0.2, key="a"),
        ]
        words = random.Random(1).choices(increments, k=500)
        assert database.commit(bundle(state, *words)).outcomes == [
            [increment.key is None or increment not in words[:index] for index, increment in enumerate(words)]
        ]
        rows = database.run(lambda c: list(c.execute(sa.select(reward.c.key, reward.c.pull_count))))
        alike = Counter(words)
        assert sorted(rows, key=str) == sorted(
            [("k:a", 1), *((None, alike[increment]) for increment in increments[:3])], key=str
        )
        fresh = [word for index, word in enumerate(words) if word.key is None or word not in words[:index]]
        database.commit(bundle(apart, *(msgspec.structs.replace(word) for word in fresh)))
        together, one_by_one = database.load(state).rows, database.load(apart).rows
        for number, row in together.items():
            assert row.sums == pytest.approx(one_by_one[number].sums, rel=1e-14)
            assert row._replace(sums=()) == one_by_one[number]._replace(sums=())
        assert database.balanced

    def test_the_same_key_in_the_same_words_counts_once(self, database: Database) -> None:
        state = database.create()
        once = plain(state, key="a")
        assert database.commit(bundle(state, once, plain(state), once)).outcomes == [[True, True, False]]
        assert pull_counts(database, state) == {1: 2}
        assert database.balanced


class TestStaleRequests:
    def test_a_request_from_before_a_reset_is_left_out_whole(self, database: Database) -> None:
        old, neighbour = database.create("old"), database.create("neighbour")
        new = reset(database, old)
        result = database.commit(
            bundle(neighbour, plain(neighbour, key="a")),
            bundle(old, plain(old, 1, key="a"), decided(old, 2)),
            bundle(new, plain(new, 2, key="a")),
        )
        assert isinstance(result.outcomes[1], StaleEpoch)
        assert [result.outcomes[0], result.outcomes[2]] == [[True], [True]]  # what was refused took no key
        assert pull_counts(database, new) == {2: 1}
        assert pull_counts(database, neighbour) == {1: 1}
        assert database.count(reward) == 2

    def test_a_request_for_a_deleted_experiment_is_left_out_whole(self, database: Database) -> None:
        gone, neighbour = database.create("gone"), database.create("neighbour")
        database.run(lambda c: experiments.mark_deleted(c, gone.uid, NOON))
        result = database.commit(
            bundle(gone, plain(gone), decided(gone)), bundle(neighbour, plain(neighbour)), bundle(gone, decided(gone))
        )
        assert isinstance(result.outcomes[0], ExperimentGone)
        assert isinstance(result.outcomes[2], ExperimentGone)
        assert result.outcomes[1] == [True]
        assert set(result.rows) == {neighbour.uid}
        assert database.count(reward) == 1

    def test_a_plain_reward_for_a_deleted_arm_takes_its_request_with_it(self, database: Database) -> None:
        state = database.create()
        delete_arm(database, state, "red")
        result = database.commit(
            bundle(state, plain(state, 2, key="a"), plain(state, 1, key="b")), bundle(state, plain(state, 2, key="b"))
        )
        assert isinstance(result.outcomes[0], ArmNotFound)
        assert result.outcomes[1] == [True]
        assert pull_counts(database, state) == {2: 1}

    def test_a_decision_for_a_deleted_arm_is_accepted(self, database: Database) -> None:
        state = database.create()
        delete_arm(database, state, "red")
        assert database.commit(bundle(state, decided(state, 1), plain(state, 2))).outcomes == [[True, True]]
        assert pull_counts(database, state) == {1: 1, 2: 1}
        assert database.balanced

    def test_an_arm_that_never_was_is_refused(self, database: Database) -> None:
        state = database.create()
        assert isinstance(database.commit(bundle(state, decided(state, Arm(3, "blue")))).outcomes[0], MultiarmError)
        assert database.count(reward) == 0


class TestHalfLife:
    def test_each_reward_lands_with_the_weight_of_its_age(self, database: Database) -> None:
        state = database.create(half_life_s=HOUR)
        database.commit(bundle(state, plain(state, time=NOON - HOUR), plain(state, time=NOON - 2 * HOUR)))
        assert database.load(state).rows[1] == Row((1.5, 1.5, 1.5), NOON - HOUR, 2)

    def test_a_later_reward_decays_what_is_there_and_an_older_one_itself(self, database: Database) -> None:
        state = database.create(half_life_s=HOUR)
        database.commit(bundle(state, plain(state, time=NOON)))
        database.commit(bundle(state, plain(state, time=NOON + HOUR)))
        assert database.load(state).rows[1] == Row((1.5, 1.5, 1.5), NOON + HOUR, 2)
        database.commit(bundle(state, plain(state, time=NOON - HOUR)))
        assert database.load(state).rows[1] == Row((1.75, 1.75, 1.75), NOON + HOUR, 3)

    @settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=20), st.data())
    def test_no_order_and_no_grouping_changes_the_sums(
        self, database: Database, rewards: list[tuple[float, float]], data: st.DataObject
    ) -> None:
        database.run(lambda c: experiments.mark_deleted(c, None, NOON))
        together, apart = database.create("together", half_life_s=HOUR), database.create("apart", half_life_s=HOUR)
        database.commit(bundle(together, *[plain(together, 1, r, time=NOON + t) for r, t in rewards]))
        for value, time in data.draw(st.permutations(rewards)):
            database.commit(bundle(apart, plain(apart, 1, value, time=NOON + time)))
        one, other = database.load(together).rows[1], database.load(apart).rows[1]
        assert (one.as_of, one.pull_count) == (other.as_of, other.pull_count)
        assert other.sums == pytest.approx(one.sums, rel=0, abs=1e-12 * len(rewards))
        assert database.balanced


class TestMeasures:
    def test_what_was_said_is_kept_and_nothing_else(self, database: Database) -> None:
        state = database.create(policy=ThompsonPoisson())
        other = database.create("other")
        said = [
            plain(state, 1, 3.0, exposure=2.5),
            plain(state, 1, 2.0),
            plain(state, 2, 4.0, key="a", exposure=0.5),
            decided(state, 2, 5.0, exposure=8.0),
            plain(state, 2, 4.0, key="a", exposure=7.0),
        ]
        result = database.commit(bundle(state, *said), bundle(other, plain(other), plain(other, key="a")))
        assert result.outcomes == [[True, True, True, True, False], [True, True]]
        rows = database.run(lambda c: list(c.execute(sa.select(reward))))
        kept = sorted(
            (row.experiment == state.uid, row.reward, row.exposure, row.events) for row in rows if row.exposure
        )
        assert kept == [(True, 3.0, 2.5, None), (True, 4.0, 0.5, None), (True, 5.0, 8.0, None)]
        assert len(rows) == 6
        assert result.rows[state.uid][1][2].sums == (2.0, 9.0, 41.0, 9.0, 8.5)
        assert database.balanced

    def test_events_likewise_and_the_books_balance_when_they_are_pruned(self, database: Database) -> None:
        state = database.create(policy=ThompsonExponential(), half_life_s=HOUR)
        said = [decided(state, 1, 2.0, unique=n, events=n % 3, issued_at=NOON - n * 60) for n in range(400)]
        assert database.commit(bundle(state, *said)).outcomes == [[True] * 400]
        assert database.commit(bundle(state, *said)).outcomes == [[False] * 400]
        assert database.count(reward, reward.c.events == 2) == 133
        assert database.balanced
        database.run(lambda c: prune(c, 0, NOON + 1))
        assert database.count(reward) == 0
        assert database.balanced

    def test_thousands_in_one_group(self, database: Database) -> None:
        """More than one statement takes, whose rows are wider than the others'."""
        state = database.create(policy=ThompsonPoisson())
        keyed = [plain(state, 1 + n % 2, 1.0, key=f"{n}", exposure=2.0) for n in range(1_500)]
        unkeyed = [plain(state, 1, 1.0, exposure=2.0)] * 1_500
        database.commit(bundle(state, *keyed[:700]))
        assert database.commit(bundle(state, *keyed, *unkeyed)).outcomes == [[False] * 700 + [True] * 2_300]
        assert database.count(reward, reward.c.exposure == 2.0) == 3_000
        assert database.balanced


class TestColumnsThatDependOnTheOrder:
    def test_each_reward_meets_the_row_that_those_before_it_left(self, database: Database) -> None:
        policy = VDBE(sigma=0.5)
        state = database.create(policy=policy)
        alone = Experiment(spec=state.spec)
        for number, name in enumerate(("red", "green"), start=1):
            alone.put_arm(Arm(number, name))
        values = [0.5, 1.0, 0.0, 0.25, 0.75, 1.0, 1.0]
        bundles = [values[:1], values[1:4], values[4:]]
        known: list[Increment] = []
        for part in bundles:
            given = [plain(state, 1, value, key=f"{len(known)}-{n}") for n, value in enumerate(part)]
            database.commit(bundle(state, *known, *given[:1]), bundle(state, *given[1:], *given))
            known += given
        for value in values:
            alone.update(Update(value, arm_id="red"), NOON)
        assert database.load(state).rows[1].sums == pytest.approx(alone.state.rows[1].sums, rel=1e-14)
        assert database.load(state).rows[1].pull_count == len(values)
        assert database.balanced
        database.run(lambda c: prune(c, 0, NOON + 1))
        assert database.balanced

    def test_the_number_of_arms_is_that_of_each_request(self, database: Database) -> None:
        state = database.create(policy=VDBE())
        few, many = bundle(state, plain(state)), bundle(state, plain(state))
        many = msgspec.structs.replace(many, arm_count=100)
        sums = []
        for group in ((few, few), (few, many), (many, many)):
            database.run(lambda c: experiments.reset(c, state.uid, NOON))
            epoch = database.load(state).epoch
            database.commit(*(msgspec.structs.replace(request, epoch=epoch) for request in group))
            sums.append(database.load(state).rows[1].sums[4])
        assert sums[0] < sums[1] < sums[2]
