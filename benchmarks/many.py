"""10,000 experiments: how a server starts with them, what memory they take, and what a draw costs among them."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from processes import CALL_TIMEOUT_S, Server, multiarm
from rows import Bound, Row
from works import ARMS, Say, Work

EXPERIMENTS = 10_000
MANY_ARMS = 1_000
START_LIMIT_S, MEMORY_LIMIT_MB = 5, 400
CLIENTS = 16
FIRST_DRAW = "/v1/e-1/draw"


@contextmanager
def server_of_many(directory: Path) -> Iterator[Server]:
    """A server whose first answer is a draw of the first experiment."""
    with multiarm(directory, FIRST_DRAW, experiment_limit=EXPERIMENTS + 1) as server:
        yield server


def create(directory: Path, first: int, last: int) -> None:
    """Experiments e-FIRST to e-LAST, of five arms each."""

    def one(connection: HTTPConnection, number: int) -> None:
        body = json.dumps({"experiment_id": f"e-{number}", "arms": ARMS})
        connection.request("POST", "/v1/create", body, {"Content-Type": "application/json"})

    with multiarm(directory, experiment_limit=EXPERIMENTS + 1) as server:
        for_each(server, range(first, last + 1), one)


def draw_each(server: Server, count: int) -> None:
    """One draw of each, so that no measured one computes its first allocation."""
    for_each(server, range(1, count + 1), lambda connection, n: connection.request("GET", f"/v1/e-{n}/draw"))


def for_each(server: Server, numbers: range, ask: Callable[[HTTPConnection, int], None]) -> None:
    def work(part: range) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=CALL_TIMEOUT_S)
        for number in part:
            ask(connection, number)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise SystemExit(f"experiment {number}: {answer.status} {content.decode()}")
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, [numbers[start::CLIENTS] for start in range(min(CLIENTS, len(numbers)))]))


def starts(directory: Path, runs: int, say: Say) -> list[Row]:
    """From the command to the first answered draw, and the memory then."""
    seconds, megabytes = [], []
    for run in range(1, runs + 1):
        say(f"start {run} of {runs} with {EXPERIMENTS:,} experiments")
        with server_of_many(directory) as server:
            seconds.append(server.started_s)
            megabytes.append(server.resident_mb())
    return [
        Row(
            work=f"start with {EXPERIMENTS:,} experiments",
            unit="s",
            values=seconds,
            bound=Bound(limit=START_LIMIT_S, ratio=False, most=True),
        ),
        Row(
            work=f"memory with {EXPERIMENTS:,} experiments",
            unit="MB",
            values=megabytes,
            bound=Bound(limit=MEMORY_LIMIT_MB, ratio=False, most=True),
        ),
    ]


def works_among_many(server: Server, basis: str) -> list[Work]:
    """Draws to be compared with `basis`, the draw of one experiment with five arms."""
    arms = [f"arm-{number}" for number in range(1, MANY_ARMS + 1)]
    server.call("POST", "/v1/create", {"experiment_id": "wide", "arms": arms})
    bound = Bound(limit=0.9)
    return [
        Work(
            f"draw of one of {EXPERIMENTS:,} experiments",
            server,
            f"/v1/e-{EXPERIMENTS // 2}/draw",
            basis=basis,
            bound=bound,
        ),
        Work(f"draw over {EXPERIMENTS:,} experiments", server, "/", "spread.lua", (EXPERIMENTS,), basis=basis),
        Work(f"draw of {MANY_ARMS:,} arms", server, "/v1/wide/draw", basis=basis, bound=bound),
    ]
