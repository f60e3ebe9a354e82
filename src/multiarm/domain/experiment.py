"""The experiment: arms, policy, evidence, allocation, lifecycle. No I/O, no clock: pass `now` and `rng` in."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Protocol

import msgspec
import numpy as np

from multiarm.domain.allocation import Allocation
from multiarm.domain.arm import Arm
from multiarm.domain.crediting import Crediting
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.errors import (
    ArmExists,
    ExperimentDisabled,
    NoEnabledArms,
)
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.pending import BUCKETS, Pending
from multiarm.domain.policies import AnyPolicy, Thompson
from multiarm.domain.records import Decision, Decisions, ExperimentState, Increment
from multiarm.domain.snapshot import Snapshot
from multiarm.domain.spec import ExperimentSpec, Update

NEVER = -float("inf")
NUMBER = attrgetter("arm.number")
DRIFT_SHARE = 0.01  # of a half-life, after which time alone makes an allocation out of date


class Random(Protocol):
    """`random.Random` and `numpy.random.Generator` both are."""

    def random(self) -> float: ...


def recompute(experiment: "Experiment", now: float) -> Allocation:
    """Compute the allocation at once, whatever it costs: for use without a server."""
    return experiment.adopt(experiment.snapshot(now).allocate())


class Experiment(Crediting):
    """Decides which arm to show, and turns rewards into evidence.

    Alone, in a notebook: `Experiment(Thompson(), ["red", "green"])`, then `draw` and `update`. A server loads stored
    state into it, and gives it its own signer and a `refresh` that keeps recomputing within a budget.
    """

    def __init__(
        self,
        policy: AnyPolicy = Thompson(),
        arms: Iterable[str] = (),
        *,
        spec: ExperimentSpec | None = None,
        signer: DecisionSigner | None = None,
        refresh: Callable[["Experiment", float], Allocation] = recompute,
        decision_lifetime_s: float = float("inf"),
    ) -> None:
        super().__init__(signer or DecisionSigner.random(), decision_lifetime_s)
        self._refresh = refresh
        self._needs_decision = False
        self.pending: Pending | None = None
        self.version = 0
        self.evidence_version = 0
        self.allocation: Allocation | None = None
        self.draws: dict[int, int] = {}
        self._draws_before: dict[int, int] = {}  # in `draws`, and not since this object was made
        self._rewards_since = Counter[int]()
        self.state = ExperimentState(0, "experiment", spec or ExperimentSpec(policy=policy))
        self.load(self.state)
        for number, arm_id in enumerate(arms, start=1):
            if arm_id in self._by_id:
                raise ArmExists(arm_id)
            self.put_arm(Arm(number, arm_id))

    # --- reading --------------------------------------------------------------------------------------------

    @property
    def live_arms(self) -> list[Arm]:
        """Arms not deleted, in the order in which they were added."""
        return [arm for arm in self.state.arms.values() if not arm.deleted]

    @property
    def draw_count(self) -> int:
        """Decisions answered in this epoch, by all nodes as far as known."""
        return sum(self.draws.values()) + sum(self._other_draws.values())

    @property
    def counts_since(self) -> tuple[int, int]:
        """Draws and new rewards since this object was made: whatever happens to it, they never fall."""
        return sum(self.draws.values()) - sum(self._draws_before.values()), self._rewards_since.total()

    def counts_since_by_arm(self) -> dict[str, tuple[int, int]]:
        """The same by the ids of live arms; one that was deleted and is used again goes on from what it had."""
        draws, before, rewards = self.draws, self._draws_before, self._rewards_since
        counts = dict.fromkeys(self._by_id, (0, 0))
        for number, arm in self.state.arms.items():
            if arm.arm_id in counts:
                drawn, rewarded = counts[arm.arm_id]
                drawn += draws.get(number, 0) - before.get(number, 0)
                counts[arm.arm_id] = drawn, rewarded + rewards[number]
        return counts

    @property
    def pull_count(self) -> int:
        """Rewards counted in this epoch, deleted arms included."""
        rows = [*self.state.rows.values(), *(row for _, row in self.state.other_rows)]
        return sum(row.pull_count for row in rows)

    def draw(self, now: float, rng: Random) -> Decision:
        """Choose an arm and count the draw. Evidence is only read; an allocation that is out of date is renewed.

        Raises ExperimentDisabled or NoEnabledArms.
        """
        return self.draw_many(1, now, rng)[0]

    def draw_many(self, count: int, now: float, rng: Random) -> Decisions:
        """The same `count` times, at the same time: all, or none."""
        allocation = self.allocation
        if allocation is None or now >= self._fresh_until:
            allocation = self._allocation_at(now)
        random, draws = rng.random, self.draws
        us = [random() for _ in range(count)]
        shares = allocation.choose(us)
        tokens, claims = self._signer.sign(self.state.uid, self.state.epoch, now, shares)
        for share in shares:
            number = share.number
            draws[number] = draws.get(number, 0) + 1
        if self.pending is not None:
            for share in shares:
                self.pending.drawn(share.number, now)
            self._evidence_changed()
        return Decisions(shares, us, tokens, claims, now)

    def snapshot(self, now: float) -> Snapshot:
        """All that an allocation or the statistics depend on, frozen: it may be computed from in another thread."""
        state = self.state
        arms = self.live_arms
        numbers = [arm.number for arm in arms]
        deleted_pulls, deleted_pull_count = self._deleted(now)
        waiting = None if self.pending is None else self.pending.counts(now)
        return Snapshot(
            state.spec,
            tuple(arms),
            self._evidence(numbers).decayed(now),
            tuple(self.draws.get(number, 0) + self._other_draws.get(number, 0) for number in numbers),
            deleted_pulls,
            deleted_pull_count,
            None if waiting is None else np.array([float(waiting.get(number, 0)) for number in numbers]),
            self.version,
            self.evidence_version,
            now,
        )

    # --- writing -------------------------------------------------------------------------------------------

    def update(self, update: Update, now: float) -> Increment:
        """Credit a reward and count it, in memory alone: for use without a server. Repeats are not recognised."""
        increment = self.credit(update, now)
        number, spec = increment.arm.number, self.state.spec
        row = self.state.rows.get(number, Row())
        numbers = spec.policy.completed(increment.numbers, row.sums, len(self.enabled_arms))
        self.show({number: row.plus([(numbers, increment.evidence_time)], spec.half_life_s)})
        self.rewarded([increment])
        return increment

    def rewarded(self, increments: Sequence[Increment]) -> None:
        """These were counted; their draws wait for no reward any more."""
        self._rewards_since.update(map(NUMBER, increments))
        if self.pending is not None:
            for increment in increments:
                self.pending.rewarded(increment.arm.number, increment.issued_at)

    def show(self, rows: dict[int, Row]) -> None:
        """Replace this node's rows, by arm number, with what was committed. Cannot fail."""
        self.state.rows.update(rows)
        self._evidence_changed()

    def load(self, state: ExperimentState) -> None:
        """Replace everything with stored state. Draws counted since they were last stored stay."""
        same_epoch = state.epoch == self.state.epoch and state.uid == self.state.uid
        drawn, counted = self.draws, self.draws if same_epoch else {}
        self.draws = {n: max(row.draw_count, counted.get(n, 0)) for n, row in state.rows.items()}
        self.draws |= {n: count for n, count in counted.items() if n not in self.draws}
        for n in drawn.keys() | self.draws.keys():
            more = self.draws.get(n, 0) - drawn.get(n, 0)
            self._draws_before[n] = self._draws_before.get(n, 0) + more
        if not same_epoch or state.spec != self.state.spec:
            self.allocation = self.pending = None
        traits = state.spec.policy.traits
        self._needs_decision = traits.needs_decision
        # whether a store has only to add its rewards up: no measures to keep, no columns to complete
        self.adds_only = not (traits.path_columns or traits.takes_exposure or traits.takes_events)
        if traits.takes_pending and self.pending is None:
            self.pending = Pending(state.spec.attribution_window_s)
        self.state = state
        self._other: dict[int, Evidence] = {}
        self._other_draws: dict[int, int] = {}
        for number, row in state.other_rows:
            evidence = self._as_evidence([row])
            before = self._other.get(number)
            self._other[number] = evidence if before is None else before + evidence
            self._other_draws[number] = self._other_draws.get(number, 0) + row.draw_count
        self._arms_changed()

    def put_arm(self, arm: Arm) -> None:
        """Add an arm, or replace the one of the same number."""
        self.state.arms[arm.number] = arm
        self._arms_changed()

    def set_enabled(self, enabled: bool) -> None:
        self.state.enabled = enabled
        self._fresh_until = NEVER

    def reset(self, epoch: int) -> None:
        """Forget the evidence; decisions of an earlier epoch are refused from now on."""
        arms = {number: msgspec.structs.replace(arm, head_start=0.0) for number, arm in self.state.arms.items()}
        self.load(replace(self.state, epoch=epoch, arms=arms, rows={}, other_rows=[]))

    def adopt(self, allocation: Allocation) -> Allocation:
        """Draw from `allocation` from now on, unless it is of an older version or older evidence."""
        current = self.allocation
        if allocation.version == self.version and (
            current is None
            or current.version != allocation.version
            or current.evidence_version <= allocation.evidence_version
        ):
            self.allocation = current = allocation
        return current or allocation

    # --- inside -----------------------------------------------------------------------------------------------

    def _allocation_at(self, now: float) -> Allocation:
        if not self.state.enabled:
            raise ExperimentDisabled("Draws are refused while it is disabled; PUT …/enable lets them through again.")
        if not self.enabled_arms:
            raise NoEnabledArms("Add an arm (POST …/add_arm) or enable one (PUT …/enable_arm/{arm_id}).")
        current = self.allocation
        if current is None or (current.version, current.evidence_version) != (self.version, self.evidence_version):
            return self._refresh(self, now)
        self._fresh_until = current.computed_at + self._drift_s
        return current if now < self._fresh_until else self._refresh(self, now)

    def _evidence_changed(self) -> None:
        self.evidence_version += 1
        self._fresh_until = NEVER

    def _arms_changed(self) -> None:
        self.version += 1
        self._fresh_until = NEVER
        self._by_id = {arm.arm_id: arm for arm in self.live_arms}
        self.enabled_arms = tuple(arm for arm in self.live_arms if arm.enabled)
        half_life_s = self.state.spec.half_life_s
        self._drift_s = float("inf") if half_life_s is None else DRIFT_SHARE * half_life_s
        if self.pending is not None:
            self._drift_s = min(self._drift_s, self.state.spec.attribution_window_s / BUCKETS)

    def _deleted(self, now: float) -> tuple[float, int]:
        """Effective pulls and rewards counted of the arms deleted since."""
        numbers = [arm.number for arm in self.state.arms.values() if arm.deleted]
        if not numbers:
            return 0.0, 0
        evidence = self._evidence(numbers).decayed(now)
        return float(evidence.pulls.sum()), int(evidence.pull_count.sum())

    def _as_evidence(self, rows: Sequence[Row]) -> Evidence:
        spec = self.state.spec
        return Evidence.from_rows(
            rows, columns=len(spec.policy.traits.columns), origin=spec.reward_origin, half_life_s=spec.half_life_s
        )

    def _evidence(self, numbers: Sequence[int]) -> Evidence:
        own = self._as_evidence([self.state.rows.get(number, Row()) for number in numbers])
        if not self._other or not numbers:
            return own.without_leftovers()
        empty = self._as_evidence([Row()])
        others = [self._other.get(number, empty) for number in numbers]
        return (own + Evidence.stacked(others)).without_leftovers()
