"""Why a request may not do what it asks for. None of them says more of a token than which rule it breaks."""

from multiarm.domain.errors import MultiarmError, Unavailable


class Unauthorized(MultiarmError):
    """There is no token (RFC 6750, 3)."""

    type = "unauthorized"
    title = "A token is needed"


class InvalidToken(Unauthorized):
    type = "invalid-token"
    title = "The token is not valid"


class NotYetValid(InvalidToken):
    """It may be later."""


class UnknownKey(InvalidToken):
    """No key of the server has the token's `kid`; a new one may."""


class KeysUnavailable(Unavailable):
    type = "keys-unavailable"
    title = "The keys that verify tokens cannot be read"


class InsufficientScope(MultiarmError):
    """The token is valid, and does not allow this. `scope`: what would."""

    type = "insufficient-scope"
    title = "The token does not allow this"

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(f"This needs the scope {scope}; ask whoever mints the tokens.")


class RateLimited(MultiarmError):
    """`retry_after_s`: until the next request passes; the rest is the bucket's size and how long it takes to fill."""

    type = "rate-limited"
    title = "Too many requests with this token"

    def __init__(self, retry_after_s: float, burst_requests: int, fill_s: float) -> None:
        self.retry_after_s = retry_after_s
        self.burst_requests = burst_requests
        self.fill_s = fill_s
        super().__init__("Send fewer requests a second, or more rewards in each (update_batch).")
