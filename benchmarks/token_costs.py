"""What a token costs a draw, and what a stream of bad tokens costs the draws with a good one.

python benchmarks/token_costs.py [--runs 5] [--seconds 3]

Exit status 1 where draws with a token are under their floor, or bad tokens more than double the latency of good draws.
"""

import argparse
import json
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_urlsafe
from typing import NamedTuple

import machine
import processes
import report
import works
from beside import probing
from multiarm.settings import Settings
from multiarm.tokens import new_token
from overload import at, shown
from probe import Seen
from processes import HERE, LOAD_CORE, TIED, Server
from rows import Bound, figure
from run import require_tools

SECRET = token_urlsafe(32)
BAD_CONNECTIONS = 64
WITHOUT, HEADER, WITH = "draw", "draw, a token that nobody asks for", "draw with a token"
FLOOR = Bound(limit=0.95)
SLOWER_LIMIT = 2.0
RISE_S = 1.0
ALONE, BAD, HANGING_UP = "alone", f"beside {BAD_CONNECTIONS} that send bad tokens", "beside one that hangs up at once"


class Hostile(NamedTuple):
    """Good draws beside a hostile stream; the server's memory at its end, and its requests a second."""

    seen: Seen
    memory_mb: float


def main() -> None:
    if sys.argv[1:2] == ["hang-up"]:
        hang_up(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each work (5)")
    parser.add_argument("--seconds", type=int, default=3, help="each of those runs (3)")
    options = parser.parse_args()
    require_tools("taskset", "setpriv", "wrk")
    processes.end_on_sigterm()
    sys.exit(measured(options.runs, options.seconds))


def measured(runs: int, seconds: int) -> int:
    """The exit status."""
    settings = Settings(jwt_secret=SECRET)
    token = new_token(settings, subject="bench", scope="draw update", lifetime="1d", key_file=None, key_id=None).token
    with report.status() as status, processes.data_directory() as directory:
        described = machine.describe(directory)
        with servers(directory) as (bare, plain, guarded):
            draw = works.Work(WITHOUT, plain, f"{works.BENCH}/draw")
            named = draw._replace(script="token.lua", arguments=(token,), basis=WITHOUT)
            four = [
                works.Work("bare protocol: the yardstick", bare, "/"),
                draw,
                named._replace(name=HEADER),
                named._replace(name=WITH, server=guarded, bound=FLOOR),
            ]
            rows = works.measure(four, runs=runs, seconds=seconds, say=status.update)
            found: dict[str, list[Hostile]] = {ALONE: [], BAD: [], HANGING_UP: []}
            for run in range(1, runs + 1):
                for name, of_name in found.items():
                    status.update(f"run {run} of {runs}: draws {name}")
                    of_name.append(beside(guarded, name, token, seconds, run))
    report.show(report.rows_table("What a token costs", rows, described), hostile_table(found))
    report.print_notes(described, report.RATIOS, rows)
    return max(report.verdict(rows, described), int(slower(found[BAD], found[ALONE], 50) > SLOWER_LIMIT))


@contextmanager
def servers(directory: Path) -> Iterator[tuple[Server, Server, Server]]:
    """The yardstick, a server without authentication, and one with it."""
    guarded_directory = directory / "guarded"
    guarded_directory.mkdir()
    with processes.multiarm(guarded_directory) as before:
        works.create_bench(before)
    with (
        works.yardstick(directory) as bare,
        processes.multiarm(directory) as plain,
        processes.multiarm(guarded_directory, jwt_secret=SECRET) as guarded,
    ):
        works.create_bench(plain)
        yield bare, plain, guarded


def beside(server: Server, name: str, token: str, seconds: float, seed: int) -> Hostile:
    on_core = [*TIED, "taskset", "-c", LOAD_CORE]
    lasts_s = int(seconds + 2 * RISE_S)
    commands: dict[str, Sequence[str]] = {
        ALONE: ("sleep", "0"),
        BAD: (
            *("wrk", "-t1", f"-c{BAD_CONNECTIONS}", f"-d{lasts_s}s", "--timeout", "20s"),
            *("-s", str(HERE / "lua" / "bad_tokens.lua"), f"{server.url}{works.BENCH}/draw", "--", token),
        ),
        HANGING_UP: (sys.executable, __file__, "hang-up", str(server.port), token, str(lasts_s)),
    }
    with (
        probing(server, seconds, seed, token) as seen_now,
        subprocess.Popen([*on_core, *commands[name]], stdout=subprocess.DEVNULL) as load,
    ):
        time.sleep(RISE_S)
        seen = seen_now()["draw"]
        memory_mb = server.resident_mb()
        load.wait(seconds + 60)
    server.settle(10)
    return Hostile(seen, memory_mb)


def hang_up(port: int, token: str, seconds: float) -> None:
    """Connect, send a bad token and go, as fast as one core can."""
    signed = token.rpartition(".")[0]
    end, serial = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        serial += 1
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            bad = f"{signed}.{serial:043}"
            connection.sendall(
                f"GET {works.BENCH}/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {bad}\r\n\r\n".encode()
            )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sys.stderr.write(json.dumps({"hang-ups a second": round(serial / seconds)}) + "\n")


def slower(those: Sequence[Hostile], alone: Sequence[Hostile], percentile: float) -> float:
    """The median of the ratios, run by run."""
    pairs = [
        (at(percentile, [one.seen], 200), at(percentile, [basis.seen], 200))
        for one, basis in zip(those, alone, strict=True)
    ]
    return statistics.median(one / basis for one, basis in pairs if one and basis)


def hostile_table(found: dict[str, list[Hostile]]) -> report.Table:
    rows = []
    for name, of_name in found.items():
        seen = [one.seen for one in of_name]
        figures = [shown(at(percentile, seen, 200)) for percentile in (50, 99, 100)]
        ratios = [figure(slower(of_name, found[ALONE], percentile)) for percentile in (50, 99)]
        failed = sum(
            one.unanswered + sum(len(ms) for status, ms in one.latencies_ms.items() if status != 200) for one in seen
        )
        memory = figure(statistics.median(one.memory_mb for one in of_name))
        verdict = (
            ""
            if name == ALONE
            else report.HOLDS
            if slower(of_name, found[ALONE], 50) <= SLOWER_LIMIT
            else report.MISSED
        )
        rows.append((name, *figures, *ratios, f"{failed:,}", memory, f"≤ {SLOWER_LIMIT:g} × p50", verdict))
    heads = ("draws with a good token", "p50, ms", "p99, ms", "max, ms", "p50 ratio", "p99 ratio", "failed", "MB")
    return report.Table("Beside a stream of bad tokens", (*heads, "asked for", "verdict"), rows)


if __name__ == "__main__":
    main()
