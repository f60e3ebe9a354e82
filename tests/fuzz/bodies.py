"""Bodies: what is taken is JSON, says the same when it is written and read again, and stands all later checks."""

import json
from collections.abc import Callable, Coroutine
from math import isfinite
from typing import Any, NamedTuple, TypeVar

import msgspec

from fuzz.decision_ids import SIGNER, VALID
from fuzz.target import JSON_WORDS, Target, assert_told, simple
from multiarm.domain.errors import MultiarmError
from multiarm.domain.experiment import Experiment
from multiarm.domain.policies import EXP3, UCB1, Thompson, ThompsonExponential, ThompsonGaussian, ThompsonPoisson
from multiarm.domain.records import ForeignDecision
from multiarm.domain.spec import (
    ArmSpec,
    CreateExperiment,
    PolicyChange,
    Update,
    UpdateBatch,
    check_arm,
    check_creation,
    policy_faults,
)
from multiarm.http.bodies import decode, decode_batch
from multiarm.http.operations import decode_update
from multiarm.service.batch import BatchFaults

T = TypeVar("T")
NOW = 1.75e9
EXPERIMENTS = [
    Experiment(policy, ["red", "green"], signer=SIGNER)
    for policy in (Thompson(), UCB1(), EXP3(), ThompsonGaussian(), ThompsonPoisson(), ThompsonExponential())
]


class Kind(NamedTuple):
    """How a body is decoded and what becomes of it then."""

    type: type[msgspec.Struct]
    decode: Callable[[bytes], Any]
    use: Callable[[Any], None]


def one(data: bytes) -> bool:
    kind, body = KINDS.get(data[:1], KINDS[b"u"]), data[1:].replace(b"$I", VALID)
    try:
        value = kind.decode(body)
    except MultiarmError as error:
        assert_told(error)
        return False
    assert isinstance(value, kind.type)
    assert is_json(body), "what is no JSON is taken"
    again = msgspec.json.decode(msgspec.json.encode(value), type=kind.type)
    assert again == value, "it says something else when it is written and read again"
    try:
        kind.use(value)
    except MultiarmError as error:
        assert_told(error)
    return True


def use_creation(request: CreateExperiment) -> None:
    assert request.spec.policy == request.policy
    assert len(request.arm_specs) == len(request.arms)
    check_creation(request)
    assert 0 <= (request.spec.random_share or 0) <= 1


def use_arm(arm: ArmSpec) -> None:
    check_arm(arm, Thompson())


def use_policy(change: PolicyChange) -> None:
    for experiment in EXPERIMENTS:
        for fault in policy_faults(change.policy, experiment.state.spec):
            assert_told(fault)


def use_update(update: Update) -> None:
    """Every policy adds numbers to its sums that are numbers, or says why not."""
    for experiment in EXPERIMENTS:
        try:
            increment = experiment.credit(update, NOW)
        except ForeignDecision:
            continue
        except MultiarmError as error:
            assert_told(error)
        else:
            assert all(isfinite(number) for number in increment.numbers), increment
            assert increment.evidence_time <= NOW


def use_batch(batch: UpdateBatch) -> None:
    for update in batch.updates:
        use_update(update)


def batch_of(body: bytes) -> UpdateBatch:
    faults = BatchFaults()
    updates = finished(decode_batch(body, faults))
    faults.raise_any()
    found = [update for update in updates if update is not None]
    assert len(found) == len(updates), "an update is missing, and no fault says why"
    return UpdateBatch(found)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What it returns, without a loop: all that it waits for is its turn."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            found: T = end.value
            return found


def is_json(body: bytes) -> bool:
    """By Python's own parser, which is lenient with large numbers and strict with text."""
    try:
        json.loads(body.decode(), parse_int=float)
    except RecursionError:
        return True  # what is too deep for one need not be for the other
    except ValueError:
        return False
    return True


def decoder(type_: type[T]) -> Callable[[bytes], T]:
    made = msgspec.json.Decoder(type_)
    return lambda body: decode(body, made)


KINDS = {
    b"c": Kind(CreateExperiment, decoder(CreateExperiment), use_creation),
    b"a": Kind(ArmSpec, decoder(ArmSpec), use_arm),
    b"p": Kind(PolicyChange, decoder(PolicyChange), use_policy),
    b"u": Kind(Update, decode_update, use_update),
    b"b": Kind(UpdateBatch, batch_of, use_batch),
}
SEEDS = [
    b"c{}",
    b'c{"experiment_id":"button","description":"x","arms":["a",{"arm_id":"b","payload":{"x":[1,null]}}],"floor":0.1}',
    b'c{"policy":{"type":"thompson","prior":{"alpha":1,"beta":2}},"arms":[{"prior":{"pulls":10,"mean_reward":0.5}}]}',
    b'c{"policy":{"type":"epsilon_greedy","epsilon":0.1,"decay":{"type":"inverse","pulls":100}},"goal":"minimize"}',
    b'c{"policy":{"type":"top_two","model":{"type":"thompson_gaussian"}},"half_life_s":3600,"random_share":0.05}',
    b'c{"policy":{"type":"thompson_revenue","model":"hurdle_lognormal"},"attribution_window_s":60,"reward_origin":5}',
    b"a{}",
    b'a{"arm_id":"red","payload":' + b"[" * 64 + b"]" * 64 + b',"prior":{"pulls":1e9,"mean_reward":1}}',
    b'a{"payload":{"a":123456789012345678901234567890,"b":-0.0,"c":1e-320,"d":"\\u0000"}}',
    b'p{"policy":{"type":"exp3"},"random_share":0.1,"restart":true}',
    b'p{"policy":{"type":"ucb1","alpha":2,"batch_draws":100}}',
    b'p{"policy":{"type":"softmax","temperature":1,"decay":{"type":"exponential","pulls":5,"floor":0.1}}}',
    b'u{"arm_id":"red","reward":1}',
    b'u{"arm_id":"red","reward":0.5,"key":"k-1","ts":1749999999.5}',
    b'u{"arm_id":"red","reward":3,"exposure":2.5,"events":3,"ts":"2025-06-15T12:00:00.123456+02:00"}',
    b'u{"arm_id":"green","reward":1e300,"ts":"0001-01-01T00:00:00+23:59"}',
    b'u{"arm_id":"green","reward":-1e300,"ts":"9999-12-31T23:59:59-23:59"}',
    b'u{"decision_id":"$I","reward":1}',
    b'b{"updates":[{"arm_id":"red","reward":1,"key":"a"},{"decision_id":"$I","reward":0}]}',
    b'b{"updates":[{"arm_id":7,"reward":"1"},{"reward":1,"unknown":[]},{"arm_id":"red","reward":2}]}',
    b'b{"updates":[]}',
    b"u" + b"[" * 2000,
]
WORDS = [
    *JSON_WORDS,
    *(b'"experiment_id":', b'"policy":{"type":"', b'"arms":[', b'"payload":', b'"prior":', b'"floor":', b'"goal":'),
    *(b'"thompson"', b'"ucb1"', b'"exp3"', b'"kl_ucb"', b'"vdbe"', b'"thompson_poisson"', b'"fixed_split"', b'"moss"'),
    *(b'"decision_id":"$I"', b'"reward":', b'"key":', b'"ts":', b'"exposure":', b'"events":', b'"updates":', b"$I"),
    *(b"1e308", b"-0", b"0.0", b"1e-320", b"18446744073709551616", b"Infinity", b"2025-01-01T00:00:00Z", b"\xff"),
]

TARGET: Target = simple("bodies", one, SEEDS, WORDS, 22)
