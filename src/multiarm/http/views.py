"""The answers of the API, as structs: their fields are the contract."""

from typing import Any, Literal

import msgspec

from multiarm.domain.arm import Prior
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.records import AuditEntry
from multiarm.domain.snapshot import ArmStatistics
from multiarm.domain.spec import Goal
from multiarm.service.health import Health
from multiarm.service.history import HistoryPoint
from multiarm.service.supervisor import Supervisor


class Status(msgspec.Struct, frozen=True):
    status: Literal["ok"]


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"
    version: str


class ExperimentIds(msgspec.Struct, frozen=True):
    experiment_ids: list[str]


class ExperimentId(msgspec.Struct, frozen=True):
    experiment_id: str


class ArmId(msgspec.Struct, frozen=True):
    arm_id: str


class Draw(msgspec.Struct, frozen=True):
    """`propensity`: the exact probability with which this arm was drawn."""

    arm_id: str
    propensity: float
    decision_id: str
    payload: Any


class Counted(msgspec.Struct, frozen=True):
    """`duplicates`: rewards whose decision or key was rewarded before; they change nothing."""

    accepted: int
    duplicates: int


class Corrected(msgspec.Struct, frozen=True):
    """`corrected`: false where the reward stood like that already."""

    corrected: bool


class Stats(msgspec.Struct, frozen=True):
    arms: dict[str, ArmStatistics]


class History(msgspec.Struct, frozen=True):
    """In order of time."""

    points: list[HistoryPoint]


class Audit(msgspec.Struct, frozen=True):
    """next: what `before` must be for the page after this one; null: there is none."""

    entries: list[AuditEntry]
    next: int | None


class Restored(msgspec.Struct, frozen=True):
    """`taken_at`: of the snapshot, in Unix time; `epoch`: the one that began with it now."""

    snapshot_id: int
    taken_at: float
    epoch: int


class ArmView(msgspec.Struct, frozen=True):
    arm_id: str
    payload: Any
    prior: Prior | None
    enabled: bool


class Counts(msgspec.Struct, frozen=True):
    """`draws` and `pulls` of this epoch, arms deleted since included."""

    arms: int
    enabled_arms: int
    draws: int
    pulls: int


class ExperimentView(msgspec.Struct, frozen=True):
    """`created_at`: seconds since the epoch."""

    experiment_id: str
    description: str
    policy: AnyPolicy
    goal: Goal
    random_share: float
    floor: float
    half_life_s: float | None
    attribution_window_s: float
    reward_origin: float
    status: Literal["enabled", "disabled"]
    epoch: int
    created_at: float
    arms: list[ArmView]
    counts: Counts
    health: Health


def describe(supervisor: Supervisor, experiment_id: str) -> ExperimentView:
    experiment = supervisor.experiment(experiment_id)
    state, spec, arms = experiment.state, experiment.state.spec, experiment.live_arms
    return ExperimentView(
        state.experiment_id,
        spec.description,
        spec.policy,
        spec.goal,
        spec.random_share or 0.0,
        spec.floor,
        spec.half_life_s,
        spec.attribution_window_s,
        spec.reward_origin,
        "enabled" if state.enabled else "disabled",
        state.epoch,
        state.created_at,
        [ArmView(arm.arm_id, arm.payload, arm.prior, arm.enabled) for arm in arms],
        Counts(len(arms), len(experiment.enabled_arms), experiment.draw_count, experiment.pull_count),
        supervisor.health.of(state.uid),
    )
