"""Laws that every policy keeps. A new policy joins by a line in POLICIES."""

import copy
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from all_policies import POLICIES
from multiarm import Experiment, ExperimentSpec, Update
from multiarm.domain.arm import Arm, Prior
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.policies import (
    AnyPolicy,
    Observation,
    Observations,
    PseudoCounts,
    Situation,
    Thompson,
)
from multiarm.domain.snapshot import Snapshot

every_policy = pytest.mark.parametrize("policy", POLICIES, ids=str)
law = settings(deadline=None, derandomize=True, max_examples=20)

LEAST_P = 1e-4  # all randomness is seeded: a test that passes once passes always
DRAW_COUNT = 40_000
SAMPLE_COUNT = 20_000

Counts = tuple[float, float]  # pulls, mean reward in [0, 1]
counts = st.tuples(
    st.one_of(st.just(0.0), st.floats(0.1, 1e8)), st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
)
shares = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


def evidence_of(policy: AnyPolicy, arms: Sequence[Counts]) -> Evidence:
    return Evidence.from_rows([row_of(policy, *arm) for arm in arms], columns=len(policy.traits.columns))


def row_of(policy: AnyPolicy, pulls: float, mean: float) -> Row:
    """Such a row as rewards in [0, 1] might give."""
    positives, logarithm = pulls / 2, math.log(mean + 0.01)
    sums = {
        "effective_pulls": pulls,
        "reward": pulls * mean,
        "reward2": pulls * mean * (1 + mean) / 2,
        "events": pulls / 2,
        "exposure": pulls * (0.1 + mean),
        "weighted_reward": 3 * pulls * mean,
        "weighted_loss": 3 * pulls * (1 - mean),
        "positives": positives,
        "logs": positives * logarithm,
        "squared_logs": positives * (logarithm * logarithm + 0.3),
        "surprises": pulls,
        "surprise_weighted": pulls * mean,
    }
    return Row(tuple(sums[column] for column in policy.traits.columns), 0.0, int(pulls))


def experiment_of(
    policy: AnyPolicy, arms: Sequence[Counts], disabled: frozenset[int] = frozenset(), **spec: Any
) -> Experiment:
    """Arms 0, 1, 2 … with this evidence; every second one has a prior of its own."""
    experiment = Experiment(spec=ExperimentSpec(policy=policy, **spec))
    for number, arm in enumerate(arms):
        prior = Prior(pulls=2.0, mean_reward=0.5) if number % 2 and policy.traits.takes_prior else None
        experiment.put_arm(Arm(number, f"arm-{number}", prior=prior, enabled=number not in disabled))
        experiment.show({number: row_of(policy, *arm)})
    return experiment


def test_every_policy_of_the_union_is_under_these_laws() -> None:
    assert {type(policy) for policy in POLICIES} == set(get_args(AnyPolicy))


@every_policy
class TestProbabilities:
    @law
    @given(arms=st.lists(counts, min_size=1, max_size=6), with_prior=st.booleans(), minimize=st.booleans())
    def test_sum_to_one_and_are_never_negative(
        self, policy: AnyPolicy, arms: list[Counts], with_prior: bool, minimize: bool
    ) -> None:
        prior = PseudoCounts(np.arange(len(arms), dtype=np.float64), np.linspace(0, 1, len(arms)))
        situation = Situation(prior=prior if with_prior else None, minimize=minimize and policy.traits.can_minimize)
        probabilities = policy.allocate(evidence_of(policy, arms), situation)
        assert probabilities.shape == (len(arms),)
        assert probabilities.min() >= 0
        assert abs(math.fsum(probabilities.tolist()) - 1) <= 1e-12

    @law
    @given(arms=st.lists(counts, min_size=1, max_size=5), share=shares, of_room=shares)
    def test_still_do_after_the_guardrails(
        self, policy: AnyPolicy, arms: list[Counts], share: float, of_room: float
    ) -> None:
        floor = of_room / len(arms)
        allocation = experiment_of(policy, arms, random_share=share, floor=floor).snapshot(0.0).allocate()
        assert min(allocation.probabilities) >= floor
        assert abs(math.fsum(allocation.probabilities) - 1) <= 1e-12

    @law
    @given(arms=st.lists(counts, min_size=2, max_size=5), seed=st.integers(0, 2**32))
    def test_go_with_the_arm_and_not_with_its_place(self, policy: AnyPolicy, arms: list[Counts], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(arms))
        straight = policy.allocate(evidence_of(policy, arms))
        turned = policy.allocate(evidence_of(policy, [arms[i] for i in order]))
        assert turned == pytest.approx(straight[order], abs=1e-9)

    def test_broadcast_over_leading_dimensions(self, policy: AnyPolicy) -> None:
        rng = np.random.default_rng(1)
        arms = [[(float(n), m) for n, m in zip(rng.integers(0, 50, 4), rng.random(4), strict=True)] for _ in range(6)]
        single = [evidence_of(policy, each) for each in arms]
        many = Evidence(
            np.array([e.sums for e in single]).reshape(2, 3, 4, -1),
            np.zeros((2, 3, 4)),
            np.array([e.pull_count for e in single]).reshape(2, 3, 4),
        )
        together = policy.allocate(many)
        assert together.shape == (2, 3, 4)
        assert policy.sample(many, rng).shape == (2, 3)
        for one, probabilities in zip(single, together.reshape(6, 4), strict=True):
            assert probabilities == pytest.approx(policy.allocate(one), abs=1e-10)


@every_policy
class TestReadingChangesNothing:
    @law
    @given(arms=st.lists(counts, min_size=1, max_size=5))
    def test_allocate_sample_and_the_statistics_leave_the_evidence(self, policy: AnyPolicy, arms: list[Counts]) -> None:
        evidence = evidence_of(policy, arms)
        before = copy.deepcopy(evidence)
        for array in (evidence.sums, evidence.as_of, evidence.pull_count):
            array.flags.writeable = False
        first = policy.allocate(evidence).tolist()
        policy.sample(evidence, np.random.default_rng(0))
        policy.probability_best(evidence)
        policy.interval(evidence)
        assert evidence.sums.tobytes() == before.sums.tobytes()
        assert evidence.as_of.tobytes() == before.as_of.tobytes()
        assert evidence.pull_count.tobytes() == before.pull_count.tobytes()
        assert policy.allocate(evidence).tolist() == first

    def test_a_draw_counts_itself_and_leaves_the_state(self, policy: AnyPolicy) -> None:
        experiment = experiment_of(policy, [(4.0, 0.5), (9.0, 0.25), (0.0, 0.0)], half_life_s=3600.0)
        before, version = copy.deepcopy(experiment.state), experiment.version
        rng = random.Random(0)
        for now in range(0, 10_000, 100):
            experiment.draw(float(now), rng)
            experiment.snapshot(float(now)).statistics()
        assert experiment.state == before
        assert experiment.version == version
        assert experiment.draw_count == 100


@every_policy
@law
@given(arms=st.lists(counts, min_size=2, max_size=6), data=st.data())
def test_a_disabled_arm_gets_nothing_and_is_never_drawn(
    policy: AnyPolicy, arms: list[Counts], data: st.DataObject
) -> None:
    disabled = data.draw(st.frozensets(st.integers(0, len(arms) - 1), min_size=1, max_size=len(arms) - 1))
    experiment = experiment_of(policy, arms, disabled, random_share=0.3, floor=0.1)
    statistics = experiment.snapshot(0.0).statistics()
    assert {n for n in range(len(arms)) if statistics[f"arm-{n}"].share == 0.0} >= disabled
    assert math.fsum(s.share or 0.0 for s in statistics.values()) == pytest.approx(1, abs=1e-12)
    rng = random.Random(3)
    drawn = {experiment.draw(0.0, rng).arm.number for _ in range(50)}
    assert drawn.isdisjoint(disabled)


ARMS = [(40.0, 0.5), (30.0, 0.45), (50.0, 0.4), (0.0, 0.0), (90.0, 0.9)]
GUARDRAILS = [{}, {"random_share": 0.25, "floor": 0.05}]


@every_policy
class TestChance:
    @pytest.mark.parametrize("guardrails", GUARDRAILS, ids=str)
    def test_stated_propensities_are_the_frequencies_seen(
        self, policy: AnyPolicy, guardrails: dict[str, float]
    ) -> None:
        experiment = experiment_of(policy, ARMS, frozenset({4}), **guardrails)
        if experiment.pending is not None:  # else each draw has propensities of its own
            experiment.adopt(experiment.snapshot(0.0).allocate())
            experiment.pending = None
        rng = random.Random(12)
        decisions = [experiment.draw(0.0, rng) for _ in range(DRAW_COUNT)]
        stated = {decision.arm.number: decision.propensity for decision in decisions}
        assert {(d.arm.number, d.propensity) for d in decisions} == set(stated.items())
        seen = Counter(decision.arm.number for decision in decisions)
        assert fits(seen, stated)

        share = guardrails.get("random_share", 0.0) * (1 - 4 * guardrails.get("floor", 0.0))
        marked = Counter(decision.arm.number for decision in decisions if decision.random)
        if share == 0:
            assert not marked
        else:
            assert stats.binomtest(marked.total(), DRAW_COUNT, share).pvalue > LEAST_P
            assert fits(marked, dict.fromkeys(range(4), 0.25))

    def test_sample_draws_from_the_distribution_that_allocate_states(self, policy: AnyPolicy) -> None:
        for arms in ([(3.0, 1 / 3), (4.0, 0.5), (0.0, 0.0)], [(2.0, 0.5), (6.0, 0.5), (4.0, 0.5), (1.0, 1.0)]):
            evidence = evidence_of(policy, arms)
            shape = (SAMPLE_COUNT // 10 if policy.traits.takes_pending else SAMPLE_COUNT, len(arms))
            many = Evidence(
                np.broadcast_to(evidence.sums, (*shape, len(policy.traits.columns))),
                np.broadcast_to(evidence.as_of, shape),
                np.broadcast_to(evidence.pull_count, shape),
            )
            for prior in (None, PseudoCounts(np.array([1e-3, 2.0, 0.5, 1.0])[: len(arms)], np.full(len(arms), 0.5))):
                situation = Situation(prior=prior)
                sampled = Counter(policy.sample(many, np.random.default_rng(4), situation).tolist())
                assert fits(sampled, dict(enumerate(policy.allocate(evidence, situation).tolist())))


def fits(seen: Counter[int], probability: dict[int, float]) -> bool:
    """Chi-squared; what is all but impossible must not have been seen at all."""
    likely = {number: p for number, p in probability.items() if p > 1e-4}
    if set(seen) - set(likely) or not math.isclose(math.fsum(likely.values()), 1, rel_tol=1e-9):
        return False
    total = math.fsum(likely.values())
    expected = [seen.total() * p / total for p in likely.values()]
    return bool(len(likely) == 1 or stats.chisquare([seen[n] for n in likely], expected).pvalue > LEAST_P)


@every_policy
@pytest.mark.parametrize("half_life_s", [None, 60.0, 86_400.0])
@law
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_any_order_and_any_grouping_of_updates_gives_the_same_evidence(
    policy: AnyPolicy, half_life_s: float | None, data: st.DataObject, seed: int
) -> None:
    origin = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    traits = policy.traits
    reward = st.one_of(st.floats(0, 1), st.floats(traits.reward_min, traits.reward_max))
    seen = st.builds(
        Observation,
        reward,
        st.just(origin),
        st.floats(0, 86_400),
        st.floats(1e-3, 1.0),
        st.floats(1e-3, 1e3),
        st.sampled_from([0.0, 1.0, 5.0]),
    )
    observations = data.draw(st.lists(seen, min_size=1, max_size=25))
    in_order = len(traits.columns) - traits.path_columns
    increments = [(policy.increment(o)[:in_order], 1.7e9 + o.time) for o in observations]

    latest = max(time for _, time in increments)
    weights = [1.0 if half_life_s is None else 2.0 ** ((time - latest) / half_life_s) for _, time in increments]
    columns = list(zip(*(numbers for numbers, _ in increments), strict=True))
    expected = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in columns]
    allowed = [1e-12 * math.fsum(map(abs, column)) for column in columns]

    rng = random.Random(seed)
    rng.shuffle(increments)
    cuts = sorted(rng.sample(range(1, len(increments)), rng.randint(0, len(increments) - 1)))
    groups = [increments[start:end] for start, end in itertools.pairwise([0, *cuts, len(increments)])]
    in_turn = Row()
    for group in groups:
        in_turn = in_turn.plus(group, half_life_s)
    apart = [Row().plus(group, half_life_s) for group in groups]
    nodes = [Evidence.from_rows([row], columns=in_order, origin=origin, half_life_s=half_life_s) for row in apart]
    rng.shuffle(nodes)
    summed = nodes[0]
    for node in nodes[1:]:
        summed = summed + node

    assert in_turn.pull_count == summed.pull_count[0] == len(observations)
    assert in_turn.as_of == summed.as_of[0] == latest
    for sums in (in_turn.sums, summed.sums[0].tolist()):
        gaps = [abs(value - wanted) for value, wanted in zip(sums, expected, strict=True)]
        assert all(gap <= most for gap, most in zip(gaps, allowed, strict=True)), (gaps, allowed)


@every_policy
def test_many_rewards_at_once_add_what_each_adds(policy: AnyPolicy) -> None:
    rng = np.random.default_rng(7)
    rewards = np.concatenate([[0.0, 1.0], rng.random(20)])
    events = rng.integers(0, 3, 22).astype(np.float64)
    many = Observations(rewards, rng.uniform(0.01, 1, 22), rng.uniform(0.1, 9, 22), events)
    rows = [row_of(policy, pulls, 0.3).sums for pulls in (0.0, 0.25, 12.0)] * 8
    rows = rows[:22]
    singly = [
        policy.completed(policy.increment(Observation(r, 0.0, 0.0, p, x, e)), row, 4)
        for (r, p, x, e), row in zip(zip(*(column.tolist() for column in many), strict=True), rows, strict=True)
    ]
    assert policy.completed_many(policy.increments(many), np.array(rows), 4) == pytest.approx(np.array(singly))
    assert all(type(number) is float for increment in singly for number in increment)


@every_policy
def test_a_policy_comes_back_from_json_and_says_its_type(policy: AnyPolicy) -> None:
    document = msgspec.json.encode(policy)
    assert msgspec.json.decode(document)["type"] == policy.__struct_config__.tag
    back: AnyPolicy = msgspec.json.decode(document, type=AnyPolicy)
    assert back == policy


def test_a_snapshot_is_not_moved_by_what_comes_after_it() -> None:
    experiment = experiment_of(Thompson(), [(4.0, 0.5), (9.0, 0.25)])
    snapshot: Snapshot = experiment.snapshot(0.0)
    before = snapshot.allocate()
    experiment.update(Update(reward=1.0, arm_id="arm-0"), now=0.0)
    experiment.put_arm(Arm(7, "new"))
    assert snapshot.allocate() == before
