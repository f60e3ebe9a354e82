"""Mixed full load for minutes: is resident memory flat, and does the ledger hold a row for every answer?"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

import machine
from mixed import DRAIN_TIMEOUT_S, MINUTE_S, Tally
from processes import HERE, LOAD_CORE, TIED, Server, data_directory, multiarm
from report import HOLDS, MISSED, Table, console, print_notes, show, status
from rows import figure
from works import Say, create_bench, pulls

SAMPLE_S = 1.0
GROWTH_LIMIT = 0.05
ROUTES = {
    "draw": "/v1/{experiment_id}/draw",
    "update": "/v1/{experiment_id}/update",
    "update_batch": "/v1/{experiment_id}/update_batch",
}


def soak(minutes: float) -> int:
    """The exit status."""
    with data_directory() as directory, status() as progress:
        described = machine.describe(directory)
        with multiarm(directory) as server:
            create_bench(server)
            tally, memory_mb = loaded(server, minutes * MINUTE_S, progress.update)
            server.settle(30)
            counted = pulls(server)
            progress.update("stopping")
            stopped = server.stop()
        progress.update("counting the ledger")
        checks = compare(tally, counted, directory / "data" / "ledger", stopped, server.log)
    show(memory_table(memory_mb, tally), checks)
    print_notes(described)
    flat = is_flat(memory_mb)
    if not flat:
        console.print(f"Memory grew by more than {GROWTH_LIMIT:.0%} after {first_part(memory_mb)} s.", style="bold red")
    return 0 if flat and all(row[-1] == HOLDS for row in checks.rows) else 1


def loaded(server: Server, seconds: float, say: Say) -> tuple[Tally, list[float]]:
    """What was answered, and the server's resident memory, sampled each second."""
    command = [*TIED, "taskset", "-c", LOAD_CORE, sys.executable, str(HERE / "mixed.py"), str(server.port)]
    process = subprocess.Popen([*command, str(seconds)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + seconds + 2 * DRAIN_TIMEOUT_S
    memory_mb: list[float] = []
    try:
        while process.poll() is None and time.monotonic() < deadline:
            memory_mb.append(server.resident_mb())
            say(f"{len(memory_mb) * SAMPLE_S:.0f} of {seconds:.0f} s: {memory_mb[-1]:.0f} MB")
            time.sleep(SAMPLE_S)
        output, _ = process.communicate(timeout=1)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        sys.exit(f"The load ended with status {process.returncode}\n{server.log.read_text(errors='replace')}")
    return msgspec.json.decode(output, type=Tally), memory_mb


def compare(tally: Tally, counted: int, ledger: Path, stopped: int, log: Path) -> Table:
    """Each count that the client made beside the server's."""
    import duckdb

    def count(query: str) -> Counter[str]:
        rows = duckdb.execute(query.format(folder=ledger)).fetchall()
        return Counter({str(name): int(number) for name, number in rows})

    requests = count(
        "SELECT route || ' ' || status, count(*) FROM read_parquet('{folder}/requests/*/*.parquet') GROUP BY ALL"
    )
    decisions = count("SELECT 'all', count(*) FROM read_parquet('{folder}/decisions/*/*.parquet')")
    rewards = count("SELECT accepted, count(*) FROM read_parquet('{folder}/rewards/*/*.parquet') GROUP BY ALL")
    dropped = log.read_text(errors="replace").count("ledger_rows_dropped")
    pairs = [
        ("decisions: draws answered", tally.answers.get("draw 200", 0), decisions["all"]),
        ("rewards: accepted", tally.accepted, rewards["True"]),
        ("rewards: duplicates", tally.duplicates, rewards["False"]),
        ("pulls in the statistics: accepted", tally.accepted, counted),
        *(
            (f"requests: {route} {status}", number, requests[f"{ROUTES[route]} {status}"])
            for route, status, number in answers(tally)
        ),
        ("requests without an answer", 0, tally.unanswered),
        ("reports of dropped rows in the log", 0, dropped),
        ("ledger files left open", 0, sum(1 for _ in ledger.rglob("*.arrows"))),
        ("exit status of the server", 0, stopped),
    ]
    rows = [(name, f"{seen:,}", f"{there:,}", HOLDS if seen == there else MISSED) for name, seen, there in pairs]
    return Table("Answers and rows", ("what", "seen or due", "there", ""), rows)


def answers(tally: Tally) -> list[tuple[str, str, int]]:
    """(route, status, number); a miss is a draw of an experiment that does not exist."""
    named = Counter[tuple[str, str]]()
    for key, number in tally.answers.items():
        route, _, status = key.partition(" ")
        if route != "stats":
            named["draw" if route == "miss" else route, status] += number
    return [(route, status, number) for (route, status), number in sorted(named.items())]


def memory_table(memory_mb: Sequence[float], tally: Tally) -> Table:
    samples = round(MINUTE_S / SAMPLE_S)
    rows = []
    for start in range(0, len(memory_mb), samples):
        part, minute = memory_mb[start : start + samples], start // samples
        answered = tally.by_minute[minute] if minute < len(tally.by_minute) else 0
        seconds = len(part) * SAMPLE_S
        rows.append((str(minute + 1), figure(answered / seconds), figure(statistics.median(part)), figure(max(part))))
    return Table("Memory", ("minute", "requests/s", "resident, median MB", "highest MB"), rows)


def first_part(memory_mb: Sequence[float]) -> int:
    """Samples within which memory may grow: a minute, or half of a shorter soak."""
    return min(round(MINUTE_S / SAMPLE_S), len(memory_mb) // 2)


def is_flat(memory_mb: Sequence[float]) -> bool:
    first = first_part(memory_mb)
    return max(memory_mb[first:]) <= max(memory_mb[:first]) * (1 + GROWTH_LIMIT)
