"""What goes into an experiment and what comes out of it: its stored state, decisions, increments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from multiarm.domain.allocation import Share
from multiarm.domain.arm import Arm
from multiarm.domain.decision import CLAIMS, UNIQUE
from multiarm.domain.evidence import Row
from multiarm.domain.spec import ExperimentSpec

CLAIMS_BYTES = CLAIMS.itemsize


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One answered draw. token: the signed decision_id; claims: what it says, packed; time: seconds since the epoch."""

    share: Share
    token: bytes
    claims: bytes
    random: bool
    time: float

    @property
    def arm(self) -> Arm:
        return self.share.arm

    @property
    def propensity(self) -> float:
        """The exact probability with which the arm was drawn."""
        return self.share.propensity

    @property
    def decision_id(self) -> str:
        return self.token.decode()

    @property
    def unique(self) -> bytes:
        """16 bytes, never used twice."""
        return self.claims[UNIQUE]


@dataclass(slots=True)
class Decisions:
    """Draws of one experiment, made at the same time; kept by the column, for a server makes many.

    us: the random number of each; claims: of all, one after another; time: seconds since the epoch.
    """

    shares: Sequence[Share]
    us: Sequence[float]
    tokens: Sequence[bytes]
    claims: bytes
    time: float

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, index: int) -> Decision:
        share = self.shares[index]
        claims = self.claims[index * CLAIMS_BYTES :][:CLAIMS_BYTES]
        return Decision(share, self.tokens[index], claims, self.us[index] < share.random_below, self.time)

    def __iter__(self) -> Iterator[Decision]:
        return map(self.__getitem__, range(len(self)))

    def part(self, start: int, stop: int) -> "Decisions":
        claims = self.claims[start * CLAIMS_BYTES : stop * CLAIMS_BYTES]
        return Decisions(self.shares[start:stop], self.us[start:stop], self.tokens[start:stop], claims, self.time)


class Increment(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What one reward adds, and the reward row that goes with it. Times are seconds since the epoch.

    Rewards that came together in the same words share one: who goes through many tells them apart by identity.

    key: `d:…` for a decision, `k:…` for a caller's key, None for neither. propensity, issued_at: the decision's.
    ts: what the caller said, for the log. exposure, events: as the caller said, where the policy takes them.
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
    exposure: float | None = None
    events: float | None = None


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


class Actor(msgspec.Struct, frozen=True):
    """Who acts. subject, token_id: the token's `sub` and `jti`, where there is one; address: of the connection.

    request_id: by which log, ledger and answer know it.
    """

    subject: str = ""
    token_id: str | None = None
    address: str | None = None
    request_id: str | None = None


NOBODY_KNOWN = Actor()


class ForeignDecision(Exception):
    """A well-signed decision of another experiment; whoever knows them all says which error that is."""

    def __init__(self, uid: int) -> None:
        self.uid = uid


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what. at: seconds since the epoch; before, after: what it made different, or a reward it corrected.

    subject: of the token, empty where there was none; before is null at the beginning, after at the end.
    """

    number: int
    at: float
    subject: str
    token_id: str | None
    address: str | None
    request_id: str | None
    action: str
    experiment_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
