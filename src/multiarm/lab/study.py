"""A study: an environment, the policies to compare in it, and how long and how often."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from multiarm.domain.allocation import FLOOR_TOLERANCE
from multiarm.domain.errors import InvalidField, raise_all
from multiarm.domain.evidence import I64
from multiarm.domain.policies import AnyPolicy
from multiarm.domain.policies.base import REWARD_LIMIT
from multiarm.domain.spec import Share
from multiarm.lab.environments import AnyEnvironment

STEPS = 200  # of a curve
MEASUREMENT_LIMIT = 100_000_000  # runs × policies × steps of a curve, kept in memory


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy in a study, and how it is run."""

    policy: AnyPolicy
    label: Annotated[str, Meta(max_length=64, description="Its name in the table; default: type and parameters.")] = ""
    random_share: Annotated[Share, Meta(description="Part of traffic that is split evenly.")] = 0.0
    floor: Annotated[Share, Meta(description="Least share of every arm.")] = 0.0
    half_life_draws: (
        Annotated[float, Meta(ge=1, le=1e12, description="Draws after which evidence weighs half.")] | None
    ) = None

    @property
    def name(self) -> str:
        return self.label or described(self)


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each policy plays `runs` experiments of `horizon` draws. The same study gives the same figures."""

    environment: AnyEnvironment
    policies: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=100)]
    horizon: Annotated[int, Meta(ge=1, le=100_000_000, description="Draws of each experiment.")] = 10_000
    runs: Annotated[int, Meta(ge=1, le=1_000_000, description="Experiments of each policy.")] = 1_000
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1

    @property
    def steps(self) -> I64:
        """How many draws have been made at each point of a curve: about 200 of them.

        Evenly on a logarithmic axis; or on a linear one, where things happen at certain draws.
        """
        spaced = np.linspace if self.environment.moves else np.geomspace
        return np.unique(spaced(1, self.horizon, STEPS).round().astype(np.int64))

    def check(self) -> None:
        """Raise InvalidField, or InvalidRequest for several, unless everything fits."""
        try:
            msgspec.convert(msgspec.to_builtins(self), Study)
        except msgspec.ValidationError as error:
            detail, _, path = str(error).partition(" - at `$")
            raise InvalidField(path.strip("`."), f"{detail.replace('`', '')}.") from None
        raise_all(list(self._faults()))

    def _faults(self) -> Iterator[InvalidField]:
        for fault in self.environment.faults():
            yield InvalidField(f"environment.{fault.path}", str(fault))
        seen: set[str] = set()
        for index, entry in enumerate(self.policies):
            path = f"policies[{index}]"
            if entry.name in seen:
                yield InvalidField(f"{path}.label", f"{entry.name!r} is there already; give each policy its own label.")
            seen.add(entry.name)
            for fault in entry_faults(entry, self.environment):
                yield InvalidField(path + fault.path, f"{entry.name}: {fault}")
        if self.runs * len(self.policies) * len(self.steps) > MEASUREMENT_LIMIT:
            yield InvalidField("runs", f"{self.runs:,} runs of {len(self.policies)} policies are too much; take fewer.")


def entry_faults(entry: Entry, environment: AnyEnvironment) -> Iterator[InvalidField]:
    """What this environment asks for and this policy cannot do; paths begin with a dot or are empty."""
    traits, arms = entry.policy.traits, len(environment.start)
    low, high = environment.reward_range
    allowed_low = traits.reward_min if traits.reward_min > -REWARD_LIMIT else -np.inf
    allowed_high = traits.reward_max if traits.reward_max < REWARD_LIMIT else np.inf
    if low < allowed_low or high > allowed_high:
        yield InvalidField(
            "", f"takes rewards from {allowed_low:g} to {allowed_high:g}; this environment's are {low:g} to {high:g}."
        )
    if environment.goal == "minimize" and not traits.can_minimize:
        yield InvalidField("", "cannot minimize; choose a policy that can, or goal maximize.")
    if entry.half_life_draws is not None and not traits.can_forget:
        yield InvalidField(".half_life_draws", "cannot forget; leave it out.")
    if arms * entry.floor > 1 + FLOOR_TOLERANCE:
        yield InvalidField(".floor", f"{arms} arms × {entry.floor:g} is more than the whole traffic.")


def at_delays(study: Study, delays: Sequence[float]) -> list[Study]:
    """The same study at each of these delays."""
    return [
        msgspec.structs.replace(study, environment=msgspec.structs.replace(study.environment, delay=delay))
        for delay in delays
    ]


def described(entry: Entry) -> str:
    """Type and parameters, those that are not the default: `ucb1 alpha=0.5`."""
    defaults: Any = type(entry.policy)()
    words = [str(entry.policy.__struct_config__.tag)]
    for name in entry.policy.__struct_fields__:
        value = getattr(entry.policy, name)
        if value != getattr(defaults, name):
            words.append(f"{name}={plain(msgspec.to_builtins(value))}")
    own = {name: getattr(entry, name) for name in ("random_share", "floor", "half_life_draws")}
    return " ".join([*words, *(f"{name}={value:g}" for name, value in own.items() if value)])


def plain(value: object) -> str:
    if isinstance(value, dict):
        return "/".join(plain(member) for member in value.values() if member is not None)
    return f"{value:g}" if isinstance(value, float) else f"{value}"
