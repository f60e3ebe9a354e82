"""What fuzzing has found, input by input, and inputs that have broken others; and that broken parsers are found."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest

from fuzz import decision_ids, engine, run
from fuzz.connections import AUTH, CHUNKED, DRAW, REWARD, asked
from fuzz.engine import Limits, seeded
from fuzz.mutation import Material, changed
from fuzz.strict_http import answers
from fuzz.target import One, Target, simple
from fuzz.targets import TARGETS
from multiarm.auth.bearer import ANYONE
from multiarm.domain.errors import MultiarmError
from multiarm.http.gate import Gate

HOW = [b"%c" % flags for flags in (9, 11, 13, 15, 8, 10)]  # with tokens and without, ended, slow; cut for both alike
FOUND: list[tuple[str, bytes]] = [
    # a JWK set that is not UTF-8 raised UnicodeDecodeError
    ("keys", b'j{"keys":[{$R,"ki\xdc":"b"}]}'),
    ("keys", b"j\xff"),
    # with tokens, the lane took a Host that the application refuses
    *(("connections", how + asked(b"GET /v1/button/draw", AUTH, host=b"Host: a/b")) for how in HOW),
    *(("connections", how + asked(b"GET /v1/button/draw", AUTH, host=b'Host: "') * 3) for how in HOW),
    # a target without a host raised TypeError, and after an error of the application any bad target was answered 500
    *(("connections", how + asked(b"OPTIONS **")) for how in HOW),
    *(("connections", how + asked(b"GET /v1/nobody", AUTH) + asked(b"GET http://evi_l/v1/ping", AUTH)) for how in HOW),
    # where a body could not be read behind another request, reading stayed paused, and its end was not seen
    *(("connections", how + DRAW + CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n") for how in HOW),
]
NASTY: list[tuple[str, bytes]] = [
    ("decision ids", b"t" + b"=" * 92),
    ("decision ids", b"t" + "\ud800".encode("utf-8", "surrogatepass") * 92),
    ("decision ids", b"s" + b"\1\0\1" + b"\xff" * 50),
    ("decision ids", b"s" + b"\1\0\1" + bytes(16) + b"\x7f\xf8" + bytes(30)),
    *(("tokens", b"s%c" % number + b'{"alg":"$A","typ":"at+jwt","alg":"none"}\0{}') for number in range(7)),
    *(("tokens", b"s%c" % number + b"[" * 700) for number in range(7)),
    *(("tokens", b"s%c" % number + b'{"iss":1e999,"exp":NaN,"sub":"\\ud800"}') for number in range(7)),
    ("tokens", b"t\0Bearer \xff.\xfe."),
    ("tokens", b"t\0" + b"." * 4096),
    ("bodies", b"u" + b'{"reward":' + b"9" * 4000 + b"}"),
    ("bodies", b"a" + b'{"payload":' + b'{"a":' * 600 + b"1" + b"}" * 601),
    ("bodies", b'u{"arm_id":"red","reward":1,"ts":"0001-01-01T00:00:00+23:59"}'),
    ("bodies", b'c{"policy":{"type":{"type":"ucb1"}}}'),
    ("bodies", b'b{"updates":[' + b"{}," * 300 + b"[]]}"),
    ("ids in paths", b"/v1/a\n/draw"),
    ("ids in paths", b"/v1/a/draw\n"),
    ("ids in paths", b"a\n"),
    ("scopes", b'a"\r\nset-cookie: b=c|draw:a* read'),
    ("scopes", b"a|" + b"draw:" * 100),
    ("keys", b'j{"keys":[{"kty":"RSA","n":"' + b"_" * 3000 + b'","e":"AQAB"}]}'),
    ("keys", b"p-----BEGIN PUBLIC KEY-----\n\xff\n-----END PUBLIC KEY-----"),
    ("framing", b"\7\x10\x20\x30\x40\x50\x60\x70" + b"\r\n\r\n" * 200 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("framing", b"\0POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 3000),
    *(("connections", how + DRAW.replace(b"$T", b"\xff")) for how in HOW),
    *(("connections", how + REWARD.replace(b"1,", b"1" * 500 + b",")) for how in HOW),
    *(("connections", how + DRAW.replace(b"HTTP/1.1\r\n", b"\n") * 3) for how in HOW),
    *(("connections", how + asked(b"GET http://a:99999999999/v1/button/draw", AUTH)) for how in HOW),
]


def cases(name: str) -> list[bytes]:
    return [data for target, data in (*FOUND, *NASTY) if target == name]


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_stays_mended(name: str) -> None:
    with TARGETS[name].opened() as one:
        for data in cases(name):
            one(data)


# --- broken parsers are found ----------------------------------------------------------------------------------------


def identify(gate: Gate, headers: Any) -> Any:
    """Lets in whoever has no good token."""
    try:
        return good_identify(gate, headers)
    except MultiarmError:
        return ANYONE


good_identify = Gate.identify
UNVERIFIED = jwt.PyJWS(algorithms=["HS256", "RS256", "ES256", "EdDSA"], options={"verify_signature": False})
BROKEN: list[tuple[str, str, Any]] = [
    ("decision ids", "multiarm.domain.decision.hmac.compare_digest", lambda _one, _other: True),
    ("decision ids", "multiarm.domain.decision._STANDARD", bytes.maketrans(b"-_", b"+/")),
    ("tokens", "multiarm.auth.verifier._signatures", UNVERIFIED),
    ("tokens", "multiarm.auth.claims.REFUSED_PARAMETERS", ()),
    ("tokens", "multiarm.auth.claims.distinct", dict),
    ("keys", "multiarm.auth.keys.LEAST_RSA_BITS", 512),
    ("bodies", "multiarm.http.bodies._UNREADABLE", (msgspec.DecodeError,)),
    ("ids in paths", "multiarm.http.gate.is_dotted", lambda _path: False),
    ("ids in paths", "fuzz.paths.PLAIN", re.compile(rb"/v1/([A-Za-z0-9][A-Za-z0-9._-]*)/(draw|update|update_batch)")),
    ("scopes", "multiarm.auth.bearer.SCOPE", re.compile(".*", re.DOTALL)),
    ("framing", "multiarm.http.framing.Framing.body", lambda _self, data, at: data[at:]),
    ("connections", "multiarm.http.gate.Gate.identify", identify),
    ("connections", "multiarm.http.express.is_json", lambda _headers: True),
]


@pytest.mark.parametrize(("name", "place", "broken"), BROKEN, ids=[place for _, place, _ in BROKEN])
def test_a_broken_parser_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, place: str, broken: Any
) -> None:
    monkeypatch.setattr(place, broken)
    result = seeded(TARGETS[name], Limits(1, 5_000, 20, tmp_path, findings=1))
    assert result.findings


def fails_on(error: type[BaseException], *words: bytes) -> One:
    def one(data: bytes) -> bool:
        if all(word in data for word in words):
            raise error(words)
        return data.startswith(b"a")

    return one


def small(one: One) -> Target:
    return simple("small", one, [b"abc", b"(b)"], [b"<", b">"], 1)


def test_an_input_that_crashes_is_kept_with_its_traceback(tmp_path: Path) -> None:
    target = small(fails_on(ZeroDivisionError, b"<", b">"))
    result = seeded(target, Limits(1, 5_000, 20, tmp_path))
    [name] = result.findings
    assert result.inputs == 5_000
    with pytest.raises(ZeroDivisionError), target.opened() as one:
        one((tmp_path / name).read_bytes())
    assert "ZeroDivisionError" in (tmp_path / f"{name}.txt").read_text()


def test_one_bug_is_found_once_and_two_are_two(tmp_path: Path) -> None:
    def one(data: bytes) -> bool:
        assert b"<" not in data, "the one"
        assert b">" not in data, "the other"
        return True

    assert len(seeded(small(one), Limits(1, 5_000, 20, tmp_path)).findings) == 2


class Panic(BaseException):
    """As pyo3's is."""


def test_a_panic_is_a_crash_like_any_other(tmp_path: Path) -> None:
    assert seeded(small(fails_on(Panic, b"<")), Limits(1, 1_000, 20, tmp_path)).findings


def test_an_input_that_takes_for_ever_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "INPUT_TIMEOUT_S", 0.05)

    def one(data: bytes) -> bool:
        if b"<" in data:
            time.sleep(10)
        return True

    start = time.monotonic()
    [said] = seeded(small(one), Limits(1, 1_000, 1, tmp_path)).findings.values()
    assert "TimeoutError" in said
    assert time.monotonic() - start < 9


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []

        def one(data: bytes) -> bool:
            seen.append(data)
            return data.startswith(b"a")

        seeded(small(one), Limits(seed, 500, 20, tmp_path))
        return seen

    assert inputs(1) == inputs(1) != inputs(2)


def test_it_ends_when_the_time_is_over(tmp_path: Path) -> None:
    result = seeded(small(lambda _data: True), Limits(1, 1 << 60, 0.2, tmp_path))
    assert result.inputs
    assert result.seconds < 5


def test_changes_reach_far_and_stay_short() -> None:
    rng, material = random.Random(1), Material([b"abc" * 1000], [b"<>"])
    made = [changed(rng, b"abc" * 1000, material) for _ in range(2_000)]
    assert len(set(made)) > 1_500
    assert max(map(len, made)) <= 4096
    assert any(b"<>" in data for data in made)


# --- what answers are held against ----------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\n{}"
WRONG: dict[str, bytes] = {
    "cut off": OK[:-1],
    "something after it": OK + b"x",
    "another reason": OK.replace(b"OK", b"Fine"),
    "a header twice": OK.replace(b"date", b"date: then\r\ndate"),
    "a bare line feed": OK.replace(b"now\r\n", b"now\n"),
    "a header in it": OK.replace(b"now", b"now\r\n set-cookie: a=b"),
    "no length": OK.replace(b"content-length: 2\r\n", b""),
    "two answers after the end": OK.replace(b"date", b"connection: close\r\ndate") * 2,
    "a chunk too long": OK.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"\r\n3\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=list(WRONG))
def test_answers_are_read_strictly(data: bytes) -> None:
    assert [said.body for said in answers(OK * 2)] == [b"{}"] * 2
    with pytest.raises((AssertionError, KeyError)):
        answers(data)


# --- the script ------------------------------------------------------------------------------------------------------


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, run.__file__, "--engine", "seeded", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_script_says_what_it_did(tmp_path: Path) -> None:
    done = run_script("--inputs", "300", "--target", "decision ids", "--crashes", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^decision ids +300 +[\d,]+ +\d+\.\d% +0 ", done.stdout, re.MULTILINE), done.stdout
    assert not list(tmp_path.iterdir())


def test_the_script_shows_an_input_again(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(decision_ids.SEEDS[0])
    done = run_script("--target", "decision ids", "--replay", str(tmp_path / "input"))
    assert (done.returncode, done.stdout) == (0, "taken\n")
