"""wrk on core 1: as many requests as a fixed number of connections can make (closed loop)."""

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from processes import HERE, LOAD_CORE, SERVER_CORE, TIED, Server

FIGURES = re.compile(r"(\d+) requests in [\s\S]*Requests/sec:\s+([\d.]+)")
IDLE_FIELDS = (3, 4)  # of /proc/stat: idle, and waiting for a disk
UPDATES = re.compile(r"updates sent (\d+) accepted (\d+)")


class Load(NamedTuple):
    """What wrk saw. `updates`: sent and accepted, where its script counts them; uses are shares of a core."""

    answered: int
    rate: float
    core_use: float
    server_core_use: float
    other_use: float
    updates: tuple[int, int] | None


def wrk(
    server: Server, path: str, *, connections: int, seconds: int, script: str = "", arguments: Iterable[object] = ()
) -> Load:
    """Any answer but 2xx, and any lost connection, ends the benchmark."""
    command = [*TIED, "taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    if script:
        command += ["-s", str(HERE / "lua" / script)]
    start, busy_s, server_s, load_s = time.perf_counter(), cores_busy_s(), server.cpu_s(), children_cpu_s()
    output = subprocess.run(
        [*command, server.url + path, "--", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds + 30,
    ).stdout
    elapsed_s, server_s = time.perf_counter() - start, server.cpu_s() - server_s
    load_s, busy_s = children_cpu_s() - load_s, cores_busy_s() - busy_s
    found = FIGURES.search(output)
    if found is None or "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"wrk found errors on {path} ({script or 'GET'}, {connections} connections):\n{output}")
    counted = UPDATES.search(output)
    return Load(
        answered=int(found.group(1)),
        rate=float(found.group(2)),
        core_use=load_s / elapsed_s,
        server_core_use=server_s / elapsed_s,
        other_use=max(busy_s - server_s - load_s, 0.0) / elapsed_s,
        updates=None if counted is None else (int(counted.group(1)), int(counted.group(2))),
    )


def children_cpu_s() -> float:
    """Of the processes that have ended by now: no server is among them while wrk runs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cores_busy_s() -> float:
    """Of the two cores, whoever keeps them busy: other processes, or other machines on the same host (steal)."""
    cores = (f"cpu{SERVER_CORE} ", f"cpu{LOAD_CORE} ")
    lines = [line.split()[1:9] for line in Path("/proc/stat").read_text().splitlines() if line.startswith(cores)]
    ticks = sum(int(field) for fields in lines for index, field in enumerate(fields) if index not in IDLE_FIELDS)
    return ticks / os.sysconf("SC_CLK_TCK")
