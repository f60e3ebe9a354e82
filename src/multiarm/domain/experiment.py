"""The experiment: arms, policy, evidence, allocation, lifecycle. No I/O, no clock: pass `now` and `rng` in."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import msgspec
import numpy as np

from multiarm.domain.allocation import Allocation
from multiarm.domain.arm import Arm
from multiarm.domain.decision import Claims, DecisionSigner
from multiarm.domain.errors import (
    ArmExists,
    ArmNotFound,
    DecisionExpired,
    ExperimentDisabled,
    Invalid,
    InvalidDecision,
    InvalidField,
    InvalidTimestamp,
    MultiarmError,
    NoEnabledArms,
    StaleEpoch,
    raise_all,
)
from multiarm.domain.evidence import Evidence, Row
from multiarm.domain.pending import BUCKETS, Pending
from multiarm.domain.policies import AnyPolicy, Observation, Thompson
from multiarm.domain.records import Decision, ExperimentState, ForeignDecision, Increment
from multiarm.domain.snapshot import Snapshot
from multiarm.domain.spec import ExperimentSpec, Update

CLOCK_SKEW_S = 300.0
NEVER = -float("inf")
DRIFT_SHARE = 0.01  # of a half-life, after which time alone makes an allocation out of date


class Random(Protocol):
    """`random.Random` and `numpy.random.Generator` both are."""

    def random(self) -> float: ...


def recompute(experiment: "Experiment", now: float) -> Allocation:
    """Compute the allocation at once, whatever it costs: for use without a server."""
    return experiment.adopt(experiment.snapshot(now).allocate())


class Experiment:
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
        self._signer = signer or DecisionSigner.random()
        self._refresh = refresh
        self._decision_lifetime_s = decision_lifetime_s
        self._needs_decision = False
        self.pending: Pending | None = None
        self.version = 0
        self.evidence_version = 0
        self.allocation: Allocation | None = None
        self.draws: dict[int, int] = {}
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
    def pull_count(self) -> int:
        """Rewards counted in this epoch, deleted arms included."""
        rows = [*self.state.rows.values(), *(row for _, row in self.state.other_rows)]
        return sum(row.pull_count for row in rows)

    def arm(self, arm_id: str) -> Arm:
        """The live arm of that id, or ArmNotFound."""
        try:
            return self._by_id[arm_id]
        except KeyError:
            raise ArmNotFound(arm_id) from None

    def draw(self, now: float, rng: Random) -> Decision:
        """Choose an arm and count the draw. Evidence is only read; an allocation that is out of date is renewed.

        Raises ExperimentDisabled or NoEnabledArms.
        """
        return self.draw_many(1, now, rng)[0]

    def draw_many(self, count: int, now: float, rng: Random) -> list[Decision]:
        """The same `count` times, at the same time: all, or none."""
        allocation = self.allocation
        if allocation is None or now >= self._fresh_until:
            allocation = self._allocation_at(now)
        choose, random, sign, draws = allocation.choose, rng.random, self._signer.sign, self.draws
        uid, epoch = self.state.uid, self.state.epoch
        decisions = []
        for _ in range(count):
            u = random()
            share = choose(u)
            token, claims = sign(uid, share.arm.number, epoch, now, share.propensity)
            decisions.append(Decision(share, token, claims, u < share.random_below, now))
        for decision in decisions:
            number = decision.share.arm.number
            draws[number] = draws.get(number, 0) + 1
        if self.pending is not None:
            for decision in decisions:
                self.pending.drawn(decision.share.arm.number, now)
            self._evidence_changed()
        return decisions

    def credit(self, update: Update, now: float) -> Increment:
        """Validate a reward and say what it adds; changes nothing.

        Raises Invalid (422; for several faults InvalidRequest), ArmNotFound, StaleEpoch, DecisionExpired, and
        ForeignDecision.
        """
        spec, reward = self.state.spec, update.reward
        try:
            spec.policy.check_reward(reward)
            if self._needs_decision or update.exposure is not None or update.events is not None:
                self._check_measures(update)
            ts = None if update.ts is None else checked_ts(update.ts, now)
            if update.decision_id is not None:
                return self._increment_of_decision(update, ts, now)
            arm = self._by_id.get(update.arm_id or "") or self._named_arm(update)
        except Invalid:
            raise_all(self._faults(update, now))
            raise
        time = now if ts is None else min(ts, now)
        key = None if update.key is None else f"k:{update.key}"
        numbers = spec.policy.increment(observation_of(update, spec.reward_origin, time))
        return Increment(arm, numbers, time, key, reward, None, None, None, ts, update.exposure, update.events)

    def snapshot(self, now: float) -> Snapshot:
        """All that an allocation or the statistics depend on, frozen: it may be computed from in another thread."""
        state = self.state
        arms = self.live_arms
        numbers = [arm.number for arm in arms]
        deleted = self._evidence([arm.number for arm in state.arms.values() if arm.deleted]).decayed(now)
        waiting = None if self.pending is None else self.pending.counts(now)
        return Snapshot(
            state.spec,
            tuple(arms),
            self._evidence(numbers).decayed(now),
            tuple(self.draws.get(number, 0) + self._other_draws.get(number, 0) for number in numbers),
            float(deleted.pulls.sum()),
            int(deleted.pull_count.sum()),
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

    def rewarded(self, increments: Iterable[Increment]) -> None:
        """These draws wait for no reward any more."""
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
        counted = self.draws if same_epoch else {}
        self.draws = {n: max(row.draw_count, counted.get(n, 0)) for n, row in state.rows.items()}
        self.draws |= {n: count for n, count in counted.items() if n not in self.draws}
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

    def _increment_of_decision(self, update: Update, ts: float | None, now: float) -> Increment:
        arm, claims = self._decided(update, now)
        spec = self.state.spec
        time = min(claims.time, now)
        numbers = spec.policy.increment(observation_of(update, spec.reward_origin, time, claims.propensity))
        key = f"d:{claims.unique.hex()}"
        return Increment(
            arm,
            numbers,
            time,
            key,
            update.reward,
            claims.propensity,
            claims.time,
            claims.unique,
            ts,
            update.exposure,
            update.events,
        )

    def _check_measures(self, update: Update) -> None:
        self.state.spec.policy.check_measures(
            decision=update.decision_id is not None, exposure=update.exposure, events=update.events
        )

    def _named_arm(self, update: Update) -> Arm:
        """The arm that an update without a decision is for."""
        if update.arm_id is None:
            raise InvalidField("", "Give either decision_id or arm_id.")
        return self.arm(update.arm_id)

    def _decided(self, update: Update, now: float) -> tuple[Arm, Claims]:
        """The arm that an update with a decision is for, and what the decision says."""
        if update.arm_id is not None or update.key is not None:
            raise InvalidField("", "A decision_id says which arm, and is its own key: give neither arm_id nor key.")
        claims = self._signer.open(update.decision_id or "")
        if claims.uid != self.state.uid:
            raise ForeignDecision(claims.uid)
        if claims.epoch != self.state.epoch:
            raise StaleEpoch("The decision was drawn before the experiment was reset; drop it.")
        if claims.time < now - self._decision_lifetime_s:
            raise DecisionExpired("Rewards are taken for as long as reward_retention_days says; drop it.")
        arm = self.state.arms.get(claims.arm_number)
        if arm is None:
            raise InvalidDecision("The experiment never had the arm that it names.")
        return arm, claims

    def _faults(self, update: Update, now: float) -> list[MultiarmError]:
        """All that is wrong with an update; each of its parts is looked at by itself."""
        faults: list[MultiarmError] = []
        for check in (
            lambda: self.state.spec.policy.check_reward(update.reward),
            lambda: self._check_measures(update),
            lambda: update.ts is None or checked_ts(update.ts, now),
            lambda: self._named_arm(update) if update.decision_id is None else self._decided(update, now),
        ):
            with contextlib.suppress(ForeignDecision):
                try:
                    check()
                except MultiarmError as error:
                    faults.append(error)
        return faults

    def _as_evidence(self, rows: Sequence[Row]) -> Evidence:
        spec = self.state.spec
        return Evidence.from_rows(
            rows, columns=len(spec.policy.traits.columns), origin=spec.reward_origin, half_life_s=spec.half_life_s
        )

    def _evidence(self, numbers: Sequence[int]) -> Evidence:
        own = self._as_evidence([self.state.rows.get(number, Row()) for number in numbers])
        if not self._other or not numbers:
            return own
        empty = self._as_evidence([Row()])
        others = [self._other.get(number, empty) for number in numbers]
        return own + Evidence.stacked(others)


def observation_of(update: Update, origin: float, time: float, propensity: float | None = None) -> Observation:
    """An update as a policy sees it."""
    if update.exposure is None and update.events is None:
        return Observation(update.reward, origin, time, propensity)
    exposure = 1.0 if update.exposure is None else update.exposure
    events = 1.0 if update.events is None else float(update.events)
    return Observation(update.reward, origin, time, propensity, exposure, events)


def checked_ts(ts: float | datetime, now: float) -> float:
    """Seconds since the epoch; InvalidTimestamp where it is more than five minutes ahead."""
    seconds = ts.timestamp() if isinstance(ts, datetime) else ts
    if not seconds <= now + CLOCK_SKEW_S:
        raise InvalidTimestamp("`ts` is more than five minutes ahead of this server's clock; it may lie in the past.")
    return seconds
