"""An arm: a variant that an experiment can show."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

# (?!\n) because in Python "$" also matches before a last line break
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?!\n)$"
MAX_PRIOR_PULLS = 1e9


class Prior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Imagined rewards that an arm starts with, on top of the policy's own prior."""

    pulls: Annotated[float, Meta(gt=0, le=MAX_PRIOR_PULLS, description="How many imagined rewards.")]
    mean_reward: Annotated[float, Meta(description="Their mean, in the policy's reward range.")]


class Arm(msgspec.Struct, frozen=True):
    """`number` is never used again in its experiment; a deleted arm stays, for the rewards still on their way.

    head_start: what it began with, in this epoch, where it came later than others; see `Policy.head_start`.
    """

    number: int
    arm_id: str
    payload: Any = None
    prior: Prior | None = None
    enabled: bool = True
    deleted: bool = False
    head_start: float = 0.0
