"""What a target of fuzzing is: something that takes bytes, and its own invariants along with them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

from fuzz.strict_http import Said, answers
from multiarm.domain.errors import MultiarmError
from multiarm.http.problems import problem

One: TypeAlias = Callable[[bytes], bool]  # whether it was taken; AssertionError where an invariant is broken

JSON_WORDS = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"-1", b"1e999", b"NaN", b'"\\ud800"')


class Target(NamedTuple):
    """seeds: inputs that reach far. words: what to put into them. weight: its part of a run's inputs.

    Inputs are mostly recipes: their first bytes say how the rest is made into what the parser gets. So a token is
    altered before it is signed, or after, and both engines need know nothing of that.
    """

    name: str
    opened: Callable[[], AbstractContextManager[One]]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    weight: float


def simple(name: str, one: One, seeds: Sequence[bytes], words: Sequence[bytes], weight: float) -> Target:
    return Target(name, lambda: nullcontext(one), seeds, words, weight)


def assert_told(error: MultiarmError) -> Said:
    """The refusal of what came can be sent, says what is wrong, and is no fault of the server."""
    [said] = answers(problem(error).on_the_wire([(b"date", b"today")]))
    assert 400 <= said.status < 500, said
    assert said.document["detail"], said
    return said
