"""Load through the framework's routes: draws, durable updates, batches, memory. Prints a table of medians.

    python benchmarks/http_load.py [--runs 5] [--seconds 5]

The server is pinned to core 0 and wrk (Debian: apt-get install wrk) to core 1. The yardstick, measured in the same
run, is a bare ASGI application on the same uvicorn that answers a constant of a draw's size.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SERVER_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 64
BATCH_UPDATES = 1_000
ARMS = [f"arm-{number}" for number in range(1, 6)]


class Work(NamedTuple):
    """One row: what is asked, with which wrk script, and how many updates an answer stands for."""

    name: str
    path: str
    script: str = ""
    connections: int = CONNECTIONS
    factor: int = 1
    unit: str = "/s"


WORKS = [
    Work("draw", "/v1/bench/draw"),
    Work("update, durable", "/v1/bench/update", 'wrk.body = \'{"arm_id":"arm-1","reward":1}\''),
    Work(
        "update_batch of 1,000, durable",
        "/v1/bench/update_batch",
        f"""local updates = {{}}
        for i = 1, {BATCH_UPDATES} do updates[i] = '{{"arm_id":"arm-' .. (i % 5 + 1) .. '","reward":1}}' end
        wrk.body = '{{"updates":[' .. table.concat(updates, ",") .. ']}}'""",
        connections=4,
        factor=BATCH_UPDATES,
        unit=" updates/s",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")
    console = Console(width=110)
    table = Table("work", "median", "lowest", "highest", "of the yardstick", title="multiarm, framework routes")
    for column in table.columns[1:]:
        column.justify = "right"
    yardstick: float | None = None
    with tempfile.TemporaryDirectory() as directory, bare_asgi() as bare, multiarm(directory) as url:
        call(url, "POST", "/v1/create", {"experiment_id": "bench", "arms": ARMS})
        rows: list[tuple[Work, str]] = [(Work("bare ASGI, constant answer", "/"), bare), *((w, url) for w in WORKS)]
        for work, target in rows:
            rates = [wrk(target, work, options.seconds, directory) * work.factor for _ in range(options.runs)]
            median = statistics.median(rates)
            yardstick = yardstick or median
            table.add_row(
                work.name,
                f"{median:,.0f}{work.unit}",
                f"{min(rates):,.0f}",
                f"{max(rates):,.0f}",
                f"{median / work.factor / yardstick:.2f}" if work.factor == 1 else "",
            )
    console.print(table)
    console.print(f"Resident memory with 100 experiments of 10 arms: {memory_mb():.0f} MB (draws and updates on each)")
    console.print(f"Second start to the first answer: {second_start_s():.2f} s")


def wrk(url: str, work: Work, seconds: int, directory: str) -> float:
    """Requests a second; any answer but 2xx ends the benchmark."""
    script = Path(directory) / "work.lua"
    header = "wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\n" if work.script else ""
    script.write_text(header + work.script)
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{work.connections}", f"-d{seconds}s", "-s", str(script)]
    output = subprocess.run([*command, url + work.path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if found is None or "Non-2xx" in output:
        sys.exit(f"wrk found errors on {work.path}:\n{output}")
    return float(found.group(1))


@contextmanager
def multiarm(directory: str) -> Iterator[str]:
    """A server on core 0; its URL."""
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "multiarm", "serve", "--port", "0"]
    environment = os.environ | {"MULTIARM_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [*command, "--data-dir", f"{directory}/data"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().split(" at ")[1].split(",")[0]
    multiarm_pids.append(process.pid)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        multiarm_pids.pop()


multiarm_pids: list[int] = []


@contextmanager
def bare_asgi() -> Iterator[str]:
    """The yardstick on core 0; its URL."""
    port = 18_931
    command = ["taskset", "-c", SERVER_CORE, sys.executable, "-m", "uvicorn", "bare_asgi:app", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--no-access-log", "--log-level", "error", "--no-proxy-headers", "--lifespan", "off"], cwd=HERE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                call(url, "GET", "/")
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def memory_mb() -> float:
    """Resident memory of a server that has decided and counted on 100 experiments of 10 arms."""
    with tempfile.TemporaryDirectory() as directory, multiarm(directory) as url:
        for number in range(100):
            experiment_id = f"experiment-{number}"
            arms = [f"arm-{arm}" for arm in range(10)]
            call(url, "POST", "/v1/create", {"experiment_id": experiment_id, "arms": arms})
            for _ in range(20):
                drawn = call(url, "GET", f"/v1/{experiment_id}/draw")
                call(url, "POST", f"/v1/{experiment_id}/update", {"decision_id": drawn["decision_id"], "reward": 1})
            call(url, "GET", f"/v1/{experiment_id}/stats")
        status = Path(f"/proc/{multiarm_pids[-1]}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def second_start_s() -> float:
    """From the command to the first answered request, on a data directory that exists."""
    with tempfile.TemporaryDirectory() as directory:
        with multiarm(directory) as url:
            call(url, "POST", "/v1/create", {"arms": ARMS})
        start = time.perf_counter()
        with multiarm(directory) as url:
            call(url, "GET", "/v1/ping")
            return time.perf_counter() - start


def call(url: str, method: str, path: str, body: object = None) -> Any:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    connection.close()
    return json.loads(answer)


if __name__ == "__main__":
    main()
