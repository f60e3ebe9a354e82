"""Latency: at 10, 50 and 90 % of the peak, and of draws beside 20,000 durable updates a second."""

import statistics
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from open_loop import DRAIN_TIMEOUT_S, Outcome, Plan, Stream
from processes import HERE, LOAD_CORE, TIED, Server
from rows import Bound, Row
from works import BENCH, CONNECTIONS, Say

SHARES = (0.1, 0.5, 0.9)
UPDATE_CONNECTIONS = 256
GENERATOR_LIMIT = 75_000  # requests a second, about; `Outcome.generator_limited` says when a run met it
BESIDE_UPDATES, BESIDE_DRAWS = 20_000, 1_000  # draws enough to see the latency, and no load of their own
SHOWN = ("50", "90", "99", "99.9", "100")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """One load in several runs."""

    work: str
    load: str
    rate: float
    runs: list[Outcome]

    def at(self, percentile: str) -> list[float]:
        return [run.latency_ms[percentile] for run in self.runs]

    def median(self, percentile: str) -> float:
        return statistics.median(self.at(percentile))

    @property
    def notes(self) -> str:
        notes = []
        if any(run.generator_limited for run in self.runs):
            notes.append("generator late")
        if unanswered := sum(run.unanswered for run in self.runs):
            notes.append(f"{unanswered:,} unanswered")
        if errors := sum(run.errors for run in self.runs):
            notes.append(f"{errors:,} errors")
        return ", ".join(notes)


def draws(rate: float, connections: int = CONNECTIONS) -> Stream:
    request = f"GET {BENCH}/draw HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    return Stream(name="draw", rate=rate, connections=connections, requests=[request.encode()])


def updates(rate: float, connections: int = UPDATE_CONNECTIONS) -> Stream:
    bodies = [f'{{"arm_id":"arm-{n % 5 + 1}","reward":{n // 5}}}' for n in range(10)]
    head = f"POST {BENCH}/update HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body)}\r\n\r\n{body}".encode() for body in bodies]
    return Stream(name="update", rate=rate, connections=connections, requests=requests)


def open_loop(server: Server, streams: Sequence[Stream], seconds: float, seed: int) -> list[Outcome]:
    plan = Plan(port=server.port, seconds=seconds, streams=list(streams), seed=seed)
    run = subprocess.run(
        [*TIED, "taskset", "-c", LOAD_CORE, sys.executable, str(HERE / "open_loop.py")],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        timeout=seconds + DRAIN_TIMEOUT_S + 30,
        check=False,
    )
    server.settle()
    if run.returncode:
        sys.exit(f"The open-loop generator failed, exit status {run.returncode}")
    return msgspec.json.decode(run.stdout, type=list[Outcome])


def at_shares(
    server: Server, draw_peak: float, update_peak: float, *, runs: int, seconds: float, say: Say
) -> list[Latency]:
    latencies = []
    for stream_of, peak in ((draws, draw_peak), (updates, update_peak)):
        for share in SHARES:
            rate = min(share * peak, GENERATOR_LIMIT)
            stream = stream_of(rate)
            say(f"latency: {stream.name}, {share:.0%} of the peak")
            outcomes = [open_loop(server, [stream], seconds, seed)[0] for seed in range(runs)]
            load = f"{share:.0%} of the peak" if rate == share * peak else f"{rate / peak:.0%} (generator's most)"
            latencies.append(Latency(work=stream.name, load=load, rate=rate, runs=outcomes))
    return latencies


def of_generator(bare: Server, *, runs: int, seconds: float, say: Say) -> Latency:
    """What the generator can do: its most, at the bare protocol."""
    say("latency: bare protocol, the generator's most")
    outcomes = [open_loop(bare, [draws(GENERATOR_LIMIT)], seconds, seed)[0] for seed in range(runs)]
    return Latency(work="bare protocol", load="generator's most", rate=GENERATOR_LIMIT, runs=outcomes)


def beside_updates(server: Server, *, runs: int, seconds: float, say: Say) -> tuple[Row, list[Latency]]:
    """The row of the table, and both streams in full."""
    say(f"latency: {BESIDE_DRAWS:,} draws/s beside {BESIDE_UPDATES:,} updates/s")
    streams = [draws(BESIDE_DRAWS), updates(BESIDE_UPDATES)]
    outcomes = [open_loop(server, streams, seconds, seed) for seed in range(runs)]
    both = [
        Latency(
            work=stream.name,
            load="both at once",
            rate=stream.rate,
            runs=[outcome[index] for outcome in outcomes],
        )
        for index, stream in enumerate(streams)
    ]
    row = Row(
        work=f"draw p99 beside {BESIDE_UPDATES:,} updates/s",
        unit="ms",
        values=both[0].at("99"),
        bound=Bound(limit=5, ratio=False, most=True, durable=True),
    )
    return row, both
