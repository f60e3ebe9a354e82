"""`python -m build` gives a wheel that works alone: in a fresh environment, from a foreign folder."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from deploy_files import ROOT
from multiarm import __version__
from support import RunningServer, stats

FROM_ELSEWHERE = ("sh", "-c", 'cd "$0" && unset PYTHONPATH && exec "$@"')
LOCAL = {"127.0.0.1:8080"}


def run(*command: str | Path, cwd: Path, timeout_s: float = 600) -> str:
    """What it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MULTIARM_", "PYTHON"))}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_in_git(*under: str) -> list[str]:
    """As they would be in the next commit of everything."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *under, cwd=ROOT).split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, made from a copy that holds what a clone would."""
    tree = tmp_path_factory.mktemp("tree")
    for name in files_in_git():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--outdir", tree / "dist", tree, cwd=tree.parent)
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"multiarm-{__version__}.dist-info/METADATA").decode())


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`multiarm` as the wheel installs it, with nothing beside it but what it asks for."""
    fresh = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", fresh / "venv", cwd=fresh)
    python = fresh / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-compile", "--constraint", ROOT / "constraints.txt", wheel, cwd=fresh)
    run(*pip, "check", cwd=fresh)
    return fresh / "venv" / "bin" / "multiarm"


@pytest.fixture(scope="module")
def server(command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with RunningServer(elsewhere / "data", command=(*FROM_ELSEWHERE, str(elsewhere), str(command))) as running:
        yield running
        assert running.terminate() == 0
        assert "Traceback" not in running.log


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("src/") for name in files_in_git("src/multiarm")}
    assert {"multiarm/py.typed", "multiarm/storage/migrations/env.py"} <= names
    assert any(name.startswith("multiarm/storage/migrations/versions/0001") for name in names)


def test_the_sdist_can_be_built_again(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/multiarm/py.typed"} <= names


def test_what_it_says_of_itself(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"], metadata["Requires-Python"]) == ("multiarm", __version__, ">=3.11")
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    classifiers = metadata.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    assert "Programming Language :: Python :: 3.11" in classifiers
    assert set(re.findall(r"https?://([\w.:-]+)", metadata.as_string())) <= LOCAL


def test_it_needs_nothing_of_the_tests(metadata: Message) -> None:
    needed = [text for text in metadata.get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert not re.search("pytest|mypy|ruff|hypothesis|pyyaml|duckdb", " ".join(needed))


def test_the_command_knows_its_version(command: Path, tmp_path: Path) -> None:
    assert run(command, "version", cwd=tmp_path).strip() == __version__


def test_it_is_typed_and_not_the_checkout(command: Path, tmp_path: Path) -> None:
    where = Path(run(command.with_name("python"), "-c", "print(__import__('multiarm').__file__)", cwd=tmp_path).strip())
    assert command.parents[1] in where.parents
    assert (where.parent / "py.typed").is_file()


def test_the_server_draws_rewards_and_shows_its_pages(server: RunningServer) -> None:
    client = server.client()
    client.post("/v1/create", json={"experiment_id": "x", "arms": ["a", "b"]}).raise_for_status()
    decision = client.get("/v1/x/draw").raise_for_status().json()
    rewarded = client.post("/v1/x/update", json={"decision_id": decision["decision_id"], "reward": 1})
    assert rewarded.json() == {"accepted": 1, "duplicates": 0}
    assert stats(client, "x")[decision["arm_id"]]["pulls"] == 1
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in re.findall(r'(?:src|href)="(/docs/[^"]+)"', page.text):
        assert client.get(path).status_code == 200, path
    assert "/v1/create" in client.get("/docs/openapi.json").json()["paths"]


def test_a_killed_server_has_lost_nothing(server: RunningServer, command: Path, tmp_path: Path) -> None:
    client = server.client()
    client.post("/v1/create", json={"experiment_id": "y", "arms": ["a"]}).raise_for_status()
    client.post("/v1/y/update", json={"arm_id": "a", "reward": 1, "key": "k"}).raise_for_status()
    server.kill()
    assert "the books balance" in run(command, "check", server.data_dir, cwd=tmp_path)
    server.restart()
    assert stats(server.client(), "y")["a"]["pulls"] == 1
