"""Scopes by themselves: they mean what a slow reading of the words says, and nothing more."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from multiarm.auth.scopes import VERBS, Scopes, Verb, unknown_scopes

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIRST = set(LETTERS + LETTERS.upper() + "0123456789")


def is_id(text: str) -> bool:
    return 1 <= len(text) <= 64 and text[0] in FIRST and set(text) <= FIRST | set("._-")


def reference(claim: str, verb: str, name: str | None) -> bool:
    """What the words mean, said slowly."""
    for word in claim.split(" "):
        said, colon, where = word.partition(":")
        if said != verb:
            continue
        if not colon:
            return True
        start = where.removesuffix("*")
        named = name is not None and (name.startswith(start) if where != start else name == where)
        if named and where and (not start or is_id(start)):
            return True
    return False


WORDS = st.lists(st.sampled_from([*VERBS, ":", ":", "*", "a", "ab", "-", ".", "/", "%", "\n", "A", "\u00e9", " ", " "]))
CLAIMS = WORDS.map("".join) | st.text() | st.lists(st.sampled_from(["draw:a*", "read:a", "admin", "x"])).map(" ".join)
NAMES = st.none() | st.sampled_from(["a", "ab", "a-b", "A", "b", "a.", "z"])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(CLAIMS, st.sampled_from(VERBS), NAMES)
@example("draw:*", "draw", "a")
@example("draw:*", "draw", None)
@example("draw:", "draw", "a")
def test_scopes_mean_what_a_slow_reading_says(claim: str, verb: Verb, name: str | None) -> None:
    scopes = Scopes(claim)
    assert scopes.allow(verb, name) == reference(claim, verb, name)
    if name is not None:
        assert scopes.see(name) == any(reference(claim, each, name) for each in VERBS)
    if scopes.allow(verb, name):
        assert scopes.allow_somewhere(verb)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text())
def test_whoever_mints_hears_of_every_word_that_allows_nothing(word: str) -> None:
    word = word.replace(" ", "")
    useless = not any(Scopes(word).allow_somewhere(verb) for verb in VERBS)
    assert unknown_scopes(word) == ([word] if useless else [])
