"""The express lane by itself, with clients whose answers fail."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from multiarm.domain.policies import EpsilonGreedy, Thompson
from multiarm.domain.spec import PolicyChange
from multiarm.http import gathering
from multiarm.http.answers import Answer
from multiarm.http.app import build_app
from multiarm.http.express import ExpressLane
from multiarm.http.head import Head
from multiarm.http.plain import Plain
from multiarm.http.tags import Tag
from multiarm.settings import Settings
from postgres import Service, run_service, until

UPDATE = b'{"arm_id":"red","reward":1}'


class Client:
    """A connection of which nothing is sent. `broken`: its answers fail."""

    def __init__(self, *, broken: bool = False) -> None:
        self.address = ""
        self.apart = False
        self.tag: Tag | None = None
        self.wire: Any = self
        self.tasks: set[asyncio.Task[None]] = set()
        self.broken = broken
        self.status = 0
        self.aborted = False

    def send(self, answer: bytes) -> None:
        self._answered(int(answer.split(b" ", 2)[1]))

    def reply(self, answer: Answer) -> Tag | None:
        self._answered(answer.status)
        return self.tag

    def abort(self) -> None:
        self.aborted = True

    def _answered(self, status: int) -> None:
        if self.broken:
            raise RuntimeError("this answer cannot be sent")
        assert not self.status, "two answers"
        self.status = status


def plain(lane: ExpressLane, method: str, path: str) -> Plain:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"27")]
    found = lane.judge(Head(method.encode(), path.encode(), headers[: 3 if method == "POST" else 1], "1.1"))
    assert found is not None
    return found


def on_a_lane(folder: Path, story: Callable[[ExpressLane], Any]) -> list[tuple[str, int]]:
    """Lets `story` put requests on a lane, all in one turn of the loop; what the ledger says of them."""

    async def play(service: Service) -> None:
        await service.create()
        await service.create("other")
        lane = ExpressLane(build_app(service.supervisor, service.accountant, Settings()))
        clients = story(lane)
        with capture_logs():
            await until(lambda: all(client.status or client.aborted for client in clients))

    run_service(folder, play)
    requests = pq.read_table(folder / "ledger" / "requests", columns=["route", "status"])
    return sorted((row["route"].removeprefix("/v1/{experiment_id}/"), row["status"]) for row in requests.to_pylist())


@pytest.mark.parametrize("broken", range(3))
def test_an_answer_that_fails_keeps_no_other_from_his(tmp_path: Path, broken: int) -> None:
    kinds = {
        "draw": [Client(broken=index == broken) for index in range(3)],
        "draw of none": [Client(broken=index == broken) for index in range(3)],
        "update": [Client(broken=index == broken) for index in range(3)],
        "update of none": [Client(broken=index == broken) for index in range(3)],
    }

    def story(lane: ExpressLane) -> list[Client]:
        for trio in zip(*kinds.values(), strict=True):
            lane.take(trio[1], plain(lane, "GET", "/v1/missing/draw"), b"")
            lane.take(trio[0], plain(lane, "GET", "/v1/button/draw"), b"")
            lane.take(trio[2], plain(lane, "POST", "/v1/button/update"), UPDATE)
            lane.take(trio[3], plain(lane, "POST", "/v1/missing/update"), UPDATE)
        return [client for clients in kinds.values() for client in clients]

    rows = on_a_lane(tmp_path, story)
    for kind, clients in kinds.items():
        expected = 404 if kind.endswith("none") else 200
        assert [client.status for client in clients if not client.broken] == [expected] * 2
        assert [client.aborted for client in clients] == [client.broken for client in clients]
    assert rows == [("draw", 200)] * 2 + [("draw", 404)] * 2 + [("update", 200)] * 2 + [("update", 404)] * 2


def test_each_of_a_turn_is_told_of_his_own_reward(tmp_path: Path) -> None:
    bodies = {
        b'{"arm_id":"red","reward":1}': 200,
        b'{"arm_id":"blue","reward":1}': 404,
        b'{"arm_id":"red","reward":7}': 422,
        b'{"arm_id":"green","reward"}': 400,
        b'{"arm_id":"red","key":"a","reward":1}': 200,
    }
    clients = [Client() for _ in bodies]

    def story(lane: ExpressLane) -> list[Client]:
        for client, body, name in zip(clients, bodies, ["button", "button", "other", "other", "button"], strict=True):
            lane.take(client, plain(lane, "POST", f"/v1/{name}/update"), body)
        return clients

    rows = on_a_lane(tmp_path, story)
    assert [client.status for client in clients] == list(bodies.values())
    assert rows == [("update", status) for status in sorted(bodies.values())]


def test_the_same_words_count_as_often_as_they_come(tmp_path: Path) -> None:
    red, green = b'{"arm_id":"red","reward":1}', b'{"arm_id":"green","reward":0}'
    keyed, wrong = b'{"arm_id":"red","key":"a","reward":1}', b'{"arm_id":"red","reward":7}'
    sent = [(name, body) for body in (red, keyed, red, green, wrong) * 2 for name in ("button", "other")]
    clients = [Client() for _ in sent]

    def story(lane: ExpressLane) -> list[Client]:
        for client, (name, body) in zip(clients, sent, strict=True):
            lane.take(client, plain(lane, "POST", f"/v1/{name}/update"), body)
        return clients

    on_a_lane(tmp_path, story)
    assert [client.status for client in clients] == [422 if body is wrong else 200 for _, body in sent]
    columns = ["experiment_id", "arm_id", "reward", "key", "accepted"]
    rows = pq.read_table(tmp_path / "ledger" / "rewards", columns=columns).to_pylist()
    for name in ("button", "other"):
        of_it = Counter(tuple(row[column] for column in columns[1:]) for row in rows if row["experiment_id"] == name)
        assert of_it == {
            ("red", 1.0, None, True): 4,
            ("green", 0.0, None, True): 2,
            ("red", 1.0, "a", True): 1,
            ("red", 1.0, "a", False): 1,
        }


class TestGathering:
    """Rewards of a few turns of the loop are counted together."""

    RED = b'{"arm_id":"red","reward":1.0}'

    def play(self, folder: Path, story: Callable[[Service, ExpressLane, Callable[[bytes], Client]], Any]) -> None:
        async def play(service: Service) -> None:
            await service.create(policy=EpsilonGreedy())
            lane = ExpressLane(build_app(service.supervisor, service.accountant, Settings()))
            clients: list[Client] = []

            def update(body: bytes) -> Client:
                clients.append(Client())
                lane.take(clients[-1], plain(lane, "POST", "/v1/button/update"), body)
                return clients[-1]

            await story(service, lane, update)
            await until(lambda: all(client.status for client in clients))

        run_service(folder, play)

    @pytest.fixture
    def release(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Rewards are gathered until it is called."""
        monkeypatch.setattr(gathering, "QUIET_TURNS", 1_000_000_000)
        monkeypatch.setattr("multiarm.http.gathering.GATHER_LIMIT_S", 60.0)
        return lambda: monkeypatch.setattr(gathering, "QUIET_TURNS", 0)

    def test_those_of_several_turns_share_a_commit(self, tmp_path: Path) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            clients = []
            for _turn in range(5):
                clients.append(update(self.RED))
                await asyncio.sleep(0)
            await until(lambda: all(client.status for client in clients))
            sizes = service.store.commit_sizes
            assert (sum(sizes.counts), sizes.total) == (1, 5)
            assert (await service.rows())[1].pull_count == 5

        self.play(tmp_path, story)

    def test_one_alone_does_not_wait_for_others(self, tmp_path: Path) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            client = update(self.RED)
            turn_count = 0
            while not service.store.waiting_updates and not client.status:
                await asyncio.sleep(0)
                turn_count += 1
            assert turn_count <= gathering.QUIET_TURNS + 2

        self.play(tmp_path, story)

    @pytest.mark.usefixtures("release")
    def test_more_than_enough_wait_for_no_one(self, tmp_path: Path) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            clients = [update(self.RED) for _ in range(gathering.GATHER_LIMIT_REQUESTS)]
            await until(lambda: all(client.status == 200 for client in clients))
            assert (await service.rows())[1].pull_count == gathering.GATHER_LIMIT_REQUESTS

        self.play(tmp_path, story)

    def test_none_is_received_before_its_decision_was_drawn(self, tmp_path: Path, release: Callable[[], None]) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            first = update(self.RED)
            await asyncio.sleep(0)
            service.clock.now += 0.001
            decision = service.supervisor.draw("button")
            second = update(b'{"decision_id":"%s","reward":1.0}' % decision.token)
            await asyncio.sleep(0)
            release()
            await until(lambda: first.status == second.status == 200)

        self.play(tmp_path, story)
        received = pq.read_table(tmp_path / "ledger" / "rewards", columns=["time", "evidence_time"]).to_pylist()
        assert [row["evidence_time"] <= row["time"] for row in received] == [True, True]

    def test_a_reset_meanwhile_is_before_them(self, tmp_path: Path, release: Callable[[], None]) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            client = update(self.RED)
            await asyncio.sleep(0)
            await service.supervisor.reset("button")
            assert not client.status
            release()
            await until(lambda: client.status == 200)
            assert service.state().epoch == 1
            assert (await service.rows())[1].pull_count == 1

        self.play(tmp_path, story)

    def test_another_policy_meanwhile_judges_them(self, tmp_path: Path, release: Callable[[], None]) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            fits, does_not = update(self.RED), update(b'{"arm_id":"red","reward":7}')
            await asyncio.sleep(0)
            await service.supervisor.change_policy("button", PolicyChange(Thompson()))
            release()
            await until(lambda: fits.status == 200 and does_not.status == 422)
            assert (await service.rows())[1].pull_count == 1

        self.play(tmp_path, story)

    def test_a_deletion_meanwhile_leaves_nothing_to_count_them_for(
        self, tmp_path: Path, release: Callable[[], None]
    ) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            client = update(self.RED)
            await asyncio.sleep(0)
            await service.supervisor.delete("button")
            release()
            await until(lambda: client.status == 404)

        self.play(tmp_path, story)

    def test_they_count_for_what_the_id_means_by_then(self, tmp_path: Path, release: Callable[[], None]) -> None:
        async def story(service: Service, _: ExpressLane, update: Callable[[bytes], Client]) -> None:
            client = update(self.RED)
            await asyncio.sleep(0)
            await service.supervisor.delete("button")
            await service.create(policy=EpsilonGreedy())
            release()
            await until(lambda: client.status == 200)
            assert (await service.rows())[1].pull_count == 1

        self.play(tmp_path, story)
