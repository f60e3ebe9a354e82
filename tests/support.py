"""What tests share: a real server in its own process, and words for talking to it.

Import it as `from support import RunningServer`: tests/conftest.py puts this folder on sys.path, and mypy, which finds
no __init__.py here, calls this module `support` too (`tests.support` works for pytest, but not for mypy).
"""

import atexit
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, Self

import httpx

COMMAND = (sys.executable, "-m", "multiarm")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
REQUEST_TIMEOUT_S = 30.0
PROBLEM_PREFIX = "urn:multiarm:problem:"

_URL = re.compile(r'https?://[^\s,"]+')
_processes: set[subprocess.Popen[str]] = set()


class ServerDidNotStart(Exception):
    """Its exit status and all that it said."""

    def __init__(self, status: int | None, output: str) -> None:
        self.status, self.output = status, output
        super().__init__(f"exit status {status}:\n{output}")


@atexit.register
def _end_all() -> None:
    for process in list(_processes):
        process.kill()


def environment(settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """This process's environment, its MULTIARM_… variables replaced by `settings` ({"body_limit_bytes": 4096})."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MULTIARM_")}
    return inherited | {f"MULTIARM_{name.upper()}": str(value) for name, value in (settings or {}).items()}


def free_port() -> int:
    """For a server that is told its port before it starts. Below those that the system hands out, so that no other
    test's connection takes it in the meantime.
    """
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000))) as listener:
            port: int = listener.getsockname()[1]
            return port


def run_cli(
    *arguments: str | Path, settings: Mapping[str, object] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """`multiarm …` until it ends; killed, with an error, where that takes too long."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(settings),
        text=True,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


class RunningServer:
    """A server process on a free port of 127.0.0.1, from construction until `close` (or the end of a `with`).

    `settings` go into its environment: RunningServer(tmp_path, settings={"body_limit_bytes": 4096}).
    `arguments` go behind `serve --port 0 --data-dir DIR`; a `command` may go before it, such as
    ("sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *COMMAND). Once constructed, it answers. Raises ServerDidNotStart.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, object] | None = None,
        arguments: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.data_dir = data_dir
        self.settings = dict(settings or {})
        self.arguments = list(arguments)
        self.command = list(command)
        self._clients: list[httpx.Client] = []
        self._said = threading.Condition()
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._open_streams = 0
        self._start(0)

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and the exit status; killed, with subprocess.TimeoutExpired, where that takes too long."""
        self.process.terminate()
        return self.wait(timeout_s)

    def kill(self) -> int:
        """SIGKILL, and until the process is gone."""
        self.process.kill()
        return self.wait()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Until the process has ended and all that it said has been read."""
        try:
            return self.process.wait(timeout_s)
        finally:
            self._end()

    def restart(self, *, keep_port: bool = False) -> None:
        """Start again on the same data directory, after a `terminate` where it still runs. `url` may change."""
        if self.process.poll() is None:
            self.terminate()
        self._end()
        self._start(httpx.URL(self.url).port or 0 if keep_port else 0)

    def close(self) -> None:
        """End the process, however; close all clients."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, timeout_s: float = REQUEST_TIMEOUT_S) -> httpx.Client:
        """A new client of the URL as it is now; closed with the server at the latest."""
        self._clients.append(httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False))
        return self._clients[-1]

    def raw(self, data: bytes) -> "RawAnswer":
        """Send these very bytes on a connection of their own, and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection, data.partition(b" ")[0].decode())

    def connect(self) -> socket.socket:
        """A bare connection."""
        url = httpx.URL(self.url)
        return socket.create_connection((url.host, url.port or 80), timeout=REQUEST_TIMEOUT_S)

    @property
    def stdout(self) -> str:
        """Of this process and those before its restarts."""
        with self._said:
            return "".join(self._stdout)

    @property
    def log(self) -> str:
        """Its stderr, and that of the processes before its restarts."""
        with self._said:
            return "".join(self._stderr)

    def wait_for_log(self, text: str, timeout_s: float = 20.0) -> None:
        """Until its log holds `text`; AssertionError where it does not in time."""
        with self._said:
            found = self._said.wait_for(lambda: any(text in line for line in self._stderr), timeout_s)
        assert found, f"{text!r} is not in the log:\n{self.log}"

    def _start(self, port: int) -> None:
        before = len(self._stdout), len(self._stderr)
        self.process = subprocess.Popen(
            [*self.command, "serve", "--port", str(port), "--data-dir", str(self.data_dir), *self.arguments],
            env=environment(self.settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _processes.add(self.process)
        self._readers = [
            self._reader(self.process.stdout, self._stdout),
            self._reader(self.process.stderr, self._stderr),
        ]
        deadline = time.monotonic() + START_TIMEOUT_S
        with self._said:
            self._said.wait_for(lambda: self._greeting(*before) or not self._open_streams, START_TIMEOUT_S)
            url = _URL.search(self._greeting(*before))
        if url is None:
            self._fail()
        self.url = url.group()
        self._await_answer(deadline)

    def _greeting(self, stdout_count: int, stderr_count: int) -> str:
        """What it said first on stdout, or where its logs are JSON, as an event; empty where it said nothing yet."""
        events = [line for line in self._stderr[stderr_count:] if '"event": "started"' in line]
        return next(iter(self._stdout[stdout_count:] + events), "")

    def _reader(self, stream: IO[str] | None, lines: list[str]) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            with stream:
                for line in stream:
                    with self._said:
                        lines.append(line)
                        self._said.notify_all()
            with self._said:
                self._open_streams -= 1
                self._said.notify_all()

        with self._said:
            self._open_streams += 1
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _await_answer(self, deadline: float) -> None:
        while True:
            try:
                httpx.get(f"{self.url}/health/live", timeout=max(deadline - time.monotonic(), 0.1), trust_env=False)
            except httpx.TransportError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self._fail()
                time.sleep(0.01)
            else:
                return

    def _fail(self) -> NoReturn:
        with suppress(subprocess.TimeoutExpired):  # it may be about to say why
            self.process.wait(1)
        status = self.process.poll()
        self._end()
        raise ServerDidNotStart(status, self.stdout + self.log) from None

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        for reader in self._readers:
            reader.join(STOP_TIMEOUT_S)
        _processes.discard(self.process)


class RawAnswer(NamedTuple):
    """`headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_answer(connection: socket.socket, method: str = "GET") -> RawAnswer:
    """One HTTP answer from a socket."""
    response = HTTPResponse(connection, method=method)
    response.begin()
    with response:
        return RawAnswer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())


def create(client: httpx.Client, *arms: object, **fields: Any) -> str:
    """A new experiment with these arms, ids or objects; its id."""
    answer = client.post("/v1/create", json={"arms": list(arms), **fields})
    assert answer.status_code == 201, answer.text
    experiment_id: str = answer.json()["experiment_id"]
    return experiment_id


def reward(client: httpx.Client, experiment_id: str, **update: Any) -> dict[str, int]:
    """One accepted update's answer."""
    answer = client.post(f"/v1/{experiment_id}/update", json=update)
    assert answer.status_code == 200, answer.text
    counted: dict[str, int] = answer.json()
    return counted


def stats(client: httpx.Client, experiment_id: str) -> dict[str, dict[str, Any]]:
    """Statistics by arm id."""
    answer = client.get(f"/v1/{experiment_id}/stats")
    assert answer.status_code == 200, answer.text
    arms: dict[str, dict[str, Any]] = answer.json()["arms"]
    return arms


def assert_problem(answer: httpx.Response, status: int, type_: str) -> dict[str, Any]:
    """The answer is an RFC 9457 document of that status and type; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == PROBLEM_PREFIX + type_
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def assert_faults(answer: httpx.Response, *paths: str) -> dict[str, Any]:
    """The answer is a 422 whose errors name exactly these paths."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert sorted(fault["path"] for fault in document["errors"]) == sorted(paths)
    assert all(fault["detail"] and fault["type"] for fault in document["errors"])
    return document
