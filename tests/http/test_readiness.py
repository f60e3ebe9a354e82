"""What the probes say is true: while the server loads, while its store is down, and while it stops."""

import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from support import RunningServer, ServerDidNotStart, assert_problem, create, free_port, read_answer, run_cli
from wire_servers import wait_until

LOADING = """
import asyncio, os
from multiarm.service.supervisor import Supervisor
load = Supervisor.load
async def slowly(self):
    while not os.path.exists({gate!r}):
        await asyncio.sleep(0.01)
    {then}
    await load(self)
Supervisor.load = slowly
from multiarm.cli import main
main()
"""


def ready(client: httpx.Client) -> int:
    return client.get("/health/ready").status_code


class TestWhileItLoads:
    def test_it_lives_and_is_not_ready(self, tmp_path: Path) -> None:
        gate, port = tmp_path / "gate", free_port()
        command = (sys.executable, "-c", LOADING.format(gate=str(gate), then="pass"))
        with (
            ThreadPoolExecutor(1) as thread,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            starting = thread.submit(RunningServer, tmp_path / "data", arguments=["--port", str(port)], command=command)
            try:
                wait_until(lambda: answers(client), "it does not answer while it loads")
                live = client.get("/health/live")
                assert (live.status_code, live.json(), live.headers["connection"]) == (200, {"status": "ok"}, "close")
                assert client.head("/health/live").status_code == 200
                for method, path in [("GET", "/health/ready"), ("GET", "/v1/list"), ("POST", "/v1/x/update")]:
                    refusal = client.request(method, path)
                    document = assert_problem(refusal, 503, "starting")
                    assert int(refusal.headers["retry-after"]) >= 1
                    assert document["request_id"] == refusal.headers["x-request-id"]
                    assert_named_as_asked(client)
                with (
                    socket.create_connection(("127.0.0.1", port)) as idle,
                    socket.create_connection(("127.0.0.1", port)) as flood,
                ):
                    with suppress(OSError):
                        flood.sendall(b"x" * (1 << 20))  # no head ends: it is not read for ever
                    with suppress(ConnectionResetError):
                        assert flood.recv(1) == b""
                    gate.touch()
                    assert idle.recv(1) == b""  # those who said nothing are sent away
            finally:
                gate.touch()
            with starting.result() as server:
                assert ready(client) == 200
                assert create(client, "a")
                assert server.terminate() == 0

    def test_a_start_that_fails_says_why_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "gate").touch()
        failure = "from multiarm.domain.errors import StartError; raise StartError('It broke while it loaded.')"
        command = (sys.executable, "-c", LOADING.format(gate=str(tmp_path / "gate"), then=failure))
        with pytest.raises(ServerDidNotStart) as refusal:
            RunningServer(tmp_path / "data", command=command)
        assert refusal.value.status == 2
        assert "It broke while it loaded." in refusal.value.output
        assert "Traceback" not in refusal.value.output


def assert_named_as_asked(client: httpx.Client) -> None:
    """The caller's ids come back from the waiting room too; what is malformed gets one of the server's."""
    asked = {"X-Request-Id": "shop-7", "Traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "Upgrade": "h2c"}
    refusal = client.get("/v1/list", headers=asked)
    document = assert_problem(refusal, 503, "starting")
    assert (document["request_id"], document["trace_id"]) == ("shop-7", "a" * 32)
    for answer in (refusal, client.get("/health/live", headers=asked)):
        assert answer.headers["x-request-id"] == "shop-7"
        assert answer.headers["traceparent"] == asked["Traceparent"]
    port = client.base_url.port or 0
    for head in (
        b"GET / HTTP/1.1\r\nX-Request-Id: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Request-Id: a\r\n b: c\0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            wire.sendall(head)
            told = read_answer(wire)
        assert told.status == 503
        assert re.fullmatch(r"[0-9a-f]{20}", told.headers["x-request-id"])


def answers(client: httpx.Client) -> bool:
    try:
        client.get("/health/live")
    except httpx.TransportError:
        return False
    return True


class TestWhileTheStoreIsDown:
    def test_a_disk_that_takes_nothing_more_is_noticed_without_a_request(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path, settings={"health_interval_s": 0.05, "draw_count_interval_s": 0.05}) as server:
            client = server.client()
            wait_until(lambda: ready(client) == 200, "it is not ready at first")
            most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, most[1]))
            wait_until(lambda: ready(client) == 503, "it is ready though nothing can be written")
            for _ in range(20):  # reading goes well meanwhile
                assert_problem(client.get("/health/ready"), 503, "unavailable")
                assert client.get("/health/live").status_code == 200
                time.sleep(0.02)
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, most)
            wait_until(lambda: ready(client) == 200, "it does not recover")
            assert server.terminate() == 0

    def test_a_database_that_is_locked_is_noticed_without_a_request(self, tmp_path: Path) -> None:
        settings = {"health_interval_s": 0.05, "database_timeout_s": 0.05}
        with RunningServer(tmp_path, settings=settings) as server:
            client = server.client()
            with closing(sqlite3.connect(tmp_path / "multiarm.db", isolation_level=None, timeout=20)) as other:
                other.execute("BEGIN IMMEDIATE")
                wait_until(lambda: ready(client) == 503, "it is ready while another holds the database")
                other.execute("ROLLBACK")
            wait_until(lambda: ready(client) == 200, "it does not recover")


class TestWithoutItsDatabaseFile:
    """What is written to a file that has no name any more is lost with the process."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[RunningServer]:
        with RunningServer(tmp_path / "data", settings={"health_interval_s": 0.05}) as made:
            client = made.client()
            create(client, "a", experiment_id="x")
            assert client.post("/v1/x/update", json={"arm_id": "a", "reward": 1}).status_code == 200
            yield made

    def assert_noticed(self, server: RunningServer) -> None:
        client = server.client()
        refusal = client.post("/v1/x/update", json={"arm_id": "a", "reward": 1})
        assert "removed or replaced" in assert_problem(refusal, 503, "store-unavailable")["detail"]
        assert "removed or replaced" in assert_problem(client.get("/health/ready"), 503, "unavailable")["detail"]
        assert client.get("/v1/x/draw").status_code == 200
        assert client.get("/health/live").status_code == 200
        server.wait_for_log("database_failed")
        assert "removed or replaced" in server.log

    def test_it_is_noticed_at_the_next_reward_and_undone_when_the_file_is_back(
        self, server: RunningServer, tmp_path: Path
    ) -> None:
        file, aside = server.data_dir / "multiarm.db", tmp_path / "aside.db"
        file.rename(aside)
        self.assert_noticed(server)
        shutil.copy(aside, file)  # another file of the same content
        self.assert_noticed(server)
        aside.rename(file)
        client = server.client()
        wait_until(lambda: ready(client) == 200, "it does not recover")
        assert client.post("/v1/x/update", json={"arm_id": "a", "reward": 1}).status_code == 200
        assert server.terminate() == 0
        assert run_cli("check", server.data_dir).returncode == 0

    def test_it_is_noticed_without_a_reward_and_no_server_begins_with_nothing(self, server: RunningServer) -> None:
        client = server.client()
        (server.data_dir / "multiarm.db").unlink()
        wait_until(lambda: ready(client) == 503, "it is ready though its database is gone")
        self.assert_noticed(server)
        assert client.get("/v1/x/audit").status_code == 503
        assert server.terminate() == 0
        assert not (server.data_dir / "multiarm.db").exists()
        with pytest.raises(ServerDidNotStart, match="no database") as refusal:
            server.restart()
        assert refusal.value.status == 2
        assert not (server.data_dir / "multiarm.db").exists()


class TestWhileItStops:
    def test_it_serves_on_and_is_not_ready_until_it_was_noticed(self, tmp_path: Path) -> None:
        settings = {"shutdown_delay_s": 2}
        with RunningServer(tmp_path, settings=settings) as server:
            client = server.client()
            experiment_id = create(client, "a")
            began_at = time.monotonic()
            os.kill(server.process.pid, signal.SIGTERM)
            wait_until(lambda: ready(client) == 503, "it is ready while it stops")
            with server.client() as other:  # on a new connection too
                assert_problem(other.get("/health/ready"), 503, "unavailable")
                assert other.get("/health/live").status_code == 200
                assert other.get(f"/v1/{experiment_id}/draw").status_code == 200
            assert server.wait() == 0
            assert 1.9 <= time.monotonic() - began_at < 8

    def test_without_a_delay_nobody_is_told_that_it_is_ready(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path) as server:
            client = server.client()
            assert ready(client) == 200
            os.kill(server.process.pid, signal.SIGTERM)
            said = []
            with suppress(httpx.TransportError):
                while True:
                    said.append(ready(client))
            assert server.wait() == 0
        first = said.index(503) if 503 in said else len(said)
        assert set(said[first:]) <= {503}
