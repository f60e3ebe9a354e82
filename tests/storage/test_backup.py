"""Backups made while a server writes, and what becomes of them: whole, verified, or not there at all."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from multiarm.domain.errors import StartError
from multiarm.domain.policies import VDBE, Thompson
from multiarm.storage import backup
from multiarm.storage.backup import back_up, restore
from multiarm.storage.check import check_directory
from multiarm.storage.data_directory import DataDirectory
from multiarm.storage.engine import create_engine, sqlite_url
from multiarm.storage.schema import evidence, reward
from postgres import NODE, NOON, OTHER_NODE, Database, bundle, database_of, plain
from small_disk import SmallDisk
from support import RunningServer, create, run_cli, stats
from support import reward as report


def filled(path: Path, *, reward_count: int = 30) -> Path:
    """A data directory with an experiment and its rewards, of node 1."""
    DataDirectory(path).close()
    (path / "node").write_text(f"{NODE}\n")
    with database_of("sqlite", path) as database:
        add(database, reward_count)
    return path


def add(database: Database, reward_count: int) -> None:
    state = database.create()
    increments = [plain(state, 1 + n % 2, n % 3 / 2, key=f"{n}") for n in range(reward_count)]
    database.commit(bundle(state, *increments), now=NOON)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return filled(tmp_path / "data")


def keys_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {key for (key,) in database.execute("SELECT key FROM reward")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (text)")


class TestOfARunningServer:
    def test_every_reward_acknowledged_before_it_began_is_in_it(self, tmp_path: Path) -> None:
        acknowledged: list[str] = []
        stop = threading.Event()
        files = [tmp_path / f"{number}.db" for number in range(3)]

        def send(server: RunningServer, sender: int) -> None:
            with httpx.Client(base_url=server.url, trust_env=False) as client:
                number = 0
                while not stop.is_set():
                    keys = [f"{sender}-{number + index}" for index in range(20)]
                    updates = [{"arm_id": "a", "reward": 1, "key": key} for key in keys]
                    client.post("/v1/x/update_batch", json={"updates": updates}).raise_for_status()
                    acknowledged.extend(keys)
                    number += len(keys)

        with RunningServer(tmp_path / "data") as server:
            create(server.client(), "a", "b", experiment_id="x")
            senders = [threading.Thread(target=send, args=(server, sender)) for sender in range(3)]
            for sender in senders:
                sender.start()
            try:
                for file in files:
                    before = set(acknowledged)
                    done = run_cli("backup", file, "--data-dir", server.data_dir)
                    assert (done.returncode, done.stderr) == (0, "")
                    assert "1 experiment" in done.stdout
                    assert "the books balance" in done.stdout
                    assert {f"k:{key}" for key in before} <= keys_in(file)
            finally:
                stop.set()
                for sender in senders:
                    sender.join()
        assert len(keys_in(files[0])) < len(keys_in(files[2])) <= len(acknowledged)
        assert names(tmp_path) == {"data", "0.db", "1.db", "2.db"}
        for file in files:
            assert file.stat().st_mode & 0o777 == 0o600
            restore(file, tmp_path / f"restored-{file.stem}")
            assert check_directory(tmp_path / f"restored-{file.stem}").good

    def test_a_restored_one_goes_on_where_it_was(self, tmp_path: Path) -> None:
        rng = random.Random(2)
        with RunningServer(tmp_path / "data") as server:
            client = server.client()
            for experiment_id, policy in (("t", Thompson()), ("v", VDBE())):
                create(client, "a", "b", experiment_id=experiment_id, policy={"type": policy.name})
                for _ in range(60):
                    decision = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
                    report(client, experiment_id, decision_id=decision, reward=round(rng.random(), 2))
            report(client, "t", arm_id="a", reward=1, key="old")
            client.put("/v1/t/reward/key/old", json={"reward": None}).raise_for_status()
            open_decision = client.get("/v1/t/draw").json()["decision_id"]
            assert server.terminate() == 0  # for the last draw count
            server.restart()
            client = server.client()
            before = {name: stats(client, name) for name in ("t", "v")}
            assert run_cli("backup", tmp_path / "b.db", "--data-dir", server.data_dir).returncode == 0
            report(client, "t", arm_id="a", reward=1, key="after")
        done = run_cli("restore", tmp_path / "b.db", "--data-dir", tmp_path / "new" / "home")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Tokens revoked since the backup are valid again" in done.stdout
        home = tmp_path / "new" / "home"
        assert home.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}
        assert run_cli("check", home).returncode == 0  # no server has used it
        with RunningServer(home) as server:
            client = server.client()
            assert {name: stats(client, name) for name in ("t", "v")} == before
            nothing, one = {"accepted": 0, "duplicates": 1}, {"accepted": 1, "duplicates": 0}
            assert report(client, "t", arm_id="a", reward=1, key="old") == nothing
            assert report(client, "t", decision_id=open_decision, reward=1) == one
            assert report(client, "t", arm_id="a", reward=1, key="after") == one
            for name in ("t", "v"):
                report(client, name, arm_id="b", reward=1)
            assert server.terminate() == 0
        assert check_directory(home).good
        with closing(sqlite3.connect(home / "multiarm.db")) as database:
            assert database.execute("SELECT count(DISTINCT node) FROM evidence").fetchone() == (1,)


class TestOneMoment:
    def test_what_is_committed_between_two_steps_is_not_in_it(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And does not make it begin again, or under load it would never end."""
        before, steps = keys_in(data / "multiarm.db"), 0
        page_count = 0

        def commit(*_: int) -> None:
            nonlocal steps, page_count
            steps += 1
            assert steps <= 1_000, "it begins again and again"
            if steps == 1:
                (page_count,) = writer.execute("PRAGMA page_count").fetchone()
            with writer:
                writer.execute(
                    "INSERT INTO reward (experiment, key, arm, epoch, evidence_time, received_at, reward, node)"
                    f" SELECT experiment, 'k:between{steps}', arm, 99, 0, 0, 0, 1 FROM reward LIMIT 1"
                )

        monkeypatch.setattr(backup, "STEP_PAGES", 1)
        monkeypatch.setattr(backup, "listen", commit)
        with closing(sqlite3.connect(data / "multiarm.db")) as writer:
            back_up(data, tmp_path / "b.db")
        assert 5 < steps <= page_count + 1
        assert keys_in(tmp_path / "b.db") == before


class TestWholeOrNotAtAll:
    def test_one_that_is_killed_leaves_no_file_under_its_name(self, data: Path, tmp_path: Path) -> None:
        """And what it left is no hindrance to the next."""
        file = tmp_path / "b.db"
        code = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from multiarm.storage import backup\n"
            "def examined(*_, **__):\n"
            "    print('copied', flush=True)\n"
            "    time.sleep(60)\n"
            "backup.examined = examined\n"
            "backup.back_up(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        )
        arguments = [sys.executable, "-c", code, str(data), str(file)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "copied\n"
            with pytest.raises(StartError, match=f"in use by process {process.pid}"):
                back_up(data, file)
            process.send_signal(signal.SIGKILL)
        assert not file.exists()
        assert "b.db.part" in names(tmp_path)
        assert back_up(data, file).reward_count == 30
        assert names(tmp_path) == {"data", "b.db"}

    def test_a_restore_that_is_killed_can_be_repeated(self, data: Path, tmp_path: Path) -> None:
        back_up(data, tmp_path / "b.db")
        with DataDirectory(tmp_path / "home"):
            for end in ("", "-wal", "-shm"):
                (tmp_path / "home" / f"copy.db{end}").write_bytes(b"half")
            with pytest.raises(StartError, match="in use"):
                restore(tmp_path / "b.db", tmp_path / "home")
        assert restore(tmp_path / "b.db", tmp_path / "home").reward_count == 30
        assert names(tmp_path / "home") == {"lock", "node", "multiarm.db"}

    def test_no_server_starts_where_a_restore_was_killed(self, data: Path, tmp_path: Path) -> None:
        back_up(data, tmp_path / "b.db")
        home = tmp_path / "home"
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from multiarm.storage import backup\n"
            "backup.put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "backup.restore(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        )
        arguments = [sys.executable, "-c", code, str(tmp_path / "b.db"), str(home)]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
        for arguments in (["serve", "--port", "0", "--data-dir", str(home)], ["check", str(home)]):
            done = run_cli(*arguments)
            assert done.returncode == 2
            assert "cut off: run the same `multiarm restore` again" in done.stderr
        assert names(home) == {"lock", "node", "copy.db"}
        assert run_cli("restore", tmp_path / "b.db", "--data-dir", home).returncode == 0
        assert names(home) == {"lock", "node", "multiarm.db"}
        (home / "copy.db").touch()  # one that was killed after it was done
        assert check_directory(home).good

    def test_what_is_there_is_not_overwritten(self, data: Path, tmp_path: Path) -> None:
        file = tmp_path / "b.db"
        file.write_text("precious")
        with pytest.raises(StartError, match="exists"):
            back_up(data, file)
        assert file.read_text() == "precious"
        (tmp_path / "c.db.part").mkdir()
        (tmp_path / "c.db.part" / "precious").touch()
        with pytest.raises(StartError, match="not empty"):
            back_up(data, tmp_path / "c.db")
        assert names(tmp_path / "c.db.part") == {"precious"}

    def test_a_disk_that_is_full_leaves_nothing(
        self, disk: SmallDisk, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        data = filled(tmp_path_factory.mktemp("large") / "data", reward_count=5_000)
        good = tmp_path_factory.mktemp("good") / "b.db"
        back_up(data, good)
        disk.fill()
        with pytest.raises(StartError):
            back_up(data, disk.path / "b.db")
        with pytest.raises(StartError):
            restore(good, disk.path / "home")
        assert not (disk.path / "b.db").exists()
        assert not (disk.path / "home" / "multiarm.db").exists()
        disk.empty()
        if disk.path.stat().st_dev != data.stat().st_dev:
            (disk.path / "filler").write_bytes(bytes(1_800_000))  # so that some of it fits
            with pytest.raises(StartError, match=r"full|written|I/O"):
                back_up(data, disk.path / "b.db")
            assert names(disk.path) - {"home"} == {"filler"}
            (disk.path / "filler").unlink()
        assert back_up(data, disk.path / "b.db").reward_count == 5_000


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda path: path.write_text("no database " * 1000), "cannot be copied"),
            (lambda path: path.touch(), "no database of multiarm"),
            (foreign, "no database of multiarm"),
            (str, "no file"),
            (lambda path: path.mkdir(), "no file"),
        ],
    )
    def test_what_is_no_backup(self, tmp_path: Path, make: Callable[[Path], Any], why: str) -> None:
        make(tmp_path / "b.db")
        with pytest.raises(StartError, match=why):
            restore(tmp_path / "b.db", tmp_path / "home")
        assert not (tmp_path / "home" / "multiarm.db").exists()

    @pytest.mark.parametrize(
        ("damage", "why"),
        [
            ("UPDATE alembic_version SET version_num = '9999'", "9999"),
            ("UPDATE evidence SET pull_count = 7 WHERE arm = 1", "do not balance"),
            ("UPDATE evidence SET sums = '[1,2'", "cannot be read"),
            ("DELETE FROM alembic_version", "no database of multiarm"),
        ],
    )
    def test_what_is_wrong_in_it(self, data: Path, tmp_path: Path, damage: str, why: str) -> None:
        back_up(data, tmp_path / "b.db")
        for path in (tmp_path / "b.db", data / "multiarm.db"):
            with closing(sqlite3.connect(path)) as database, database:
                database.execute(damage)
        with pytest.raises(StartError, match=why):
            restore(tmp_path / "b.db", tmp_path / "home")
        with pytest.raises(StartError, match=why):
            back_up(data, tmp_path / "c.db")
        assert not (tmp_path / "home" / "multiarm.db").exists()
        assert names(tmp_path) == {"data", "home", "b.db"}

    def test_damaged_pages(self, data: Path, tmp_path: Path) -> None:
        back_up(data, tmp_path / "b.db")
        for page in range(1, 10):
            damaged = bytearray((tmp_path / "b.db").read_bytes())
            damaged[page * 4096 : page * 4096 + 512] = os.urandom(512)
            (tmp_path / "bad.db").write_bytes(damaged)
            with pytest.raises(StartError):
                restore(tmp_path / "bad.db", tmp_path / "home")
        assert not (tmp_path / "home" / "multiarm.db").exists()

    @pytest.mark.parametrize("name", ["multiarm.db", "notes.txt", "ledger"])
    def test_a_directory_that_is_not_empty(self, data: Path, tmp_path: Path, name: str) -> None:
        back_up(data, tmp_path / "b.db")
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / name).mkdir()
        with pytest.raises(StartError, match="not empty"):
            restore(tmp_path / "b.db", tmp_path / "home")
        assert names(tmp_path / "home") == {name}

    def test_the_command_line_says_why_in_a_line(self, tmp_path: Path) -> None:
        for arguments in (
            ("backup", tmp_path / "b.db", "--data-dir", tmp_path / "none"),
            ("backup", tmp_path / "none" / "b.db", "--data-dir", filled(tmp_path / "data")),
            ("restore", tmp_path / "none.db", "--data-dir", tmp_path / "home"),
        ):
            done = run_cli(*arguments)
            assert done.returncode == 2
            assert done.stderr.startswith("multiarm: There is no ")
            assert done.stderr.count("\n") == 1
        assert not (tmp_path / "none").exists()


class TestWhatIsKept:
    def test_the_node_that_wrote_last(self, data: Path, tmp_path: Path) -> None:
        with database_of("sqlite", data) as database:
            state = database.create("other")
            database.commit(bundle(state, plain(state)), node=OTHER_NODE, now=NOON + 1)
        back_up(data, tmp_path / "b.db")
        restore(tmp_path / "b.db", tmp_path / "home")
        with DataDirectory(tmp_path / "home") as directory:
            assert directory.node == OTHER_NODE

    def test_one_without_rewards_gets_a_node_of_its_own(self, tmp_path: Path) -> None:
        DataDirectory(tmp_path / "data").close()
        with database_of("sqlite", tmp_path / "data") as database:
            database.create()
        back_up(tmp_path / "data", tmp_path / "b.db")
        copied = restore(tmp_path / "b.db", tmp_path / "home")
        assert (copied.experiment_count, copied.reward_count, copied.node) == (1, 0, None)
        assert check_directory(tmp_path / "home").good

    def test_a_backup_of_an_earlier_version_is_upgraded_when_it_is_restored(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        DataDirectory(tmp_path / "data").close()
        downgraded(filled(tmp_path / "new") / "multiarm.db", tmp_path / "data" / "multiarm.db")
        copied = back_up(tmp_path / "data", tmp_path / "b.db")
        assert "when it is restored" in copied.books
        assert copied.reward_count == 30
        copied = restore(tmp_path / "b.db", tmp_path / "home")
        assert "the books balance" in copied.books
        assert check_directory(tmp_path / "home").good

    def test_a_restored_database_is_one_of_its_own(self, data: Path, tmp_path: Path) -> None:
        back_up(data, tmp_path / "b.db")
        restore(tmp_path / "b.db", tmp_path / "home")
        with database_of("sqlite", tmp_path / "home") as database:
            database.run(lambda c: c.execute(sa.delete(reward)))
            database.run(lambda c: c.execute(sa.delete(evidence)))
        assert check_directory(data).good
        assert len(keys_in(tmp_path / "b.db")) == len(keys_in(data / "multiarm.db")) == 30


def downgraded(source: Path, target: Path) -> None:
    """The same as the version before kept it."""
    config = Config()
    config.set_main_option("script_location", "multiarm:storage/migrations")
    source.rename(target)
    for connection in connections(target):
        config.attributes["connection"] = connection
        with connection.begin():
            command.downgrade(config, "0003")


def connections(path: Path) -> Iterator[sa.Connection]:
    engine = create_engine(sqlite_url(path))
    with engine.connect() as connection:
        yield connection
    engine.dispose()
