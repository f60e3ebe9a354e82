"""Starting, stopping, starting again: what is kept, what is refused, what is logged."""

import json
import signal
import socket
import sqlite3
import stat
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from multiarm import __version__
from support import RunningServer, ServerDidNotStart, create, read_answer, reward, run_cli


def test_a_second_start_finds_everything_as_it_was_and_answers_soon(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        client = server.client()
        created = [create(client, "x", "y", experiment_id=name) for name in ("zebra", "ant", "moose")]
        create(
            client,
            {"arm_id": "a", "payload": {"n": [1]}, "prior": {"pulls": 2, "mean_reward": 0.5}},
            "b",
            experiment_id="e",
        )
        drawn = client.get("/v1/e/draw").json()
        reward(client, "e", arm_id="a", reward=0.25, key="k")
        client.put("/v1/e/disable_arm/b")
        client.put("/v1/zebra/disable")
        client.put("/v1/ant/reset")
        client.delete("/v1/moose/delete_arm/x")
        paths = ["/v1/list", *(f"/v1/{name}{suffix}" for name in [*created, "e"] for suffix in ("", "/stats"))]
        before = {path: client.get(path).json() for path in paths}
        assert before["/v1/list"] == {"experiment_ids": ["zebra", "ant", "moose", "e"]}

        assert server.terminate() == 0
        start = time.monotonic()
        server.restart()
        took_s = time.monotonic() - start
        assert took_s <= 10, f"second start to first answer: {took_s:.2f} s"

        client = server.client()
        assert {path: client.get(path).json() for path in paths} == before
        assert reward(client, "e", arm_id="a", reward=1, key="k") == {"accepted": 0, "duplicates": 1}
        assert reward(client, "e", decision_id=drawn["decision_id"], reward=1) == {"accepted": 1, "duplicates": 0}
        assert client.post("/v1/moose/add_arm").json() == {"arm_id": "arm-3"}


def test_the_data_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "data"
    with RunningServer(directory, settings={"ledger_flush_interval_s": 0.01}) as server:
        client = server.client()
        experiment_id = create(client, "a")
        for _ in range(3):
            client.get(f"/v1/{experiment_id}/draw")
        running = list(directory.rglob("*"))
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in running if path.exists()}
        assert server.terminate() == 0
    modes |= {path: stat.S_IMODE(path.stat().st_mode) for path in [directory, *directory.rglob("*")]}
    assert any(path.suffix == ".parquet" for path in modes)
    assert any(path.name == "multiarm.db" for path in modes)
    for path, mode in modes.items():
        assert (path.name, oct(mode)) == (path.name, oct(0o700 if path in directories(directory) else 0o600))


def directories(root: Path) -> set[Path]:
    return {root, *(path for path in root.rglob("*") if path.is_dir())}


def stored_pulls(server: RunningServer) -> int:
    """What lies in the database of a server that has ended."""
    with closing(sqlite3.connect(server.data_dir / "multiarm.db")) as database:
        pulls: int = database.execute("SELECT sum(pull_count) FROM evidence").fetchone()[0]
    return pulls


def await_refusal(server: RunningServer) -> None:
    """Until it accepts no more connections, which is how a stop begins."""
    deadline = time.monotonic() + 10
    while True:
        try:
            server.connect().close()
        except OSError:
            return
        assert time.monotonic() < deadline, "it still accepts connections"
        time.sleep(0.005)


class TestStop:
    def test_sigterm_answers_what_is_in_flight_and_exits_0(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data") as server:
            client = server.client()
            experiment_id = create(client, "a")
            body = json.dumps({"updates": [{"arm_id": "a", "reward": 1}] * 10_000}).encode()
            head = (
                f"POST /v1/{experiment_id}/update_batch HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            connections = [server.connect() for _ in range(8)]
            try:
                for connection in connections:
                    connection.sendall(head + body[:-1])
                # all heads are read once a later request on another connection is answered
                client.get("/v1/ping")
                server.process.terminate()
                await_refusal(server)
                for connection in connections:
                    connection.sendall(body[-1:])
                answers = [read_answer(connection, "POST") for connection in connections]
            finally:
                for connection in connections:
                    connection.close()
            start = time.monotonic()
            assert server.wait(10) == 0
            assert time.monotonic() - start <= 10
            assert [answer.status for answer in answers] == [200] * 8
            assert stored_pulls(server) == 80_000

    def test_sigterm_ends_it_in_time_also_while_a_client_never_finishes(self, tmp_path: Path) -> None:
        with (
            RunningServer(tmp_path / "data", settings={"shutdown_timeout_s": 2}) as server,
            server.connect() as idle,
            server.connect() as slow,
        ):
            idle.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert read_answer(idle).status == 200  # and stays open
            slow.sendall(
                b"POST /v1/create HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            server.client().get("/v1/ping")
            assert server.terminate(10) == 0

    def test_sigterm_ends_it_in_time_also_while_the_database_is_locked(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path) as server:
            client = server.client()
            create(client, "a", experiment_id="x")
            client.get("/v1/x/draw").raise_for_status()
            body = b'{"arm_id": "a", "reward": 1}'
            head = f"POST /v1/x/update HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            with ExitStack() as stack:
                other = stack.enter_context(closing(sqlite3.connect(tmp_path / "multiarm.db", isolation_level=None)))
                other.execute("BEGIN IMMEDIATE")
                waiting = [stack.enter_context(server.connect()) for _ in range(3)]
                for connection in waiting:
                    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                for _ in range(2):  # the first may come in one turn with the connections, the second only behind them
                    client.get("/v1/x/draw").raise_for_status()
                start = time.monotonic()
                server.process.terminate()
                answers = [read_answer(connection, "POST") for connection in waiting]
                assert server.wait() == 0
                assert time.monotonic() - start < 10
            assert [answer.status for answer in answers] == [503] * 3
            assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}

    def test_under_load_no_answered_reward_is_lost(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data") as server:
            experiment_id = create(server.client(), "a")
            accepted = [0] * 8
            busy = threading.Barrier(len(accepted) + 1, timeout=20)

            def load(number: int) -> None:
                with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
                    try:
                        while True:
                            answer = client.post(f"/v1/{experiment_id}/update", json={"arm_id": "a", "reward": 1})
                            accepted[number] += answer.json()["accepted"]
                            if accepted[number] == 10:
                                busy.wait()
                    except httpx.TransportError:
                        return

            threads = [threading.Thread(target=load, args=(number,)) for number in range(len(accepted))]
            for thread in threads:
                thread.start()
            busy.wait()
            assert server.terminate(10) == 0
            for thread in threads:
                thread.join(20)
            assert stored_pulls(server) == sum(accepted)


class TestRefusals:
    def test_a_second_server_on_the_same_directory(self, server: RunningServer) -> None:
        with pytest.raises(ServerDidNotStart) as refusal:
            RunningServer(server.data_dir)
        assert refusal.value.status not in {0, None}
        assert str(server.process.pid) in refusal.value.output
        assert str(server.data_dir) in refusal.value.output
        assert "Traceback" not in refusal.value.output
        assert server.client().get("/v1/ping").status_code == 200

    def test_a_port_in_use(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = run_cli("serve", "--port", str(port), "--data-dir", tmp_path / "data")
        assert done.returncode not in {0, None}
        assert str(port) in done.stderr
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_data_directory_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("")
        done = run_cli("serve", "--port", "0", "--data-dir", tmp_path / "data")
        assert done.returncode != 0
        assert str(tmp_path / "data") in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_database_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "multiarm.db").write_bytes(b"no database at all" * 1000)
        done = run_cli("serve", "--port", "0", "--data-dir", tmp_path)
        assert done.returncode != 0
        assert "database" in done.stderr
        assert "Traceback" not in done.stderr


class TestWhatItSays:
    def test_for_people_five_lines_at_start_and_nothing_per_request(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data") as server:
            ask_much(server)
            server.process.send_signal(signal.SIGINT)
            assert server.wait(10) == 0  # as Ctrl-C does it
            lines = server.stdout.splitlines()
            assert 1 <= len(lines) <= 5
            assert server.url in lines[0]
            assert str(tmp_path / "data") in server.stdout
            assert "curl" in server.stdout
            assert "Traceback" not in server.log
            assert "/v1/" not in server.log
            assert len(server.log.splitlines()) < 10

    def test_as_json_an_object_a_line_and_nothing_per_request(self, tmp_path: Path) -> None:
        with RunningServer(tmp_path / "data", settings={"log_format": "json"}) as server:
            ask_much(server)
            assert server.terminate() == 0
            lines = server.log.splitlines()
            assert server.stdout == ""
        assert 0 < len(lines) < 10
        started = next(found for found in map(json.loads, lines) if found["event"] == "started")
        assert (started["url"], started["version"], started["experiment_count"]) == (server.url, __version__, 0)
        assert started["data_dir"] == str((tmp_path / "data").resolve())
        for line in lines:
            assert {"event", "level", "timestamp"} <= set(json.loads(line))
            assert "/v1/" not in line

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [({"port": "none"}, "environment variable MULTIARM_PORT"), ({"host": "0.0.0.0"}, "without authentication")],
    )
    def test_as_json_why_it_does_not_start(self, tmp_path: Path, settings: dict[str, str], reason: str) -> None:
        done = run_cli("serve", "--data-dir", tmp_path, settings=settings | {"log_format": "json"})
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        failed = json.loads(line)
        assert (failed["event"], failed["level"]) == ("start_failed", "critical")
        assert reason in failed["reason"]


def ask_much(server: RunningServer) -> None:
    """Requests that are answered, and requests that are refused."""
    client = server.client()
    for path in ["/v1/ping", "/v1/nobody", "/nowhere"] * 20:
        client.get(path)
    client.post("/v1/create", content=b"{", headers={"content-type": "application/json"})
