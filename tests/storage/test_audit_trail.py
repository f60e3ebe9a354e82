"""An entry for each act, in its transaction: what it made different; and none for what failed."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from multiarm.domain.errors import ArmNotFound
from multiarm.domain.policies import EpsilonGreedy
from multiarm.domain.records import Actor, AuditEntry
from multiarm.domain.spec import ArmSpec, CreateExperiment
from multiarm.storage import audit, experiments
from multiarm.storage.audit import Act, recorded, recorded_correction
from multiarm.storage.corrections import Corrected, correct
from postgres import KINDS, NODE, NOON, Database, bundle, database_of, plain

ALICE = Actor("alice", "t1", "10.0.0.1", "request-1")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def newest(database: Database, limit: int = 100, uid: int | None = None, before: int | None = None) -> list[AuditEntry]:
    return database.run(lambda c: audit.newest(c, limit, uid=uid, before=before))


def test_it_says_who_made_what_different(database: Database) -> None:
    uid = database.create("button").uid
    adding = partial(
        experiments.add_arm, uid=uid, spec=ArmSpec("blue", {"x": 1}), now=NOON, limits=experiments.Limits()
    )
    disabling = partial(experiments.change_arm, uid=uid, arm_id="red", now=NOON, enabled=False)
    acts: dict[str, Callable[[Connection], object]] = {
        "add_arm": adding,
        "disable_arm": disabling,
        "reset": partial(experiments.reset, uid=uid, now=NOON),
        "disable": partial(experiments.set_enabled, uid=uid, enabled=False, now=NOON),
        "enable_arm": partial(experiments.change_arm, uid=uid, arm_id="green", now=NOON, enabled=True),
        "delete": partial(experiments.mark_deleted, uid=uid, now=NOON),
    }
    for number, (action, work) in enumerate(acts.items()):
        database.run(recorded(work, Act(action, ALICE, NOON + number, uid)))
    found = newest(database)[::-1]
    assert [entry.action for entry in found] == list(acts)
    assert {(e.subject, e.token_id, e.address, e.request_id, e.experiment_id) for e in found} == {
        ("alice", "t1", "10.0.0.1", "request-1", "button")
    }
    assert [entry.at for entry in found] == [NOON + number for number in range(len(acts))]
    assert [(entry.before, entry.after) for entry in found[:5]] == [
        ({}, {"arms": {"blue": {"enabled": True, "payload": {"x": 1}}}}),
        ({"arms": {"red": {"enabled": True}}}, {"arms": {"red": {"enabled": False}}}),
        ({"epoch": 0}, {"epoch": 1}),
        ({"enabled": True}, {"enabled": False}),
        ({}, {}),
    ]
    gone = found[-1]
    assert gone.after is None
    assert gone.before is not None
    assert gone.before["policy"]["type"] == "thompson"
    assert list(gone.before["arms"]) == ["red", "green", "blue"]


def test_a_new_experiment_and_the_end_of_all(database: Database) -> None:
    making = partial(
        experiments.create_experiment,
        request=CreateExperiment(arms=["red"]),
        experiment_id="new",
        now=NOON,
        limits=experiments.Limits(),
    )
    state = database.run(recorded(making, Act("create", ALICE, NOON)))
    database.create("other")
    [made] = newest(database)
    assert (made.action, made.experiment_id, made.before) == ("create", "new", None)
    assert made.after is not None
    assert list(made.after["arms"]) == ["red"]
    database.run(recorded(partial(experiments.mark_deleted, uid=None, now=NOON), Act("clear", ALICE, NOON)))
    cleared = newest(database, limit=2)
    assert {(entry.action, entry.experiment_id, entry.after) for entry in cleared} == {
        ("clear", "new", None),
        ("clear", "other", None),
    }
    assert [entry.action for entry in newest(database, uid=state.uid)] == ["clear", "create"]


def test_what_failed_leaves_none(database: Database) -> None:
    uid = database.create("button").uid
    failing = partial(experiments.change_arm, uid=uid, arm_id="nobody", now=NOON, enabled=False)
    with pytest.raises(ArmNotFound):
        database.run(recorded(failing, Act("disable_arm", ALICE, NOON, uid)))
    assert newest(database) == []


def test_a_correction_and_its_entry_are_one_transaction(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    state = database.create("button", policy=EpsilonGreedy())
    database.commit(bundle(state, plain(state, 1, 3.0, key="a")))

    def put(value: float | None) -> Corrected | None:
        work = partial(correct, uid=state.uid, key="k:a", after=value, node=NODE, now=NOON, limit_rewards=9)
        return database.run(recorded_correction(work, Act("correct", ALICE, NOON, state.uid), "button"))

    assert put(None) is not None
    assert put(None) is None
    [entry] = newest(database, uid=state.uid)
    assert (entry.action, entry.subject, entry.experiment_id) == ("correct", "alice", "button")
    assert (entry.before, entry.after) == ({"key": "a", "reward": 3.0}, {"key": "a", "reward": None})
    with monkeypatch.context() as patched:
        patched.setattr(audit, "values", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            put(5.0)
    assert database.load(state).rows[1].sums == (0.0, 0.0, 0.0)
    assert len(newest(database)) == 1


def test_pages_and_forgetting(database: Database) -> None:
    uid = database.create("button").uid
    for number in range(7):
        work = partial(experiments.reset, uid=uid, now=NOON)
        database.run(recorded(work, Act("reset", ALICE, NOON + number, uid)))
    pages: list[list[float]] = []
    before: int | None = None
    while page := newest(database, limit=3, uid=uid, before=before):
        pages.append([entry.at - NOON for entry in page])
        before = page[-1].number
    assert pages == [[6, 5, 4], [3, 2, 1], [0]]
    assert database.run(partial(audit.forget, before=NOON + 4)) == 4
    assert [entry.at - NOON for entry in newest(database)] == [6, 5, 4]
