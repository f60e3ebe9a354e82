"""Batches: all or nothing, duplicates counted, every fault listed."""

import time
from typing import Any

import httpx
import pytest

from support import assert_faults, assert_problem, create, reward, stats

Updates = list[dict[str, Any]]


def send(client: httpx.Client, experiment_id: str, updates: object, **fields: Any) -> httpx.Response:
    return client.post(f"/v1/{experiment_id}/update_batch", json={"updates": updates, **fields})


def draw(client: httpx.Client, experiment_id: str) -> str:
    decision_id: str = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
    return decision_id


def pulls(client: httpx.Client, experiment_id: str) -> dict[str, int]:
    return {arm_id: arm["pulls"] for arm_id, arm in stats(client, experiment_id).items()}


def good(count: int = 1) -> Updates:
    return [{"arm_id": "a", "reward": 1} for _ in range(count)]


def test_rewards_of_every_kind_are_added_up(client: httpx.Client) -> None:
    experiment_id = create(client, "a", "b")
    updates: Updates = [
        {"arm_id": "a", "reward": 0.5},
        {"arm_id": "b", "reward": 1, "key": "k"},
        {"arm_id": "a", "reward": 0, "ts": time.time() - 5},
        {"decision_id": draw(client, experiment_id), "reward": 1},
    ]
    answer = send(client, experiment_id, updates)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 4, "duplicates": 0})
    assert sum(pulls(client, experiment_id).values()) == 4


def test_duplicates_are_counted_and_the_first_wins(client: httpx.Client) -> None:
    experiment_id = create(client, "a", "b")
    decision_id = draw(client, experiment_id)
    reward(client, experiment_id, arm_id="a", reward=1, key="before")
    updates: Updates = [
        {"arm_id": "a", "reward": 0, "key": "before"},
        {"arm_id": "b", "reward": 1, "key": "twice"},
        {"arm_id": "b", "reward": 0, "key": "twice"},
        {"decision_id": decision_id, "reward": 1},
        {"decision_id": decision_id, "reward": 0},
    ]
    assert send(client, experiment_id, updates).json() == {"accepted": 2, "duplicates": 3}
    assert send(client, experiment_id, updates).json() == {"accepted": 0, "duplicates": 5}
    arms = stats(client, experiment_id)
    assert sum(arm["pulls"] for arm in arms.values()) == 3
    assert {arm["mean_reward"] for arm in arms.values()} == {1.0}


def test_ten_thousand_decisions_fit_and_one_more_is_refused(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    token = draw(client, experiment_id)
    many: Updates = [{"decision_id": token, "reward": 1.0, "ts": time.time()}] * 10_000
    assert send(client, experiment_id, many).json() == {"accepted": 1, "duplicates": 9_999}
    assert_faults(send(client, experiment_id, [*many, many[0]]), "updates")


def test_the_limit_is_a_setting(small_client: httpx.Client) -> None:
    experiment_id = create(small_client, "a")
    assert send(small_client, experiment_id, good(5)).json() == {"accepted": 5, "duplicates": 0}
    assert_faults(send(small_client, experiment_id, good(6)), "updates")


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({}, "updates"),
        ({"updates": []}, "updates"),
        ({"updates": None}, "updates"),
        ({"updates": {}}, "updates"),
        ({"updates": good(), "extra": 1}, "extra"),
        ([], ""),
        (7, ""),
    ],
)
def test_a_document_that_does_not_fit_is_refused(client: httpx.Client, document: object, path: str) -> None:
    experiment_id = create(client, "a")
    assert_faults(client.post(f"/v1/{experiment_id}/update_batch", json=document), path)
    assert pulls(client, experiment_id) == {"a": 0}


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"arm_id": "a", "reward": "1"}, "updates[17].reward"),
        ({"arm_id": "a", "reward": True}, "updates[17].reward"),
        ({"arm_id": "a", "reward": 1.5}, "updates[17].reward"),
        ({"arm_id": "a"}, "updates[17].reward"),
        ({"arm_id": "a", "reward": 1, "ts": 1e11}, "updates[17].ts"),
        ({"arm_id": "a", "reward": 1, "key": "a b"}, "updates[17].key"),
        ({"arm_id": "a", "reward": 1, "colour": 1}, "updates[17].colour"),
        ({"decision_id": "forged", "reward": 1}, "updates[17].decision_id"),
        ({"reward": 1}, "updates[17]"),
        ({"arm_id": "a", "decision_id": "x", "reward": 1}, "updates[17]"),
        (None, "updates[17]"),
        ("a", "updates[17]"),
    ],
)
def test_one_bad_update_refuses_the_whole_batch(client: httpx.Client, bad: object, path: str) -> None:
    experiment_id = create(client, "a")
    assert_faults(send(client, experiment_id, [*good(17), bad, *good(3)]), path)
    assert pulls(client, experiment_id) == {"a": 0}


def test_every_fault_is_listed_in_order_whatever_its_kind(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    stale = draw(client, experiment_id)
    client.put(f"/v1/{experiment_id}/reset")
    updates: Updates = [
        {"decision_id": stale, "reward": 1},
        *good(),
        {"arm_id": "nobody", "reward": 1},
        {"arm_id": "a", "reward": 5},
        {"arm_id": "a", "reward": [], "key": "/"},
    ]
    answer = send(client, experiment_id, updates)
    assert answer.status_code == 422
    document = answer.json()
    assert document["type"] in {"urn:multiarm:problem:invalid", "urn:multiarm:problem:invalid-reward"}
    found = [(fault["path"].partition(".")[0], fault["type"]) for fault in document["errors"]]
    assert found == [
        ("updates[0]", "stale-epoch"),
        ("updates[2]", "arm-not-found"),
        ("updates[3]", "invalid-reward"),
        ("updates[4]", "invalid"),
        ("updates[4]", "invalid"),
    ]
    assert pulls(client, experiment_id) == {"a": 0}

    document = assert_problem(send(client, experiment_id, updates[:3]), 404, "arm-not-found")
    assert [fault["type"] for fault in document["errors"]] == ["stale-epoch", "arm-not-found"]
    document = assert_problem(send(client, experiment_id, updates[:2]), 410, "stale-epoch")
    assert [fault["path"].partition(".")[0] for fault in document["errors"]] == ["updates[0]"]
    assert pulls(client, experiment_id) == {"a": 0}


def test_a_hundred_faults_are_listed_at_most(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    for bad in ({"arm_id": "a", "reward": 2}, {"arm_id": "a", "reward": "x"}, {"arm_id": "a", "reward": 1, "x": 1}):
        document = send(client, experiment_id, [bad] * 250).json()
        assert [fault["path"].partition(".")[0] for fault in document["errors"]] == [
            f"updates[{n}]" for n in range(100)
        ]


def test_what_was_refused_is_no_duplicate_later(client: httpx.Client) -> None:
    experiment_id = create(client, "a")
    decision_id = draw(client, experiment_id)
    updates: Updates = [
        {"decision_id": decision_id, "reward": 1},
        {"arm_id": "a", "reward": 1, "key": "k"},
        {"arm_id": "a", "reward": 9},
    ]
    assert send(client, experiment_id, updates).status_code == 422
    assert send(client, experiment_id, updates[:2]).json() == {"accepted": 2, "duplicates": 0}


def test_an_unknown_experiment_is_404(client: httpx.Client) -> None:
    assert_problem(send(client, "nobody", good()), 404, "experiment-not-found")
