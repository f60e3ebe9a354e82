"""What a user asks for survives JSON: it is stored as JSON, and answered as JSON."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from multiarm.domain.arm import Arm, Prior
from multiarm.domain.policies import (
    EXP3,
    EXP3IX,
    IMED,
    KLUCB,
    MOSS,
    UCB1,
    UCBV,
    VDBE,
    AnyPolicy,
    BayesUCB,
    BetaPrior,
    EpsilonGreedy,
    ExponentialDecay,
    FixedSplit,
    GaussianPrior,
    InverseDecay,
    KLUCBPlus,
    LinearDecay,
    MeanPrior,
    RatePrior,
    Softmax,
    Thompson,
    ThompsonExponential,
    ThompsonGaussian,
    ThompsonGaussianKnownSd,
    ThompsonPoisson,
    ThompsonRevenue,
    TopTwo,
    UCB1Tuned,
)
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

shapes, share, positive = st.floats(1e-3, 1e9), st.floats(0, 1), st.floats(1e-9, 1e12)
part = st.floats(0, 1, exclude_min=True)
draws = st.integers(1, 1_000_000)
decays = st.none() | st.one_of(
    *(st.builds(kind, pulls=positive, floor=share) for kind in (ExponentialDecay, InverseDecay, LinearDecay))
)
beta_priors = st.builds(BetaPrior, alpha=shapes, beta=shapes)
gaussian_priors = st.none() | st.builds(
    GaussianPrior, mean=st.floats(-1e12, 1e12), sd=positive, pulls=shapes, sd_pulls=st.floats(1, 1e9)
)
rate_priors = st.builds(RatePrior, events=shapes, exposure=st.floats(0, 1e12))
thompsons: st.SearchStrategy[Any] = st.one_of(
    st.builds(Thompson, prior=beta_priors),
    st.builds(ThompsonGaussian, prior=gaussian_priors),
    st.builds(
        ThompsonGaussianKnownSd,
        sd=positive,
        prior=st.none() | st.builds(MeanPrior, mean=st.floats(-1e12, 1e12), sd=positive),
    ),
    st.builds(ThompsonPoisson, prior=rate_priors),
    st.builds(ThompsonExponential, prior=rate_priors),
    st.builds(
        ThompsonRevenue,
        model=st.sampled_from(["clt", "hurdle_lognormal"]),
        reward_cap=st.none() | positive,
        prior=gaussian_priors,
        log_variance_limit=st.floats(0.01, 25),
    ),
)
policies: st.SearchStrategy[AnyPolicy] = st.one_of(
    st.builds(EpsilonGreedy, epsilon=share, decay=decays),
    st.builds(VDBE, sigma=positive, delta=st.none() | part),
    st.builds(UCB1, alpha=st.floats(0, 1e6), batch_draws=draws),
    st.builds(UCB1Tuned, batch_draws=draws),
    st.builds(UCBV, zeta=st.floats(1e-3, 1e6), c=st.floats(0, 1e6), batch_draws=draws),
    st.builds(MOSS, alpha=st.floats(1e-3, 1e6), batch_draws=draws),
    st.builds(KLUCB, batch_draws=draws),
    st.builds(KLUCBPlus, batch_draws=draws),
    st.builds(BayesUCB, prior=beta_priors, batch_draws=draws),
    st.builds(IMED, batch_draws=draws),
    thompsons,
    st.builds(TopTwo, beta=part, model=thompsons),
    st.builds(Softmax, temperature=positive, decay=decays),
    st.builds(EXP3, gamma=part),
    st.builds(EXP3IX, gamma=part),
    st.builds(FixedSplit),
)
priors = st.none() | st.builds(Prior, pulls=st.floats(1e-9, 1e9), mean_reward=st.floats(-1e12, 1e12))
arm_specs = st.builds(ArmSpec, arm_id=st.none() | ids, payload=json_values, prior=priors)
spec_fields: dict[str, Any] = {
    "description": st.text(max_size=1000),
    "policy": policies,
    "goal": st.sampled_from(["maximize", "minimize"]),
    "random_share": st.none() | st.floats(0, 1),
    "floor": st.floats(0, 1),
    "half_life_s": st.none() | st.floats(60, 1e12),
    "attribution_window_s": st.floats(1, 2_592_000),
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
