"""The command line: version, check, help, and that `serve` takes its settings from everywhere."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from multiarm import __version__
from multiarm.cli import main
from support import RunningServer, create, environment, reward, run_cli

SCRIPT = Path(__file__).parents[1] / ".venv" / "bin" / "multiarm"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`multiarm …` within this process, for speed."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr("sys.argv", ["multiarm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capfd.readouterr())

    return run


class TestVersion:
    def test_it_prints_the_version_and_nothing_else(self) -> None:
        done = run_cli("version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


class TestHelp:
    def test_it_names_the_commands(self, run: Callable[..., Done]) -> None:
        done = run("--help")
        assert done.returncode == 0
        for command in ("serve", "demo", "simulate", "plan", "check", "backup", "restore", "version"):
            assert command in done.stdout

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["serve", "--colour", "red"], ["serve", "--port", "x"], ["check"]]
    )
    def test_what_it_does_not_know_is_refused(self, run: Callable[..., Done], arguments: list[str]) -> None:
        done = run(*arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr


STUDY = """
horizon = 50
runs = 5
[environment]
type = "bernoulli"
means = [0.5, 0.4]
[[policies]]
type = "ucb1"
[[policies]]
type = "thompson"
label = "mine"
"""


class TestSimulate:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Path:
        file = tmp_path / "study.toml"
        file.write_text(STUDY)
        return file

    def test_a_study_from_its_file_to_its_files(self, run: Callable[..., Done], study: Path, tmp_path: Path) -> None:
        done = run("simulate", study, "--output", tmp_path / "out" / "one", "--processes", "1")
        assert done.returncode == 0
        assert "5 runs of 50 draws, 2 arms" in done.stdout
        assert "mine" in done.stdout
        rows = json.loads((tmp_path / "out" / "one" / "table.json").read_text())
        assert [(row["label"], row["delay"]) for row in rows] == [("ucb1", 0), ("mine", 0)]

    def test_flags_come_before_the_file(self, run: Callable[..., Done], study: Path, tmp_path: Path) -> None:
        flags = ["--runs", "3", "--seed", "7", "--delay", "0,10", "--processes", "1"]
        done = run("simulate", study, "--output", tmp_path / "out", *flags)
        assert done.returncode == 0
        rows = json.loads((tmp_path / "out" / "table.json").read_text())
        assert [(row["label"], row["delay"], row["runs"]) for row in rows] == [
            (label, delay, 3) for delay in (0, 10) for label in ("ucb1", "mine")
        ]

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["--runs", "0"], "flag --runs: Expected int >= 1"),
            (["--seed", "-1"], "flag --seed: "),
            (["--delay", "0,x"], "flag --delay '0,x': expected up to 10 numbers"),
            (["--delay", "0,nan"], "flag --delay '0,nan'"),
            (["--delay", "-5"], "flag --delay: Expected float >= 0"),
        ],
    )
    def test_wrong_flags(
        self, run: Callable[..., Done], study: Path, tmp_path: Path, flags: list[str], words: str
    ) -> None:
        done = run("simulate", study, "--output", tmp_path / "out", *flags)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_every_fault_of_the_study_is_a_line(self, run: Callable[..., Done], study: Path, tmp_path: Path) -> None:
        study.write_text(STUDY.replace("0.4]", "4]").replace("ucb1", "ucb2").replace("label", "lable"))
        done = run("simulate", study, "--output", tmp_path / "out")
        assert done.returncode == 2
        assert f"multiarm: {study}: policies[0].type: There is no type 'ucb2'; the types are bayes_ucb" in done.stderr
        assert f"{study}: policies[1].lable: There is no such field" in done.stderr

    def test_files_that_are_not_there_or_in_the_way(
        self, run: Callable[..., Done], study: Path, tmp_path: Path
    ) -> None:
        done = run("simulate", tmp_path / "nothing.toml", "--output", tmp_path / "out")
        assert (done.returncode, "cannot be read: No such file" in done.stderr) == (2, True)
        done = run("simulate", study, "--output", study)
        assert (done.returncode, "is a file" in done.stderr) == (2, True)


class TestPlan:
    def test_tables_sentences_and_files(self, run: Callable[..., Done], tmp_path: Path) -> None:
        done = run("plan", "--horizon-days", "5", "--lift", "0.3", "--runs", "100", "--output", tmp_path / "out")
        assert done.returncode == 0
        assert "If one arm is better: 2.6 % instead of 2 %" in done.stdout
        assert "• A fixed test needs" in done.stdout
        assert json.loads((tmp_path / "out" / "plan.json").read_text())["plan"]["lift"] == 0.3
        assert (tmp_path / "out" / "plan.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "out" / "plan.svg").read_text()

    def test_every_wrong_flag_is_a_line(self, run: Callable[..., Done]) -> None:
        done = run("plan", "--base-rate", "2", "--horizon-days", "0")
        assert done.returncode == 2
        assert "flag --base-rate: Got 2: a conversion rate lies between 0 and 1" in done.stderr
        assert "flag --horizon-days: Got 0: the horizon lies ahead" in done.stderr


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that a server used and left in order."""
    directory = tmp_path_factory.mktemp("used") / "data"
    with RunningServer(directory) as server:
        client = server.client()
        create(client, "red", "green", experiment_id="button", half_life_s=3600)
        for number in range(20):
            reward(client, "button", arm_id="red", reward=number / 20, key=f"{number}")
        reward(client, "button", decision_id=client.get("/v1/button/draw").json()["decision_id"], reward=1)
        client.put("/v1/button/disable_arm/green")
        assert server.terminate() == 0
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def copied(used: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "copied"))


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "multiarm.db")) as database, database:
        assert database.execute(statement).rowcount > 0


class TestCheck:
    def test_a_good_directory(self, run: Callable[..., Done], copied: Path) -> None:
        done = run("check", copied)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "button" in done.stdout
        assert "red" in done.stdout
        assert "the books balance" in done.stdout
        assert "21 rewards" in done.stdout

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE evidence SET pull_count = pull_count + 1 WHERE arm = 1",
            "UPDATE reward SET reward = reward + 0.001 WHERE number = 7",
            "DELETE FROM reward WHERE number = 3",
            "UPDATE evidence SET sums = json_remove(sums, '$[2]') WHERE arm = 1",
            (
                "INSERT INTO evidence (experiment, arm, node, epoch, sums, as_of, pull_count, draw_count, updated_at)"
                " SELECT experiment, arm, 7, epoch, '[0.0]', as_of, 0, 0, updated_at FROM evidence WHERE arm = 1"
            ),
            (
                "INSERT INTO baseline (experiment, arm, epoch, sums, magnitudes, as_of, pull_count)"
                " SELECT experiment, arm, epoch, '[0.0]', '[0.0]', as_of, 0 FROM evidence WHERE arm = 1"
            ),
        ],
    )
    def test_books_that_do_not_balance(self, run: Callable[..., Done], copied: Path, statement: str) -> None:
        change(copied, statement)
        done = run("check", copied)
        assert done.returncode == 1
        assert "1 of 2 arms do not balance" in done.stdout

    def test_snapshots_that_cannot_be_read_are_named(self, run: Callable[..., Done], copied: Path) -> None:
        change(copied, "UPDATE snapshot SET arms = '[' WHERE number = 1")
        done = run("check", copied)
        assert done.returncode == 1
        assert "the books balance" in done.stdout
        assert "Snapshots that cannot be read: 1 of 'button'." in " ".join(done.stdout.split())

    def test_a_damaged_database(self, run: Callable[..., Done], copied: Path) -> None:
        database = copied / "multiarm.db"
        data = bytearray(database.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        database.write_bytes(data)
        done = run("check", copied)
        assert done.returncode != 0
        assert "atabase" in done.stdout + done.stderr

    def test_a_database_that_is_none(self, run: Callable[..., Done], copied: Path) -> None:
        (copied / "multiarm.db").write_bytes(b"no database " * 1000)
        done = run("check", copied)
        assert done.returncode != 0
        assert "atabase" in done.stderr

    def test_a_directory_without_a_database(self, run: Callable[..., Done], copied: Path) -> None:
        for file in copied.glob("multiarm.db*"):
            file.unlink()
        done = run("check", copied)
        assert done.returncode != 0
        assert str(copied) in done.stderr
        assert not (copied / "multiarm.db").exists()

    def test_what_is_no_data_directory_stays_as_it_is(self, run: Callable[..., Done], tmp_path: Path) -> None:
        for directory in (tmp_path, tmp_path / "nothing"):
            done = run("check", directory)
            assert done.returncode != 0
            assert str(directory) in done.stderr
            assert list(tmp_path.iterdir()) == []

    def test_one_in_use_is_left_alone(self, run: Callable[..., Done], server: RunningServer) -> None:
        done = run("check", server.data_dir)
        assert done.returncode != 0
        assert str(server.process.pid) in done.stderr


def has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


class TestServe:
    def test_settings_come_from_file_environment_and_flags(self, tmp_path: Path) -> None:
        file = tmp_path / "multiarm.toml"
        file.write_text('allowed_hosts = ["example.org", "127.0.0.1"]\nport = 1\nbatch_limit_updates = 1\n')
        with RunningServer(
            tmp_path / "data", settings={"batch_limit_updates": 2, "port": 2}, arguments=["--config", str(file)]
        ) as server:
            client = server.client()
            assert client.get("/v1/ping", headers={"host": "example.org"}).status_code == 200
            assert client.get("/v1/ping", headers={"host": "localhost"}).status_code == 403
            experiment_id = create(client, "a")
            for count, status in ((2, 200), (3, 422)):
                updates = [{"arm_id": "a", "reward": 1}] * count
                answer = client.post(f"/v1/{experiment_id}/update_batch", json={"updates": updates})
                assert answer.status_code == status

    def test_any_host_and_origin_pass_where_all_are_allowed(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data", settings={"allowed_hosts": "*"}) as server:
            client = server.client()
            headers = {"host": "anything.example:8", "origin": "https://other.example"}
            assert client.get("/v1/ping", headers=headers).status_code == 200

    @pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")
    def test_on_the_loopback_of_ipv6(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data", arguments=["--host", "::1"]) as server:
            assert server.url.startswith("http://[::1]:")
            assert server.client().get("/v1/ping").status_code == 200

    @pytest.mark.skipif(not SCRIPT.exists(), reason="multiarm is not installed in .venv")
    def test_the_installed_script_is_the_same_program(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [SCRIPT, "serve", "--port", "0", "--data-dir", tmp_path / "data"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().split("answers at ")[1].split(",")[0]
                assert httpx.get(f"{url}/v1/ping", trust_env=False, timeout=20).json()["version"] == __version__
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
            finally:
                process.kill()
