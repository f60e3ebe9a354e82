"""The machine that measured: what a reader needs to compare, and nothing that names it."""

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

SYNC_COUNT = 200
RECORD = b"x" * 128


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """fsync_ms: the median, lowest and highest time of a small append and its fdatasync, where the data lies."""

    cpu: str
    cores: int
    kernel: str
    python: str
    sqlite: str
    uvloop: str
    httptools: str
    fsync_ms: tuple[float, float, float]

    def __str__(self) -> str:
        median, lowest, highest = self.fsync_ms
        return (
            f"{self.cores} cores of {self.cpu}, Linux {self.kernel}, Python {self.python}, SQLite {self.sqlite}, "
            f"uvloop {self.uvloop}, httptools {self.httptools}; a small append and its fdatasync take {median:.2f} ms "
            f"({lowest:.2f} to {highest:.2f})"
        )


def describe(directory: Path) -> Machine:
    return Machine(
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        uvloop=version("uvloop"),
        httptools=version("httptools"),
        fsync_ms=fsync_ms(directory),
    )


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fsync_ms(directory: Path) -> tuple[float, float, float]:
    times = []
    path = directory / "fsync"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNC_COUNT):
            os.write(descriptor, RECORD)
            start = time.perf_counter()
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - start) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(times), min(times), max(times)
