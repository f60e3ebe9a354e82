"""What a token allows: verbs, each on all experiments or on some."""

import re
from collections.abc import Hashable
from typing import Literal, TypeAlias, get_args

from multiarm.domain.arm import ID_PATTERN

Verb: TypeAlias = Literal["draw", "update", "read", "admin"]

VERBS: tuple[Verb, ...] = get_args(Verb)
SCOPE = re.compile(rf"({'|'.join(VERBS)})(?::(?!$)({ID_PATTERN[1:-1]})?(\*)?)?")


class Scopes:
    """The claim `scope`: words apart by spaces (RFC 6749, 3.3; RFC 9068, 2.2.3).

    `draw` is for all experiments, `draw:checkout` for one, `draw:checkout-*` for those whose ids begin so. What
    concerns all experiments at once is allowed by a verb without a colon only. Words that mean nothing here are for
    other servers, and allow nothing.
    """

    __slots__ = ("_everywhere", "_ids", "_prefixes")

    def __init__(self, claim: str) -> None:
        self._everywhere: set[str] = set()
        self._ids: dict[str, set[str]] = {}
        self._prefixes: dict[str, tuple[str, ...]] = {}
        for word in claim.split(" "):
            match = SCOPE.fullmatch(word)
            if match is None:
                continue
            verb, experiment_id, star = match.groups()
            if ":" not in word:
                self._everywhere.add(verb)
            elif star:
                self._prefixes[verb] = (*self._prefixes.get(verb, ()), experiment_id or "")
            else:
                self._ids.setdefault(verb, set()).add(experiment_id)

    def allow(self, verb: Verb, experiment_id: str | None) -> bool:
        """experiment_id: None for what concerns all experiments."""
        if verb in self._everywhere:
            return True
        return experiment_id is not None and self._names(verb, experiment_id)

    def allow_somewhere(self, verb: Verb) -> bool:
        return verb in self._everywhere or verb in self._ids or verb in self._prefixes

    def reach(self, verb: Verb) -> Hashable:
        """The same for all that allow a verb on the same experiments, as they name them."""
        everywhere, ids = verb in self._everywhere, self._ids.get(verb, ())
        return everywhere or (frozenset(ids), frozenset(self._prefixes.get(verb, ())))

    def see(self, experiment_id: str) -> bool:
        """Whether any of its verbs is for this experiment."""
        return any(self.allow(verb, experiment_id) for verb in VERBS)

    def _names(self, verb: Verb, experiment_id: str) -> bool:
        prefixes = self._prefixes.get(verb, ())
        return experiment_id in self._ids.get(verb, ()) or experiment_id.startswith(prefixes)


def unknown_scopes(claim: str) -> list[str]:
    """The words that allow nothing here: for whoever mints tokens, a slip of the pen."""
    return [word for word in claim.split(" ") if SCOPE.fullmatch(word) is None]
