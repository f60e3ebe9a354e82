"""Who did what, over HTTP and on the command line; every route that changes something by hand leaves an entry."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from auth.tokens_for_tests import BY_SECRET, bearing, token
from multiarm.audit_command import differences
from multiarm.http.routes import HANDLERS
from support import RunningServer, assert_faults, assert_problem, create, reward, run_cli

ACTIONS = {  # by operation, in an order in which each can be done
    "create": ("POST", "/v1/create", {"experiment_id": "e", "arms": ["a", "b"]}),
    "correct_decision": ("PUT", "/v1/e/reward/decision/DECISION", {"reward": 0.5}),
    "correct_key": ("PUT", "/v1/e/reward/key/k", {"reward": None}),
    "add_arm": ("POST", "/v1/e/add_arm", {"arm_id": "c"}),
    "disable_arm": ("PUT", "/v1/e/disable_arm/c", None),
    "enable_arm": ("PUT", "/v1/e/enable_arm/c", None),
    "delete_arm": ("DELETE", "/v1/e/delete_arm/c", None),
    "change_policy": ("PUT", "/v1/e/policy", {"policy": {"type": "ucb1"}}),
    "disable": ("PUT", "/v1/e/disable", None),
    "enable": ("PUT", "/v1/e/enable", None),
    "reset": ("PUT", "/v1/e/reset", None),
    "restore": ("PUT", "/v1/e/restore", None),
    "delete": ("DELETE", "/v1/e/delete", None),
    "clear": ("DELETE", "/v1/clear", None),
}
NAMES = {"change_policy": "policy", "correct_decision": "correct", "correct_key": "correct"}  # where it is another


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("audit"), settings=BY_SECRET) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    name, _, value = bearing(token("admin read draw update", jti="token-7")).partition(": ")
    with server.client() as made:
        made.headers[name] = value
        made.delete("/v1/clear").raise_for_status()
        yield made


def rewarded(client: httpx.Client, experiment_id: str) -> str:
    """One reward with the key k, and one for the decision that is returned."""
    reward(client, experiment_id, arm_id="a", reward=1, key="k")
    decision_id: str = client.get(f"/v1/{experiment_id}/draw").json()["decision_id"]
    reward(client, experiment_id, decision_id=decision_id, reward=1)
    return decision_id


def trail(client: httpx.Client, experiment_id: str, **query: int) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/{experiment_id}/audit", params=query)
    assert answer.status_code == 200
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


def printed(server: RunningServer, *arguments: str) -> str:
    done = run_cli("audit", "--data-dir", server.data_dir, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_these_are_all_routes_that_change_something() -> None:
    documented = [handler.opt["documentation"] for handler in HANDLERS]
    by_hand = {one.operation_id for one in documented if one.verb == "admin" or one.operation_id.startswith("correct")}
    reading = {"audit"}
    assert by_hand - reading == set(ACTIONS)


def test_each_leaves_an_entry(server: RunningServer, client: httpx.Client) -> None:
    create(client, "a", experiment_id="other")
    for operation, (method, path, given) in ACTIONS.items():
        body = {"at": time.time()} if operation == "restore" else given
        there = path.replace("DECISION", rewarded(client, "e")) if operation == "correct_decision" else path
        headers = {"X-Request-Id": f"by/{operation}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        answer = client.request(method, there, headers=headers, content=content)
        assert answer.is_success, (operation, answer.text)
        if operation == "restore":
            restored = answer.json()
            over_http = trail(client, "e")
    expected = [NAMES.get(name, name) for name in ACTIONS if name != "clear"]
    assert [entry["action"] for entry in reversed(over_http)] == expected[:-1]
    lines = [json.loads(line) for line in printed(server, "--json").splitlines()]
    assert [line["action"] for line in lines if line["experiment_id"] == "e"][-len(expected) :] == expected
    assert (lines[-1]["action"], lines[-1]["experiment_id"], lines[-1]["after"]) == ("clear", "other", None)
    assert [line["request_id"] for line in lines][-len(ACTIONS) :] == [f"by/{operation}" for operation in ACTIONS]
    assert {line["subject"] for line in lines} == {over_http[0]["subject"]} != {""}
    assert {(line["token_id"], line["address"]) for line in lines} == {("token-7", "127.0.0.1")}
    policy = next(entry for entry in over_http if entry["action"] == "policy")
    assert policy["before"]["policy"]["type"] == "thompson"
    assert policy["after"]["policy"]["type"] == "ucb1"
    epoch = restored["epoch"]
    assert (over_http[0]["before"], over_http[0]["after"]) == ({"epoch": epoch - 1}, restored)


def test_an_entry_has_the_request_id_of_the_answer(client: httpx.Client) -> None:
    create(client, "a", experiment_id="named")
    answer = client.put("/v1/named/reset")
    assert trail(client, "named")[0]["request_id"] == answer.headers["X-Request-Id"]


def test_a_correction_says_which_reward_it_was_and_is(server: RunningServer, client: httpx.Client) -> None:
    create(client, "a", experiment_id="corrected")
    decision_id = rewarded(client, "corrected")
    for path, value in (("key/k", 0.25), ("key/k", 0.25), ("key/k", None), ("key/k", 1), ("key/x", 1), ("key/k", 7)):
        client.put(f"/v1/corrected/reward/{path}", json={"reward": value})
    client.put(f"/v1/corrected/reward/decision/{decision_id}", json={"reward": 0}).raise_for_status()
    with closing(sqlite3.connect(server.data_dir / "multiarm.db")) as database:
        [[key]] = database.execute("SELECT key FROM reward WHERE key LIKE 'd:%' AND reward = 0")
    decision, found = key.removeprefix("d:"), trail(client, "corrected")[::-1][1:]
    assert [(entry["before"], entry["after"]) for entry in found] == [
        ({"key": "k", "reward": 1.0}, {"key": "k", "reward": 0.25}),
        ({"key": "k", "reward": 0.25}, {"key": "k", "reward": None}),
        ({"key": "k", "reward": None}, {"key": "k", "reward": 1.0}),
        ({"decision": decision, "reward": 1.0}, {"decision": decision, "reward": 0.0}),
    ]
    assert {(entry["action"], entry["token_id"], entry["address"]) for entry in found} == {
        ("correct", "token-7", "127.0.0.1")
    }
    assert differences("", found[0]["before"], found[0]["after"]) == ["key k", "reward 1.0 → 0.25"]
    assert printed(server, "--experiment", "corrected").count("key k") == 3


def test_the_command_prints_a_table(server: RunningServer, client: httpx.Client) -> None:
    create(client, "a", experiment_id="table")
    client.put("/v1/table/policy", json={"policy": {"type": "ucb1"}}).raise_for_status()
    client.post("/v1/table/add_arm", json={"arm_id": "b"}).raise_for_status()
    shown = printed(server, "--experiment", "table")
    assert "thompson, 1 arms" in shown
    assert "policy: thompson →" in shown
    assert "ucb1" in shown
    assert "arm b added" in shown
    assert printed(server, "--experiment", "table", "--limit", "1").count("table") == 1


def test_the_command_says_where_there_is_no_such_experiment(server: RunningServer, client: httpx.Client) -> None:
    create(client, "a", experiment_id="gone")
    client.delete("/v1/gone/delete").raise_for_status()
    assert "gone" in printed(server, "--experiment", "gone")
    for more in ([], ["--json"]):
        done = run_cli("audit", "--data-dir", server.data_dir, "--experiment", "nosuch", *more)
        assert (done.returncode, done.stdout) == (1, "")
        assert "There is no experiment 'nosuch'" in done.stderr


def test_the_command_of_an_experiment_whose_entries_are_past_retention(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        create(server.client(), "a", experiment_id="old")
        with closing(sqlite3.connect(tmp_path / "multiarm.db")) as database, database:
            database.execute("DELETE FROM audit")
        assert printed(server, "--experiment", "old", "--json") == ""


def test_a_subject_drives_no_terminal(server: RunningServer) -> None:
    evil = "eve\x1b[2J\x9b31m\u202e"
    name, _, value = bearing(token("admin", sub=evil)).partition(": ")
    with server.client() as client:
        client.headers[name] = value
        create(client, "a", experiment_id="terminal")
    shown = printed(server, "--experiment", "terminal")
    assert "eve" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    line = printed(server, "--experiment", "terminal", "--json")
    assert line.rstrip("\n").isprintable()
    assert json.loads(line)["subject"] == evil


def test_pages(client: httpx.Client) -> None:
    create(client, "a", experiment_id="pages")
    for _ in range(4):
        client.put("/v1/pages/reset").raise_for_status()
    numbers = [entry["number"] for entry in trail(client, "pages")]
    assert numbers == sorted(numbers, reverse=True)
    first = client.get("/v1/pages/audit", params={"limit": 3}).json()
    assert [entry["number"] for entry in first["entries"]] == numbers[:3]
    second = client.get("/v1/pages/audit", params={"limit": 3, "before": first["next"]}).json()
    assert [entry["number"] for entry in second["entries"]] == numbers[3:]
    assert second["next"] is None


def test_an_id_that_is_used_again_begins_anew(client: httpx.Client) -> None:
    create(client, "a", experiment_id="again")
    client.put("/v1/again/reset").raise_for_status()
    client.delete("/v1/again/delete").raise_for_status()
    create(client, "a", experiment_id="again")
    assert [entry["action"] for entry in trail(client, "again")] == ["create"]


def test_what_is_refused(server: RunningServer, client: httpx.Client) -> None:
    create(client, "a", experiment_id="refused")
    assert_problem(client.get("/v1/nowhere/audit"), 404, "experiment-not-found")
    assert_faults(client.get("/v1/refused/audit", params={"limit": 0, "since": 1}), "limit", "since")
    for before in ("0", "9223372036854775808", "9" * 23):
        assert_faults(client.get("/v1/refused/audit", params={"before": before}), "before")
    assert len(trail(client, "refused", before=2**63 - 1)) == 1
    name, _, value = bearing(token("read")).partition(": ")
    assert client.get("/v1/refused/audit", headers={name: value}).status_code == 403


def test_without_a_database_it_says_so(tmp_path: Path) -> None:
    done = run_cli("audit", "--data-dir", tmp_path)
    assert done.returncode == 2
    assert "There is no database" in done.stderr
