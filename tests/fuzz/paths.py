"""Ids in paths and scopes: the expressions of the server against loops over characters."""

import string
from collections.abc import Sequence

import httptools
import msgspec

from fuzz.target import Target, assert_told, simple
from multiarm.auth.bearer import Bearer, scope_for
from multiarm.auth.errors import InsufficientScope
from multiarm.auth.scopes import VERBS, Scopes, unknown_scopes
from multiarm.domain.errors import ExperimentNotFound, NotFound
from multiarm.domain.spec import Identifier, Update
from multiarm.http.express import TARGET as PLAIN
from multiarm.http.gate import require_canonical

FIRST = frozenset(string.ascii_letters + string.digits)
LATER = FIRST | frozenset("._-")
SCOPE_BYTES = 600
KEY = FIRST | frozenset("_~:@!$&'()*+,;=.-")
OPERATIONS = ("draw", "update", "update_batch")


# --- paths -----------------------------------------------------------------------------------------------------------


def path(data: bytes) -> bool:
    """A plain target is canonical, and read alike by everyone; what is an id, and what is a key, is said once."""
    text = data.decode("latin-1")
    plain = PLAIN.fullmatch(data)
    assert (plain is not None) == is_plain(text), "the lane takes another target than it says"
    canonical = is_taken(data)
    assert not data.startswith(b"/") or canonical == is_canonical(text), "the gate takes another path than it says"
    if plain is not None:
        assert canonical
        url = httptools.parse_url(data)
        assert url.path == data
        assert url.query is url.fragment is url.host is None
    word = data.decode("utf-8", "replace")
    assert fits(word, Identifier) == is_id(word), "an id is another than it says"
    assert is_key(word) == fits({"reward": 1, "key": word}, Update), "a key is another than it says"
    return plain is not None


def is_taken(target: bytes) -> bool:
    try:
        require_canonical(target)
    except NotFound as error:
        assert_told(error)
        return False
    return True


def is_plain(target: str) -> bool:
    parts = target.split("/")
    return len(parts) == 4 and parts[:2] == ["", "v1"] and is_id(parts[2]) and parts[3] in OPERATIONS


def is_canonical(target: str) -> bool:
    """Of what begins with a slash, as all paths do that come so far."""
    segments = target.split("/")[1:]
    return "%" not in target and (target == "/" or not {"", ".", ".."} & set(segments))


def is_id(text: str) -> bool:
    return 1 <= len(text) <= 64 and text[0] in FIRST and LATER.issuperset(text)


def is_key(text: str) -> bool:
    return 1 <= len(text) <= 128 and text not in (".", "..") and KEY.issuperset(text)


def fits(value: object, type_: object) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


# --- scopes ----------------------------------------------------------------------------------------------------------


def scope(data: bytes) -> bool:
    """What a claim allows is what each of its words allows; an id from a path goes into no header."""
    first, _, claim_bytes = data[:SCOPE_BYTES].partition(b"|")
    asked, claim = first.decode("utf-8", "replace"), claim_bytes.decode("utf-8", "replace")
    scopes, words = Scopes(claim), claim.split(" ")
    unknown = unknown_scopes(claim)
    for word in words:
        alone = Scopes(word)
        assert any(alone.allow_somewhere(verb) for verb in VERBS) == (word not in unknown), word
    bearer = Bearer("fuzz", scopes)
    for verb in VERBS:
        for experiment_id in (None, asked):
            expected = any(allows(word, verb, experiment_id) for word in words)
            assert scopes.allow(verb, experiment_id) == expected, (verb, experiment_id)
            assert expected <= scopes.allow_somewhere(verb)
        is_allowed = passes(bearer, verb, asked)
        assert is_allowed == scopes.allow(verb, asked)
        least = scope_for(verb, asked)
        if is_id(asked):
            assert Scopes(least).allow(verb, asked), "what is asked for would not do"
    return len(unknown) < len(words)


def passes(bearer: Bearer, verb: str, asked: str) -> bool:
    """Whether it may do that; why not can be told, and tells of no experiment that it may not see."""
    [named] = [known for known in VERBS if known == verb]
    try:
        bearer.require_on(named, asked)
    except InsufficientScope as error:
        assert_told(error)
        assert bearer.scopes.see(asked)
        return False
    except ExperimentNotFound as error:
        assert_told(error)
        assert not bearer.scopes.see(asked)
        return False
    return True


def allows(word: str, verb: str, experiment_id: str | None) -> bool:
    """`draw`, `draw:id` or `draw:beginning*`, taken apart by hand."""
    name, colon, rest = word.partition(":")
    if name != verb:
        return False
    if not colon:
        return True
    if experiment_id is None:
        return False
    if rest.endswith("*"):
        start = rest[:-1]
        return (not start or is_id(start)) and experiment_id.startswith(start)
    return is_id(rest) and rest == experiment_id


IDS: Sequence[bytes] = [b"button", b"a", b"0", b"-x", b".a", b"a.b_c-d", b"e" * 64, b"e" * 65, b"a\n", "ä".encode()]
PATHS = [
    *(b"/v1/%b/%b" % (name, operation) for name in IDS for operation in (b"draw", b"update", b"update_batch")),
    *IDS,
    *(b"/v1//draw", b"/v1/a/../draw", b"/v1/./a/draw", b"/v1/a/draw/", b"/", b"", b"/v1/%61/draw", b"/..", b"/."),
    *(b"/v1/a/draw?x", b"/v1/a/draw#x", b"http://a/v1/a/draw", b"//v1/a/draw", b"*", b".", b"..", b"k~:@!$&'()*+,;="),
]
SCOPES = [
    b"button|draw update read admin",
    b"button|draw:button update:but* read:* admin:",
    b"butter|draw:button update:butt* draw:b*",
    b"a|draw:a* draw:b draw:c* draw:**",
    b"a\n|draw:a\n draw",
    b"|draw:* draw: :a",
    b'e"\r\nx: y|read:e read:' + b"e" * 64 + b"*",
]
WORDS = [b"/", b"//", b"/.", b"/..", b"%2e", b"\n", b"\0", b"?", b"#", b"draw", b"update_batch", b"/v1/", b"\xc3\xa4"]

TARGETS: Sequence[Target] = [
    simple("ids in paths", path, PATHS, WORDS, 18),
    simple(
        "scopes", scope, SCOPES, [b" ", b":", b"*", b"|", b"draw:", b"admin", b"read:*", b"\n", b"\t", b"e" * 64], 8
    ),
]
