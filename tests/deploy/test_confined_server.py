"""What the files in deploy/ take away, the server does without: it can write to its volume alone, and still works."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import COMMAND, RunningServer, stats

CONFINED = str(Path(__file__).with_name("confined.py"))
CANNOT = 77  # its exit status
WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
WRITE_AND_EXECUTE = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
LARGE_BATCHES = 3


def confined(kind: str, folder: Path, *command: str) -> tuple[str, ...]:
    return (sys.executable, CONFINED, kind, str(folder), *command)


def run_confined(kind: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        confined(kind, folder, sys.executable, "-c", *command), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == CANNOT:
        pytest.skip(f"this kernel cannot confine a process so ({kind})")
    return done


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_the_read_only_confinement_is_real(volume: Path) -> None:
    assert run_confined("read-only", volume, WRITE, str(volume / "file")).returncode == 0
    for path in (volume.parent / "file", Path("/tmp/multiarm-must-not-be-written"), Path(__file__)):
        done = run_confined("read-only", volume, WRITE, str(path))
        assert "PermissionError" in done.stderr, path


def test_the_confinement_of_memory_is_real(volume: Path) -> None:
    assert "PermissionError" in run_confined("no-write-execute", volume, WRITE_AND_EXECUTE).stderr


@pytest.fixture(params=["read-only", "no-write-execute"])
def server(request: pytest.FixtureRequest, volume: Path) -> Iterator[RunningServer]:
    run_confined(request.param, volume, "pass")
    with RunningServer(
        volume / "data",
        settings={"ledger_segment_s": 0.2, "ledger_flush_interval_s": 0.05},
        command=confined(request.param, volume, *COMMAND),
    ) as running:
        yield running


def test_a_server_works_in_it(server: RunningServer) -> None:
    client = server.client()
    client.post("/v1/create", json={"experiment_id": "x", "arms": ["a", "b"]}).raise_for_status()
    decision = client.get("/v1/x/draw").raise_for_status().json()
    client.post("/v1/x/update", json={"decision_id": decision["decision_id"], "reward": 1}).raise_for_status()
    for batch in range(LARGE_BATCHES):  # large enough for what SQLite would put into temporary files
        updates = [{"arm_id": "ab"[i % 2], "reward": 1, "key": f"{batch}-{i}" + "x" * 100} for i in range(10_000)]
        client.post("/v1/x/update_batch", json={"updates": updates}).raise_for_status()
    client.put("/v1/x/policy", json={"policy": {"type": "thompson_gaussian"}}).raise_for_status()
    before = stats(client, "x")
    assert client.get("/docs").status_code == 200
    server.restart()
    client = server.client()
    assert stats(client, "x")["a"]["pulls"] == before["a"]["pulls"]
    client.delete("/v1/x/delete").raise_for_status()
    assert server.terminate() == 0
    assert "Traceback" not in server.log
    assert "error" not in server.log.lower()
    assert list((server.data_dir / "ledger").rglob("*.parquet"))


def test_it_leaves_nothing_where_it_runs(tmp_path: Path) -> None:
    """On kernels that cannot confine a process, at least this."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = ("sh", "-c", 'cd "$0" && HOME="$0" TMPDIR="$0" XDG_CACHE_HOME="$0" exec "$@"', str(elsewhere))
    with RunningServer(tmp_path / "data", command=[*here, *COMMAND]) as server:
        client = server.client()
        client.post("/v1/create", json={"experiment_id": "x", "arms": ["a", "b"]}).raise_for_status()
        client.get("/v1/x/draw").raise_for_status()
        stats(client, "x")
        assert server.terminate() == 0
    assert list(elsewhere.rglob("*")) == []
