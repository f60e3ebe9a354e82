"""Servers for the tests of the wire: one with the express lane and one without, which must answer alike.

Import it as `from wire_servers import …`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from support import RunningServer, run_cli
from wire import Wire, batch, get, post

LANES = {"lane": True, "no-lane": False}
_shared: dict[bool, RunningServer] = {}


def shared_server(lane: bool, pytestconfig: pytest.Config, factory: pytest.TempPathFactory) -> RunningServer:
    """The server of default settings with the lane or without it, one for all tests."""
    if lane not in _shared:
        _shared[lane] = RunningServer(factory.mktemp("wire"), settings=settings_of(lane))
        pytestconfig.add_cleanup(_shared[lane].close)
    return _shared[lane]


def settings_of(lane: bool) -> dict[str, object]:
    return {"express_lane": "true" if lane else "false"}


def lane_server(**settings: object) -> Any:
    """A fixture: a server with the express lane, then one without; a module's own where it has settings of its own."""

    @pytest.fixture(scope="module", params=LANES.values(), ids=list(LANES))
    def server(
        request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[RunningServer]:
        if settings:
            folder = tmp_path_factory.mktemp("wire")
            with RunningServer(folder, settings=settings_of(request.param) | settings) as running:
                yield running
                assert_unharmed(running)
                assert running.terminate() == 0
        else:
            running = shared_server(request.param, pytestconfig, tmp_path_factory)
            before = len(running.log)
            yield running
            assert_unharmed(running, before)

    return server


def lane_servers(**settings: object) -> Any:
    """A fixture: both of them at a time, for tests that mostly wait."""

    @pytest.fixture(scope="module")
    def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
        with both_servers(tmp_path_factory.mktemp("wire"), settings) as both:
            yield both
            for server in both:
                assert_unharmed(server)
                assert server.terminate() == 0

    return servers


@contextmanager
def both_servers(folder: Path, settings: Mapping[str, object]) -> Iterator[list[RunningServer]]:
    """One with the lane, one without; started at the same time."""

    def start(name: str) -> RunningServer:
        return RunningServer(folder / name, settings={**settings_of(LANES[name]), **settings})

    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        starting = [threads.submit(start, name) for name in LANES]
        yield [stack.enter_context(one.result()) for one in starting]


def assert_unharmed(server: RunningServer, log_size: int = 0) -> None:
    """It answers, and nothing went wrong behind the answers since its log was of that size."""
    with Wire(server) as wire:
        wire.assert_open()
    log = server.log[log_size:]
    assert "Traceback" not in log, log[:5000]


def new_experiment(server: RunningServer, **fields: Any) -> str:
    """Its id; arms `a` and `b` where nothing else is said."""
    with Wire(server) as wire:
        wire.send(post("/v1/create", {"arms": ["a", "b"], **fields}))
        answer = wire.answer()
    assert answer.status == 201, answer
    experiment_id: str = answer.json["experiment_id"]
    return experiment_id


def pulls(server: RunningServer, experiment_id: str) -> int:
    """Over all its arms."""
    with Wire(server) as wire:
        wire.send(get(f"/v1/{experiment_id}/stats"))
        return sum(arm["pulls"] for arm in wire.answer().json["arms"].values())


def warm_up(server: RunningServer) -> str:
    """Until it has done all that takes memory once and for all, as the first writes of its ledger do; an experiment."""
    experiment_id = new_experiment(server)
    with Wire(server) as wire:
        wire.send(get(f"/v1/{experiment_id}/draw") + post(f"/v1/{experiment_id}/update_batch", batch(20)))
        assert [wire.answer().status for _ in range(2)] == [200, 200]
    tables = [server.data_dir / "ledger" / name for name in ("decisions", "requests", "rewards")]
    wait_until(
        lambda: all(any(file.stat().st_size for file in table.rglob("*.arrows")) for table in tables),
        "the ledger has written nothing",
    )
    return experiment_id


def memory_bytes(server: RunningServer) -> int:
    """Resident now."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def socket_count(server: RunningServer) -> int:
    """Of the server's open sockets."""
    count = 0
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def wait_for_sockets(server: RunningServer, most: int) -> None:
    """Until it has no more of them than so many."""
    wait_until(lambda: socket_count(server) <= most, "clients that have gone are still connected")


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """AssertionError with `what` where it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def assert_books_balance(server: RunningServer) -> None:
    """Of a server that has ended."""
    done = run_cli("check", server.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
