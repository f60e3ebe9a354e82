"""Schedules: parameters that fall as rewards come in, but not below a floor."""

from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.evidence import F64, I64

Pulls = Annotated[float, Meta(gt=0, le=1e12, description="The scale of the fall, in rewards counted.")]
Floor = Annotated[float, Meta(ge=0, le=1e12, description="It does not fall below this.")]


class Decay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all decays. `pulls`: D, above 0; `floor`: the least value, default 0."""

    pulls: Pulls
    floor: Floor = 0.0

    def left(self, t: F64) -> F64:
        """What is left of 1 after t pulls, in [0, 1]."""
        raise NotImplementedError


class ExponentialDecay(Decay, frozen=True, tag="exponential"):
    """The start × e^(−t/D)."""

    def left(self, t: F64) -> F64:
        return np.asarray(np.exp(-t / self.pulls))


class InverseDecay(Decay, frozen=True, tag="inverse"):
    """The start × 1 / (1 + t/D): with enough exploring ever after that regret grows as ln t (Auer et al. 2002, §3)."""

    def left(self, t: F64) -> F64:
        return np.asarray(1 / (1 + t / self.pulls))


class LinearDecay(Decay, frozen=True, tag="linear"):
    """The start × max(0, 1 − t/D)."""

    def left(self, t: F64) -> F64:
        return np.asarray(np.maximum(1 - t / self.pulls, 0.0))


AnyDecay: TypeAlias = ExponentialDecay | InverseDecay | LinearDecay


def scheduled(start: float, decay: AnyDecay | None, t: I64) -> F64:
    """The value after t pulls, float64[..., 1]: ready to be set beside arms."""
    t_arms = np.asarray(t, dtype=np.float64)[..., None]
    if decay is None:
        return np.full_like(t_arms, start)
    return np.asarray(np.maximum(start * decay.left(t_arms), min(decay.floor, start)))
