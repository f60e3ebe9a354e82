"""The whole tree of errors: what went wrong, said once, in words that tell the caller what to do.

`type` is stable and part of the API: the last segment of the problem document's type. Which HTTP status a
branch of the tree becomes is the business of `multiarm.http.problems` alone.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

FAULT_LIMIT = 100  # how many faults an answer lists


class Fault(NamedTuple):
    """One thing wrong with a request: where (`updates[17].reward`), which error `type`, and what to do."""

    path: str
    type: str
    detail: str


class MultiarmError(Exception):
    """Root of every error that multiarm raises on purpose. `path` names the field of the request that it is about."""

    type: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    path: str = ""

    def as_faults(self) -> list[Fault]:
        return [Fault(self.path, self.type, str(self))]


# --- the request cannot be read ------------------------------------------------------------------------


class MalformedBody(MultiarmError):
    type = "malformed-body"
    title = "The body is not JSON"


class BodyTooLarge(MultiarmError):
    type = "body-too-large"
    title = "The body is too large"


class UnsupportedMediaType(MultiarmError):
    type = "unsupported-media-type"
    title = "The body must be application/json"


class ForbiddenOrigin(MultiarmError):
    """The request names a host that this server does not answer to, or comes from a foreign web page."""

    type = "forbidden-origin"
    title = "This host or origin is not allowed"


# --- 404: the thing is not there --------------------------------------------------------------------------


class NotFound(MultiarmError):
    type = "not-found"
    title = "Not found"


class ExperimentNotFound(NotFound):
    type = "experiment-not-found"
    title = "No such experiment"

    def __init__(self, experiment_id: str | None) -> None:
        """None: it was there when the request came, and deleted before its turn."""
        missing = (
            "The experiment is gone" if experiment_id is None else f"There is no experiment {experiment_id[:64]!r}"
        )
        super().__init__(f"{missing}; GET /v1/list shows those that exist.")


class ArmNotFound(NotFound):
    type = "arm-not-found"
    title = "No such arm"
    path = "arm_id"

    def __init__(self, arm_id: str) -> None:
        super().__init__(f"There is no arm {arm_id[:64]!r} in this experiment; its stats show those that exist.")


class RewardNotFound(NotFound):
    type = "reward-not-found"
    title = "No such reward"


class SnapshotNotFound(NotFound):
    type = "snapshot-not-found"
    title = "No such snapshot"

    def __init__(self, snapshot_id: int | None) -> None:
        """None: it was asked for by time."""
        missing = "There is none of that time or before" if snapshot_id is None else f"There is no {snapshot_id}"
        super().__init__(f"{missing}; GET …/history shows those of this experiment.")


# --- 409: not in this state ----------------------------------------------------------------------------


class Conflict(MultiarmError):
    type = "conflict"
    title = "Not possible in the present state"


class ExperimentExists(Conflict):
    type = "experiment-exists"
    title = "The experiment id is taken"

    def __init__(self, experiment_id: str) -> None:
        super().__init__(f"Experiment {experiment_id!r} exists; delete it first or choose another id.")


class ArmExists(Conflict):
    type = "arm-exists"
    title = "The arm id is taken"

    def __init__(self, arm_id: str) -> None:
        super().__init__(f"Arm {arm_id!r} exists; delete it first or choose another id.")


class ExperimentDisabled(Conflict):
    type = "experiment-disabled"
    title = "The experiment is disabled"


class NoEnabledArms(Conflict):
    type = "no-enabled-arms"
    title = "The experiment has no enabled arm"


class FloorTooHigh(Conflict):
    """More enabled arms than the floor leaves room for: arms × floor would pass 1."""

    type = "floor-too-high"
    title = "Too many enabled arms for the floor"


class LimitReached(Conflict):
    type = "limit-reached"
    title = "A limit of this server is reached"


class PolicyNotChanged(Conflict):
    """The evidence that the new policy needs cannot be made from what is stored."""

    type = "policy-not-changed"
    title = "The policy cannot be changed without a restart"


class NotRestored(Conflict):
    """The policy of today cannot go on from the evidence of a snapshot."""

    type = "not-restored"
    title = "The snapshot does not fit the policy"


# --- 410: too late ------------------------------------------------------------------------------------------


class Gone(MultiarmError):
    type = "gone"
    title = "No longer accepted"
    path = "decision_id"


class StaleEpoch(Gone):
    """The decision, or the request that waited, is from before a reset."""

    type = "stale-epoch"
    title = "From before the last reset"


class DecisionExpired(Gone):
    type = "decision-expired"
    title = "The decision is older than rewards are kept"


class ExperimentGone(Gone):
    type = "experiment-gone"
    title = "The decision's experiment was deleted"

    def __init__(self, reason: str = "The experiment that drew it was deleted; drop it.") -> None:
        super().__init__(reason)


# --- 422: JSON, but not what was asked for --------------------------------------------------------------------


class Invalid(MultiarmError):
    """Something does not fit."""

    type = "invalid"
    title = "The request does not fit"


class InvalidRequest(Invalid):
    """One or more fields do not fit. `faults` lists them all, up to the limit of 100."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        count = "1 field does" if len(faults) == 1 else f"{len(faults)} fields do"
        super().__init__(f"{count} not fit; `errors` lists what to change.")

    def as_faults(self) -> list[Fault]:
        return self.faults


class InvalidField(Invalid):
    """A single field of the request is at fault."""

    def __init__(self, path: str, detail: str) -> None:
        self.path = path
        super().__init__(detail)


def raise_all(errors: Sequence[MultiarmError]) -> None:
    """Raise the only error as it is, several as one InvalidRequest that lists them all; nothing where there is none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InvalidRequest([fault for error in errors for fault in error.as_faults()])


class InvalidReward(Invalid):
    type = "invalid-reward"
    title = "The reward is out of range"
    path = "reward"


class InvalidTimestamp(Invalid):
    type = "invalid-timestamp"
    title = "The timestamp is in the future"

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"`{path}` is more than five minutes ahead of this server's clock; it may lie in the past.")


class InvalidDecision(Invalid):
    """Not a token of this server, or not of this experiment."""

    type = "invalid-decision"
    title = "The decision_id is not valid here"
    path = "decision_id"


class DecisionOfAnother(InvalidDecision):
    """Of a live experiment, for whoever may know that it is there."""

    def __init__(self, experiment_id: str) -> None:
        self.experiment_id = experiment_id
        super().__init__("It belongs to another experiment; send it there.")


class DecisionRequired(Invalid):
    type = "decision-required"
    title = "This policy takes rewards of decisions only"
    path = "decision_id"


# --- several updates, several faults -----------------------------------------------------------------------


class BatchRejected(MultiarmError):
    """A batch with faults: nothing of it was counted. `worst` decides the status, `faults` lists up to 100."""

    def __init__(self, worst: MultiarmError, faults: list[Fault], fault_count: int) -> None:
        self.worst = worst
        self.faults = faults
        plural = "1 update is" if fault_count == 1 else f"{fault_count} updates are"
        super().__init__(
            f"Nothing was counted: {plural} at fault, and `errors` lists up to 100 faults; "
            "drop or mend them and send the batch again."
        )

    def as_faults(self) -> list[Fault]:
        return self.faults


# --- 503: not now ------------------------------------------------------------------------------------------


class Unavailable(MultiarmError):
    """Try again after `retry_after_s` seconds; nothing was changed unless the message says otherwise."""

    type = "unavailable"
    title = "Not available right now"
    retry_after_s: ClassVar[int] = 1


class Starting(Unavailable):
    type = "starting"
    title = "The server is starting"


class Stopping(Unavailable):
    """The server stopped before the request was done; it may have happened all the same."""

    type = "stopping"
    title = "The server is shutting down"
    retry_after_s = 5


class Busy(Unavailable):
    type = "busy"
    title = "Too much is waiting"


class StoreUnavailable(Unavailable):
    type = "store-unavailable"
    title = "The database does not answer"
    retry_after_s = 2


class CommitUnknown(StoreUnavailable):
    """The commit was sent and its outcome is not known; a keyed request can be repeated safely."""


class DatabaseGone(StoreUnavailable):
    """Another file stands in the place of the one that is open, or none."""


class ExperimentQuarantined(Unavailable):
    type = "experiment-quarantined"
    title = "The experiment keeps failing and is set aside"
    retry_after_s = 30


class ExperimentRestarting(Unavailable):
    type = "experiment-restarting"
    title = "The experiment failed and is being restarted"


class ExperimentChanging(Unavailable):
    """Its policy is another one since the request was read."""

    type = "experiment-changing"
    title = "The experiment is being changed"


# --- at start ------------------------------------------------------------------------------------------------


class StartError(MultiarmError):
    """The server cannot start: a bad setting, a data directory in use, a database from the future."""

    type = "start-error"
    title = "Cannot start"
