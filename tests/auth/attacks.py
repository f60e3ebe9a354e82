"""Tokens that must open nothing, each with the rule that it breaks. Import it as `from auth.attacks import …`.

In CLAIMS and HEADERS the signature is good, so that nothing but what the name says is wrong.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from auth.tokens_for_tests import (
    ABSENT,
    b64,
    bearing,
    claims_of,
    header_of,
    hmac_signer,
    jwk,
    jws,
    private_key,
    token,
)

Mode: TypeAlias = Literal["secret", "set", "file"]  # where the server's keys come from

NOW = int(time.time())
DAY_S = 86_400

# what the refusal says
ALGORITHM, AUDIENCE, ISSUER, KEY, SIGNATURE, TYPE = "`alg`", "audience", "issuer", "`kid`", "signature", "`typ`"
CLAIM, EARLY, EXPIRED, LONG = "needs the claims", "not valid yet", "has expired", "lives longer"
FORM, HEADER, MEMBERS, REFUSED_HEADER = "not a signed JWT", "header needs", "JSON objects", "header holds"
BROKEN = f"{FORM}|{SIGNATURE}|{MEMBERS}"  # which of them is left to chance
ONE, SCHEME, SIZE = "Send one token", "Send the token as", "token_limit_bytes"
NO_TOKEN = (ONE, SCHEME, SIZE)


class Attack(NamedTuple):
    """`reason`: a pattern of what the refusal says. `lines`: of the head, for a server whose keys come from there."""

    name: str
    reason: str
    lines: Callable[[], list[str]]
    mode: Mode = "secret"


def claims_text(**raw: str) -> bytes:
    """Good claims as JSON, some of them in these very words."""
    good = {name: json.dumps(value) for name, value in claims_of().items()}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in (good | raw).items()) + "}").encode()


def more(text: bytes, member: str) -> bytes:
    return text[:-1] + b"," + member.encode() + b"}"


def said(value: object) -> str:
    """The same in every process, as names of tests must be."""
    return f"{value!r:.30}".replace(f"{NOW + DAY_S}", "tomorrow").replace(f"{NOW}", "now")


# --- what it says -------------------------------------------------------------------------------------------------

WRONG_TYPES = {
    "iss": (["multiarm"], None, 1, {"multiarm": 1}),
    "aud": (None, 1, True, {"multiarm": 1}, ["multiarm", 1], [["multiarm"]]),
    "sub": (None, 1, ["tester"], "", "s" * 256),
    "exp": (None, True, "9999999999", [NOW + DAY_S], -1, 1 << 60),
    "iat": (None, True, f"{NOW}", [NOW], -1),
    "nbf": (None, False, "0", [0], -1),
    "jti": (1, True, ["a"], "", "j" * 256),
    "scope": (None, 1, True, ["admin", "draw"], {"admin": True}),
}
CLAIMS: dict[str, tuple[Mapping[str, Any] | bytes, str]] = {
    **{f"{name} is missing": ({name: ABSENT}, CLAIM) for name in ("iss", "aud", "sub", "exp", "iat")},
    **{f"{name} is {said(value)}": ({name: value}, CLAIM) for name, values in WRONG_TYPES.items() for value in values},
    **{
        f"iss is {name!r}": ({"iss": name}, ISSUER)
        for name in ("", "other", "Multiarm", "multiarm ", "multiarm\x00", "multi\u0430rm", "https://multiarm")
    },
    **{
        f"aud is {value!r}": ({"aud": value}, AUDIENCE)
        for value in ("", "other", "MULTIARM", "multiarm other", "multiarm,other", [], ["other"], ["multiarm "])
    },
    "expired a second beyond the leeway": ({"iat": NOW - 100, "exp": NOW - 11}, EXPIRED),
    "expired in 1970": ({"iat": 0, "exp": 1}, EXPIRED),
    "exp before iat": ({"exp": NOW - 100}, EXPIRED),
    "nbf tomorrow": ({"nbf": NOW + DAY_S}, EARLY),
    "iat tomorrow": ({"iat": NOW + DAY_S, "exp": NOW + DAY_S + 60}, EARLY),
    "valid for two years": ({"exp": NOW + 730 * DAY_S}, LONG),
    "valid for ever": ({"exp": (1 << 53) - 1}, LONG),
    **{
        f"exp is {text:.12}": (claims_text(exp=text), MEMBERS)
        for text in ("NaN", "Infinity", "-Infinity", "0x7fffffff", "01", "1e", "+1", "9_9")
    },
    **{f"exp is {text:.12}": (claims_text(exp=text), CLAIM) for text in ("1e400", "1e308", "9" * 1000)},
    "exp twice": (more(claims_text(exp="1"), f'"exp":{NOW + DAY_S}'), MEMBERS),
    "scope twice": (more(claims_text(scope='"read"'), '"scope":"admin"'), MEMBERS),
    "scope twice, once escaped": (more(claims_text(scope='"read"'), '"\\u0073cope":"admin"'), MEMBERS),
    "a lone surrogate": (more(claims_text(), '"x":"\\ud800"'), CLAIM),
    "a lone surrogate for a subject": (claims_text(sub='"\\udfff"'), CLAIM),
    "no UTF-8": (claims_text().replace(b"tester", b"test\xff"), MEMBERS),
    "overlong UTF-8": (claims_text().replace(b"tester", b"\xc1\xb4ester"), MEMBERS),
    "UTF-16": (claims_text().decode().encode("utf-16"), MEMBERS),
    "a byte order mark": (b"\xef\xbb\xbf" + claims_text(), MEMBERS),
    "nested too deep": (more(claims_text(), '"x":' + "[" * 1200 + "]" * 1200), MEMBERS),
    "a list": (b"[" + claims_text() + b"]", MEMBERS),
    "a text": (json.dumps(claims_text().decode()).encode(), MEMBERS),
    "two objects": (claims_text() + claims_text(), MEMBERS),
    "a line comment": (claims_text() + b"//", MEMBERS),
    "a NUL": (claims_text() + b"\x00", MEMBERS),
    "nothing": (b"", MEMBERS),
    "null": (b"null", MEMBERS),
    "true": (b"true", MEMBERS),
    "an empty object": (b"{}", CLAIM),
    "half an object": (claims_text()[:40], MEMBERS),
    "another token": (token().encode(), MEMBERS),
}

# --- what its header says -------------------------------------------------------------------------------------------

HEADERS: dict[str, tuple[Mapping[str, Any] | bytes, str]] = {
    **{
        f"alg is {name!r}": ({"alg": name}, ALGORITHM)
        for name in ("none", "None", "NONE", "nOnE", "", " none", "hs256", "HS256 ", "HS384", "RS256", "ES256", "EdDSA")
    },
    **{f"alg is {value!r}": ({"alg": value}, HEADER) for value in (None, ["HS256"], 256, True, {"HS256": 1})},
    "alg is missing": ({"alg": ABSENT}, HEADER),
    **{
        f"typ is {name!r}": ({"typ": name}, TYPE)
        for name in ("", "JWE", "id+jwt", "dpop+jwt", "at+jwt ", "text/jwt", "application/application/jwt", "\u212awt")
    },
    **{f"typ is {value!r}": ({"typ": value}, HEADER) for value in (None, ["JWT"], 1)},
    "typ is missing": ({"typ": ABSENT}, HEADER),
    **{
        f"{name} is {value!r:.30}": ({name: value}, REFUSED_HEADER)
        for name, value in [
            ("jwk", jwk(private_key("EdDSA", 9), "mine")),
            ("jwk", None),
            ("jku", "http://127.0.0.1:1/keys"),
            ("x5u", "https://evil.example/chain.pem"),
            ("x5c", ["MIIB"]),
            ("crit", ["exp"]),
            ("crit", ["b64"]),
            ("crit", []),
            ("b64", False),
            ("b64", True),
            ("zip", "DEF"),
            ("enc", "A128GCM"),
        ]
    },
    **{f"kid is {value!r}": ({"kid": value}, HEADER) for value in (1, ["a"], {"a": "b"}, True)},
    "kid is null": ({"kid": None}, FORM),
    "a lone surrogate in the header": (b'{"alg":"HS256","typ":"jwt","x":"\\ud800"}', HEADER),
    "alg twice, none first": (b'{"alg":"none","alg":"HS256","typ":"jwt"}', MEMBERS),
    "alg twice, none last": (b'{"alg":"HS256","alg":"none","typ":"jwt"}', MEMBERS),
    "alg twice, once escaped": (b'{"alg":"none","\\u0061lg":"HS256","typ":"jwt"}', MEMBERS),
    "typ twice": (b'{"alg":"HS256","typ":"JWE","typ":"jwt"}', MEMBERS),
    "kid twice": (b'{"alg":"HS256","typ":"jwt","kid":"a","kid":"b"}', MEMBERS),
    "NaN in the header": (b'{"alg":"HS256","typ":"jwt","x":NaN}', MEMBERS),
    "the header in UTF-16": ('{"alg":"HS256","typ":"jwt"}'.encode("utf-16"), MEMBERS),
    "the header after a byte order mark": (b'\xef\xbb\xbf{"alg":"HS256","typ":"jwt"}', MEMBERS),
    "the header without UTF-8": (b'{"alg":"HS256","typ":"jwt","x":"\xff"}', MEMBERS),
    "the header nested too deep": (b'{"alg":"HS256","typ":"jwt","x":' + b"[" * 1200 + b"]" * 1200 + b"}", MEMBERS),
    "the header is a list": (b'["HS256","jwt"]', MEMBERS),
    "the header is a text": (b'"HS256"', MEMBERS),
    "the header is empty": (b"", MEMBERS),
}

# --- how it is written ----------------------------------------------------------------------------------------------


def parts(good: str) -> list[str]:
    return good.split(".")


def unused_bits(good: str) -> str:
    """Of a good token, with the same signature in other letters: its last one has two bits that say nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return good[:-1] + alphabet[alphabet.index(good[-1]) ^ 1]


def basic(good: str) -> str:
    return base64.b64encode(f"token:{good}".encode()).decode()


FORMS: dict[str, tuple[Callable[[str], str | list[str]], str]] = {
    "the last letter is missing": (lambda t: bearing(t[:-1]), BROKEN),
    "three letters are missing": (lambda t: bearing(t[:-3]), SIGNATURE),
    "half the signature": (lambda t: bearing(t[:-22]), FORM),
    "no signature": (lambda t: bearing(t.rpartition(".")[0] + "."), SIGNATURE),
    "no signature and no dot": (lambda t: bearing(t.rpartition(".")[0]), FORM),
    "half the claims": (lambda t: bearing(t[: len(parts(t)[0]) + 40]), FORM),
    "the header alone": (lambda t: bearing(parts(t)[0]), FORM),
    "the header and a dot": (lambda t: bearing(parts(t)[0] + "."), FORM),
    "no header": (lambda t: bearing("." + t.partition(".")[2]), MEMBERS),
    "no claims": (lambda t: bearing(f"{parts(t)[0]}..{parts(t)[2]}"), SIGNATURE),
    "dots": (lambda _: bearing(".."), MEMBERS),
    "a letter more": (lambda t: bearing(t + "A"), BROKEN),
    "a dot more": (lambda t: bearing(t + "."), FORM),
    "a dot before": (lambda t: bearing("." + t), MEMBERS),
    "a part more": (lambda t: bearing(f"{t}.{parts(t)[2]}"), FORM),
    "five parts": (lambda t: bearing(".".join([parts(t)[0], "a", *parts(t)[1:], "b"])), FORM),
    "encrypted": (lambda _: bearing(b64(b'{"alg":"dir","enc":"A256GCM","typ":"jwt"}') + "..YQ.YQ.YQ"), REFUSED_HEADER),
    "claims of another": (lambda t: bearing(f"{parts(t)[0]}.{b64(claims_text(sub='1'))}.{parts(t)[2]}"), SIGNATURE),
    "padding after the signature": (lambda t: bearing(t + "="), FORM),
    "too much padding": (lambda t: bearing(t + "=="), FORM),
    "padding after the header": (lambda t: bearing(f"{parts(t)[0]}==.{parts(t)[1]}.{parts(t)[2]}"), FORM),
    "letters whose last bits say nothing": (lambda t: bearing(unused_bits(t)), FORM),
    "a letter of another alphabet": (lambda t: bearing(t[:-2] + "+/"), FORM),
    "a letter that is none": (lambda t: bearing(t[:20] + "!" + t[20:]), FORM),
    "a byte that is no letter": (lambda t: bearing(t[:20] + "\xff" + t[20:]), FORM),
    "a space inside": (lambda t: bearing(f"{t[:60]} {t[60:]}"), FORM),
    "a tab inside": (lambda t: bearing(f"{t[:60]}\t{t[60:]}"), FORM),
    "two spaces before": (lambda t: bearing(f" {t}"), FORM),
    "percent-encoded": (lambda t: bearing(t.replace(".", "%2e")), BROKEN),
    "in quotes": (lambda t: bearing(f'"{t}"'), FORM),
    "twice in one header": (lambda t: bearing(f"{t}, Bearer {t}"), FORM),
    "in two headers": (lambda t: [bearing(t), bearing(t)], ONE),
    "a good one before a bad one": (lambda t: [bearing(t), bearing(t[:-4])], ONE),
    "a bad one before a good one": (lambda t: ["Authorization: Basic YTpi", bearing(t)], ONE),
    "in a header of another name": (
        lambda t: [f"Proxy-Authorization: Bearer {t}", f"X-Authorization: Bearer {t}"],
        ONE,
    ),
    "in a cookie": (lambda t: [f"Cookie: Authorization=Bearer {t}; access_token={t}"], ONE),
    "no header at all": (lambda _: [], ONE),
    "an empty header": (lambda _: "Authorization:", SCHEME),
    "the scheme alone": (lambda _: "Authorization: Bearer", SCHEME),
    "the token alone": (lambda t: f"Authorization: {t}", SCHEME),
    "a colon after the scheme": (lambda t: f"Authorization: Bearer: {t}", SCHEME),
    "a tab after the scheme": (lambda t: f"Authorization: Bearer\t{t}", SCHEME),
    "the scheme twice": (lambda t: bearing(f"Bearer {t}"), FORM),
    "Basic": (lambda t: f"Authorization: Basic {basic(t)}", SCHEME),
    "Basic, and the token": (lambda t: f"Authorization: Basic {t}", SCHEME),
    "Digest": (lambda t: f'Authorization: Digest username="a", response="{t}"', SCHEME),
    "larger than allowed": (lambda t: bearing(t + "A" * 4096), SIZE),
    "as large as a head may be": (lambda t: bearing(t + "A" * 14_000), SIZE),
    "4,096 letters that say nothing": (lambda _: bearing("A" * 4096), MEMBERS),
    "a thousand dots": (lambda _: bearing("." * 1000), MEMBERS),
}


def attacks_by_secret() -> Iterator[Attack]:
    """All of them."""
    by = hmac_signer()
    for name, (claims, reason) in CLAIMS.items():
        payload = claims if isinstance(claims, bytes) else claims_of(**claims)
        yield Attack(name, reason, partial(signed, header_of(by), payload))
    for name, (header, reason) in HEADERS.items():
        yield Attack(
            name, reason, partial(signed, header if isinstance(header, bytes) else header_of(by, **header), None)
        )
    for name, (write, reason) in FORMS.items():
        yield Attack(name, reason, partial(written, write))


def signed(header: object, payload: object) -> list[str]:
    """payload: None: good claims."""
    return [bearing(jws(header, claims_of() if payload is None else payload, hmac_signer()))]


def written(write: Callable[[str], str | list[str]]) -> list[str]:
    lines = write(token())
    return [lines] if isinstance(lines, str) else lines
