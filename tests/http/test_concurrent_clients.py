"""A hundred clients at once: everyone is answered, and everything adds up."""

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, TypeVar

import httpx
import pytest

from support import REQUEST_TIMEOUT_S, RunningServer, create, stats

T = TypeVar("T")

CLIENTS = 100
ROUNDS = 4
ARMS = ("a", "b", "c")


@dataclass
class Books:
    """What one client was told."""

    draws: Counter[str] = field(default_factory=Counter)
    rewards: list[tuple[str, float]] = field(default_factory=list)
    accepted: int = 0
    duplicates: int = 0


class Client:
    """One keep-alive connection; lighter than httpx, for the load is to be the server's."""

    def __init__(self, server: RunningServer) -> None:
        url = httpx.URL(server.url)
        self._connection = HTTPConnection(url.host, url.port, timeout=REQUEST_TIMEOUT_S)
        self.close = self._connection.close

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        body = None if document is None else json.dumps(document)
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def at_once(server: RunningServer, count: int, visit: Callable[[Client, int], T]) -> list[T]:
    """`visit` by so many clients, all of them connected before the first begins."""
    all_here = threading.Barrier(count, timeout=REQUEST_TIMEOUT_S)

    def one(number: int) -> T:
        with closing(Client(server)) as client:
            assert client.ask("GET", "/v1/ping")[0] == 200
            all_here.wait()
            return visit(client, number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_a_hundred_clients_that_draw_and_reward_at_once(server: RunningServer, client: httpx.Client) -> None:
    experiment_id = create(client, *ARMS)
    path = f"/v1/{experiment_id}"

    def visit(client: Client, number: int) -> Books:
        """Draw and reward; then a batch: plain rewards, that one again, and one with a key that all others send too."""
        rng = random.Random(number)
        books = Books()

        def send(operation: str, document: object) -> None:
            status, counted = client.ask("POST", f"{path}/{operation}", document)
            assert status == 200, counted
            books.accepted += counted["accepted"]
            books.duplicates += counted["duplicates"]

        for round_number in range(ROUNDS):
            status, drawn = client.ask("GET", f"{path}/draw")
            assert status == 200, drawn
            books.draws[drawn["arm_id"]] += 1
            for_decision = (drawn["arm_id"], rng.random())
            by_decision = {"decision_id": drawn["decision_id"], "reward": for_decision[1]}
            send("update", by_decision)
            plain = [(rng.choice(ARMS), rng.random()) for _ in range(rng.randint(1, 20))]
            shared = {"arm_id": "a", "reward": 0.5, "key": f"round-{round_number}"}
            by_arm = [{"arm_id": arm_id, "reward": reward} for arm_id, reward in plain]
            send("update_batch", {"updates": [*by_arm, by_decision, shared]})
            books.rewards += [for_decision, *plain]
            assert client.ask("GET", f"{path}/stats")[0] == 200
        return books

    all_books = at_once(server, CLIENTS, visit)
    # of each key that all of them sent one counted
    rewards = [reward for books in all_books for reward in books.rewards] + [("a", 0.5)] * ROUNDS
    assert sum(books.accepted for books in all_books) == len(rewards)
    assert sum(books.duplicates for books in all_books) == CLIENTS * ROUNDS + (CLIENTS - 1) * ROUNDS
    found = stats(client, experiment_id)
    for arm_id in ARMS:
        mine = [reward for arm, reward in rewards if arm == arm_id]
        assert found[arm_id]["draws"] == sum(books.draws[arm_id] for books in all_books)
        assert found[arm_id]["pulls"] == len(mine)
        assert found[arm_id]["mean_reward"] == pytest.approx(math.fsum(mine) / len(mine), rel=1e-12)
    assert sum(arm["share"] for arm in found.values()) == pytest.approx(1, abs=1e-12)


def test_of_many_that_create_the_same_id_at_once_one_wins(server: RunningServer, client: httpx.Client) -> None:
    document = {"experiment_id": "contested", "arms": ["a"]}
    answers = at_once(server, 30, lambda one, _: one.ask("POST", "/v1/create", document))
    assert Counter(status for status, _ in answers) == {201: 1, 409: 29}
    assert client.get("/v1/list").json()["experiment_ids"].count("contested") == 1


def test_arms_made_up_at_once_are_all_different(server: RunningServer, client: httpx.Client) -> None:
    experiment_id = create(client)
    answers = at_once(server, 30, lambda one, _: one.ask("POST", f"/v1/{experiment_id}/add_arm"))
    arm_ids = [answer["arm_id"] for _, answer in answers]
    assert sorted(arm_ids) == sorted(f"arm-{number}" for number in range(1, 31))
    assert set(stats(client, experiment_id)) == set(arm_ids)
