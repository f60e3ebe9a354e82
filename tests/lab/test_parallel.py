"""On several cores: the same figures, bit for bit, and no process left behind, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from multiarm.domain.errors import InvalidField
from multiarm.domain.policies import EXP3, UCB1, Thompson
from multiarm.lab import Bernoulli, Entry, Study, simulate
from multiarm.lab.parallel import chunks_of, workers

POLICIES = tuple(Entry(policy=policy) for policy in (UCB1(), Thompson(), EXP3()))
STUDY = Study(environment=Bernoulli(means=(0.5, 0.45), delay=5), policies=POLICIES, horizon=40, runs=2_300)
LONG = """
horizon = 10_000_000
runs = 4_000
environment = { type = "bernoulli", means = [0.5, 0.4] }
policies = [{ type = "ucb1" }]
"""


@pytest.mark.parametrize("processes", [2, 3])
def test_the_figures_do_not_depend_on_the_number_of_processes(processes: int) -> None:
    assert [chunk.runs for chunk in chunks_of(STUDY)] == [1000, 1000, 300] * 3
    for alone, together in zip(simulate(STUDY).outcomes, simulate(STUDY, processes=processes).outcomes, strict=True):
        for one, other in zip(alone.curves, together.curves, strict=True):
            assert np.array_equal(one, other)
    assert not active_children()


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    simulate(STUDY, on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 6_900)
    assert told[-1] == (6_900, 6_900)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("processes", [0, 257])
def test_a_number_of_processes_that_makes_no_sense_is_refused(processes: int) -> None:
    with pytest.raises(InvalidField, match="Between 1 and 256"):
        simulate(STUDY, processes=processes)


def test_what_goes_wrong_in_a_worker_is_shown_and_ends_them_all() -> None:
    with pytest.raises(ZeroDivisionError) as shown:
        fail_beside_one_that_sleeps()
    assert "in _process_worker" in str(shown.value.__cause__)
    assert not active_children()


def fail_beside_one_that_sleeps() -> None:
    with workers(2) as pool:
        pool.submit(time.sleep, 60)
        pool.submit(divmod, 1, 0).result()


def children(pid: int) -> list[int]:
    """All processes below this one."""
    below = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            below += [int(stat.parent.name), *children(int(stat.parent.name))]
    return below


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def long_study(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A study of days, under way on two cores."""
    file = tmp_path / "long.toml"
    file.write_text(LONG)
    command = [
        sys.executable,
        "-m",
        "multiarm",
        "simulate",
        f"{file}",
        "--output",
        f"{tmp_path}/out",
        "--processes",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(children(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        yield process
        process.kill()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_no_process_is_left_behind(long_study: "subprocess.Popen[str]", number: signal.Signals) -> None:
    below = children(long_study.pid)
    assert len(below) >= 2
    os.kill(long_study.pid, number)
    long_study.wait(20)
    assert long_study.returncode != 0
    if number == signal.SIGINT:
        assert long_study.stderr is not None
        assert "Traceback" not in long_study.stderr.read()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if alive(pid)]
