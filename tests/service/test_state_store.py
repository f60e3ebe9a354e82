"""The StateStore alone: its own thread, a real loop, a real database of either kind."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import sqlalchemy as sa
from msgspec import structs
from sqlalchemy import Connection

from multiarm.domain.errors import Busy, ExperimentNotFound, InvalidReward, MultiarmError, StaleEpoch, StoreUnavailable
from multiarm.domain.records import ExperimentState
from multiarm.service.state_store import ShownRows, StateStore, settle
from multiarm.storage import experiments
from multiarm.storage.rewards import UpdateRequest
from postgres import KINDS, NODE, NOON, bundle, database_of, plain


@dataclass
class Stage:
    """A store over the experiment `state`, and all that it said, in order."""

    store: StateStore
    state: ExperimentState
    commits: list[int] = field(default_factory=list)
    said: list[Any] = field(default_factory=list)

    def show(self, rows: ShownRows) -> None:
        self.said.extend(
            ("rows", number, row.pull_count) for _, shown in rows.values() for number, row in shown.items()
        )

    def send(self, request: UpdateRequest, name: object = None) -> "asyncio.Future[list[bool]]":
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()

        def reply(outcome: Any) -> None:
            self.said.append(("reply", name))
            settle(future, outcome)

        self.store.update(request, reply)
        return future

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """The store's thread waits inside the block, so that what is sent in it becomes one group."""
        begun, go_on = threading.Event(), threading.Event()

        def work(_: Connection) -> None:
            begun.set()
            assert go_on.wait(10)

        held = asyncio.ensure_future(self.store.run(work))
        try:
            assert await asyncio.to_thread(begun.wait, 10)
            yield
        finally:
            go_on.set()
            await held

    async def rows(self) -> dict[int, int]:
        loaded = await self.store.run(partial(experiments.load_experiment, node=NODE, uid=self.state.uid))
        assert loaded is not None
        return {number: row.pull_count for number, row in loaded.rows.items()}


class Play(Protocol):
    def __call__(self, story: Callable[[Stage], Awaitable[None]], **options: int) -> None: ...


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Plays a story on a store over either kind of database."""

    async def main(story: Callable[[Stage], Awaitable[None]], options: dict[str, Any]) -> None:
        with database_of(request.param, tmp_path) as database:
            state = database.create()
            database.connection.close()
            store = StateStore(database.engine, NODE, clock=lambda: NOON, **options)
            stage = Stage(store, state)
            count_commits(database.engine, stage)
            store.start(asyncio.get_running_loop(), stage.show)
            try:
                await story(stage)
            finally:
                await store.stop()

    return lambda story, **options: asyncio.run(asyncio.wait_for(main(story, options), 30))


def count_commits(engine: sa.Engine, stage: Stage) -> None:
    dialect: Any = engine.dialect
    commit: Callable[[Any], None] = dialect.do_commit

    def counted(connection: Any) -> None:
        stage.commits.append(1)
        commit(connection)

    dialect.do_commit = counted


def hold_the_loop() -> None:
    time.sleep(0.001)


class TestOrder:
    def test_replies_come_in_order_and_after_the_rows_are_shown(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            state = stage.state
            async with stage.held_up():
                first = stage.send(bundle(state, plain(state, 1)), 1)
                second = stage.send(bundle(state, plain(state, 1), plain(state, 2)), 2)
                reading = asyncio.ensure_future(
                    stage.store.run(lambda _: None, lambda _: stage.said.append(("reply", "read")))
                )
                await asyncio.sleep(0)
                third = stage.send(bundle(state, plain(state, 1)), 3)
            await asyncio.gather(first, second, reading, third)
            assert stage.said == [
                ("rows", 1, 2),
                ("rows", 2, 1),
                ("reply", 1),
                ("reply", 2),
                ("reply", "read"),
                ("rows", 1, 3),
                ("reply", 3),
            ]

        play(story)

    def test_what_waits_is_one_transaction(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            async with stage.held_up():
                sent = [stage.send(bundle(stage.state, plain(stage.state))) for _ in range(100)]
            await asyncio.gather(*sent)
            assert len(stage.commits) == 2  # what held it up, and the group
            assert await stage.rows() == {1: 100}

        play(story)

    def test_what_comes_turn_after_turn_of_the_loop_is_one_transaction(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            sent = []
            for _ in range(5):
                sent.append(stage.send(bundle(stage.state, plain(stage.state))))
                await asyncio.sleep(0)
            await asyncio.gather(*sent)
            assert len(stage.commits) == 1

        play(story)

    def test_but_nobody_waits_for_long_while_more_comes(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            sent = []
            for _ in range(100):
                sent.append(stage.send(bundle(stage.state, plain(stage.state))))
                hold_the_loop()
                await asyncio.sleep(0)
            await asyncio.gather(*sent)
            assert len(stage.commits) > 1

        play(story)

    def test_a_group_has_its_limit(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            async with stage.held_up():
                sent = [stage.send(bundle(stage.state, *[plain(stage.state)] * 4)) for _ in range(5)]
            await asyncio.gather(*sent)
            assert stage.said.count(("reply", None)) == 5
            assert [item for item in stage.said if item[0] == "rows"] == [("rows", 1, n) for n in (8, 16, 20)]

        play(story, group_limit_updates=10)

    def test_first_wins_among_requests_that_wait(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            requests = [bundle(stage.state, plain(stage.state, number, key="a")) for number in (2, 1)]
            async with stage.held_up():
                sent = [stage.send(request) for request in requests]
            assert await asyncio.gather(*sent) == [[True], [False]]
            assert await stage.rows() == {2: 1}

        play(story)

    def test_a_request_that_became_stale_while_it_waited_is_refused_alone(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            state = stage.state
            async with stage.held_up():
                before = stage.send(bundle(state, plain(state, 1)))
                resetting = asyncio.ensure_future(stage.store.run(lambda c: experiments.reset(c, state.uid, NOON)))
                await asyncio.sleep(0)
                stale = stage.send(bundle(state, plain(state, 1)))
                fresh = stage.send(structs.replace(bundle(state, plain(state, 2)), epoch=1))
            outcomes = await asyncio.gather(before, resetting, stale, fresh, return_exceptions=True)
            assert (outcomes[0], outcomes[1]) == ([True], 1)
            assert isinstance(outcomes[2], StaleEpoch)
            assert outcomes[3] == [True]
            assert await stage.rows() == {2: 1}

        play(story)

    def test_stopping_finishes_what_waits_and_takes_no_more(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            sent = [stage.send(bundle(stage.state, plain(stage.state))) for _ in range(10)]
            await stage.store.stop()
            assert await asyncio.gather(*sent) == [[True]] * 10
            with pytest.raises(StoreUnavailable):
                stage.send(bundle(stage.state, plain(stage.state)))
            with pytest.raises(StoreUnavailable):
                await stage.rows()

        play(story)


class TestFailuresOfOne:
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            ({"numbers": (1.0, float("inf"), 0.0)}, InvalidReward),
            ({"numbers": (1.0,)}, ValueError),
            ({"reward": None}, sa.exc.IntegrityError),
        ],
        ids=["an infinite sum", "too few numbers", "refused by the database"],
    )
    def test_a_bad_request_fails_alone(self, play: Play, fault: Any, expected: type[Exception]) -> None:
        async def story(stage: Stage) -> None:
            state = stage.state
            bad = bundle(state, plain(state, 2, key="c"), msgspec.structs.replace(plain(state, 1, key="b"), **fault))
            async with stage.held_up():
                before = stage.send(bundle(state, plain(state, 1, key="a")), "before")
                failing = stage.send(bad, "failing")
                after = stage.send(bundle(state, *[plain(state, 1, key=key) for key in "abc"]), "after")
            outcomes = await asyncio.gather(before, failing, after, return_exceptions=True)
            assert [outcomes[0], outcomes[2]] == [[True], [False, True, True]]  # what failed took no key
            assert isinstance(outcomes[1], expected)
            assert await stage.rows() == {1: 3}
            assert stage.said == [("rows", 1, 3), ("reply", "before"), ("reply", "failing"), ("reply", "after")]
            assert stage.store.available

        play(story)

    def test_work_that_fails_tells_its_caller_and_changes_nothing(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            def work(connection: Connection) -> None:
                experiments.reset(connection, stage.state.uid, NOON)
                raise RuntimeError("no")

            with pytest.raises(RuntimeError, match="no"):
                await stage.store.run(work, stage.said.append)
            with pytest.raises(ExperimentNotFound):
                await stage.store.run(lambda c: experiments.reset(c, 7, NOON))
            assert stage.said == []
            assert await stage.send(bundle(stage.state, plain(stage.state))) == [True]

        play(story)

    def test_a_full_mailbox_is_busy_at_once(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            request = bundle(stage.state, *[plain(stage.state)] * 6)
            async with stage.held_up():
                sent = stage.send(request)
                with pytest.raises(Busy):
                    stage.send(request)
                with pytest.raises(MultiarmError):
                    await asyncio.gather(*(stage.store.run(lambda _: None) for _ in range(10)))
            assert await sent == [True] * 6
            assert await stage.send(request) == [True] * 6

        play(story, mailbox_size_updates=10)


class TestCallers:
    def test_one_that_leaves_breaks_nothing(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            shown: list[int] = []
            async with stage.held_up():
                sent = [stage.send(bundle(stage.state, plain(stage.state))) for _ in range(3)]
                work = partial(experiments.reset, uid=stage.state.uid, now=NOON)
                resetting = asyncio.ensure_future(stage.store.run(work, shown.append))
                await asyncio.sleep(0)
                sent[1].cancel()
                resetting.cancel()
            assert await sent[0] == await sent[2] == [True]
            with suppress(asyncio.CancelledError):
                await resetting
            await stage.rows()
            assert stage.said[0] == ("rows", 1, 3)
            assert shown == [1]  # it was committed, so memory must hear of it

        play(story)

    @pytest.mark.parametrize("turns", range(6))
    def test_a_probe_that_is_cancelled_as_it_ends_is_cancelled(
        self, play: Play, monkeypatch: pytest.MonkeyPatch, turns: int
    ) -> None:
        """Or who stops waits for ever for the one who probes at intervals."""

        async def story(stage: Stage) -> None:
            loop = asyncio.get_running_loop()
            taken: asyncio.Future[bool] = loop.create_future()

            def cancel_in(turns: int) -> None:
                if turns:
                    loop.call_soon(cancel_in, turns - 1)
                else:
                    taken.set_result(probing.cancel())

            monkeypatch.setattr(stage.store, "_found_well", lambda _: cancel_in(turns))
            probing = asyncio.create_task(stage.store.probe(10))
            if await taken:
                with pytest.raises(asyncio.CancelledError):
                    await probing
            else:
                await probing

        play(story)

    def test_one_whose_memory_fails_leaves_its_neighbours_answered(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            def fail(_: object) -> None:
                raise RuntimeError("memory")

            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            request = bundle(stage.state, plain(stage.state))
            async with stage.held_up():
                stage.store.update(request, fail)
                neighbour = stage.send(request)
            assert await asyncio.wait_for(neighbour, 2) == [True]

        play(story)

    def test_one_whose_memory_fails_is_told(self, play: Play) -> None:
        async def story(stage: Stage) -> None:
            def fail(_: object) -> None:
                raise RuntimeError("memory")

            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            with pytest.raises(RuntimeError, match="memory"):
                await asyncio.wait_for(stage.store.run(lambda _: None, fail), 2)

        play(story)
