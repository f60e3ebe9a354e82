"""What goes into an experiment and what comes out of it: its stored state, decisions, increments."""

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from multiarm.domain.arm import Arm
from multiarm.domain.evidence import Row
from multiarm.domain.spec import ExperimentSpec


class Decision(NamedTuple):
    """One answered draw. time: seconds since the epoch; unique: 16 bytes, never used twice."""

    arm: Arm
    propensity: float
    decision_id: str
    random: bool
    time: float
    unique: bytes


class Increment(msgspec.Struct, frozen=True, gc=False):
    """What one reward adds, and the reward row that goes with it. Times are seconds since the epoch.

    key: `d:…` for a decision, `k:…` for a caller's key, None for neither. propensity, issued_at: the decision's.
    ts: what the caller said, for the log.
    """

    arm: Arm
    numbers: tuple[float, ...]
    evidence_time: float
    key: str | None
    reward: float
    propensity: float | None
    issued_at: float | None
    unique: bytes | None
    ts: float | None


@dataclass(slots=True)
class ExperimentState:
    """All of an experiment that is stored. `rows` are this node's by arm number, `other_rows` all other nodes'."""

    uid: int
    experiment_id: str
    spec: ExperimentSpec = field(default_factory=ExperimentSpec)
    enabled: bool = True
    epoch: int = 0
    created_at: float = 0.0
    arms: dict[int, Arm] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    other_rows: list[tuple[int, Row]] = field(default_factory=list)


class ForeignDecision(Exception):
    """A well-signed decision of another experiment; whoever knows them all says which error that is."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
