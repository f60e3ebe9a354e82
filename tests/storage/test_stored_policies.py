"""Another policy for stored evidence: it goes along, is made again, or is refused; nothing in between."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from multiarm.domain.arm import Prior
from multiarm.domain.errors import ExperimentNotFound, InvalidField, InvalidRequest, PolicyNotChanged
from multiarm.domain.evidence import Row
from multiarm.domain.policies import (
    EXP3,
    EXP3IX,
    UCB1,
    VDBE,
    AnyPolicy,
    EpsilonGreedy,
    FixedSplit,
    GaussianPrior,
    Thompson,
    ThompsonExponential,
    ThompsonGaussian,
    ThompsonPoisson,
    ThompsonRevenue,
    TopTwo,
)
from multiarm.domain.records import ExperimentState
from multiarm.domain.spec import ArmSpec
from multiarm.storage import experiments, policy_change
from multiarm.storage.experiments import Limits
from multiarm.storage.policy_change import change_policy
from multiarm.storage.retention import Counted, plus_counted, prune
from multiarm.storage.rewards import write_draw_counts
from multiarm.storage.schema import arm, baseline, reward
from postgres import KINDS, NODE, NOON, OTHER_NODE, Database, bundle, database_of, decided, plain

DAY = 86_400.0
HURDLE = ThompsonRevenue(model="hurdle_lognormal")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def change(
    database: Database,
    state: ExperimentState,
    policy: AnyPolicy,
    *,
    random_share: float | None = None,
    restart: bool = False,
) -> ExperimentState:
    work = partial(
        change_policy,
        uid=state.uid,
        policy=policy,
        random_share=random_share,
        restart=restart,
        node=NODE,
        now=NOON + 1,
    )
    changed = database.run(work)
    assert changed == database.load(state)
    assert changed.spec.policy == policy
    return changed


def used(database: Database, *, rewards: int = 40, seed: int = 1, **spec: Any) -> ExperimentState:
    """An experiment of which two nodes have counted rewards for decisions, in [0, 1], at various times."""
    rng = random.Random(seed)
    state = database.create(**spec)
    for node in (NODE, OTHER_NODE):
        increments = [
            decided(
                state,
                rng.randint(1, 2),
                rng.choice([0.0, 1.0, rng.random()]),
                unique=node * 10_000 + n,
                issued_at=NOON - rng.random() * DAY,
                propensity=rng.choice([0.05, 0.5, 0.95]),
            )
            for n in range(rewards)
        ]
        database.commit(bundle(state, *increments), node=node)
    counts = {(state.uid, 1): (0, 17), (state.uid, 2): (0, 23)}
    database.run(lambda c: write_draw_counts(c, NODE, counts, NOON))
    return database.load(state)


def pulls(state: ExperimentState) -> list[tuple[int, int]]:
    own = sorted((number, row.pull_count) for number, row in state.rows.items())
    return own + sorted((number, row.pull_count) for number, row in state.other_rows)


def close(have: Row, want: Row) -> bool:
    return have[1:] == want[1:] and have.sums == pytest.approx(want.sums, rel=1e-12, abs=1e-12)


class TestEvidenceThatGoesAlong:
    @pytest.mark.parametrize(
        "policy",
        [UCB1(), EpsilonGreedy(epsilon=0.3), ThompsonGaussian(), FixedSplit(), TopTwo(), ThompsonRevenue()],
        ids=lambda policy: policy.__struct_config__.tag,
    )
    def test_is_the_same_to_the_last_bit(self, database: Database, policy: AnyPolicy) -> None:
        state = used(database, half_life_s=DAY)
        changed = change(database, state, policy)
        assert (changed.rows, changed.other_rows, changed.epoch) == (state.rows, state.other_rows, 0)
        assert database.balanced

    @pytest.mark.parametrize("before", [EXP3(), ThompsonPoisson(), VDBE(), HURDLE], ids=lambda p: type(p).__name__)
    def test_loses_the_columns_that_nobody_needs_any_more(self, database: Database, before: AnyPolicy) -> None:
        state = used(database, policy=before)
        changed = change(database, state, EpsilonGreedy())
        assert changed.rows == {n: row._replace(sums=row.sums[:3]) for n, row in state.rows.items()}
        assert changed.other_rows == [(n, row._replace(sums=row.sums[:3])) for n, row in state.other_rows]
        assert database.balanced

    def test_is_not_needed_from_the_reward_rows(self, database: Database) -> None:
        """Whatever retention has removed."""
        state = used(database, policy=ThompsonPoisson())
        database.run(lambda c: prune(c, 0, NOON + 1))
        assert (database.count(reward), database.count(baseline)) == (0, 2)
        changed = change(database, state, ThompsonGaussian())
        assert pulls(changed) == pulls(state)
        assert database.balanced
        database.commit(bundle(changed, plain(changed, 1, 0.5)))
        database.run(lambda c: prune(c, 0, NOON + 1))
        assert database.balanced

    def test_of_a_policy_of_surprises_begins_again_there(self, database: Database) -> None:
        state = used(database)
        database.run(lambda c: prune(c, 0, NOON + 1))
        changed = change(database, state, VDBE())
        assert changed.rows == {n: row._replace(sums=(*row.sums, 0.0, 0.0)) for n, row in state.rows.items()}
        database.commit(bundle(changed, plain(changed, 1, 0.5), plain(changed, 1, 0.25)))
        assert database.balanced
        row = database.load(changed).rows[1]
        assert 0 < row.sums[4] / row.sums[3] <= 1
        again = change(database, changed, VDBE(sigma=0.1))
        assert again.rows[1].sums == (*row.sums[:3], 0.0, 0.0)
        database.run(lambda c: prune(c, 0, NOON + 1))
        assert database.balanced

    def test_an_arm_without_rewards_stays_without(self, database: Database) -> None:
        state = database.create()
        database.run(lambda c: write_draw_counts(c, NODE, {(state.uid, 1): (0, 3)}, NOON))
        for policy in (VDBE(), UCB1(), EXP3()):
            assert change(database, state, policy).rows == {1: Row((), 0.0, 0, 3)}


class TestEvidenceThatIsMadeAgain:
    @pytest.mark.parametrize("half_life_s", [None, DAY])
    @pytest.mark.parametrize("policy", [ThompsonPoisson(), HURDLE, ThompsonExponential()])
    def test_is_what_the_new_policy_would_have_counted(
        self, database: Database, policy: AnyPolicy, half_life_s: float | None
    ) -> None:
        state = used(database, half_life_s=half_life_s)
        twin = used(database, experiment_id="twin", policy=policy, half_life_s=half_life_s)
        changed = change(database, state, policy)
        assert all(close(changed.rows[n], row) for n, row in twin.rows.items())
        assert all(close(a, b) for (_, a), (_, b) in zip(changed.other_rows, twin.other_rows, strict=True))
        assert pulls(changed) == pulls(state)
        assert [row.draw_count for _, row in sorted(changed.rows.items())] == [17, 23]
        assert database.balanced

    @pytest.mark.parametrize("policy", [EXP3(), EXP3IX(gamma=0.2)])
    def test_weighs_by_the_propensities_that_were_signed(self, database: Database, policy: AnyPolicy) -> None:
        state = used(database)
        twin = used(database, experiment_id="twin", policy=policy)
        changed = change(database, state, policy)
        assert all(close(changed.rows[n], row) for n, row in twin.rows.items())
        assert database.balanced

    def test_does_not_trust_the_names_of_columns(self, database: Database) -> None:
        """Poisson events over an exposure are none of an exponential's, a capped reward is not the reward."""
        changes: list[tuple[AnyPolicy, AnyPolicy]] = [
            (ThompsonPoisson(), ThompsonExponential()),
            (ThompsonRevenue(reward_cap=0.5), ThompsonGaussian()),
            (EXP3IX(gamma=0.01), EXP3IX(gamma=0.5)),
            (ThompsonRevenue(), TopTwo(model=ThompsonRevenue(reward_cap=0.3))),
        ]
        for number, (before, after) in enumerate(changes):
            state = used(database, experiment_id=f"e{number}", policy=before)
            twin = used(database, experiment_id=f"twin{number}", policy=after)
            changed = change(database, state, after)
            assert all(close(changed.rows[n], row) for n, row in twin.rows.items()), after
        assert database.balanced

    def test_counts_a_row_that_stands_for_many_as_often_as_they_were(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy(), half_life_s=DAY)
        twin = database.create("twin", policy=HURDLE, half_life_s=DAY)
        for of, repeated in ((state, True), (twin, False)):
            for reward_, count in ((7.5, 3), (0.0, 100), (2.25, 1)):
                alike = [plain(of, 1, reward_)] * count if repeated else [plain(of, 1, reward_) for _ in range(count)]
                database.commit(bundle(of, *alike))
        changed = change(database, state, HURDLE)
        assert database.count(reward, reward.c.experiment == state.uid) == 3
        assert changed.rows[1].pull_count == 104
        assert close(changed.rows[1], database.load(twin).rows[1])
        assert database.balanced

    def test_keeps_what_was_measured(self, database: Database) -> None:
        state = database.create(policy=ThompsonPoisson())
        said = [plain(state, 1, 3.0, exposure=2.5), decided(state, 1, 4.0, exposure=0.5), plain(state, 1, 1.0)]
        database.commit(bundle(state, *said))
        assert database.load(state).rows[1].sums == (3.0, 8.0, 26.0, 8.0, 4.0)
        changed = change(database, state, EpsilonGreedy())
        assert change(database, changed, ThompsonPoisson()).rows[1].sums == (3.0, 8.0, 26.0, 8.0, 4.0)
        assert database.balanced

    def test_of_twenty_thousand_rewards_is_made_a_step_at_a_time(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = used(database, rewards=6_000)
        monkeypatch.setattr(policy_change, "STEP_ROWS", 1_000)
        seen: list[int] = []

        def watched(row: Row, given: Sequence[Counted], half_life_s: float | None) -> Row:
            seen.append(len(given))
            return plus_counted(row, given, half_life_s)

        monkeypatch.setattr(policy_change, "plus_counted", watched)
        changed = change(database, state, EXP3())
        assert sum(seen) == 12_000
        assert max(seen) <= 1_000
        assert pulls(changed) == pulls(state)
        assert database.balanced

    def test_counts_deleted_arms_too_and_no_earlier_epoch(self, database: Database) -> None:
        state = used(database)
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        state = database.load(state)
        database.commit(bundle(state, decided(state, 1, 0.5, unique=1), decided(state, 2, 1.0, unique=2)))
        database.run(lambda c: experiments.change_arm(c, state.uid, "red", NOON, deleted=True))
        changed = change(database, state, EXP3())
        assert changed.rows == {1: Row((1.0, 0.5, 0.25, 1.0), NOON, 1), 2: Row((1.0, 1.0, 1.0, 2.0), NOON, 1)}
        assert changed.epoch == 1
        assert database.balanced
        database.run(lambda c: prune(c, 0, NOON + 1))  # rows of both epochs, the earlier one's of another policy
        assert database.count(reward) == 0
        assert database.balanced


class TestRefusals:
    @pytest.mark.parametrize("policy", [EXP3(), ThompsonPoisson(), HURDLE])
    def test_where_rewards_are_pruned_that_are_needed(self, database: Database, policy: AnyPolicy) -> None:
        state = used(database)
        database.run(lambda c: prune(c, 0, NOON - DAY / 2))  # by receipt: none of them yet
        database.commit(bundle(state, plain(state, key="old"), received_at=NOON - 9 * DAY))
        database.run(lambda c: prune(c, 0, NOON - DAY / 2))
        assert database.count(baseline) == 1
        before = database.load(state)
        with pytest.raises(PolicyNotChanged, match=r"removed 1 rewards of this epoch.*\"restart\": true.*epoch 1"):
            change(database, state, policy)
        assert database.load(state) == before
        assert database.balanced

    def test_but_not_where_those_pruned_are_of_an_earlier_epoch(self, database: Database) -> None:
        state = used(database)
        database.run(lambda c: prune(c, 0, NOON + 1))
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        assert change(database, state, EXP3()).rows == {}

    @pytest.mark.parametrize("wrong", [1.5, -0.25])
    def test_where_a_reward_is_out_of_the_new_range(self, database: Database, wrong: float) -> None:
        """Even where the sums could go along."""
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 0.5), plain(state, 1, wrong), plain(state, 2, 1.0)))
        for policy in (Thompson(), UCB1(), EXP3()):
            with pytest.raises(PolicyNotChanged, match=f"between 0 and 1 here; got {wrong}"):
                change(database, state, policy)
        assert change(database, state, ThompsonGaussian()).rows == database.load(state).rows

    def test_where_revenue_was_negative(self, database: Database) -> None:
        state = database.create(policy=ThompsonRevenue())
        database.commit(bundle(state, plain(state, 1, 20.0), plain(state, 1, -5.0)))
        for policy in (HURDLE, TopTwo(model=HURDLE)):
            with pytest.raises(PolicyNotChanged, match="not negative"):
                change(database, state, policy)

    def test_where_nobody_knows_whether_pruned_rewards_fit(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 0.5)))
        database.run(lambda c: prune(c, 0, NOON + 1))
        with pytest.raises(PolicyNotChanged, match="narrower"):
            change(database, state, Thompson())
        assert change(database, state, ThompsonGaussian()).rows[1].pull_count == 1

    def test_where_a_reward_came_without_the_decision_that_is_needed(self, database: Database) -> None:
        state = used(database)
        alike = plain(state)
        database.commit(bundle(state, alike, plain(state, key="k"), alike))
        with pytest.raises(PolicyNotChanged, match="3 came without a decision"):
            change(database, state, EXP3())

    def test_where_sums_would_not_be_finite(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, decided(state, 1, 1.0, unique=1, propensity=1e-320)))
        with pytest.raises(PolicyNotChanged, match="finite"):
            change(database, state, EXP3())
        assert database.balanced

    def test_what_the_experiment_asks_for_and_the_policy_cannot(self, database: Database) -> None:
        state = database.create(half_life_s=DAY)
        with pytest.raises(InvalidField, match="half_life_s: exp3 cannot forget") as caught:
            change(database, state, EXP3())
        assert caught.value.path == "policy"
        state = database.create("least", goal="minimize", reward_origin=7.0, policy=EpsilonGreedy())
        with pytest.raises(InvalidRequest) as several:
            change(database, state, EXP3IX())
        assert [fault.path for fault in several.value.as_faults()] == ["policy", "policy"]
        assert "reward_origin" in str(several.value.as_faults()[0].detail)
        assert "exp3_ix cannot minimize" in several.value.as_faults()[1].detail

    def test_what_the_arms_ask_for_and_the_policy_cannot(self, database: Database) -> None:
        arms = ["none", ArmSpec(arm_id="rich", prior=Prior(2.0, 30.0)), ArmSpec(arm_id="gone", prior=Prior(2.0, 40.0))]
        state = database.create(arms=arms, policy=EpsilonGreedy())
        database.run(lambda c: experiments.change_arm(c, state.uid, "gone", NOON, deleted=True))
        for policy, why in (
            (Thompson(), "rich.*prior.mean_reward.*0 to 1"),
            (EXP3(), "rich.*no use for an arm's prior"),
        ):
            with pytest.raises(InvalidField, match=why) as caught:
                change(database, state, policy, restart=True)
            assert caught.value.path == "policy"
        prior = GaussianPrior(mean=30.0, sd=5.0)
        assert change(database, state, ThompsonGaussian(prior=prior)).arms[2].prior == Prior(2.0, 30.0)

    def test_what_was_deleted(self, database: Database) -> None:
        state = database.create()
        database.run(lambda c: experiments.mark_deleted(c, state.uid, NOON))
        with pytest.raises(ExperimentNotFound):
            change(database, state, UCB1())


class TestRestart:
    def test_begins_an_epoch_whatever_was_there(self, database: Database) -> None:
        state = used(database)
        database.commit(bundle(state, plain(state, key="k")))
        database.run(lambda c: prune(c, 0, NOON + 1))
        database.commit(bundle(state, plain(state, key="later")))
        changed = change(database, state, EXP3(), restart=True)
        assert (changed.epoch, changed.rows, changed.other_rows) == (1, {}, [])
        assert database.balanced
        again, new = decided(changed, 1, 1.0, unique=7), plain(changed, key="later")
        assert database.commit(bundle(changed, again, new)).outcomes == [[True, False]]
        assert database.balanced

    def test_of_the_same_policy_too(self, database: Database) -> None:
        state = used(database)
        assert change(database, state, state.spec.policy, restart=True).epoch == 1


class TestHeadStarts:
    def with_late_arm(self, database: Database) -> ExperimentState:
        state = used(database, policy=EXP3())
        late = ArmSpec(arm_id="late")
        added = database.run(lambda c: experiments.add_arm(c, state.uid, late, NOON, Limits(), head_start=12.5))
        assert added.head_start == 12.5
        state = database.load(state)
        assert [a.head_start for a in state.arms.values()] == [0.0, 0.0, 12.5]
        return state

    def starts(self, database: Database, state: ExperimentState) -> list[float]:
        found = [a.head_start for a in database.load(state).arms.values()]
        column = sa.select(arm.c.head_start).where(arm.c.experiment == state.uid).order_by(arm.c.number)
        assert found == database.run(lambda c: c.scalars(column).all())
        return found

    def test_end_with_their_policy(self, database: Database) -> None:
        state = self.with_late_arm(database)
        change(database, state, EXP3(gamma=0.2))
        assert self.starts(database, state) == [0.0] * 3

    @pytest.mark.parametrize("way", ["restart", "reset"])
    def test_end_with_a_restart_or_a_reset(self, database: Database, way: str) -> None:
        state = self.with_late_arm(database)
        if way == "restart":
            change(database, state, EXP3(), restart=True)
        else:
            database.run(lambda c: experiments.reset(c, state.uid, NOON))
        assert self.starts(database, state) == [0.0] * 3

    def test_stay_where_the_policy_is_the_same_and_where_an_arm_is_switched(self, database: Database) -> None:
        state = self.with_late_arm(database)
        database.run(lambda c: experiments.change_arm(c, state.uid, "late", NOON, enabled=False))
        changed = change(database, state, EXP3(), random_share=0.25)
        assert changed.spec.random_share == 0.25
        assert changed.rows == state.rows
        assert self.starts(database, state) == [0.0, 0.0, 12.5]


class TestRandomShare:
    def test_is_as_asked_for_or_as_it_was_but_at_least_what_the_policy_asks(self, database: Database) -> None:
        state = database.create(random_share=0.02)
        assert change(database, state, ThompsonGaussian()).spec.random_share == 0.02
        assert change(database, state, UCB1()).spec.random_share == 0.05
        assert change(database, state, Thompson()).spec.random_share == 0.05
        assert change(database, state, UCB1(alpha=1.0), random_share=0.0).spec.random_share == 0.0
        assert change(database, state, UCB1(alpha=1.0)).spec.random_share == 0.05
        assert change(database, state, UCB1(alpha=1.0), random_share=0.5).spec.random_share == 0.5


def test_a_change_that_fails_on_its_way_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    state = used(database, policy=EXP3())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("pulled the plug")

    before = database.load(state)
    for step in ("touch", "forget_head_starts", "load_experiment"):
        with monkeypatch.context() as patch:
            patch.setattr(policy_change, step, fail)
            with pytest.raises(RuntimeError, match="plug"):
                change(database, state, ThompsonPoisson())
        assert database.load(state) == before
    assert database.balanced
