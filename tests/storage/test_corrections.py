"""Rewards put right or withdrawn: row, evidence and books in one transaction, on both kinds of database."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from multiarm.domain.errors import (
    DecisionRequired,
    ExperimentNotFound,
    InvalidReward,
    PolicyNotChanged,
    RewardNotFound,
    StaleEpoch,
)
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import (
    EXP3,
    KLUCB,
    UCB1,
    VDBE,
    AnyPolicy,
    EpsilonGreedy,
    Thompson,
    ThompsonExponential,
    ThompsonGaussian,
    ThompsonPoisson,
    ThompsonRevenue,
)
from multiarm.domain.records import ExperimentState, Increment
from multiarm.storage import corrections, experiments
from multiarm.storage.corrections import Corrected, correct
from multiarm.storage.engine import create_engine, migrate, sqlite_url
from multiarm.storage.policy_change import change_policy
from multiarm.storage.retention import prune
from multiarm.storage.schema import baseline, evidence, reward
from postgres import KINDS, NODE, NOON, OTHER_NODE, Database, bundle, database_of, decided, plain

HOUR = 3600.0
DAY = 86_400.0


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with database_of(request.param, tmp_path) as made:
        yield made


def corrected(
    database: Database,
    state: ExperimentState,
    key: str,
    after: float | None,
    *,
    node: int = NODE,
    now: float = NOON,
    limit_rewards: int = 1_000,
) -> Corrected | None:
    work = partial(correct, uid=state.uid, key=key, after=after, node=node, now=now, limit_rewards=limit_rewards)
    return database.run(work)


def totals(database: Database, state: ExperimentState, arm: int = 1) -> tuple[int, list[float]]:
    """(pulls, sums at noon) of an arm over all nodes, as memory sees them."""
    experiment = Experiment(spec=state.spec)
    experiment.load(database.load(state))
    snapshot = experiment.snapshot(NOON)
    position = [a.number for a in snapshot.arms].index(arm)
    return int(snapshot.evidence.pull_count[position]), snapshot.evidence.sums[position].tolist()


class TestWhatItAdds:
    def test_the_new_reward_stands_where_the_old_one_did(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 3.0, key="a"), plain(state, 1, 5.0, key="b")))
        done = corrected(database, state, "k:a", 4.0)
        assert done is not None
        assert (done.before, done.after, done.epoch) == (3.0, 4.0, 0)
        assert done.row.sums == (2.0, 9.0, 41.0)
        assert done.row == database.load(state).rows[1]
        assert done.row.pull_count == 2
        assert database.balanced

    def test_null_takes_a_pull_away_and_keeps_the_key(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        one, other = plain(state, 1, 3.0, key="a"), plain(state, 1, 5.0, key="b")
        database.commit(bundle(state, one, other))
        corrected(database, state, "k:a", None)
        assert totals(database, state) == (1, [1.0, 5.0, 25.0])
        assert database.commit(bundle(state, one)).outcomes == [[False]]
        assert totals(database, state) == (1, [1.0, 5.0, 25.0])
        assert database.balanced

    def test_one_that_was_withdrawn_can_come_back(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, decided(state, 2, 3.0, unique=7)))
        key = decided(state, unique=7).key or ""
        corrected(database, state, key, None)
        assert totals(database, state, 2) == (0, [0.0, 0.0, 0.0])
        done = corrected(database, state, key, 2.0)
        assert done is not None
        assert (done.before, done.after) == (None, 2.0)
        assert totals(database, state, 2) == (1, [1.0, 2.0, 4.0])
        assert database.balanced

    @pytest.mark.parametrize("after", [3.0, None])
    def test_the_same_again_changes_nothing(self, database: Database, after: float | None) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 2.0, key="a")))
        assert corrected(database, state, "k:a", after) is not None
        before = database.load(state).rows
        assert corrected(database, state, "k:a", after) is None
        assert database.load(state).rows == before

    def test_it_counts_at_its_own_time(self, database: Database) -> None:
        """Half-lives later the old reward weighs an eighth, and so does what replaces it."""
        state = database.create(policy=EpsilonGreedy(), half_life_s=HOUR)
        database.commit(bundle(state, plain(state, 1, 8.0, key="a", time=NOON - 3 * HOUR), plain(state, 1, 2.0)))
        corrected(database, state, "k:a", 16.0)
        assert totals(database, state) == (2, [1.125, 4.0, 36.0])
        corrected(database, state, "k:a", None)
        assert totals(database, state) == (1, [1.0, 2.0, 4.0])
        assert database.balanced

    def test_it_has_the_propensity_of_its_decision(self, database: Database) -> None:
        state = database.create(policy=EXP3())
        database.commit(bundle(state, decided(state, 1, 0.5, unique=1, propensity=0.25)))
        corrected(database, state, decided(state, unique=1).key or "", 1.0)
        assert totals(database, state) == (1, [1.0, 1.0, 1.0, 4.0])

    def test_it_has_the_measures_that_came_with_it(self, database: Database) -> None:
        poisson = database.create("poisson", policy=ThompsonPoisson())
        database.commit(bundle(poisson, plain(poisson, 1, 3.0, key="a", exposure=4.0)))
        corrected(database, poisson, "k:a", 5.0)
        assert totals(database, poisson) == (1, [1.0, 5.0, 25.0, 5.0, 4.0])
        waits = database.create("waits", policy=ThompsonExponential())
        database.commit(bundle(waits, plain(waits, 1, 3.0, key="a", events=0)))
        corrected(database, waits, "k:a", 5.0)
        assert totals(database, waits) == (1, [1.0, 5.0, 25.0, 0.0, 5.0])
        assert database.balanced

    def test_a_cap_holds_for_it_too(self, database: Database) -> None:
        state = database.create(policy=ThompsonRevenue(reward_cap=10.0))
        database.commit(bundle(state, plain(state, 1, 4.0, key="a")))
        done = corrected(database, state, "k:a", 1000.0)
        assert done is not None
        assert (done.increment.reward, done.row.sums) == (1000.0, (1.0, 10.0, 100.0))
        assert database.balanced

    def test_columns_of_a_path_are_left_as_they_are(self, database: Database) -> None:
        state = database.create(policy=VDBE())
        database.commit(bundle(state, plain(state, 1, 4.0, key="a"), plain(state, 1, 2.0, key="b")))
        before = database.load(state).rows[1].sums
        for after in (1.0, None):
            corrected(database, state, "k:a", after)
        sums = database.load(state).rows[1].sums
        assert (sums[:3], sums[3:]) == ((1.0, 2.0, 4.0), before[3:])
        assert database.balanced

    def test_an_arm_that_was_deleted_is_put_right_all_the_same(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 4.0, key="a")))
        database.run(lambda c: experiments.change_arm(c, state.uid, "red", NOON, deleted=True))
        assert corrected(database, state, "k:a", 1.0) is not None
        assert database.load(state).rows[1].sums == (1.0, 1.0, 1.0)
        assert database.balanced

    def test_draw_counts_and_the_other_arms_stay(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 4.0, key="a"), plain(state, 2, 5.0)))
        database.run(lambda c: c.execute(sa.update(evidence).values(draw_count=9)))
        other = database.load(state).rows[2]
        corrected(database, state, "k:a", 1.0)
        rows = database.load(state).rows
        assert (rows[1].draw_count, rows[2]) == (9, other)


class TestManyNodes:
    def test_a_node_corrects_what_another_counted_in_its_own_row(self, database: Database) -> None:
        state = database.create(policy=VDBE())
        database.commit(bundle(state, plain(state, 1, 4.0, key="a")), node=OTHER_NODE)
        theirs = database.load(state, OTHER_NODE).rows[1]
        done = corrected(database, state, "k:a", None)
        assert done is not None
        assert (done.row.sums[:3], done.row.pull_count) == ((-1.0, -4.0, -16.0), -1)
        assert database.load(state, OTHER_NODE).rows[1] == theirs
        assert totals(database, state) == (0, [0.0] * 5)
        assert database.balanced
        database.commit(bundle(state, plain(state, 1, 4.0)))  # the row that it meets is below zero
        assert totals(database, state)[0] == 1

    def test_an_arm_whose_rewards_are_all_withdrawn_is_as_new(self, database: Database) -> None:
        """Although two rows that were decayed differently do not sum to 0."""
        state = database.create(policy=UCB1(), half_life_s=977.0)
        for node, time in ((OTHER_NODE, NOON - 5003), (NODE, NOON - 4001), (OTHER_NODE, NOON)):
            key = f"{node}{time}"
            database.commit(bundle(state, plain(state, 1, 0.3, key=key, time=time)), node=node)
        for key in database.run(lambda c: list(c.scalars(sa.select(reward.c.key)))):
            corrected(database, state, key, None)
        assert totals(database, state) == (0, [0.0, 0.0, 0.0])
        assert database.balanced
        experiment = Experiment(spec=state.spec)
        experiment.load(database.load(state))
        assert experiment.snapshot(NOON).allocate().probabilities == pytest.approx([0.5, 0.5])


class TestRefusals:
    def test_what_was_never_rewarded_is_not_found(self, database: Database) -> None:
        state, other = database.create(), database.create("other")
        database.commit(bundle(other, plain(other, key="a")))
        with pytest.raises(RewardNotFound, match="reward_retention_days"):
            corrected(database, state, "k:a", 1.0)

    def test_an_experiment_that_is_gone(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, key="a")))
        database.run(lambda c: experiments.mark_deleted(c, state.uid, NOON))
        with pytest.raises(ExperimentNotFound):
            corrected(database, state, "k:a", 0.0)

    def test_a_reward_from_before_a_reset(self, database: Database) -> None:
        state = database.create()
        database.commit(bundle(state, plain(state, key="a")))
        database.run(lambda c: experiments.reset(c, state.uid, NOON))
        with pytest.raises(StaleEpoch):
            corrected(database, state, "k:a", 0.0)

    @pytest.mark.parametrize("after", [1.5, -0.1, float("nan"), float("inf")])
    def test_a_reward_that_the_policy_does_not_take(self, database: Database, after: float) -> None:
        state = database.create(policy=Thompson())
        database.commit(bundle(state, plain(state, key="a")))
        before = database.load(state).rows
        with pytest.raises(InvalidReward):
            corrected(database, state, "k:a", after)
        assert database.load(state).rows == before
        assert database.run(lambda c: c.scalar(sa.select(reward.c.reward))) == 1.0

    def test_sums_that_would_not_be_finite(self, database: Database) -> None:
        state = database.create(policy=EXP3())
        database.commit(bundle(state, decided(state, 1, 0.0, unique=1, propensity=1e-310)))
        before = database.load(state).rows
        with pytest.raises(InvalidReward, match="finite"):
            corrected(database, state, decided(state, unique=1).key or "", 1.0)
        assert database.load(state).rows == before
        assert database.count(reward, reward.c.reward == 0.0) == 1

    def test_a_withdrawn_one_that_the_policy_could_not_weigh(self, database: Database) -> None:
        state = database.create(policy=Thompson())
        database.commit(bundle(state, plain(state, key="a")))
        corrected(database, state, "k:a", None)
        policy_to(database, state, EXP3())
        with pytest.raises(DecisionRequired):
            corrected(database, state, "k:a", 1.0)
        assert corrected(database, state, "k:a", None) is None


def policy_to(database: Database, state: ExperimentState, policy: AnyPolicy) -> ExperimentState:
    work = partial(change_policy, uid=state.uid, policy=policy, random_share=None, restart=False, node=NODE, now=NOON)
    return database.run(work)


class TestBooks:
    def test_pruned_rewards_are_gone_and_withdrawn_ones_leave_nothing(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        request = bundle(state, plain(state, 1, 2.0, key="a"), plain(state, 1, 3.0, key="b"), received_at=NOON - DAY)
        database.commit(request)
        corrected(database, state, "k:a", None)
        assert database.run(partial(prune, after_number=0, before=NOON)).deleted_count == 2
        assert database.balanced
        assert database.run(lambda c: c.scalar(sa.select(baseline.c.pull_count))) == 1
        with pytest.raises(RewardNotFound):
            corrected(database, state, "k:b", None)

    def test_retention_goes_by_the_receipt_of_the_reward(self, database: Database) -> None:
        """Not by that of its correction, or a decision's row would outlive what the decision may still do."""
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, plain(state, 1, 2.0, key="a"), received_at=NOON - DAY))
        corrected(database, state, "k:a", 5.0)
        assert database.run(partial(prune, after_number=0, before=NOON)).deleted_count == 1
        assert database.balanced

    @pytest.mark.parametrize("after", [1.0, None])
    @pytest.mark.parametrize("typo", [1e4, 1e6, 1e9, 1e12])
    @pytest.mark.parametrize("half_life_s", [None, 613.0])
    @pytest.mark.parametrize("node", [NODE, OTHER_NODE])
    def test_a_huge_reward_leaves_no_trace(
        self, database: Database, typo: float, after: float | None, half_life_s: float | None, node: int
    ) -> None:
        """1e9, squared, swallows what the others said of reward²: they are added up again, pruned ones too."""
        twins = [database.create(name, policy=VDBE(), half_life_s=half_life_s) for name in ("wrong", "right")]
        for state, first in zip(twins, (typo, after), strict=True):
            few = [plain(state, 1, 0.1 * index, time=NOON - index) for index in range(100)]
            database.commit(bundle(state, *few[:30], received_at=NOON - 2 * DAY))
            if first is not None:
                database.commit(bundle(state, plain(state, 1, first, key="typo", time=NOON - 300)))
            database.commit(bundle(state, *few[30:60], plain(state, 2, 7.0)), node=OTHER_NODE)
            database.commit(bundle(state, *few[60:]))
        database.run(lambda c: c.execute(sa.update(evidence).values(draw_count=321)))
        assert database.run(partial(prune, after_number=0, before=NOON - DAY)).deleted_count == 60
        path = database.load(twins[0]).rows[1].sums[3:]
        done = corrected(database, twins[0], "k:typo", after, node=node)
        assert done is not None
        (pulls, sums), (other_pulls, other_sums) = (totals(database, state) for state in twins)
        assert pulls == other_pulls == 100 + (after is not None)
        assert sums[:3] == pytest.approx(other_sums[:3], rel=1e-9)
        assert database.load(twins[0]).rows[1].sums[3:] == path
        assert database.load(twins[0]).rows[1].draw_count == 321
        assert database.load(twins[0], node).rows[1] == done.row
        assert database.balanced
        assert database.run(partial(prune, after_number=0, before=NOON + DAY)).deleted_count > 0
        assert database.balanced

    @pytest.mark.parametrize("wrong", [[1e10, 1e9, 1e8, 1e7, 1e6, 1e5, 1e4, 1e3], [1e8, 1e10, 1e4, 1e6]], ids=str)
    @pytest.mark.parametrize("by_steps", [False, True])
    def test_neither_do_many_that_are_put_right_one_after_the_other(
        self, database: Database, wrong: list[float], by_steps: bool
    ) -> None:
        """In steps one reward goes through them all; or each is another reward in the wrong unit."""
        state = database.create(policy=ThompsonGaussian())
        few = [plain(state, 1, 1 + 0.01 * index) for index in range(50)]
        database.commit(bundle(state, *few[:25]))
        if by_steps:
            database.commit(bundle(state, plain(state, 1, wrong[0], key="0")))
            for value in [*wrong[1:], 1.0]:
                corrected(database, state, "k:0", value)
        else:
            database.commit(bundle(state, *(plain(state, 1, value, key=f"{i}") for i, value in enumerate(wrong))))
            for index in range(len(wrong)):
                corrected(database, state, f"k:{index}", 1.0)
        database.commit(bundle(state, *few[25:]))
        right = [1 + 0.01 * index for index in range(50)] + [1.0] * (1 if by_steps else len(wrong))
        assert totals(database, state)[1] == pytest.approx(
            [len(right), sum(right), sum(r * r for r in right)], rel=1e-9
        )
        assert database.balanced

    def test_a_huge_exposure_and_a_reward_huge_beside_tiny_ones(self, database: Database) -> None:
        state = database.create("rates", policy=ThompsonPoisson())
        database.commit(bundle(state, *(plain(state, 1, 1.0, exposure=0.0005) for _ in range(10))))
        database.commit(bundle(state, plain(state, 1, 1.0, key="typo", exposure=1e12)))
        corrected(database, state, "k:typo", None)
        assert totals(database, state)[1] == pytest.approx([10, 10, 10, 10, 0.005], rel=1e-9)
        state = database.create("tiny", policy=ThompsonGaussian())
        database.commit(bundle(state, *(plain(state, 1, 1e-8 * (1 + index)) for index in range(10))))
        database.commit(bundle(state, plain(state, 1, 1.0, key="typo")))
        corrected(database, state, "k:typo", None)
        assert totals(database, state)[1] == pytest.approx([10, 55e-8, 385e-16], rel=1e-9)
        assert database.balanced

    def test_nothing_is_added_up_again_where_nothing_was_lost_or_the_rewards_are_too_many(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        zeros, ones = (database.create(name, policy=policy) for name, policy in (("a", UCB1()), ("b", Thompson())))
        revenue, many = (database.create(name, policy=ThompsonRevenue()) for name in ("c", "d"))
        for state in (zeros, ones, revenue):
            database.commit(bundle(state, *(plain(state, 1, 0.0) for _ in range(20)), plain(state, 1, 1.0, key="a")))
        database.commit(bundle(many, plain(many, 1, 2.0), plain(many, 1, 1e9, key="a")))
        monkeypatch.setattr(corrections, "replay", None)
        for state in (zeros, ones, revenue):
            corrected(database, state, "k:a", 0.0)
            assert totals(database, state)[1][:3] == [21, 0, 0]
        assert corrected(database, many, "k:a", 3.0, limit_rewards=1) is not None
        assert database.balanced

    def test_what_the_check_takes_for_rounding_does_not_grow_with_a_huge_reward(self, database: Database) -> None:
        state = database.create(policy=ThompsonGaussian())
        database.commit(bundle(state, *(plain(state, 1, 1.0, key=f"{index}") for index in range(10))))
        database.commit(bundle(state, plain(state, 1, 1e9, key="typo")))
        corrected(database, state, "k:typo", 1.0)
        row = database.load(state).rows[1]
        assert row.sums == (11.0, 11.0, 11.0)
        wrong = f"[{row.sums[0]}, {row.sums[1]}, {row.sums[2] + 1e-6}]"
        database.run(lambda c: c.execute(sa.update(evidence).values(sums=wrong)))
        assert not database.balanced

    def test_other_wrong_sums_are_found_all_the_same(self, database: Database) -> None:
        state = database.create(policy=EpsilonGreedy())
        database.commit(bundle(state, *(plain(state, 1, 1.0, key=f"{index}") for index in range(10))))
        for index in range(5):
            corrected(database, state, f"k:{index}", 0.5)
        row = database.load(state).rows[1]
        wrong = f"[{row.sums[0]}, {row.sums[1] + 1e-6}, {row.sums[2]}]"
        database.run(lambda c: c.execute(sa.update(evidence).values(sums=wrong)))
        assert not database.balanced

    def test_a_policy_with_other_sums_gets_them_without_what_was_withdrawn(self, database: Database) -> None:
        state = database.create(policy=Thompson())
        database.commit(
            bundle(state, *(decided(state, 1, 1.0, unique=unique, propensity=0.5) for unique in (1, 2))),
            bundle(state, plain(state, 1, 1.0, key="plain")),
        )
        for key in ("k:plain", decided(state, unique=1).key or ""):
            corrected(database, state, key, None, node=OTHER_NODE)
        state = policy_to(database, state, EXP3())
        assert totals(database, state) == (1, [1.0, 1.0, 1.0, 2.0])
        assert database.balanced

    @pytest.mark.parametrize("half_life_s", [None, 613.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_they_balance_whatever_happens(self, database: Database, half_life_s: float | None, seed: int) -> None:
        walk = Walk(database, random.Random(f"{seed}{half_life_s}"), half_life_s)
        for _ in range(120):
            walk.step()
        assert database.balanced
        walk.compare()


class Walk:
    """Updates, corrections, withdrawals, prunings and changes of policy in any order; `standing`: what should count."""

    POLICIES: tuple[AnyPolicy, ...] = (Thompson(), KLUCB(), EXP3(), VDBE(), EpsilonGreedy(), ThompsonPoisson())

    def __init__(self, database: Database, rng: random.Random, half_life_s: float | None) -> None:
        self.database, self.rng = database, rng
        self.state = database.create(policy=Thompson(), half_life_s=half_life_s)
        self.now = NOON
        self.standing: dict[str, float | None] = {}
        self.pruned_count = 0

    def step(self) -> None:
        self.now += self.rng.expovariate(1 / 200)
        steps = (self.update, self.correct, self.withdraw, self.prune, self.change_policy)
        self.rng.choices(steps, weights=(8, 6, 3, 0.4, 1))[0]()

    def update(self) -> None:
        increments: list[Increment] = []
        for _ in range(self.rng.randint(1, 4)):
            unique = len(self.standing) + 1 + len(increments)
            time = self.now - self.rng.choice((0, 50, 5000))
            propensity = self.rng.uniform(0.01, 1)
            arm, value = self.rng.choice((1, 2)), self.rng.choice((0.0, 1.0, self.rng.random()))
            increments.append(decided(self.state, arm, value, unique=unique, issued_at=time, propensity=propensity))
        self.standing.update({increment.key or "": increment.reward for increment in increments})
        request = bundle(self.state, *increments, received_at=self.now)
        self.database.commit(request, node=self.rng.choice((NODE, OTHER_NODE)))

    def correct(self) -> None:
        self.put(self.rng.choice((0.0, 1.0, self.rng.random())))

    def withdraw(self) -> None:
        self.put(None)

    def put(self, after: float | None) -> None:
        if not self.standing:
            return
        key = self.rng.choice(list(self.standing))
        node = self.rng.choice((NODE, OTHER_NODE))
        try:
            done = corrected(self.database, self.state, key, after, node=node, now=self.now)
        except RewardNotFound:
            return
        assert (done is not None) == (self.standing[key] != after)
        self.standing[key] = after

    def prune(self) -> None:
        self.database.run(partial(prune, after_number=0, before=self.now - 3000))

    def change_policy(self) -> None:
        policy = self.rng.choice([p for p in self.POLICIES if p.traits.can_forget or not self.state.spec.half_life_s])
        try:
            self.state = policy_to(self.database, self.state, policy)
        except PolicyNotChanged:
            return
        assert self.database.balanced

    def compare(self) -> None:
        """Pulls exactly; without a half-life the rewards too."""
        counts = [value for value in self.standing.values() if value is not None]
        seen = [totals(self.database, self.state, arm) for arm in (1, 2)]
        assert sum(pulls for pulls, _ in seen) == len(counts)
        if self.state.spec.half_life_s is None:
            assert sum(sums[1] for _, sums in seen) == pytest.approx(sum(counts), abs=1e-9)


def test_databases_of_the_version_before_are_brought_up_to_date(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "multiarm:storage/migrations")
    engine = create_engine(sqlite_url(tmp_path / "old.db"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with connection.begin():
            command.upgrade(config, "0003")
            connection.exec_driver_sql(
                "INSERT INTO reward (experiment, arm, epoch, evidence_time, received_at, reward, node)"
                " VALUES (1, 1, 0, 0, 0, 1, 1)"
            )
        migrate(connection)
        with connection.begin():
            assert connection.execute(sa.select(reward.c.reward, reward.c.withdrawn_at)).all() == [(1.0, None)]
    engine.dispose()
