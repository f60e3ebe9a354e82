"""`multiarm demo`: an experiment to watch. A server of its own, real HTTP, simulated visitors, a live table."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from multiarm.domain.errors import StartError

EXPERIMENT = "button-colour"
CLICK_RATES = {"grey": 0.040, "green": 0.050, "orange": 0.065}
CONCURRENT_VISITORS = 16
REFRESH_S = 0.2
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class Arm(NamedTuple):
    """A row of the table."""

    arm_id: str
    rate: float
    draws: int
    pulls: int
    mean: float | None
    share: float
    probability_best: float


def run(console: Console, visitor_count: int, seed: int) -> None:
    """Send the visitors, show the table, say what it earned."""
    with tempfile.TemporaryDirectory(prefix="multiarm-demo-") as directory, started_server(directory) as url:
        console.print(
            f"A server of its own runs at {url}. {visitor_count:,} visitors come, {CONCURRENT_VISITORS} at a time; "
            "each is shown one button, clicks it or not, and the server learns.",
            highlight=False,
        )
        client = Client(url)
        client.call("POST", "/v1/create", {"experiment_id": EXPERIMENT, "arms": list(CLICK_RATES)})
        crowd = Crowd(url, visitor_count, seed)
        with Live(console=console, auto_refresh=False) as live, crowd.coming():
            finished = False
            while not finished:
                finished = crowd.wait(REFRESH_S)
                live.update(screen(arms(client), crowd.done, visitor_count, crowd.progress), refresh=True)
        console.print()
        console.print(sentence(arms(client), visitor_count), highlight=False)


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=30)

    def call(self, method: str, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode()}")
        return json.loads(answer)

    def close(self) -> None:
        self._connection.close()


class Crowd:
    """The visitors, several at a time, each with a seed of its own: clicks do not depend on the scheduling."""

    def __init__(self, url: str, visitor_count: int, seed: int) -> None:
        self._url = url
        self._visitor_count = visitor_count
        self._seed = seed
        self._numbers = count()
        self._futures: list[Future[None]] = []
        self._done = [0] * CONCURRENT_VISITORS
        self.progress = progress_bar()
        self.task = self.progress.add_task("visitors", total=visitor_count)

    @property
    def done(self) -> int:
        return sum(self._done)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Send them all; what went wrong with one is raised at the end."""
        with ThreadPoolExecutor(CONCURRENT_VISITORS) as pool:
            self._futures = [pool.submit(self._visit, slot) for slot in range(CONCURRENT_VISITORS)]
            yield
            for future in self._futures:
                future.result()

    def wait(self, timeout_s: float) -> bool:
        """True when the last visitor has gone."""
        waiting = wait_for(self._futures, timeout_s).not_done
        self.progress.update(self.task, completed=self.done)
        return not waiting

    def _visit(self, slot: int) -> None:
        client = Client(self._url)
        while (number := next(self._numbers)) < self._visitor_count:
            drawn = client.call("GET", f"/v1/{EXPERIMENT}/draw")
            clicks = random.Random(self._seed * 1_000_003 + number).random() < CLICK_RATES[drawn["arm_id"]]
            reward = {"decision_id": drawn["decision_id"], "reward": int(clicks)}
            client.call("POST", f"/v1/{EXPERIMENT}/update", reward)
            self._done[slot] += 1
        client.close()


def arms(client: Client) -> list[Arm]:
    stats = client.call("GET", f"/v1/{EXPERIMENT}/stats")["arms"]
    return [
        Arm(
            arm_id,
            rate,
            stats[arm_id]["draws"],
            stats[arm_id]["pulls"],
            stats[arm_id]["mean_reward"],
            stats[arm_id]["share"],
            stats[arm_id]["probability_best"],
        )
        for arm_id, rate in CLICK_RATES.items()
    ]


def screen(rows: list[Arm], done: int, visitor_count: int, progress: Progress) -> Group:
    table = Table(title=f"Which button is clicked most? {done:,} of {visitor_count:,} visitors")
    table.add_column("arm", min_width=8)
    for heading in ("true rate", "draws", "pulls", "mean", "share", "P(best)"):
        table.add_column(heading, justify="right", min_width=8)
    leader = max(rows, key=lambda row: row.probability_best)
    for row in rows:
        table.add_row(
            row.arm_id,
            f"{row.rate:.1%}",
            f"{row.draws:,}",
            f"{row.pulls:,}",
            "–" if row.mean is None else f"{row.mean:.2%}",
            f"{row.share:.1%}",
            f"{row.probability_best:.1%}",
            style="bold green" if row is leader else "",
        )
    return Group(table, progress)


def progress_bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(46), MofNCompleteColumn(), TimeElapsedColumn())


def sentence(rows: list[Arm], visitor_count: int) -> str:
    """What was earned against an equal split, whose clicks are known from the true rates."""
    earned = sum(row.pulls * (row.mean or 0.0) for row in rows)
    equal = visitor_count * sum(CLICK_RATES.values()) / len(CLICK_RATES)
    more = earned - equal
    return (
        f"The bandit earned {earned:,.0f} clicks; an equal split of the {visitor_count:,} visitors would have earned "
        f"about {equal:,.0f}: {abs(more):,.0f} {'more' if more >= 0 else 'fewer'} ({more / equal:+.0%})."
    )


@contextmanager
def started_server(directory: str) -> Iterator[str]:
    """`multiarm serve` on a free port, as a process of its own; its URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MULTIARM_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "multiarm", "serve", "--port", "0", "--data-dir", directory],
        env=environment | {"MULTIARM_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield url_in(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def url_in(process: "subprocess.Popen[str]") -> str:
    """The URL in the first line that the server prints."""
    assert process.stdout is not None
    timer = threading.Timer(START_TIMEOUT_S, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    words = [word.rstrip(",") for word in line.split() if word.startswith("http://")]
    if not words:
        raise StartError("The demo's server did not start; `multiarm serve` shows why.")
    return words[0]
