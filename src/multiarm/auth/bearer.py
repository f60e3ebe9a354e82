"""Who sends a request, once his token has been verified."""

from collections.abc import Callable

from multiarm.auth.errors import InsufficientScope, InvalidToken, RateLimited
from multiarm.auth.pace import Pace
from multiarm.auth.scopes import SCOPE, VERBS, Scopes, Verb
from multiarm.domain.errors import DecisionOfAnother, ExperimentGone, ExperimentNotFound, MultiarmError

EXPIRED = "The token has expired; get a new one."


class Era:
    """The time in which what was verified holds; `over` when a key or a token was revoked.

    verify: says who sends a header now.
    """

    __slots__ = ("over", "verify")

    def __init__(self, verify: "Callable[[bytes, float], Bearer]") -> None:
        self.over = False
        self.verify = verify


class Bearer:
    """One token, as a header brought it. expires_at: seconds since the epoch, the leeway included.

    pace: of all requests with this token; None: without limit. era: None where there is no authentication.
    """

    __slots__ = ("authorization", "era", "expires_at", "pace", "scopes", "subject", "token_id")

    def __init__(
        self,
        subject: str,
        scopes: Scopes,
        *,
        expires_at: float = float("inf"),
        pace: Pace | None = None,
        authorization: bytes = b"",
        era: Era | None = None,
        token_id: str | None = None,
    ) -> None:
        self.subject = subject
        self.scopes = scopes
        self.expires_at = expires_at
        self.pace = pace
        self.authorization = authorization
        self.era = era
        self.token_id = token_id

    @property
    def is_current(self) -> bool:
        return self.era is None or not self.era.over

    def verify_again(self, now: float) -> None:
        """InvalidToken where it has expired, or was revoked, since it was verified."""
        if self.era is not None and self.era.over:
            self.era.verify(self.authorization, now)
        if now >= self.expires_at:
            raise InvalidToken(EXPIRED)

    def may_come(self, now: float, monotonic_now: float) -> bool:
        """Whether `admit` would let it in; nothing is taken."""
        return now < self.expires_at and (self.pace is None or self.pace.has_one(monotonic_now))

    def admit(self, now: float, monotonic_now: float) -> None:
        """Let one request in. InvalidToken where it has expired or was revoked, RateLimited where they are too many."""
        self.verify_again(now)
        if self.pace is not None:
            wait_s = self.pace.take(monotonic_now)
            if wait_s:
                raise RateLimited(wait_s, self.pace.burst, self.pace.fill_s)

    def told(self, error: MultiarmError) -> MultiarmError:
        """What of an error it may know: an experiment that is not for it does not exist."""
        hidden = isinstance(error, DecisionOfAnother) and not self.scopes.see(error.experiment_id)
        return ExperimentGone() if hidden else error

    def require(self, verb: Verb, experiment_id: str | None) -> None:
        """InsufficientScope where it does not allow that; experiment_id: None for what concerns all experiments."""
        if not self.scopes.allow(verb, experiment_id):
            raise InsufficientScope(scope_for(verb, experiment_id))

    def require_somewhere(self, verb: Verb) -> None:
        if not self.scopes.allow_somewhere(verb):
            raise InsufficientScope(verb)

    def require_on(self, verb: Verb, experiment_id: str) -> None:
        """The same for an experiment that is named in a path; one that is not for this token does not exist."""
        if not self.scopes.see(experiment_id):
            raise ExperimentNotFound(experiment_id)
        self.require(verb, experiment_id)


def scope_for(verb: Verb, experiment_id: str | None) -> str:
    """The least that would do; what is no id goes into no header."""
    scope = f"{verb}:{experiment_id}"
    return scope if SCOPE.fullmatch(scope) and experiment_id is not None else verb


ANYONE = Bearer("", Scopes(" ".join(VERBS)))  # where there is no authentication
NOBODY = Bearer("", Scopes(""))  # for what is open to all
