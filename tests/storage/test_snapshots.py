"""Snapshots: what they hold, how they are thinned, and that the books balance whatever is restored."""

import random
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from multiarm.domain.errors import ArmNotFound, ExperimentNotFound, NotRestored, PolicyNotChanged, SnapshotNotFound
from multiarm.domain.evidence import Row
from multiarm.domain.policies import EXP3, UCB1, VDBE, AnyPolicy, Thompson, ThompsonGaussian, ThompsonPoisson
from multiarm.domain.records import ExperimentState
from multiarm.domain.snapshot import ArmStatistics
from multiarm.domain.spec import ArmSpec
from multiarm.service.history import point_of, points_of
from multiarm.storage import experiments, schema
from multiarm.storage.check import unreadable_snapshots
from multiarm.storage.experiments import Unreadable
from multiarm.storage.policy_change import change_policy
from multiarm.storage.restoring import Restored, restore
from multiarm.storage.retention import deleted_experiments, prune, purge
from multiarm.storage.schema import evidence, experiment, snapshot
from multiarm.storage.snapshots import (
    DAILY,
    FINE,
    HOURLY,
    ArmRecord,
    Outlook,
    Reason,
    arms_of,
    before,
    chosen,
    forget,
    read,
    take,
    take_many,
)
from postgres import KINDS, NODE, NOON, OTHER_NODE, Database, bundle, database_of, decided, plain

DAY = 86_400.0
LIMITS = experiments.Limits()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def look(database: Database, state: ExperimentState, now: float = NOON) -> int:
    """A snapshot at the interval; how many there were to take."""
    return database.run(partial(take_many, outlooks={state.uid: Outlook()}, now=now))


def act(
    database: Database, state: ExperimentState, reason: Reason = "disable", now: float = NOON, limit: int = 1_000
) -> None:
    database.run(partial(take, uid=state.uid, reason=reason, outlook=Outlook(), now=now, limit=limit))


def taken(database: Database) -> list[Any]:
    return database.run(lambda c: list(c.execute(sa.select(snapshot).order_by(snapshot.c.number))))


def damage(database: Database, number: int, column: str) -> None:
    database.run(lambda c: c.execute(sa.update(snapshot).where(snapshot.c.number == number).values({column: "["})))


def arms_in(row: Any) -> dict[int, ArmRecord]:
    return {record.number: record for record in arms_of(row)}


def back(
    database: Database,
    state: ExperimentState,
    snapshot_id: int | None = None,
    *,
    at: float | None = None,
    now: float = NOON,
) -> Restored:
    work = partial(
        restore,
        uid=state.uid,
        snapshot_id=snapshot_id,
        at=at,
        outlook=Outlook(),
        snapshot_limit=1_000,
        node=NODE,
        now=now,
    )
    return database.run(work)


def changed(database: Database, state: ExperimentState, policy: AnyPolicy, **more: Any) -> ExperimentState:
    more = {"random_share": None, "restart": False, "node": NODE, "now": NOON, **more}
    return database.run(lambda c: change_policy(c, uid=state.uid, policy=policy, **more))


class TestTaking:
    def test_evidence_of_all_nodes_and_what_the_policy_makes_of_it(self, database: Database) -> None:
        state = database.create(reward_origin=0.5)
        database.commit(bundle(state, plain(state, 1, 1.0), plain(state, 1, 0.0)))
        database.commit(bundle(state, plain(state, 1, 1.0)), node=OTHER_NODE)
        red = ArmStatistics(3, 2 / 3, 3.0, 0, 0.75, 0.7, (0.1, 0.9), enabled=True)
        database.run(partial(take_many, outlooks={state.uid: Outlook(0, {1: red})}, now=NOON))
        [row] = taken(database)
        assert (row.experiment, row.taken_at, row.reason, row.epoch) == (state.uid, NOON, "interval", 0)
        arms = arms_in(row)
        assert arms[1] == ArmRecord(1, "red", True, False, 0.0, (3.0, 0.5, 0.75), NOON, 3, 0, 0.75, 0.7, (0.1, 0.9))
        assert arms[2] == ArmRecord(2, "green", True, False, 0.0, (), 0.0, 0, 0, None, None, None)
        point = point_of(arms[1], NOON, state.spec)
        assert (point.pulls, point.effective_pulls) == (3, 3.0)
        assert point.mean_reward == pytest.approx(2 / 3)
        assert point_of(arms[2], NOON, state.spec).mean_reward is None

    def test_what_another_epoch_said_is_left_out(self, database: Database) -> None:
        state = database.create()
        red = ArmStatistics(0, None, 0.0, 0, 1.0, 1.0, None, enabled=True)
        database.run(partial(take_many, outlooks={state.uid: Outlook(1, {1: red})}, now=NOON))
        assert arms_in(taken(database)[0])[1].share is None

    def test_effective_pulls_are_those_of_its_time(self, database: Database) -> None:
        state = database.create(half_life_s=100.0)
        database.commit(bundle(state, plain(state, 1, 1.0)))
        look(database, state, NOON + 100)
        point = point_of(arms_in(taken(database)[0])[1], NOON + 100, state.spec)
        assert (point.pulls, point.effective_pulls, point.mean_reward) == (1, 0.5, 1.0)

    def test_one_where_nothing_happens_gets_no_more(self, database: Database) -> None:
        state, idle = database.create(half_life_s=100.0), database.create("idle")
        assert [look(database, one, NOON + minute) for minute in (0, 60) for one in (state, idle)] == [1, 1, 0, 0]
        database.commit(bundle(state, plain(state)))
        assert [look(database, one, NOON + 120) for one in (state, idle)] == [1, 0]
        database.run(lambda c: experiments.change_arm(c, idle.uid, "red", NOON, enabled=False))
        changed(database, state, UCB1())
        assert [look(database, one, NOON + 180) for one in (state, idle)] == [1, 1]
        assert [look(database, one, NOON + 240) for one in (state, idle)] == [0, 0]
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        assert [look(database, one, NOON + 300) for one in (state, idle)] == [1, 0]

    def test_an_action_always_gets_one_of_the_state_before_it(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        work = before(lambda c: experiments.reset(c, state.uid, NOON), state.uid, "reset", Outlook(), NOON, limit=9)
        assert database.run(work) == 1
        assert database.run(work) == 2
        first, second = taken(database)
        assert (first.reason, first.epoch, arms_in(first)[1].pull_count) == ("reset", 0, 1)
        assert (second.reason, second.epoch, arms_in(second)[1].pull_count) == ("reset", 1, 0)

    def test_an_action_that_fails_leaves_none(self, database: Database) -> None:
        state = database.create()

        def work(connection: sa.Connection) -> None:
            experiments.change_arm(connection, state.uid, "nobody", NOON, deleted=True)

        with pytest.raises(ArmNotFound):
            database.run(before(work, state.uid, "delete_arm", Outlook(), NOON, limit=9))
        assert not taken(database)

    def test_of_a_deleted_one_there_is_none(self, database: Database) -> None:
        state = database.create()
        database.run(lambda c: experiments.mark_deleted(c, state.uid, NOON))
        assert look(database, state) == 0
        with pytest.raises(ExperimentNotFound):
            act(database, state)

    def test_evidence_that_cannot_be_read_does_not_stand_in_the_way(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        database.run(lambda c: c.execute(sa.update(evidence).values(sums="[")))
        act(database, state)
        assert not taken(database)

    @pytest.mark.parametrize("column", ["arms", "policy"])
    def test_one_that_cannot_be_read_is_followed_by_another(self, database: Database, column: str) -> None:
        """And keeps no other experiment from its own."""
        state, other = database.create(), database.create("other")
        outlooks = {one.uid: Outlook() for one in (state, other)}
        assert database.run(partial(take_many, outlooks=outlooks, now=NOON)) == 2
        [number] = [row.number for row in taken(database) if row.experiment == state.uid]
        damage(database, number, column)
        database.commit(bundle(other, plain(other)))
        assert database.run(partial(take_many, outlooks=outlooks, now=NOON + 60)) == 2
        assert database.run(partial(take_many, outlooks=outlooks, now=NOON + 120)) == 0
        numbers = [row.number for row in taken(database)]
        points = points_of(database.run(partial(read, numbers=numbers)), state.spec)
        assert {point.snapshot_id for point in points} == {*numbers} - ({number} if column == "arms" else set())
        assert database.run(lambda c: len(list(unreadable_snapshots(c)))) == 1

    @pytest.mark.parametrize("table", [evidence, schema.arm, experiment])
    def test_an_experiment_that_cannot_be_read_keeps_no_other_from_its_own(
        self, database: Database, table: sa.Table
    ) -> None:
        states = [database.create(name) for name in ("first", "second", "third")]
        for state in states:
            database.commit(bundle(state, plain(state)))
        uid = states[1].uid
        where = table.c.uid == uid if table is experiment else table.c.experiment == uid
        text = {"evidence": "sums", "arm": "prior", "experiment": "spec"}[table.name]
        database.run(lambda c: c.execute(sa.update(table).where(where).values({text: "["})))
        assert database.run(partial(take_many, outlooks={one.uid: Outlook() for one in states}, now=NOON)) == 2
        assert {row.experiment for row in taken(database)} == {states[0].uid, states[2].uid}

    def test_a_thousand_arms(self, database: Database) -> None:
        """Their size, which docs/history.md tells, and that it is a matter of milliseconds."""
        state = database.create(arms=[f"arm-{n}" for n in range(1, 1001)], policy=ThompsonGaussian())
        database.commit(bundle(state, *(plain(state, n, n / 7) for n in range(1, 1001))))
        known = {
            n: ArmStatistics(1, n / 7, 1.0, 0, 1 / 997, 1 / 991, (n / 3, n / 2), enabled=True) for n in range(1, 1001)
        }
        start = time.perf_counter()
        database.run(partial(take_many, outlooks={state.uid: Outlook(0, known)}, now=NOON))
        assert time.perf_counter() - start < 2.0
        [row] = taken(database)
        assert len(row.arms) < 200_000
        start = time.perf_counter()
        back(database, state, row.number)
        assert time.perf_counter() - start < 5.0
        assert database.balanced


class TestThinning:
    def test_the_first_of_a_day_and_of_an_hour_and_those_of_actions_are_of_a_better_kind(
        self, database: Database
    ) -> None:
        state = database.create()
        midnight = NOON - NOON % DAY
        for index, at in enumerate((100, 200, 3_700, 3_800, DAY + 10, DAY + 20)):
            database.commit(bundle(state, plain(state)))
            look(database, state, midnight + at)
            if index == 3:
                act(database, state, now=midnight + at)
        grades = [(row.reason, row.grade) for row in taken(database)]
        assert [kept for reason, kept in grades if reason == "interval"] == [DAILY, FINE, HOURLY, FINE, DAILY, FINE]
        assert [kept for reason, kept in grades if reason == "disable"] == [HOURLY]

    def test_one_by_a_clock_that_was_ahead_makes_no_others_the_first_of_a_day(self, database: Database) -> None:
        state = database.create()
        for at in (0.0, 2 * DAY, 60.0, 7_200.0, 2 * DAY + 60.0, 3 * DAY):
            database.commit(bundle(state, plain(state)))
            look(database, state, NOON + at)
        assert [row.grade for row in taken(database)] == [DAILY, DAILY, FINE, FINE, FINE, DAILY]

    def test_each_kind_goes_in_its_time_and_in_steps(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        state = database.create()
        for minute in range(0, 48 * 60, 10):
            database.commit(bundle(state, plain(state)))
            look(database, state, NOON + minute * 60)
        monkeypatch.setattr("multiarm.storage.snapshots.FORGOTTEN_PER_STEP", 100)
        ends_at = NOON + 2 * DAY
        limits = {FINE: ends_at - DAY / 2, HOURLY: ends_at - DAY, DAILY: 0.0}
        counts: list[int] = []
        while counts[-1:] != [0]:
            counts.append(database.run(partial(forget, before_by_grade=limits)))
        assert counts == [122, 80, 0]  # 5 an hour, of 36 hours, and 22 hours: two of the first 24 begin a day
        times = [row.taken_at - NOON for row in taken(database)]
        assert times[:1] == [0.0]
        assert times[1] == DAY / 2  # the first of a day
        assert [at for at in times[2:] if at < 1.5 * DAY] == [DAY + hour * 3_600 for hour in range(12)]
        assert len([at for at in times if at >= 1.5 * DAY]) == 72

    def test_of_those_of_actions_the_oldest_go_where_they_are_too_many(self, database: Database) -> None:
        state, other = database.create(), database.create("other")
        act(database, other)
        act(database, state)  # the first of the day
        for index in range(5):
            act(database, state, "enable" if index % 2 else "disable", NOON + 10 * index + 1, limit=3)
            database.commit(bundle(state, plain(state, 1, 1.0)))
            look(database, state, NOON + 10 * index + 5)
        mine = [row for row in taken(database) if row.experiment == state.uid]
        assert [row.taken_at - NOON for row in mine if row.reason != "interval"] == [0, 21, 31, 41]
        assert sum(row.reason == "interval" for row in mine) == 5
        assert len(taken(database)) == len(mine) + 1

    def test_a_deleted_experiment_takes_its_own_along(self, database: Database) -> None:
        gone, stays = database.create(), database.create("stays")
        for state in (gone, stays):
            act(database, state)
        database.run(lambda c: experiments.mark_deleted(c, gone.uid, NOON))
        number: int | None = 0
        while number is not None:
            uids = database.run(deleted_experiments)
            number = database.run(partial(purge, after_number=number, uids=uids)).next_number
        assert [row.experiment for row in taken(database)] == [stays.uid]


class TestChoosing:
    @pytest.fixture
    def state(self, database: Database) -> ExperimentState:
        """Snapshots at 0, 1, … 99 minutes, and 50 more in the last second."""
        state = database.create()
        for index in range(150):
            act(database, state, now=NOON + (60.0 * index if index < 100 else 99 * 60.0 + index / 150))
        return state

    def choose(self, database: Database, state: ExperimentState, points: int, *span: float) -> list[float]:
        start, end = span or (0.0, 1e5)
        work = partial(chosen, uid=state.uid, start=NOON + start, end=NOON + end, point_limit=points)
        numbers = database.run(work)
        assert numbers == sorted(set(numbers))
        return [row.taken_at - NOON for row in database.run(partial(read, numbers=numbers))]

    @pytest.mark.parametrize("points", [1, 2, 3, 7, 50, 99, 149])
    def test_at_most_so_many_evenly_and_the_last(self, database: Database, state: ExperimentState, points: int) -> None:
        times = self.choose(database, state, points)
        assert 1 <= len(times) <= points
        assert len(times) >= min(points, 100) * 0.6
        assert times[-1] == pytest.approx(99 * 60.0 + 149 / 150, abs=1e-6)
        gaps = [after - earlier for earlier, after in pairwise(times)]
        assert all(gap <= 2 * max(6_000 / max(points - 1, 1), 60) for gap in gaps)

    def test_they_begin_with_the_first(self, database: Database) -> None:
        state = database.create()
        for minute in range(1, 10):
            act(database, state, now=NOON + minute)
        assert self.choose(database, state, 3) == [1, 5, 9]
        assert self.choose(database, state, 5) == [1, 3, 5, 7, 9]
        assert self.choose(database, state, 2) == [1, 9]

    def test_all_where_they_are_not_too_many(self, database: Database, state: ExperimentState) -> None:
        assert len(self.choose(database, state, 150)) == 150
        assert self.choose(database, state, 3, 60, 180) == [60, 120, 180]
        assert self.choose(database, state, 3, 61, 119) == []

    def test_those_of_one_moment_are_one_point(self, database: Database) -> None:
        state = database.create()
        for _ in range(5):
            act(database, state)
        assert self.choose(database, state, 4) == [0.0]

    def test_only_its_own(self, database: Database) -> None:
        act(database, database.create())
        assert self.choose(database, database.create("other"), 10) == []


class TestRestoring:
    def test_what_a_reset_took_comes_back(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1, 1.0, key="k"), plain(state, 1, 0.0), plain(state, 2, 1.0)))
        database.commit(bundle(state, plain(state, 2, 0.0)), node=OTHER_NODE)
        act(database, state, "reset")
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        restored = back(database, state, taken(database)[0].number, now=NOON + 9)
        assert restored.state == database.load(state)
        assert restored.state.epoch == 2
        assert restored.state.rows == {1: Row((2.0, 1.0, 1.0), NOON, 2), 2: Row((2.0, 1.0, 1.0), NOON, 2)}
        assert not restored.state.other_rows
        assert database.balanced
        again = bundle(restored.state, plain(state, 1, 1.0, key="k"))
        assert database.commit(again).outcomes == [[False]]  # keys stay remembered
        old = database.commit(bundle(state, plain(state)))
        assert [type(outcome).__name__ for outcome in old.outcomes] == ["StaleEpoch"]

    def test_it_can_be_undone(self, database: Database) -> None:
        state = database.create()
        act(database, state)
        database.commit(bundle(state, plain(state)))
        back(database, state, taken(database)[0].number)
        assert database.load(state).rows == {}
        assert [row.reason for row in taken(database)] == ["disable", "restore"]
        assert back(database, state, taken(database)[1].number).state.rows == {1: Row((1.0, 1.0, 1.0), NOON, 1)}
        assert database.balanced

    def test_by_time_the_newest_then_or_before(self, database: Database) -> None:
        state = database.create()
        for minute in range(3):
            act(database, state, now=NOON + 60 * minute)
        numbers = [row.number for row in taken(database)]
        assert back(database, state, at=NOON + 119.0, now=NOON + 500).snapshot_id == numbers[1]
        assert back(database, state, at=NOON + 120.0, now=NOON + 500).taken_at == NOON + 120
        with pytest.raises(SnapshotNotFound):
            back(database, state, at=NOON - 1)

    @pytest.mark.parametrize("column", ["arms", "policy"])
    def test_one_that_cannot_be_read_is_passed_over_by_time_and_named_by_number(
        self, database: Database, column: str
    ) -> None:
        state = database.create()
        for minute in range(2):
            act(database, state, now=NOON + 60 * minute)
        older, newer = [row.number for row in taken(database)]
        damage(database, newer, column)
        with pytest.raises(Unreadable, match=f"snapshot {newer} cannot be read"):
            back(database, state, newer)
        assert (database.load(state).epoch, len(taken(database))) == (0, 2)
        assert back(database, state, at=NOON + 60, now=NOON + 90).snapshot_id == older
        damage(database, older, column)
        with pytest.raises(Unreadable, match=f"snapshot {newer} cannot be read"):
            back(database, state, at=NOON + 60)

    def test_those_of_others_and_none_are_not_found(self, database: Database) -> None:
        state, other = database.create(), database.create("other")
        act(database, other)
        for number in (taken(database)[0].number, 10**15):
            with pytest.raises(SnapshotNotFound):
                back(database, state, number)
        assert database.load(state).epoch == 0
        assert len(taken(database)) == 1

    def test_forgetting_goes_on_from_the_time_of_the_evidence(self, database: Database) -> None:
        state = database.create(half_life_s=100.0)
        database.commit(bundle(state, plain(state)))
        act(database, state, now=NOON + 50)
        restored = back(database, state, at=NOON + 50, now=NOON + 200)
        assert restored.state.rows[1] == Row((1.0, 1.0, 1.0), NOON, 1)
        database.commit(bundle(restored.state, plain(state, time=NOON + 200)), now=NOON + 200)
        assert database.load(state).rows[1].sums == pytest.approx((1.25, 1.25, 1.25), rel=1e-15)
        assert database.balanced

    def test_arms_stay_as_they_are_now(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, 1), plain(state, 2)))
        act(database, state)
        database.run(lambda c: experiments.change_arm(c, state.uid, "red", NOON, deleted=True))
        database.run(lambda c: experiments.change_arm(c, state.uid, "green", NOON, enabled=False))
        blue = database.run(lambda c: experiments.add_arm(c, state.uid, ArmSpec("blue"), NOON, LIMITS))
        now = database.load(state)
        database.commit(bundle(now, plain(now, blue)))
        restored = back(database, state, at=NOON)
        assert {n: (a.deleted, a.enabled) for n, a in restored.state.arms.items()} == {
            1: (True, True),
            2: (False, False),
            3: (False, True),
        }
        assert set(restored.state.rows) == {1, 2}  # t counts deleted arms too
        assert database.balanced

    def test_head_starts_are_those_of_then_and_later_arms_join_the_others(self, database: Database) -> None:
        state = database.create(policy=EXP3())
        for arm in (1, 2):
            database.commit(bundle(state, *(decided(state, arm, unique=10 * arm + n) for n in range(5))))
        add = partial(experiments.add_arm, uid=state.uid, now=NOON, limits=LIMITS)
        database.run(partial(add, spec=ArmSpec("blue"), head_start=7.0))
        act(database, state)
        database.run(partial(add, spec=ArmSpec("late"), head_start=99.0))
        restored = back(database, state, at=NOON).state
        starts = {n: a.head_start for n, a in restored.arms.items()}
        assert (starts[1], starts[2], starts[3]) == (0.0, 0.0, 7.0)
        assert 7.0 <= starts[4] <= 10.0  # between the sums of those that it joins
        assert {n: a.head_start for n, a in database.load(state).arms.items()} == starts


class TestPolicies:
    def test_one_with_the_same_sums_goes_on_from_them(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state)))
        act(database, state)
        changed(database, state, UCB1())
        restored = back(database, state, at=NOON)
        assert restored.state.spec.policy == UCB1()
        assert restored.state.rows[1].sums == (1.0, 1.0, 1.0)

    def test_one_with_fewer_goes_on_from_its_own(self, database: Database) -> None:
        state = database.create(policy=EXP3())
        database.commit(bundle(state, decided(state)))
        act(database, state)
        changed(database, state, Thompson())
        assert back(database, state, at=NOON).state.rows[1].sums == (1.0, 1.0, 1.0)
        assert database.balanced

    def test_one_that_depends_on_the_order_gets_it_back(self, database: Database) -> None:
        state = database.create(policy=VDBE())
        for reward in (1.0, 0.0, 1.0):
            database.commit(bundle(database.load(state), plain(state, 1, reward)))
        act(database, state)
        sums = database.load(state).rows[1].sums
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        assert back(database, state, at=NOON).state.rows[1].sums == sums
        assert database.balanced

    @pytest.mark.parametrize(
        ("then", "today"),
        [(Thompson(), EXP3()), (Thompson(), ThompsonPoisson()), (ThompsonGaussian(), Thompson())],
        ids=str,
    )
    def test_one_that_needs_others_is_refused(self, database: Database, then: AnyPolicy, today: AnyPolicy) -> None:
        state = database.create(policy=then)
        database.commit(bundle(state, plain(state)))
        act(database, state)
        changed(database, state, today, restart=True)
        with pytest.raises(NotRestored, match="Change the policy back first"):
            back(database, state, at=NOON)
        assert database.load(state).epoch == 1
        changed(database, state, then, restart=True)
        assert back(database, state, at=NOON).state.rows[1].pull_count == 1

    def test_a_change_that_would_count_again_is_refused_after_a_restore(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, decided(state)))
        act(database, state)
        back(database, state, at=NOON)
        with pytest.raises(PolicyNotChanged, match="a restore, has removed 1 rewards"):
            changed(database, state, EXP3())
        assert changed(database, state, UCB1()).rows[1].sums == (1.0, 1.0, 1.0)
        assert database.balanced


class Walk:
    """One experiment that is used, changed, pruned, photographed and restored at random; two nodes count for it."""

    policies: tuple[AnyPolicy, ...] = (Thompson(), UCB1(), EXP3(), VDBE(), ThompsonPoisson(), ThompsonGaussian())

    def __init__(self, database: Database, seed: int, half_life_s: float | None) -> None:
        self.rng = random.Random(seed)
        self.database = database
        self.state = database.create(half_life_s=half_life_s, policy=UCB1(), reward_origin=0.3)
        self.now = NOON
        self.unique = 0
        self.done: dict[str, int] = {}

    def step(self) -> None:
        self.now += self.rng.expovariate(1 / 3_600)
        weighed = {"update": 10, "look": 3, "back": 2, "prune": 1, "policy": 1, "arms": 1, "reset": 0.3}
        name = self.rng.choices(list(weighed), list(weighed.values()))[0]
        try:
            getattr(self, name)()
        except (NotRestored, PolicyNotChanged):
            name += " refused"
        self.done[name] = self.done.get(name, 0) + 1
        assert self.database.balanced, name

    def update(self) -> None:
        for node in (NODE, OTHER_NODE):
            state = self.database.load(self.state, node)
            increments = []
            for number in self.rng.choices(list(state.arms), k=self.rng.randrange(1, 30)):
                self.unique += 1
                at = self.now - self.rng.expovariate(1 / 1_000)
                made = decided(state, number, self.rng.random(), unique=self.unique, issued_at=at, propensity=0.25)
                increments.append(made)
            request = bundle(state, *increments, received_at=self.now)
            outcomes = self.database.commit(request, node=node, now=self.now).outcomes
            assert outcomes == [[True] * len(increments)]

    def look(self) -> None:
        look(self.database, self.state, self.now)

    def back(self) -> None:
        rows = taken(self.database)
        if rows:
            row = self.rng.choice(rows)
            restored = back(self.database, self.state, row.number, now=self.now).state
            pulls = {number: found.pull_count for number, found in restored.rows.items()}
            assert pulls == {n: record.pull_count for n, record in arms_in(row).items() if record.sums}

    def prune(self) -> None:
        self.database.run(partial(prune, after_number=0, before=self.now - self.rng.random() * DAY / 4))

    def policy(self) -> None:
        forgets = self.state.spec.half_life_s is not None
        policy = self.rng.choice([policy for policy in self.policies if policy.traits.can_forget or not forgets])
        changed(self.database, self.state, policy, restart=self.rng.random() < 0.2, now=self.now)

    def arms(self) -> None:
        if len(self.database.load(self.state).arms) < 6:
            self.database.run(lambda c: experiments.add_arm(c, self.state.uid, ArmSpec(), self.now, LIMITS))

    def reset(self) -> None:
        self.database.run(lambda c: experiments.reset(c, self.state.uid, self.now))


@pytest.mark.parametrize("half_life_s", [None, 7_200.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_balance_at_every_step_of_a_walk(database: Database, seed: int, half_life_s: float | None) -> None:
    walk = Walk(database, seed, half_life_s)
    for _ in range(120):
        walk.step()
    assert walk.done["back"] >= 3
    assert walk.done["update"] >= 30
    assert walk.done["prune"] >= 1
