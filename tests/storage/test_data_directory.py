"""The data directory and its lock, and `check`, which reads one that no server uses."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from multiarm.domain.errors import StartError
from multiarm.storage.check import check_directory
from multiarm.storage.data_directory import DataDirectory
from multiarm.storage.schema import evidence
from postgres import bundle, database_of, plain
from small_disk import SmallDisk
from support import run_cli


class TestDataDirectory:
    def test_it_is_private_and_keeps_its_node_id(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "data"
        with DataDirectory(path) as directory:
            node = directory.node
            assert path.stat().st_mode & 0o777 == 0o700
            assert (path / "lock").stat().st_mode & 0o777 == 0o600
            assert -(2**63) <= node < 2**63
        with DataDirectory(path) as directory:
            assert directory.node == node
        with DataDirectory(tmp_path / "other") as other:
            assert other.node != node

    def test_the_second_server_is_told_who_has_it(self, tmp_path: Path) -> None:
        with DataDirectory(tmp_path), pytest.raises(StartError, match=f"process {os.getpid()}"):
            DataDirectory(tmp_path)
        DataDirectory(tmp_path).close()

    def test_the_lock_of_a_process_that_died_holds_nobody_up(self, tmp_path: Path) -> None:
        program = (
            "import os, signal, sys, pathlib\n"
            "from multiarm.storage.data_directory import DataDirectory\n"
            "held = DataDirectory(pathlib.Path(sys.argv[1]))\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -9
        DataDirectory(tmp_path).close()

    def test_what_cannot_be_used_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        for path in (file, file / "below"):
            with pytest.raises(StartError, match="cannot be used"):
                DataDirectory(path)
        with pytest.raises(StartError, match="not a data directory"):
            DataDirectory(tmp_path, create=False)

    def test_a_damaged_node_id_is_not_replaced_by_another(self, tmp_path: Path) -> None:
        DataDirectory(tmp_path).close()
        (tmp_path / "node").write_text("garbage")
        with pytest.raises(StartError, match="node"):
            DataDirectory(tmp_path)
        assert (tmp_path / "node").read_text() == "garbage"
        (tmp_path / "node").write_text("17")
        with DataDirectory(tmp_path) as directory:  # the attempt before did not keep the lock
            assert directory.node == 17

    def test_one_that_lost_its_database_is_refused_but_no_first_start_that_was_cut_off(self, tmp_path: Path) -> None:
        DataDirectory(tmp_path).close()
        (tmp_path / "multiarm.db").touch()
        DataDirectory(tmp_path).close()
        (tmp_path / "ledger").mkdir()
        for _ in range(2):
            with pytest.raises(StartError, match=r"no database.*multiarm restore.*or remove"):
                DataDirectory(tmp_path)
            (tmp_path / "multiarm.db").unlink(missing_ok=True)
        (tmp_path / "multiarm.db").write_text("whatever")
        DataDirectory(tmp_path).close()


class TestCheck:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A data directory with two arms and three rewards."""
        DataDirectory(tmp_path).close()
        with database_of("sqlite", tmp_path) as database:
            state = database.create()
            database.commit(bundle(state, plain(state, 1), plain(state, 1), plain(state, 2, 0.5)))
        return tmp_path

    def test_a_good_one_is_called_good(self, data: Path) -> None:
        report = check_directory(data)
        assert report.good
        assert report.summary == "Database: ok. 2 arms, 3 rewards: the books balance."

    def test_a_wrong_sum_is_found(self, data: Path) -> None:
        with database_of("sqlite", data) as database:
            database.run(lambda c: c.execute(sa.update(evidence).where(evidence.c.arm == 1).values(pull_count=9)))
        report = check_directory(data)
        assert not report.good
        assert "1 of 2 arms do not balance" in report.summary

    def test_a_damaged_file_is_found(self, data: Path) -> None:
        with (data / "multiarm.db").open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(4096 * 4))
        with pytest.raises(StartError, match="cannot be read"):
            check_directory(data)

    def test_one_in_use_or_without_a_database_is_refused(self, data: Path) -> None:
        with DataDirectory(data), pytest.raises(StartError, match="in use"):
            check_directory(data)
        for file in data.glob("multiarm.db*"):
            file.unlink()
        with pytest.raises(StartError, match="no database"):
            check_directory(data)
        assert not (data / "multiarm.db").exists()

    def test_one_of_another_version_is_refused(self, data: Path) -> None:
        with database_of("sqlite", data, migrated=False) as database:
            database.run(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close())
        with pytest.raises(StartError, match="another version"):
            check_directory(data)

    @pytest.mark.parametrize(
        ("damage", "what"),
        [
            ('UPDATE experiment SET spec = \'{"policy": {"type": "of-a-later-version"}}\'', "experiment 'button'"),
            ("UPDATE evidence SET sums = '[1,2'", "the evidence of arm number 1"),
        ],
    )
    def test_what_cannot_be_decoded_is_named(self, data: Path, damage: str, what: str) -> None:
        with closing(sqlite3.connect(data / "multiarm.db")) as connection, connection:
            connection.execute(damage)
        with pytest.raises(StartError, match=what):
            check_directory(data)
        done = run_cli("serve", "--port", "0", "--data-dir", data)
        assert done.returncode == 2
        assert what in done.stderr
        assert "Traceback" not in done.stderr


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(StartError, match="not empty"):
        DataDirectory(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["9" * 30, "-1e5", "", str(2**63)])
def test_a_node_id_that_cannot_be_one_is_refused(tmp_path: Path, text: str) -> None:
    with DataDirectory(tmp_path):
        pass
    (tmp_path / "node").write_text(text)
    with pytest.raises(StartError, match="damaged"):
        DataDirectory(tmp_path)


def test_a_disk_that_is_full_at_the_first_start_is_said_so(disk: SmallDisk) -> None:
    disk.fill()
    try:
        with pytest.raises(StartError, match=r"cannot be (written|used)"):
            DataDirectory(disk.path / "data")
    finally:
        disk.empty()  # before pytest writes again: the limit may hold for its own output too
