"""`multiarm token`: what it mints is what servers take, and what it is told wrongly it says."""

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from auth.tokens_for_tests import SECRET, jwk_set, private_key, private_pem, public_pem
from auth.verifiers_for_tests import verifier_by
from multiarm.auth.keys import Key, jwk_keys
from multiarm.cli import main

DAY_S = 86_400


class Done(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`multiarm token …` within this process; by the shared secret, unless another is given."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str | Path, secret: str | None = SECRET) -> Done:
        monkeypatch.setattr("sys.argv", ["multiarm", "token", *map(str, arguments)])
        monkeypatch.setenv("MULTIARM_DATA_DIR", str(tmp_path))
        if secret is None:
            monkeypatch.delenv("MULTIARM_JWT_SECRET", raising=False)
        else:
            monkeypatch.setenv("MULTIARM_JWT_SECRET", secret)
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capfd.readouterr())

    return run


def read(part: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return document


def test_a_token_by_the_shared_secret(run: Run) -> None:
    started_at = int(time.time())
    done = run("--subject", "checkout-service", "--scope", "draw:checkout-* read", "--lifetime", "12h")
    assert done.status == 0
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.out)
    header, claims = (read(part) for part in done.out.split(".")[:2])
    assert header == {"alg": "HS256", "typ": "at+jwt"}
    assert started_at <= claims["iat"] <= time.time()
    assert claims == {
        "iss": "multiarm",
        "aud": "multiarm",
        "sub": "checkout-service",
        "scope": "draw:checkout-* read",
        "iat": claims["iat"],
        "exp": claims["iat"] + 12 * 3600,
        "jti": claims["jti"],
    }
    assert len(claims["jti"]) >= 16
    for word in ("checkout-service", claims["jti"]):
        assert word in done.err
    assert SECRET not in done.out + done.err
    bearer = verifier_by(Key(None, "HS256", SECRET.encode())).bearer(f"Bearer {done.out.strip()}".encode(), time.time())
    assert (bearer.subject, bearer.scopes.allow("draw", "checkout-2")) == ("checkout-service", True)


def test_each_has_an_id_of_its_own(run: Run) -> None:
    made = [run("--subject", "a", "--scope", "draw").out for _ in range(5)]
    assert len({read(token.split(".")[1])["jti"] for token in made}) == 5


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("name", [None, "key-1"])
def test_a_token_by_a_private_key(run: Run, tmp_path: Path, algorithm: str, name: str | None) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(private_pem(private_key(algorithm)))
    named = [] if name is None else ["--key-id", name]
    done = run("--subject", "a", "--scope", "admin", "--key-file", file, *named, secret=None)
    assert done.status == 0
    header = read(done.out.split(".")[0])
    assert header == {"alg": algorithm, "typ": "at+jwt"} | ({} if name is None else {"kid": name})
    (key,) = jwk_keys(jwk_set((algorithm, 0, name)))
    assert verifier_by(key).bearer(f"Bearer {done.out.strip()}".encode(), time.time()).subject == "a"


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [("1s", 1), ("15m", 900), ("12h", 43_200), ("30d", 30 * DAY_S), ("366d", 366 * DAY_S)]
)
def test_lifetimes(run: Run, lifetime: str, seconds: int) -> None:
    claims = read(run("--subject", "a", "--scope", "draw", "--lifetime", lifetime).out.split(".")[1])
    assert claims["exp"] - claims["iat"] == seconds


@pytest.mark.parametrize(
    "lifetime",
    ["", "0", "0d", "-1d", "30", "30 d", "1.5h", "1w", "d", "1D", "١d", "1d\n", "01d", "999999999d", "367d", "1e3s"],
)
def test_what_is_no_lifetime(run: Run, lifetime: str) -> None:
    done = run("--subject", "a", "--scope", "draw", "--lifetime", lifetime)
    assert (done.status, done.out) == (2, "")
    assert re.search("lifetime|at most", done.err)


@pytest.mark.parametrize(
    "scope", ["drew", "draw:", "draw:*x", "Draw", "draw,read", "draw  read", " draw", "admin:a/b", "*"]
)
def test_scopes_that_allow_nothing(run: Run, scope: str) -> None:
    done = run("--subject", "a", "--scope", scope)
    assert (done.status, done.out) == (2, "")
    assert "There is no scope" in done.err


FAULTS: list[tuple[list[str], str | None, str]] = [
    ([], SECRET, "--subject and --scope"),
    (["--subject", "a"], SECRET, "--subject and --scope"),
    (["--scope", "draw"], SECRET, "--subject and --scope"),
    (["--subject", "a" * 256, "--scope", "draw"], SECRET, "255 characters"),
    (["--subject", "a", "--scope", " ".join(["draw:a"] * 900)], SECRET, "token_limit_bytes|larger"),
    (["--subject", "a", "--scope", "draw"], None, "jwt_secret"),
    (["--subject", "a", "--scope", "draw"], "t00-sh0rt", "too short"),
    (["--subject", "a", "--scope", "draw", "--key-file", "/nowhere/key.pem"], None, "cannot be read"),
    (["--subject", "a", "--scope", "draw", "--config", "/nowhere/multiarm.toml"], None, "cannot be read"),
    (["revoke"], SECRET, "Name one"),
    (["revoke", "--token-id", "a", "--subject", "b"], SECRET, "Name one"),
    (["revoke", "--token-id", "a", "--issued-before", "2026-01-01"], SECRET, "goes with --subject"),
    (["revoke", "--token-id", "a"], SECRET, "no database"),
    (["list"], SECRET, "no database"),
]


@pytest.mark.parametrize(("arguments", "secret", "words"), FAULTS, ids=lambda value: f"{value}"[:30])
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: list[str], secret: str | None, words: str) -> None:
    done = run(*arguments, secret=secret)
    assert (done.status, done.out) == (2, "")
    assert re.search(words, done.err)
    assert done.err.count("\n") == 1
    assert secret is None or secret not in done.err


def files_that_cannot_sign() -> dict[str, bytes]:
    key = private_key("EdDSA")
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    weak = rsa.generate_private_key(65_537, 1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    curve = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {"public": public_pem(key), "locked": locked, "weak": weak, "curve": curve, "empty": b"", "text": b"key"}


@pytest.mark.parametrize("name", ["public", "locked", "weak", "curve", "empty", "text"])
def test_a_file_that_cannot_sign(run: Run, tmp_path: Path, name: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(files_that_cannot_sign()[name])
    done = run("--subject", "a", "--scope", "draw", "--key-file", file, secret=None)
    assert (done.status, done.out) == (2, "")
    assert "cannot sign" in done.err


@pytest.mark.parametrize("subject", ["[/]", "[red]a[/red]", "a\\", "é", "a b", '"'])
def test_a_subject_may_be_any_text(run: Run, subject: str) -> None:
    done = run("--subject", subject, "--scope", "draw")
    assert done.status == 0
    assert read(done.out.split(".")[1])["sub"] == subject
    assert subject in done.err


def test_the_id_of_a_token_is_shown_whole_however_much_it_may_do(run: Run) -> None:
    scope = " ".join(f"{verb}:checkout-in-a-country-with-a-long-name-{verb}-*" for verb in ("draw", "update", "read"))
    done = run("--subject", "the-service-that-sends-what-is-in-the-basket" * 2, "--scope", scope)
    assert read(done.out.split(".")[1])["jti"] in done.err


@pytest.mark.parametrize("option", ["--token-id", "--subject"])
def test_an_empty_name_revokes_nothing_and_does_not_say_so(run: Run, option: str) -> None:
    done = run("revoke", option, "")
    assert done.status == 2
    assert "no database" not in done.err  # it is refused before it is looked for
