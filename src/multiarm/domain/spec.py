"""What a user asks for: frozen structs, validated as they are decoded."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from math import isfinite
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from multiarm.domain.allocation import FLOOR_TOLERANCE
from multiarm.domain.arm import ID_PATTERN, Prior
from multiarm.domain.errors import FAULT_LIMIT, InvalidField, raise_all
from multiarm.domain.policies import AnyPolicy, Policy, Thompson
from multiarm.domain.policies.base import REWARD_LIMIT

RESERVED_IDS = frozenset({"ping", "list", "clear", "create"})
KEY_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9_~:@!$&'()*+,;=.-]{1,128}(?!\n)$"
BATCH_LIMIT = 10_000
ARM_LIMIT = 1_000
PAYLOAD_DEPTH = 64

Identifier = Annotated[
    str,
    Meta(
        pattern=ID_PATTERN,
        max_length=64,
        description="1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit.",
    ),
]
Share = Annotated[float, Meta(ge=0, le=1)]
Goal = Literal["maximize", "minimize"]


class ArmSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arm to add."""

    arm_id: Identifier | None = None
    payload: Annotated[Any, Meta(description="Any JSON; `draw` returns it with the arm.")] = None
    prior: Prior | None = None


class ExperimentSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an experiment decides; all but policy and random share are fixed while it runs."""

    description: Annotated[str, Meta(max_length=1000)] = ""
    policy: AnyPolicy = Thompson()
    goal: Annotated[Goal, Meta(description="Whether the largest or the smallest mean reward is the best.")] = "maximize"
    random_share: Annotated[
        Share | None, Meta(description="Part of traffic that is split evenly; null: 0.05 for index policies, else 0.")
    ] = None
    floor: Annotated[Share, Meta(description="Least share of every enabled arm.")] = 0.0
    half_life_s: (
        Annotated[float, Meta(ge=60, le=1e12, description="Seconds after which evidence weighs half.")] | None
    ) = None
    attribution_window_s: Annotated[
        float,
        Meta(ge=1, le=2_592_000, description="Index policies expect a reward for a draw for so long, 1 s to 30 days."),
    ] = 3600.0
    reward_origin: Annotated[
        float, Meta(ge=-REWARD_LIMIT, le=REWARD_LIMIT, description="Sums are kept about this value.")
    ] = 0.0


class CreateExperiment(ExperimentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new experiment; every field is optional."""

    experiment_id: Identifier | None = None
    arms: Annotated[
        list[Identifier | ArmSpec], Meta(max_length=ARM_LIMIT, description="Arm ids, or arms as for add_arm.")
    ] = []

    @property
    def spec(self) -> ExperimentSpec:
        """With the random share that the policy asks for, where none is given."""
        given = {name: getattr(self, name) for name in ExperimentSpec.__struct_fields__}
        if self.random_share is None:
            given["random_share"] = self.policy.traits.random_share
        return ExperimentSpec(**given)

    @property
    def arm_specs(self) -> list[ArmSpec]:
        return [ArmSpec(arm_id=arm) if isinstance(arm, str) else arm for arm in self.arms]


class PolicyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another policy for an experiment, while it runs."""

    policy: Annotated[AnyPolicy, Meta(description="The policy from now on.")]
    random_share: Annotated[
        Share | None,
        Meta(description="Part of traffic that is split evenly; null: as it was, at least what the policy asks for."),
    ] = None
    restart: Annotated[
        bool, Meta(description="Begin a new epoch, as reset does, instead of taking the evidence along.")
    ] = False


Moment = float | Annotated[datetime, Meta(tz=True)]


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which snapshot to start from: exactly one of the two."""

    snapshot_id: Annotated[int, Meta(ge=1, le=(1 << 63) - 1, description="As GET …/history shows it.")] | None = None
    at: (
        Annotated[
            Moment,
            Meta(description="The newest taken then or before: seconds since the epoch, or RFC 3339."),
        ]
        | None
    ) = None


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One reward: for a decision (`decision_id`), or for an arm (`arm_id`, and a `key` to make it repeatable)."""

    reward: Annotated[float, Meta(description="In the policy's range.")]
    decision_id: Annotated[str, Meta(max_length=4096)] | None = None
    arm_id: Annotated[str, Meta(max_length=64)] | None = None
    key: Annotated[str, Meta(pattern=KEY_PATTERN, max_length=128)] | None = None
    exposure: (
        Annotated[
            float, Meta(gt=0, le=1e12, description="Over what the events were counted (thompson_poisson). Default: 1.")
        ]
        | None
    ) = None
    events: (
        Annotated[
            int,
            Meta(ge=0, le=10**12, description="Waits that ended; 0: still waiting (thompson_exponential). Default: 1."),
        ]
        | None
    ) = None
    ts: (
        Annotated[
            float | Annotated[datetime, Meta(tz=True)],
            Meta(description="When it happened: seconds since the epoch, or RFC 3339. Default: now."),
        ]
        | None
    ) = None


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a reward that was counted should have been."""

    reward: Annotated[float | None, Meta(description="In the policy's range; null: there was none, withdraw it.")]


class UpdateBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rewards that count together or not at all."""

    updates: Annotated[list[Update], Meta(min_length=1, max_length=BATCH_LIMIT)]


def check_creation(request: CreateExperiment, payload_limit_bytes: int = 8192) -> None:
    """What the types cannot say; InvalidField or, for several faults, InvalidRequest."""
    raise_all(list(islice(creation_faults(request, payload_limit_bytes), FAULT_LIMIT)))


def check_arm(arm: ArmSpec, policy: Policy, payload_limit_bytes: int = 8192) -> None:
    """The same of one arm that is to be added."""
    raise_all(list(arm_faults(arm, policy, payload_limit_bytes)))


def creation_faults(request: CreateExperiment, payload_limit_bytes: int) -> Iterator[InvalidField]:
    policy = request.policy
    if request.experiment_id in RESERVED_IDS:
        yield InvalidField("experiment_id", f"{request.experiment_id!r} is a word of the API; choose another id.")
    yield from policy_faults(policy, request)
    if len(request.arms) * request.floor > 1 + FLOOR_TOLERANCE:
        yield InvalidField("floor", f"{len(request.arms)} arms × {request.floor:g} is more than the whole traffic.")
    seen: set[str] = set()
    for index, arm in enumerate(request.arm_specs):
        if arm.arm_id is not None and arm.arm_id in seen:
            yield InvalidField(f"arms[{index}]", f"Arm id {arm.arm_id!r} is given twice.")
        if arm.arm_id is not None:
            seen.add(arm.arm_id)
        yield from arm_faults(arm, policy, payload_limit_bytes, f"arms[{index}].")


def policy_faults(policy: Policy, spec: ExperimentSpec) -> Iterator[InvalidField]:
    """What the rest of an experiment asks for and this policy cannot do."""
    traits, name = policy.traits, policy.name
    if not traits.reward_min <= spec.reward_origin <= traits.reward_max:
        yield InvalidField("reward_origin", f"It lies outside the policy's rewards, {span(policy)}.")
    if spec.goal == "minimize" and not traits.can_minimize:
        yield InvalidField("goal", f"{name} cannot minimize; docs/policies.md says why and which policies can.")
    if spec.half_life_s is not None and not traits.can_forget:
        yield InvalidField("half_life_s", f"{name} cannot forget; docs/policies.md says why and which policies can.")


def arm_faults(arm: ArmSpec, policy: Policy, payload_limit_bytes: int, path: str = "") -> Iterator[InvalidField]:
    """A prior's mean must be a reward that the policy could see, and a payload neither too large nor too deep."""
    if depth_exceeds(arm.payload, PAYLOAD_DEPTH):
        yield InvalidField(f"{path}payload", f"A payload may be nested {PAYLOAD_DEPTH} levels deep.")
        return
    if arm.payload is not None and len(msgspec.json.encode(arm.payload)) > payload_limit_bytes:
        yield InvalidField(
            f"{path}payload", f"A payload may have {payload_limit_bytes:,} bytes as JSON (payload_limit_bytes)."
        )
    if arm.prior is None:
        return
    if not policy.traits.takes_prior:
        yield InvalidField(f"{path}prior", f"{policy.name} has no use for an arm's prior; leave it out.")
        return
    mean = arm.prior.mean_reward
    if not (isfinite(mean) and policy.traits.reward_min <= mean <= policy.traits.reward_max):
        yield InvalidField(f"{path}prior.mean_reward", f"A mean of this policy's rewards lies in {span(policy)}.")


def depth_exceeds(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            member
            for outer in level
            if isinstance(outer, dict | list)
            for member in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def span(policy: Policy) -> str:
    return f"{policy.traits.reward_min:g} to {policy.traits.reward_max:g}"
