"""What a user asks for survives JSON: it is stored as JSON, and answered as JSON."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from multiarm.domain.arm import Arm, Prior
from multiarm.domain.policies import AnyPolicy, BetaPrior, EpsilonGreedy, Thompson
from multiarm.domain.spec import ArmSpec, CreateExperiment, ExperimentSpec

law = settings(deadline=None, derandomize=True, max_examples=60)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
shapes = st.floats(1e-3, 1e9)
policies: st.SearchStrategy[AnyPolicy] = st.one_of(
    st.builds(EpsilonGreedy, epsilon=st.floats(0, 1)),
    st.builds(Thompson, prior=st.builds(BetaPrior, alpha=shapes, beta=shapes)),
)
priors = st.none() | st.builds(Prior, pulls=st.floats(1e-9, 1e9), mean_reward=st.floats(-1e12, 1e12))
arm_specs = st.builds(ArmSpec, arm_id=st.none() | ids, payload=json_values, prior=priors)
spec_fields: dict[str, Any] = {
    "description": st.text(max_size=1000),
    "policy": policies,
    "random_share": st.floats(0, 1),
    "floor": st.floats(0, 1),
    "half_life_s": st.none() | st.floats(60, 1e12),
    "reward_origin": st.floats(-1e12, 1e12),
}


def through_json(value: Any, type_: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value), type=type_)


@law
@given(policies)
def test_a_policy_with_every_parameter_bit_for_bit(policy: AnyPolicy) -> None:
    assert through_json(policy, AnyPolicy) == policy


@law
@given(st.builds(ExperimentSpec, **spec_fields))
def test_an_experiment_spec(spec: ExperimentSpec) -> None:
    assert through_json(spec, ExperimentSpec) == spec


@law
@given(st.builds(CreateExperiment, experiment_id=st.none() | ids, arms=st.lists(ids | arm_specs), **spec_fields))
def test_a_creation_with_arms_in_both_forms(request: CreateExperiment) -> None:
    back = through_json(request, CreateExperiment)
    assert back == request
    assert back.spec == request.spec
    assert back.arm_specs == request.arm_specs


@law
@given(arm_specs)
def test_an_arm_spec(arm: ArmSpec) -> None:
    assert through_json(arm, ArmSpec) == arm


@law
@given(st.builds(Arm, number=st.integers(1, 2**32 - 1), arm_id=ids, payload=json_values, prior=priors))
def test_an_arm(arm: Arm) -> None:
    assert through_json(arm, Arm) == arm
