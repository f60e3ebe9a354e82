"""The works of the table, measured in turn: run i of each, then run i + 1, so that a noisy hour hits all alike."""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from processes import Server, python
from rows import Bound, Row, ratios
from wrk import Load, wrk

ARMS = [f"arm-{number}" for number in range(1, 6)]
CONNECTIONS = 64
BATCH_UPDATES = 1_000
BATCH_CONNECTIONS = 4
BENCH = "/v1/bench"

Say = Callable[[str], None]


class Work(NamedTuple):
    """One row: what is asked of which server, and how many updates an answer stands for.

    basis: the name of the row that its ratios are to; the first row where it is empty.
    """

    name: str
    server: Server
    path: str
    script: str = ""
    arguments: Iterable[object] = ()
    connections: int = CONNECTIONS
    updates_per_answer: int = 0
    unit: str = "requests/s"
    bound: Bound | None = None
    basis: str = ""

    @property
    def factor(self) -> int:
        return self.updates_per_answer if self.unit == "updates/s" else 1


def yardstick(directory: Path) -> AbstractContextManager[Server]:
    return python(directory, "bare_protocol.py", "PORT")


def create_bench(server: Server) -> None:
    server.call("POST", "/v1/create", {"experiment_id": "bench", "arms": ARMS})


def four_works(bare: Server, server: Server) -> list[Work]:
    """The yardstick and the first four rows of the issue's table."""
    update = Work("update", server, f"{BENCH}/update", "update.lua", updates_per_answer=1)
    return [
        Work("bare protocol: the yardstick", bare, "/"),
        Work("draw", server, f"{BENCH}/draw", bound=Bound(limit=0.65, aim=0.90)),
        update._replace(name="update, 64 connections", bound=Bound(limit=0.38, aim=0.50, durable=True)),
        update._replace(
            name="update, 256 connections", connections=256, bound=Bound(limit=0.50, aim=0.70, durable=True)
        ),
        Work("draw, then its update", server, BENCH, "turn.lua", bound=Bound(limit=0.32, aim=0.45, durable=True)),
    ]


def batch_work(server: Server) -> Work:
    return Work(
        "update_batch of 1,000",
        server,
        f"{BENCH}/update_batch",
        "batch.lua",
        arguments=(BATCH_UPDATES,),
        connections=BATCH_CONNECTIONS,
        updates_per_answer=BATCH_UPDATES,
        unit="updates/s",
        bound=Bound(limit=300_000, ratio=False, durable=True),
    )


def measure(works: Sequence[Work], *, runs: int, seconds: int, say: Say) -> list[Row]:
    loads: dict[str, list[Load]] = {work.name: [] for work in works}
    for run in range(1, runs + 1):
        for work in works:
            say(f"run {run} of {runs}: {work.name}")
            loads[work.name].append(run_once(work, seconds))
    rates = {work.name: [load.rate * work.factor for load in loads[work.name]] for work in works}
    return [
        Row(
            work=work.name,
            unit=work.unit,
            values=rates[work.name],
            ratios=ratios(rates[work.name], rates[work.basis or works[0].name]) if work.unit == "requests/s" else [],
            bound=work.bound,
            load_core_use=statistics.median(load.core_use for load in loads[work.name]),
            server_core_use=statistics.median(load.server_core_use for load in loads[work.name]),
            other_use=statistics.median(load.other_use for load in loads[work.name]),
        )
        for work in works
    ]


def run_once(work: Work, seconds: int) -> Load:
    """One run; where it sends updates, the server must have counted what it answered, and no more than was sent."""
    counts = work.updates_per_answer > 0 or work.script == "turn.lua"
    before = pulls(work.server) if counts else 0
    load = wrk(
        work.server,
        work.path,
        connections=work.connections,
        seconds=seconds,
        script=work.script,
        arguments=work.arguments,
    )
    work.server.settle()
    if counts:
        counted = pulls(work.server) - before
        # wrk leaves when its time is over: what is under way then is counted, but not seen answered.
        open_updates = work.connections * max(work.updates_per_answer, 1)
        answered = load.updates[1] if load.updates else load.answered * work.updates_per_answer
        sent = load.updates[0] if load.updates else answered + open_updates
        if not answered <= counted <= sent or (load.updates and sent - answered > open_updates):
            sys.exit(f"{work.name}: {sent} updates sent, {answered} acknowledged, but {counted} counted")
    return load


def pulls(server: Server) -> int:
    return sum(arm["pulls"] for arm in server.call("GET", f"{BENCH}/stats")["arms"].values())
