"""Reading beside the store: what is asked of the past does not wait for the queue of what is to be written."""

import asyncio
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from multiarm.domain.errors import StoreUnavailable
from multiarm.service.reader import Reader
from multiarm.storage.engine import create_engine, sqlite_url
from postgres import Service, run_service


def test_audit_and_history_do_not_wait_for_the_store(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create()
        await service.supervisor.reset("button")
        open_again = threading.Event()
        held = asyncio.create_task(service.store.run(lambda _: open_again.wait(30)))
        try:
            entries = await asyncio.wait_for(service.supervisor.audit("button", 10, None), 10)
            points = await asyncio.wait_for(service.supervisor.history("button", 0.0, 1e11, 10), 10)
            assert not held.done()
        finally:
            open_again.set()
        assert await held
        assert [entry.action for entry in entries] == ["reset", "create"]
        assert [point.reason for point in points] == ["create", "reset"]

    run_service(tmp_path, story)


def test_a_database_that_cannot_be_read_is_unavailable_until_it_can(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "directory" / "multiarm.db"
        reader = Reader(create_engine(sqlite_url(path), reads_only=True))
        with capture_logs() as events:
            path.parent.mkdir()
            with pytest.raises(StoreUnavailable):
                await reader.run(lambda connection: connection.scalar(sa.text("SELECT 1")))
            assert not path.exists()
            path.touch()
            assert await reader.run(lambda connection: connection.scalar(sa.text("SELECT 1"))) == 1
            with pytest.raises(ZeroDivisionError):
                await reader.run(lambda _: 1 // 0)
        await reader.stop()
        assert [event["event"] for event in events] == ["database_not_read"]

    asyncio.run(story())
