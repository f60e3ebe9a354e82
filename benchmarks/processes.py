"""Servers under test, each in its own process on core 0; ended with the benchmark, whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SERVER_CORE, LOAD_CORE = "0", "1"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 30.0
LOG_TAIL = 4_000
# The kernel ends the server when the benchmark dies without a chance to clean up.
TIED = ("setpriv", "--pdeathsig", "TERM")


class Server(NamedTuple):
    """A running server: where it answers, its process, and how long it took from the command to the first answer."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: object = None) -> Any:
        status, content = self.ask(method, path, body)
        if status >= 300:
            said = content.decode(errors="replace")
            raise SystemExit(f"{method} {path} was answered {status}: {said}\n{self.said()}")
        return json.loads(content) if content else None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Status and body of the answer, whatever it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=CALL_TIMEOUT_S)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def said(self) -> str:
        """The end of its log, which goes with the directory."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self, timeout_s: float = 2.0) -> None:
        """Until it is idle: what one work leaves behind must not slow down the next."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            before = self.cpu_s()
            time.sleep(0.2)
            if self.cpu_s() - before <= 0.02:
                return

    def stop(self) -> int:
        """SIGTERM, and the exit status; killed where that takes too long."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def running(
    command: Sequence[str], port: int, ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The server, once it has answered `ready`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MULTIARM_")}
    start = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*TIED, "taskset", "-c", SERVER_CORE, *command],
            cwd=HERE,
            env=inherited | dict(environment or {}),
            stdout=output,
            stderr=output,
        )
    server = Server(port, process, log, 0.0)
    try:
        await_answer(server, ready)
        yield server._replace(started_s=time.perf_counter() - start)
    finally:
        server.stop()


def await_answer(server: Server, path: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(OSError, HTTPException):
            if server.ask("GET", path)[0] < 300:  # while it loads, it says 503
                return
        time.sleep(0.005)
    status = server.process.poll()
    what = f"did not answer {path} in {READY_TIMEOUT_S:.0f} s" if status is None else f"ended with status {status}"
    raise SystemExit(f"The server {what}: {server.process.args!r}\n{server.said()}")


@contextmanager
def multiarm(directory: Path, ready: str = "/v1/ping", **settings: object) -> Iterator[Server]:
    """A server on `directory`/data; `settings` by their names."""
    port = free_port()
    environment = {"log_level": "warning"} | settings
    command = [sys.executable, "-m", "multiarm", "serve", "--port", str(port), "--data-dir", str(directory / "data")]
    variables = {f"MULTIARM_{name.upper()}": str(value) for name, value in environment.items()}
    with running(command, port, ready, directory / "server.log", variables) as server:
        yield server


@contextmanager
def python(directory: Path, *arguments: str) -> Iterator[Server]:
    """A yardstick: `python ARGUMENTS`, where `PORT` stands for a free port."""
    port = free_port()
    command = [sys.executable, *(str(port) if argument == "PORT" else argument for argument in arguments)]
    with running(command, port, "/", directory / "yardstick.log") as server:
        yield server


@contextmanager
def data_directory() -> Iterator[Path]:
    """Beside the results: on the disk of the checkout, for a /tmp in memory would make durability look free."""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="data-", dir=RESULTS, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def end_on_sigterm() -> None:
    """Let `finally` run on SIGTERM as it does on Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
