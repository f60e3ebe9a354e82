"""An experiment at one moment, frozen: what allocations and statistics are computed from, in any thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import msgspec
import numpy as np

from multiarm.domain.allocation import Allocation, checked, guarded
from multiarm.domain.arm import Arm
from multiarm.domain.evidence import F64, Evidence
from multiarm.domain.policies import PseudoCounts, Situation
from multiarm.domain.spec import ExperimentSpec


class ArmStatistics(msgspec.Struct, frozen=True):
    """What is known of one arm; null where nothing can be said.

    pulls: rewards counted; mean_reward and effective_pulls: after forgetting, without priors; draws: decisions answered
    in this epoch; share: its probability now; probability_best: over enabled arms; interval: 95 %, of the mean.
    """

    pulls: int
    mean_reward: float | None
    effective_pulls: float
    draws: int
    share: float | None
    probability_best: float | None
    interval: tuple[float, float] | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`arms`: those not deleted; `evidence` and `draws` of each, the evidence as it weighs at `now`."""

    spec: ExperimentSpec
    arms: tuple[Arm, ...]
    evidence: Evidence
    draws: tuple[int, ...]
    deleted_pulls: float
    deleted_pull_count: int
    pending: F64 | None
    version: int
    evidence_version: int
    now: float

    @property
    def enabled(self) -> list[int]:
        """Positions of the enabled arms."""
        return [position for position, arm in enumerate(self.arms) if arm.enabled]

    def allocate(self) -> Allocation:
        """The exact allocation over the enabled arms, of which there must be one at least.

        ArithmeticError where the policy's answer is not a distribution.
        """
        enabled = self.enabled
        policy = self.spec.policy
        raw = policy.allocate(self.evidence.take(enabled), self.situation(enabled))
        probabilities, random_mass = guarded(checked(raw, len(enabled)), self.spec.random_share or 0.0, self.spec.floor)
        return Allocation.over(
            [self.arms[position] for position in enabled],
            probabilities.tolist(),
            random_mass=random_mass,
            version=self.version,
            evidence_version=self.evidence_version,
            computed_at=self.now,
        )

    def statistics(self, *, counts_only: bool = False) -> dict[str, ArmStatistics]:
        """By arm id. `counts_only` asks nothing of the policy: shares, probabilities and intervals are null."""
        if not self.arms:
            return {}
        share: dict[int, float] = {}
        best: dict[int, float] = {}
        interval = np.full((len(self.arms), 2), np.nan)
        enabled = self.enabled
        if not counts_only:
            interval = self.spec.policy.interval(self.evidence, self.situation(range(len(self.arms))))
        if enabled and not counts_only:
            share = dict(zip(enabled, self.allocate().probabilities, strict=True))
            best = self._probability_best(enabled)
        pulls, mean = self.evidence.pulls.tolist(), self.evidence.mean.tolist()
        return {
            arm.arm_id: ArmStatistics(
                pulls=int(self.evidence.pull_count[position]),
                mean_reward=mean[position] if pulls[position] > 0 else None,
                effective_pulls=pulls[position],
                draws=self.draws[position],
                share=share.get(position, None if counts_only else 0.0),
                probability_best=best.get(position),
                interval=_pair(interval[position]),
                enabled=arm.enabled,
            )
            for position, arm in enumerate(self.arms)
        }

    def _probability_best(self, enabled: list[int]) -> dict[int, float]:
        best = self.spec.policy.probability_best(self.evidence.take(enabled), self.situation(enabled))
        return {} if best is None else dict(zip(enabled, best.tolist(), strict=True))

    def head_start(self) -> float:
        """What an arm that is added now begins with; 0 where there is nothing to catch up with."""
        enabled = self.enabled
        if not enabled:
            return 0.0
        return self.spec.policy.head_start(self.evidence.take(enabled), self.situation(enabled))

    def situation(self, positions: Sequence[int]) -> Situation:
        """What the policy may ask beside the evidence of the arms at `positions`."""
        index = np.asarray(positions, dtype=np.intp)
        others = np.ones(len(self.arms), dtype=np.bool_)
        others[index] = False
        other_pulls, other_count = self.deleted_pulls, self.deleted_pull_count
        if others.any():
            other_pulls += float(self.evidence.pulls[others].sum())
            other_count += int(self.evidence.pull_count[others].sum())
            if self.pending is not None:
                other_pulls += float(self.pending[others].sum())
        head_starts = [self.arms[position].head_start for position in positions]
        return Situation(
            prior=self._priors(positions),
            pending=None if self.pending is None else self.pending[index],
            head_start=np.array(head_starts) if any(head_starts) else None,
            other_pulls=other_pulls,
            other_pull_count=other_count,
            minimize=self.spec.goal == "minimize",
        )

    def _priors(self, positions: Sequence[int]) -> PseudoCounts | None:
        """The pseudo-counts of the arms at `positions`; None where no arm has a prior."""
        priors = [self.arms[position].prior for position in positions]
        if not any(priors):
            return None
        return PseudoCounts(
            np.array([prior.pulls if prior else 0.0 for prior in priors]),
            np.array([prior.mean_reward if prior else 0.0 for prior in priors]),
        )


def _pair(bounds: F64) -> tuple[float, float] | None:
    """(low, high), or None where there is no interval."""
    low, high = bounds.tolist()
    return (low, high) if isfinite(low) and isfinite(high) else None
