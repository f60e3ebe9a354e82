"""Crediting: what a reward adds, once everything about it has been found in order."""

import contextlib
from datetime import datetime

from multiarm.domain.arm import Arm
from multiarm.domain.decision import Claims, DecisionSigner
from multiarm.domain.errors import (
    ArmNotFound,
    DecisionExpired,
    Invalid,
    InvalidDecision,
    InvalidField,
    InvalidTimestamp,
    MultiarmError,
    StaleEpoch,
    raise_all,
)
from multiarm.domain.policies import Observation
from multiarm.domain.records import ExperimentState, ForeignDecision, Increment
from multiarm.domain.spec import Update

CLOCK_SKEW_S = 300.0


class Crediting:
    """The part of an experiment that validates rewards. It only reads `state`."""

    state: ExperimentState
    _by_id: dict[str, Arm]
    _needs_decision: bool

    def __init__(self, signer: DecisionSigner, decision_lifetime_s: float) -> None:
        self._signer = signer
        self._decision_lifetime_s = decision_lifetime_s

    def arm(self, arm_id: str) -> Arm:
        """The live arm of that id, or ArmNotFound."""
        try:
            return self._by_id[arm_id]
        except KeyError:
            raise ArmNotFound(arm_id) from None

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
        key = None if update.key is None else key_of_caller(update.key)
        numbers = spec.policy.increment(observation_of(update, spec.reward_origin, time))
        return Increment(arm, numbers, time, key, reward, None, None, None, ts, update.exposure, update.events)

    def claims_of(self, decision_id: str) -> Claims:
        """What a decision of this epoch says, however old; InvalidDecision, ForeignDecision or StaleEpoch."""
        claims = self._signer.open(decision_id)
        if claims.uid != self.state.uid:
            raise ForeignDecision(claims.uid)
        if claims.epoch != self.state.epoch:
            raise StaleEpoch("The decision was drawn before the experiment was reset; drop it.")
        return claims

    def require_young(self, claims: Claims, now: float) -> None:
        """DecisionExpired where the decision's reward may be gone already."""
        if claims.time < now - self._decision_lifetime_s:
            raise DecisionExpired("Rewards are taken for as long as reward_retention_days says; drop it.")

    def _increment_of_decision(self, update: Update, ts: float | None, now: float) -> Increment:
        arm, claims = self._decided(update, now)
        spec = self.state.spec
        time = min(claims.time, now)
        numbers = spec.policy.increment(observation_of(update, spec.reward_origin, time, claims.propensity))
        key = key_of_decision(claims)
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
        claims = self.claims_of(update.decision_id or "")
        self.require_young(claims, now)
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


def key_of_caller(key: str) -> str:
    """Under which a reward with a key of the caller's is stored."""
    return f"k:{key}"


def key_of_decision(claims: Claims) -> str:
    """Under which the reward of a decision is stored."""
    return f"d:{claims.unique.hex()}"


def observation_of(update: Update, origin: float, time: float, propensity: float | None = None) -> Observation:
    """An update as a policy sees it."""
    if update.exposure is None and update.events is None:
        return Observation(update.reward, origin, time, propensity)
    exposure = 1.0 if update.exposure is None else update.exposure
    events = 1.0 if update.events is None else float(update.events)
    return Observation(update.reward, origin, time, propensity, exposure, events)


def seconds_of(moment: float | datetime) -> float:
    """Seconds since the epoch."""
    return moment.timestamp() if isinstance(moment, datetime) else moment


def checked_ts(ts: float | datetime, now: float, path: str = "ts") -> float:
    """Seconds since the epoch; InvalidTimestamp where it is more than five minutes ahead. path: what it is called."""
    seconds = seconds_of(ts)
    if not seconds <= now + CLOCK_SKEW_S:
        raise InvalidTimestamp(path)
    return seconds
