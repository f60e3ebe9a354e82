"""Fixtures for the whole suite: one server of default settings, started when a test first asks for it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

sys.path.append(str(Path(__file__).parent))  # so that tests can say `from support import …`; see support.py

from small_disk import disk
from support import RunningServer

__all__ = ["disk"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Shared by all tests of the session: a test makes experiments of its own, and expects those of others."""
    with RunningServer(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert_clean_end(running)


def assert_clean_end(running: RunningServer) -> None:
    """It stops as it should, and nothing went wrong behind the answers that the tests saw."""
    assert running.terminate() == 0
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="session")
def client(server: RunningServer) -> httpx.Client:
    """Closed by its server."""
    return server.client()


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Another one, with small limits, hosts of its own and JSON logs; any test may clear it."""
    settings = {
        "allowed_hosts": "127.0.0.1,Shop.Example",
        "arm_limit": 3,
        "batch_limit_updates": 5,
        "body_limit_bytes": 2048,
        "experiment_limit": 4,
        "log_format": "json",
        "payload_limit_bytes": 16,
    }
    with RunningServer(tmp_path_factory.mktemp("small_server"), settings=settings) as running:
        yield running
        assert_clean_end(running)


@pytest.fixture
def small_client(small_server: RunningServer) -> Iterator[httpx.Client]:
    """No experiments are there at first."""
    with small_server.client() as client:
        client.delete("/v1/clear").raise_for_status()
        yield client
