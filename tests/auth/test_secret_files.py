"""jwt_secret_file: the shared secret from a file, for servers and for `multiarm token`."""

import asyncio
from pathlib import Path

import pytest

from auth.tokens_for_tests import SECRET, private_key, public_pem
from multiarm.auth.key_source import key_source, shared_secret
from multiarm.auth.keys import Key
from multiarm.configuration import load_settings
from multiarm.domain.errors import StartError
from multiarm.settings import Settings
from support import RunningServer, ServerDidNotStart, run_cli

FOR_A = ("--subject", "a", "--scope", "read")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jwt_secret"


async def keys_of(settings: Settings) -> tuple[Key, ...]:
    return await key_source(settings)()


@pytest.mark.parametrize("line_break", [b"", b"\n", b"\r\n"])
def test_a_line_break_at_its_end_does_not_count(file: Path, line_break: bytes) -> None:
    file.write_bytes(SECRET.encode() + line_break)
    assert asyncio.run(keys_of(Settings(jwt_secret_file=str(file)))) == (Key(None, "HS256", SECRET.encode()),)


@pytest.mark.parametrize("text", [b" " * 32, b"\n" * 33, b"\xff" * 32, b"\x00" * 32, b"x" * 31 + b" \n"])
def test_every_other_byte_counts(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    assert shared_secret(Settings(jwt_secret_file=str(file))) == text.removesuffix(b"\n")


def test_it_is_the_same_key_as_by_the_environment(file: Path) -> None:
    file.write_text(SECRET)
    assert shared_secret(Settings(jwt_secret_file=str(file))) == shared_secret(Settings(jwt_secret=SECRET))
    assert shared_secret(Settings()) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "0 of the 32 bytes"),
        (b"\n", "0 of the 32 bytes"),
        (b"x" * 31 + b"\n", "31 of the 32 bytes"),
        (b"x" * 1025, "larger than 1,024 bytes"),
        (public_pem(private_key("RS256")), "public key"),
    ],
)
def test_a_file_without_a_secret_is_refused_and_not_told(file: Path, text: bytes, words: str) -> None:
    file.write_bytes(text)
    with pytest.raises(StartError, match=words) as refused:
        key_source(Settings(jwt_secret_file=str(file), jwt_jwks_limit_bytes=1024))
    assert f"{file} (jwt_secret_file)" in str(refused.value)
    assert "xxx" not in str(refused.value)


def test_a_file_that_cannot_be_read(file: Path) -> None:
    for path, words in ((file, "No such file"), (file.parent, "Is a directory")):
        with pytest.raises(StartError, match=words) as refused:
            key_source(Settings(jwt_secret_file=str(path)))
        assert "jwt_secret_file" in str(refused.value)


@pytest.mark.parametrize("other", ["jwt_secret", "jwt_public_key_file", "jwt_jwks"])
def test_beside_another_source_it_is_refused(file: Path, other: str) -> None:
    file.write_text(SECRET)
    with pytest.raises(StartError, match=f"of .*{other}.*leave one"):
        key_source(load_settings(environment={}, flags={"jwt_secret_file": str(file), other: SECRET}))


def test_a_server_takes_what_the_command_signs_with_the_same_file(file: Path, tmp_path: Path) -> None:
    file.write_text(f"{SECRET}\n")
    settings = {"jwt_secret_file": file}
    with RunningServer(tmp_path / "data", settings=settings) as server:
        client = server.client()
        assert client.get("/v1/list").status_code == 401
        token = run_cli("token", *FOR_A, settings=settings).stdout.strip()
        assert client.get("/v1/list", headers={"authorization": f"Bearer {token}"}).json() == {"experiment_ids": []}
        assert SECRET not in server.stdout + server.log


def test_both_say_what_is_wrong_with_it(file: Path, tmp_path: Path) -> None:
    file.write_text(SECRET)
    for settings in ({"jwt_secret_file": file, "jwt_secret": SECRET}, {"jwt_secret_file": tmp_path}):
        with pytest.raises(ServerDidNotStart) as refused:
            RunningServer(tmp_path / "data", settings=settings)
        done = run_cli("token", *FOR_A, settings=settings)
        assert refused.value.status == done.returncode == 2
        for said in (refused.value.output, done.stderr):
            assert "jwt_secret_file" in said
            assert "Traceback" not in said
            assert SECRET not in said
