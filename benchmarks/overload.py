"""The overload drill: three times the load that the server can take, and what draws notice of it.

python benchmarks/overload.py [--runs 3] [--seconds 5]

First the capacity for durable updates, one a request. Then storms of updates from wrk on core 1, as much as its one
core makes, with a prober beside it that draws and updates a little; what was offered is in the table. Exit status 1
where a draw's p99 passes its limit, an acknowledged update is lost, or the server is not as before 2 s after the storm.
"""

import argparse
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import NamedTuple

import numpy as np

import machine
import processes
import report
import works
from beside import probe, probing
from probe import Seen
from processes import HERE, LOAD_CORE, TIED, Server
from rows import figure
from run import require_tools
from wrk import wrk

DRAW_P99_LIMIT_MS = 20.0
RECOVERY_S = 2.0
QUIET_SECONDS = 3.0
RISE_S = 1.0  # from the first packet of a storm until its effect is measured
SAMPLE_S = 0.05
CAPACITY_CONNECTIONS, CAPACITY_RUNS, CAPACITY_SECONDS = 256, 3, 3
PING = "/v1/ping"
PHASES = ("before", "during", "after")
DONE = re.compile(r"(\d+) requests in ([\d.]+)(m?s)")
REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")


class Storm(NamedTuple):
    """updates_per_request: of what wrk's script sends."""

    name: str
    connections: int
    script: str
    path: str
    updates_per_request: int
    settings: tuple[tuple[str, object], ...] = ()


STORMS = (
    Storm("updates, mailbox of 200", 768, "update.lua", "update", 1, (("store_mailbox_size_updates", 200),)),
    Storm("updates, default settings", 768, "update.lua", "update", 1),
    Storm("batches of 1,000, default settings", 384, "batch.lua", "update_batch", 1_000),
)


class Blow(NamedTuple):
    """What a storm sent, in requests, and what became of it. memory_mb: the most that was resident meanwhile."""

    seconds: float
    accepted: int
    refused: int
    memory_mb: float


class Run(NamedTuple):
    """Seen by phase, memory by phase; lost: updates that were acknowledged and are not in the books."""

    seen: dict[str, dict[str, Seen]]
    memory_mb: dict[str, float]
    blow: Blow
    lost: int
    unclaimed: int
    ready: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each storm (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each storm is measured (5)")
    options = parser.parse_args()
    require_tools("taskset", "setpriv", "wrk")
    processes.end_on_sigterm()
    sys.exit(drill(options.runs, options.seconds))


def drill(run_count: int, seconds: float) -> int:
    """The exit status."""
    with report.status() as status:
        described, yardstick, capacity = capacity_of(status.update)
        runs: dict[Storm, list[Run]] = {storm: [] for storm in STORMS}
        for number in range(1, run_count + 1):
            for storm in STORMS:
                status.update(f"run {number} of {run_count}: {storm.name}")
                runs[storm].append(weathered(storm, seconds, number))
    print_capacity(yardstick, capacity)
    report.show(draws_table(runs), updates_table(runs, capacity), state_table(runs))
    report.print_notes(described)
    return verdict(runs)


def capacity_of(say: works.Say) -> tuple[machine.Machine, float, float]:
    """The machine, the yardstick's requests a second, and the updates a second that the server can take."""
    with (
        processes.data_directory() as directory,
        works.yardstick(directory) as bare,
        processes.multiarm(directory) as server,
    ):
        described = machine.describe(directory)
        works.create_bench(server)
        work = works.Work("update", server, f"{works.BENCH}/update", "update.lua", updates_per_answer=1)
        work = work._replace(connections=CAPACITY_CONNECTIONS)
        yardsticks, rates = [], []
        for run in range(1, CAPACITY_RUNS + 1):
            say(f"capacity, run {run} of {CAPACITY_RUNS}")
            yardsticks.append(wrk(bare, "/", connections=works.CONNECTIONS, seconds=CAPACITY_SECONDS).rate)
            rates.append(works.run_once(work, CAPACITY_SECONDS).rate)
    return described, statistics.median(yardsticks), statistics.median(rates)


def weathered(storm: Storm, seconds: float, seed: int) -> Run:
    seen: dict[str, dict[str, Seen]] = {}
    memory_mb: dict[str, float] = {}
    with processes.data_directory() as directory, processes.multiarm(directory, PING, **dict(storm.settings)) as server:
        works.create_bench(server)
        probe(server, 1.0, seed)
        counted = works.pulls(server)
        server.settle()
        seen["before"], memory_mb["before"] = probe(server, QUIET_SECONDS, seed), server.resident_mb()
        with probing(server, seconds, seed) as seen_now, blowing(storm, server, seconds) as blows:
            time.sleep(RISE_S)
            seen["during"] = seen_now()
        time.sleep(RECOVERY_S)
        seen["after"], memory_mb["after"] = probe(server, QUIET_SECONDS, seed), server.resident_mb()
        [blow] = blows
        memory_mb["during"] = blow.memory_mb
        server.settle(10)
        acknowledged = blow.accepted * storm.updates_per_request
        acknowledged += sum(len(phase["update"].latencies_ms.get(200, [])) for phase in seen.values())
        surplus = works.pulls(server) - counted - acknowledged
        return Run(seen, memory_mb, blow, max(-surplus, 0), max(surplus, 0), is_ready(server))


@contextmanager
def blowing(storm: Storm, server: Server, seconds: float) -> Iterator[list[Blow]]:
    """The storm, until it is over; then the list holds what it was.."""
    command = [*TIED, "taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{storm.connections}"]
    command += [f"-d{int(seconds + 2 * RISE_S)}s", "--timeout", "20s", "-s", str(HERE / "lua" / storm.script)]
    command += [f"{server.url}{works.BENCH}/{storm.path}", "--", str(storm.updates_per_request)]
    blows: list[Blow] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        memory_mb = [server.resident_mb()]
        sampler = threading.Thread(target=sample, args=(server, process, memory_mb))
        sampler.start()
        try:
            yield blows
            output, _ = process.communicate(timeout=seconds + 30)
        finally:
            process.kill()
            sampler.join()
    done, refused = DONE.search(output), REFUSED.search(output)
    if done is None or "Socket errors" in output:
        sys.exit(f"wrk found errors in the storm of {storm.name}:\n{output}\n{server.said()}")
    refused_count = 0 if refused is None else int(refused[1])
    took_s = float(done[2]) / (1000 if done[3] == "ms" else 1)
    blows.append(Blow(took_s, int(done[1]) - refused_count, refused_count, max(memory_mb)))


def sample(server: Server, load: subprocess.Popen[str], memory_mb: list[float]) -> None:
    while load.poll() is None:
        memory_mb.append(server.resident_mb())
        time.sleep(SAMPLE_S)


def is_ready(server: Server) -> bool:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=processes.CALL_TIMEOUT_S)
    connection.request("GET", "/health/ready")
    status = connection.getresponse().status
    connection.close()
    return status == 200


# --- what was seen ---------------------------------------------------------------------------------------------------


def at(percentile: float, seen: Iterable[Seen], status: int | None = None) -> float | None:
    """The median over the runs; of answers with this status, or of all. None where there are none."""
    runs = [
        [ms for code, latencies in one.latencies_ms.items() if status in (None, code) for ms in latencies]
        for one in seen
    ]
    found = [float(np.percentile(latencies, percentile)) for latencies in runs if latencies]
    return statistics.median(found) if found else None


def shown(value: float | None) -> str:
    return "–" if value is None else figure(value)


def draws_table(runs: dict[Storm, list[Run]]) -> report.Table:
    rows = []
    for storm, of_storm in runs.items():
        for phase in PHASES:
            seen = [run.seen[phase]["draw"] for run in of_storm]
            figures = [shown(at(percentile, seen)) for percentile in (50, 99, 100)]
            late = shown(statistics.median(float(np.percentile(one.late_ms, 99)) for one in seen))
            holds = "" if phase == "before" else report.HOLDS if is_quick(seen) else report.MISSED
            errors = sum(one.unanswered + len(one.latencies_ms) - 1 for one in seen)
            rows.append((storm.name, phase, *figures, late, f"{errors:,}", f"≤ {DRAW_P99_LIMIT_MS:g}", holds))
    heads = ("storm", "draws", "p50, ms", "p99, ms", "max, ms", "prober late p99", "failed", "p99 asked for", "verdict")
    return report.Table("Draws", heads, rows, left=2)


def is_quick(seen: list[Seen]) -> bool:
    p99 = at(99, seen)
    return p99 is not None and p99 <= DRAW_P99_LIMIT_MS


def updates_table(runs: dict[Storm, list[Run]], capacity: float) -> report.Table:
    rows = []
    for storm, of_storm in runs.items():
        seen = [run.seen["during"]["update"] for run in of_storm]
        per_second = storm.updates_per_request
        accepted = statistics.median(run.blow.accepted * per_second / run.blow.seconds for run in of_storm)
        refused = statistics.median(run.blow.refused * per_second / run.blow.seconds for run in of_storm)
        offered = f"{(accepted + refused) / capacity:.2f}"
        times = [shown(at(percentile, seen, status)) for status in (503, 200) for percentile in (50, 99)]
        rows.append((storm.name, f"{storm.connections}", figure(accepted), figure(refused), offered, *times))
    heads = ("storm", "connections", "accepted/s", "refused/s", "of capacity")
    times_heads = ("refusal p50, ms", "p99, ms", "commit p50, ms", "p99, ms")
    return report.Table("Updates in the storm", (*heads, *times_heads), rows)


def state_table(runs: dict[Storm, list[Run]]) -> report.Table:
    rows = []
    for storm, of_storm in runs.items():
        memory = [figure(statistics.median(run.memory_mb[phase] for run in of_storm)) for phase in PHASES]
        lost, unclaimed = sum(run.lost for run in of_storm), sum(run.unclaimed for run in of_storm)
        ready = "yes" if all(run.ready for run in of_storm) else "no"
        rows.append((storm.name, *memory, f"{lost:,}", f"{unclaimed:,}", ready))
    heads = ("storm", "MB before", "most MB in it", f"MB {RECOVERY_S:g} s after", "lost", "open at wrk's end", "ready")
    return report.Table("Memory and books", heads, rows)


def print_capacity(yardstick: float, capacity: float) -> None:
    report.console.print(
        f"Capacity: {figure(capacity)} durable updates/s over {CAPACITY_CONNECTIONS} connections; bare protocol, the "
        f"yardstick: {figure(yardstick)} requests/s. One core of load makes no more than about that."
    )


def verdict(runs: dict[Storm, list[Run]]) -> int:
    """The exit status."""
    quick = all(
        is_quick([run.seen[phase]["draw"] for run in of_storm]) for of_storm in runs.values() for phase in PHASES[1:]
    )
    whole = all(run.ready and not run.lost for of_storm in runs.values() for run in of_storm)
    return 0 if quick and whole else 1


if __name__ == "__main__":
    main()
