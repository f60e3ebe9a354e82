"""A reward that is refused leaves everything as it was, and says why."""

import copy
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from decisions import decision_id
from multiarm import DecisionSigner, Experiment, ExperimentSpec, Update
from multiarm.domain.arm import Arm
from multiarm.domain.errors import (
    ArmNotFound,
    DecisionExpired,
    DecisionRequired,
    InvalidDecision,
    InvalidField,
    InvalidReward,
    InvalidTimestamp,
    StaleEpoch,
)
from multiarm.domain.policies import AnyPolicy, EpsilonGreedy, Thompson
from multiarm.domain.records import ExperimentState, ForeignDecision

NOW = 1.7e9
LIFETIME_S = 3600.0
UID = -77
KEYS = {1: bytes(range(32))}
NAN, INF = float("nan"), float("inf")
EVERY: list[AnyPolicy] = [kind() for kind in get_args(AnyPolicy)]
TAKE_ANY = [policy for policy in EVERY if not policy.traits.needs_decision]
NEED_DECISIONS = [policy for policy in EVERY if policy.traits.needs_decision]


def experiment_with_history(policy: AnyPolicy) -> Experiment:
    """Arms `a` and `b` with evidence, a deleted `gone`, a disabled `off`, draws and an allocation; epoch 3."""
    arms = [Arm(1, "a"), Arm(2, "b"), Arm(3, "gone", deleted=True), Arm(4, "off", enabled=False)]
    experiment = Experiment(signer=DecisionSigner(KEYS, current=1), decision_lifetime_s=LIFETIME_S)
    spec = ExperimentSpec(policy=policy, half_life_s=86_400.0)
    experiment.load(ExperimentState(UID, "shop", spec, epoch=3, arms={arm.number: arm for arm in arms}))
    rng = random.Random(1)
    for reward in (0.0, 1.0, 1.0, 0.5):
        decision = experiment.draw(NOW - 60, rng)
        experiment.update(Update(reward=reward, decision_id=decision.decision_id), NOW - 50)
    experiment.draw(NOW - 40, rng)
    return experiment


def token(uid: int = UID, arm: int = 1, epoch: int = 3, time: float = NOW - 60, key: bytes = KEYS[1]) -> str:
    return decision_id(DecisionSigner({1: key}, current=1), uid, arm, epoch, time)


def damaged(decision_id: str) -> str:
    raw = bytearray(urlsafe_b64decode(decision_id))
    raw[20] ^= 1
    return urlsafe_b64encode(raw).decode()


def plain(reward: float = 1.0, **fields: Any) -> Update:
    return Update(reward=reward, arm_id="a", **fields)


def decided(decision_id: str, reward: float = 1.0, **fields: Any) -> Update:
    return Update(reward=reward, decision_id=decision_id, **fields)


REFUSED: dict[str, tuple[Callable[[], Update], type[Exception]]] = {
    "nan": (lambda: plain(NAN), InvalidReward),
    "inf": (lambda: plain(INF), InvalidReward),
    "-inf": (lambda: plain(-INF), InvalidReward),
    "above 1e12": (lambda: plain(1.1e12), InvalidReward),
    "below -1e12": (lambda: plain(-1.1e12), InvalidReward),
    "nan for a decision": (lambda: decided(token(), NAN), InvalidReward),
    "out of range for a decision": (lambda: decided(token(), 1.1e12), InvalidReward),
    "unknown arm": (lambda: Update(reward=1.0, arm_id="c"), ArmNotFound),
    "empty arm": (lambda: Update(reward=1.0, arm_id=""), ArmNotFound),
    "deleted arm": (lambda: Update(reward=1.0, arm_id="gone"), ArmNotFound),
    "unknown arm with a key": (lambda: Update(reward=1.0, arm_id="c", key="k"), ArmNotFound),
    "neither id": (lambda: Update(reward=1.0), InvalidField),
    "a key alone": (lambda: Update(reward=1.0, key="k"), InvalidField),
    "both ids": (lambda: decided(token(), arm_id="a"), InvalidField),
    "both ids, the decision forged": (lambda: decided("x", arm_id="a"), InvalidField),
    "key with a decision": (lambda: decided(token(), key="k"), InvalidField),
    "empty decision": (lambda: decided(""), InvalidDecision),
    "no token at all": (lambda: decided("hello"), InvalidDecision),
    "damaged decision": (lambda: decided(damaged(token())), InvalidDecision),
    "cut decision": (lambda: decided(token()[:-1]), InvalidDecision),
    "forged decision": (lambda: decided(token(key=bytes(32))), InvalidDecision),
    "arm that never was": (lambda: decided(token(arm=99)), InvalidDecision),
    "another experiment's decision": (lambda: decided(token(uid=-UID)), ForeignDecision),
    "decision of an older epoch": (lambda: decided(token(epoch=2)), StaleEpoch),
    "decision of a later epoch": (lambda: decided(token(epoch=4)), StaleEpoch),
    "decision too old": (lambda: decided(token(time=NOW - LIFETIME_S - 0.001)), DecisionExpired),
    "ts too far ahead": (lambda: plain(ts=NOW + 300.001), InvalidTimestamp),
    "ts nan": (lambda: plain(ts=NAN), InvalidTimestamp),
    "ts inf": (lambda: plain(ts=INF), InvalidTimestamp),
    "ts too far ahead as a date": (lambda: plain(ts=datetime.fromtimestamp(NOW + 301, UTC)), InvalidTimestamp),
    "ts too far ahead with a key": (lambda: plain(key="k", ts=NOW + 1e9), InvalidTimestamp),
}


@pytest.mark.parametrize("policy", TAKE_ANY, ids=str)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", ["credit", "update"])
def test_a_refused_reward_changes_nothing(policy: AnyPolicy, kind: str, method: str) -> None:
    make, error = REFUSED[kind]
    experiment = experiment_with_history(policy)
    before = everything(experiment)
    with pytest.raises(error):
        getattr(experiment, method)(make(), NOW)
    assert everything(experiment) == before


def everything(experiment: Experiment) -> tuple[Any, ...]:
    return (
        copy.deepcopy(experiment.state),
        dict(experiment.draws),
        experiment.version,
        experiment.evidence_version,
        experiment.allocation,
        experiment.snapshot(NOW).statistics(),
    )


@pytest.mark.parametrize("reward", [-1e-9, 1.000001, 2.0, -1.0])
def test_thompson_takes_nothing_outside_0_to_1(reward: float) -> None:
    experiment = experiment_with_history(Thompson())
    before = everything(experiment)
    for update in (plain(reward), decided(token(), reward)):
        with pytest.raises(InvalidReward):
            experiment.update(update, NOW)
    assert everything(experiment) == before


@pytest.mark.parametrize("reward", [-1e12, 1e12, 0.0, -0.0])
def test_an_unbounded_policy_takes_up_to_1e12(reward: float) -> None:
    experiment = experiment_with_history(EpsilonGreedy())
    assert experiment.update(plain(reward), NOW).numbers == (1.0, reward, reward**2)


@pytest.mark.parametrize("policy", TAKE_ANY, ids=str)
def test_what_only_looks_refusable_is_taken(policy: AnyPolicy) -> None:
    """So that the refusals above are known to come from what they name."""
    experiment = experiment_with_history(policy)
    pulls = experiment.pull_count
    taken = [
        plain(0.0),
        plain(1.0, key="k"),
        plain(ts=NOW + 300),
        plain(ts=-1e9),
        plain(ts=datetime.fromtimestamp(NOW - 1, UTC)),
        Update(reward=1.0, arm_id="off"),
        decided(token()),
        decided(token(), ts=NOW - 5),
        decided(token(arm=3)),
        decided(token(arm=4)),
        decided(token(time=NOW - LIFETIME_S)),
        decided(token(time=NOW + 1e6)),
    ]
    for update in taken:
        experiment.update(update, NOW)
    assert experiment.pull_count == pulls + len(taken)


@pytest.mark.parametrize("policy", NEED_DECISIONS, ids=str)
def test_a_policy_that_weighs_by_propensity_takes_rewards_of_decisions_alone(policy: AnyPolicy) -> None:
    experiment = experiment_with_history(policy)
    before = everything(experiment)
    for update in (plain(), plain(key="k"), plain(ts=NOW - 5)):
        with pytest.raises(DecisionRequired):
            experiment.update(update, NOW)
    assert everything(experiment) == before
    experiment.update(decided(token()), NOW)
    assert experiment.pull_count == 5


@pytest.mark.parametrize("policy", EVERY, ids=str)
def test_exposure_and_events_are_for_those_that_take_them(policy: AnyPolicy) -> None:
    experiment = experiment_with_history(policy)
    for field, taken in (("exposure", policy.traits.takes_exposure), ("events", policy.traits.takes_events)):
        before = everything(experiment)
        update = decided(token(), **{field: 2})
        if taken:
            assert 2.0 in experiment.update(update, NOW).numbers
        else:
            with pytest.raises(InvalidField) as refused:
                experiment.update(update, NOW)
            assert refused.value.path == field
            assert everything(experiment) == before


def test_crediting_alone_counts_nothing() -> None:
    experiment = experiment_with_history(Thompson())
    before = everything(experiment)
    experiment.credit(plain(), NOW)
    experiment.credit(decided(token()), NOW)
    assert everything(experiment) == before
