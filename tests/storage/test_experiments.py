from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from multiarm.domain.arm import Arm, Prior
from multiarm.domain.errors import (
    ArmExists,
    ArmNotFound,
    ExperimentExists,
    ExperimentNotFound,
    FloorTooHigh,
    InvalidField,
    LimitReached,
)
from multiarm.domain.policies import EpsilonGreedy
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec, CreateExperiment
from multiarm.storage import experiments
from multiarm.storage.experiments import Limits
from multiarm.storage.schema import arm, experiment
from postgres import KINDS, NODE, NOON, Database, bundle, database_of, plain


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def add(database: Database, state: ExperimentState, spec: ArmSpec | None = None, limits: Limits | None = None) -> Arm:
    return database.run(lambda c: experiments.add_arm(c, state.uid, spec or ArmSpec(), NOON, limits or Limits()))


def change(
    database: Database, state: ExperimentState, arm_id: str, *, enabled: bool | None = None, deleted: bool = False
) -> Arm:
    return database.run(
        lambda c: experiments.change_arm(c, state.uid, arm_id, NOON + 1, enabled=enabled, deleted=deleted)
    )


def delete(database: Database, state: ExperimentState | None) -> list[int]:
    uid = None if state is None else state.uid
    return database.run(lambda c: experiments.mark_deleted(c, uid, NOON + 1))


def arm_ids(state: ExperimentState) -> list[str]:
    return [arm.arm_id for arm in state.arms.values()]


class TestCreation:
    def test_what_was_created_is_loaded_again_to_the_last_bit(self, database: Database) -> None:
        made = database.create(
            "button",
            arms=["red", ArmSpec(arm_id="green", payload={"a": [1.1, None, "ü"]}, prior=Prior(0.1, 1 / 3))],
            policy=EpsilonGreedy(epsilon=1 / 3),
            description="Which button?",
            random_share=0.1,
            floor=0.2,
            half_life_s=3600.1,
            reward_origin=-2.5,
        )
        loaded = database.load(made)
        assert loaded == made
        assert loaded.arms == {
            1: Arm(1, "red"),
            2: Arm(2, "green", {"a": [1.1, None, "ü"]}, Prior(0.1, 1 / 3)),
        }
        assert (loaded.epoch, loaded.enabled, loaded.created_at, loaded.rows) == (0, True, NOON, {})
        assert loaded.spec.policy == EpsilonGreedy(epsilon=1 / 3)
        assert loaded.spec.half_life_s == 3600.1

    def test_arms_without_an_id_get_one_that_nobody_asked_for(self, database: Database) -> None:
        state = database.create(arms=[ArmSpec(), "arm-1", ArmSpec(), "arm-3"])
        assert arm_ids(database.load(state)) == ["arm-2", "arm-1", "arm-4", "arm-3"]

    def test_an_id_is_taken_once(self, database: Database) -> None:
        database.create("button")
        with pytest.raises(ExperimentExists):
            database.create("button")
        assert database.count(experiment) == 1

    def test_experiments_are_loaded_in_order_of_creation(self, database: Database) -> None:
        ids = ["zebra", "ant", "mule", "bee"]
        for experiment_id in ids:
            database.create(experiment_id)
        loaded = database.run(lambda c: experiments.load_experiments(c, NODE))
        assert [state.experiment_id for state in loaded] == ids
        assert len({state.uid for state in loaded}) == 4

    def test_too_many_experiments_are_refused(self, database: Database) -> None:
        first = database.create("first")
        limits = Limits(experiments=1)

        def create_second() -> ExperimentState:
            return database.run(lambda c: experiments.create_experiment(c, CreateExperiment(), "second", NOON, limits))

        with pytest.raises(LimitReached):
            create_second()
        delete(database, first)
        assert create_second().experiment_id == "second"

    @pytest.mark.parametrize("limits", [Limits(arms=1), Limits(arms_ever=1)], ids=["at a time", "ever"])
    def test_an_experiment_may_not_begin_with_more_arms_than_it_may_have(
        self, database: Database, limits: Limits
    ) -> None:
        creation = CreateExperiment(arms=["red", "green"])
        with pytest.raises(LimitReached):
            database.run(lambda c: experiments.create_experiment(c, creation, "button", NOON, limits))


class TestArms:
    def test_an_added_arm_is_stored_whole(self, database: Database) -> None:
        state = database.create()
        made = add(database, state, ArmSpec(arm_id="blue", payload=[1, {"x": None}], prior=Prior(2, 0.25)))
        assert made == Arm(3, "blue", [1, {"x": None}], Prior(2, 0.25))
        assert database.load(state).arms[3] == made

    def test_arm_numbers_are_never_used_again(self, database: Database) -> None:
        state = database.create(arms=[])
        numbers = []
        for _ in range(3):
            numbers.append(add(database, state, ArmSpec(arm_id="red")).number)
            change(database, state, "red", deleted=True)
        assert numbers == [1, 2, 3]
        loaded = database.load(state)
        assert [(arm.arm_id, arm.deleted) for arm in loaded.arms.values()] == [("red", True)] * 3

    def test_made_up_arm_ids_step_aside(self, database: Database) -> None:
        state = database.create(arms=["arm-2"])
        assert [add(database, state).arm_id for _ in range(2)] == ["arm-3", "arm-4"]
        assert arm_ids(database.create("other", arms=[])) == []

    def test_an_arm_id_is_taken_once_in_its_experiment_only(self, database: Database) -> None:
        state, other = database.create(arms=["red"]), database.create("other", arms=[])
        with pytest.raises(ArmExists):
            add(database, state, ArmSpec(arm_id="red"))
        assert add(database, other, ArmSpec(arm_id="red")).number == 1
        assert add(database, state, ArmSpec(arm_id="green")).number == 2  # the refused one used no number

    def test_too_many_arms_are_refused(self, database: Database) -> None:
        state = database.create()
        with pytest.raises(LimitReached):
            add(database, state, limits=Limits(arms=2))
        change(database, state, "red", deleted=True)
        assert add(database, state, limits=Limits(arms=2)).number == 3
        change(database, state, "green", deleted=True)
        with pytest.raises(LimitReached):
            add(database, state, limits=Limits(arms=2, arms_ever=3))

    def test_a_prior_must_be_a_reward_of_the_policy(self, database: Database) -> None:
        state = database.create()
        with pytest.raises(InvalidField):
            add(database, state, ArmSpec(prior=Prior(1, 1.5)))
        assert len(database.load(state).arms) == 2

    def test_arms_are_disabled_enabled_and_deleted(self, database: Database) -> None:
        state = database.create()
        assert change(database, state, "red", enabled=False) == Arm(1, "red", enabled=False)
        assert database.load(state).arms[1].enabled is False
        assert change(database, state, "red", enabled=True) == Arm(1, "red")
        change(database, state, "red", enabled=False)
        gone = change(database, state, "red", deleted=True)
        assert gone == Arm(1, "red", enabled=False, deleted=True)
        assert database.load(state).arms[1] == gone
        for attempt in ({"enabled": True}, {"deleted": True}):
            with pytest.raises(ArmNotFound):
                change(database, state, "red", **attempt)

    def test_the_floor_must_leave_room_for_every_enabled_arm(self, database: Database) -> None:
        state = database.create(floor=0.5)
        with pytest.raises(FloorTooHigh):
            add(database, state)
        change(database, state, "red", enabled=False)
        assert add(database, state, ArmSpec(arm_id="blue")).number == 3
        with pytest.raises(FloorTooHigh):
            change(database, state, "red", enabled=True)
        change(database, state, "green", enabled=True)  # it is enabled already, and takes no more room
        change(database, state, "blue", deleted=True)
        assert change(database, state, "red", enabled=True).enabled
        loaded = database.load(state)
        assert [arm.arm_id for arm in loaded.arms.values() if arm.enabled and not arm.deleted] == ["red", "green"]

    def test_floors_that_add_up_to_one_but_for_rounding_are_allowed(self, database: Database) -> None:
        state = database.create(floor=0.1, arms=[f"arm-{n}" for n in range(1, 10)])
        assert add(database, state).number == 10
        with pytest.raises(FloorTooHigh):
            add(database, state)


class TestLifecycle:
    def test_a_reset_starts_an_epoch_and_keeps_arms_and_settings(self, database: Database) -> None:
        state = database.create()
        change(database, state, "red", enabled=False)
        database.commit(bundle(state, plain(state, 2)))
        assert database.run(lambda c: experiments.reset(c, state.uid, NOON + 1)) == 1
        assert database.run(lambda c: experiments.reset(c, state.uid, NOON + 2)) == 2
        loaded = database.load(state)
        assert (loaded.epoch, loaded.rows, loaded.spec) == (2, {}, state.spec)
        assert [arm.enabled for arm in loaded.arms.values()] == [False, True]

    @pytest.mark.parametrize("enabled", [False, True])
    def test_an_experiment_is_enabled_and_disabled(self, database: Database, enabled: bool) -> None:
        state = database.create()
        database.run(lambda c: experiments.set_enabled(c, state.uid, not enabled, NOON))
        database.run(lambda c: experiments.set_enabled(c, state.uid, enabled, NOON))
        assert database.load(state).enabled is enabled

    def test_a_deleted_id_is_free_and_what_takes_it_is_another_experiment(self, database: Database) -> None:
        old = database.create("button")
        database.commit(bundle(old, plain(old, key="a")))
        assert delete(database, old) == [old.uid]
        new = database.create("button")
        assert new.uid != old.uid
        assert database.load(new).rows == {}
        assert database.run(lambda c: experiments.load_experiment(c, NODE, old.uid)) is None
        assert database.commit(bundle(new, plain(new, key="a"))).outcomes == [[True]]
        assert delete(database, old) == []
        assert database.load(new).experiment_id == "button"

    def test_clear_deletes_all_that_live(self, database: Database) -> None:
        gone, first, second = (database.create(name) for name in ("gone", "first", "second"))
        delete(database, gone)
        assert sorted(delete(database, None)) == sorted([first.uid, second.uid])
        assert database.run(lambda c: experiments.load_experiments(c, NODE)) == []

    def test_a_deleted_experiment_cannot_be_changed(self, database: Database) -> None:
        state = database.create()
        delete(database, state)
        with pytest.raises(ExperimentNotFound, match="button"):
            add(database, state)
        with pytest.raises(ExperimentNotFound):
            change(database, state, "red", deleted=True)
        with pytest.raises(ExperimentNotFound):
            database.run(lambda c: experiments.reset(c, state.uid, NOON))
        with pytest.raises(ExperimentNotFound):
            database.run(lambda c: experiments.set_enabled(c, state.uid, False, NOON))
        assert database.count(arm) == 2

    def test_a_change_says_when_it_was_made(self, database: Database) -> None:
        state = database.create()
        query = sa.select(experiment.c.created_at, experiment.c.updated_at)
        database.run(lambda c: experiments.reset(c, state.uid, NOON + 0.25))
        assert database.run(lambda c: tuple(c.execute(query).one())) == (NOON, NOON + 0.25)

    def test_the_signing_key_is_made_once(self, database: Database) -> None:
        keys, current = database.run(lambda c: experiments.load_keys(c, NOON))
        assert len(keys[current]) == 32
        assert database.run(lambda c: experiments.load_keys(c, NOON + 1)) == (keys, current)
