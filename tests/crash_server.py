"""For crash.py: a server that is killed, and a client that tells a lost connection from an answer."""

import json
import signal
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from support import COMMAND, environment, run_cli

TIMEOUT_S = 30.0
LIFE_LIMIT_S = 120.0  # so that nobody waits for a server that hangs


class ConnectionLost(Exception):
    """The server is gone; whether it did what was asked is not known."""


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """(status, decoded JSON or None). A timeout is an error, not a lost connection."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except TimeoutError:
            raise
        except (OSError, HTTPException) as error:
            raise ConnectionLost from error
        return response.status, json.loads(answer) if answer else None

    def expect(self, status: int, method: str, path: str, document: object = None) -> Any:
        """The answer, which must have this status."""
        body = None if document is None else json.dumps(document).encode()
        got, answer = self.ask(method, path, body)
        assert got == status, f"{method} {path}: {got}, {answer}"
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._connection.close()


class Server:
    """One life of the server. It ends at the time that `kill_after` sets, or by `stop`; at the latest with `with`."""

    def __init__(self, data_dir: Path) -> None:
        self._log = data_dir.with_suffix(".log")
        self._killer: Timer | None = None
        self._killed_at = 0.0
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", "--data-dir", str(data_dir)],
                env=environment({"log_level": "warning"}),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._watchdog = Timer(LIFE_LIMIT_S, self._process.kill)
        self._watchdog.start()

    def url(self) -> str | None:
        """Wait until it listens; None where it is killed before."""
        assert self._process.stdout is not None
        first_line = self._process.stdout.readline()
        return next((word.rstrip(",") for word in first_line.split() if word.startswith("http://")), None)

    def require_url(self) -> str:
        url = self.url()
        assert url is not None, self._log.read_text()
        return url

    def kill_after(self, delay_s: float) -> None:
        self._killer = Timer(delay_s, self._kill)
        self._killer.start()

    def killed(self) -> float:
        """Wait for the kill; the monotonic time just before it."""
        assert self._killer is not None
        self._killer.join()
        self._end(expected_status=-signal.SIGKILL)
        return self._killed_at

    def stop(self) -> None:
        """SIGTERM, and a clean end."""
        self._process.terminate()
        self._end(expected_status=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for timer in (self._watchdog, self._killer):
            if timer is not None:
                timer.cancel()
        self._process.kill()
        self._process.wait(TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _kill(self) -> None:
        self._killed_at = time.monotonic()
        self._process.kill()

    def _end(self, expected_status: int) -> None:
        status = self._process.wait(TIMEOUT_S)
        log = self._log.read_text()
        assert status == expected_status, f"exit status {status}:\n{log}"
        assert "error" not in log, log
        assert "Traceback" not in log, log


def check_by_command(data_dir: Path) -> None:
    """`multiarm check` says that the books balance."""
    check = run_cli("check", data_dir)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "the books balance" in check.stdout
