"""Means that do not stand still: sudden changes, and drifts."""

from collections.abc import Iterator
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.errors import InvalidField
from multiarm.domain.evidence import F64

Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Draw = Annotated[int, Meta(ge=1, le=10**9)]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From draw number `at` (≥ 1; the first draw is 0) on the arms have these means."""

    at: Draw
    means: tuple[Number, ...]


class RateChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same of conversion rates."""

    at: Draw
    rates: tuple[Number, ...]


class Drift(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all drifts. One number for each arm."""

    def moved(self, start: F64, step: int) -> F64:
        """Where `start` float64[K] is at that draw."""
        raise NotImplementedError

    def extremes(self, start: F64) -> tuple[F64, F64]:
        """Between what it stays."""
        raise NotImplementedError

    def misfits(self, arms: int) -> list[str]:
        """The fields that do not have one number for each arm."""
        lists = {name: getattr(self, name) for name in self.__struct_fields__}
        return [name for name, value in lists.items() if isinstance(value, tuple) and len(value) != arms]

    def faults(self, arms: int) -> Iterator[InvalidField]:
        for name in self.misfits(arms):
            yield InvalidField(f"drift.{name}", f"Expected one for each of the {arms} arms.")


class LinearDrift(Drift, frozen=True, tag="linear"):
    """Evenly from the start to `to`, which is reached at draw number `by` (≥ 1); there it stays."""

    to: tuple[Number, ...]
    by: Draw

    def moved(self, start: F64, step: int) -> F64:
        part = min(step / self.by, 1.0)
        return np.asarray((1 - part) * start + part * np.array(self.to))

    def extremes(self, start: F64) -> tuple[F64, F64]:
        return start, np.array(self.to, dtype=np.float64)


class WaveDrift(Drift, frozen=True, tag="wave"):
    """Up and down by `amplitudes` (each ≥ 0) in a sine of `period` draws (≥ 2), each of K arms 1/K of it ahead."""

    amplitudes: tuple[Annotated[float, Meta(ge=0, le=1e9)], ...]
    period: Annotated[float, Meta(ge=2, le=1e9)]

    def moved(self, start: F64, step: int) -> F64:
        phase = step / self.period + np.arange(len(start)) / len(start)
        return np.asarray(start + np.array(self.amplitudes) * np.sin(2 * np.pi * phase))

    def extremes(self, start: F64) -> tuple[F64, F64]:
        return start - np.array(self.amplitudes), start + np.array(self.amplitudes)


AnyDrift: TypeAlias = LinearDrift | WaveDrift
