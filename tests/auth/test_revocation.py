"""Revoked tokens: in force within a second on servers that run, through both doors, and after a restart."""

import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auth.tokens_for_tests import BY_SECRET, bearing, create, doors, token
from multiarm.domain.errors import StartError
from multiarm.settings import Settings
from multiarm.storage.revocations import Revocation
from multiarm.tokens import revoke, revoked
from support import RunningServer, run_cli
from wire import Wire, get, post
from wire_servers import wait_until

IN_FORCE_S = 1.0
SLACK_S = 2.0  # of a busy machine
DAY_S = 86_400
REWARD = {"arm_id": "a", "reward": 1}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    with doors(tmp_path_factory.mktemp("revoked"), BY_SECRET) as both:
        for server in both:
            create(server, "e", bearing(token()))
        yield both


@pytest.fixture(params=[0, 1], ids=["lane", "no-lane"])
def door(request: pytest.FixtureRequest, servers: list[RunningServer]) -> RunningServer:
    server: RunningServer = servers[request.param]
    return server


def say(server: RunningServer, token_id: str | None = None, subject: str | None = None, before: float = 0) -> None:
    said = Revocation(token_id, subject, None if subject is None else before, time.time())
    revoke(Settings(data_dir=str(server.data_dir)), said)


def draw_of(**claims: Any) -> bytes:
    return get("/v1/e/draw", bearing(token("draw", **claims)))


def assert_ends_in_time(wire: Wire, data: bytes) -> None:
    """Draws with a head that is remembered go on until it is in force, and then never again."""
    said_at = time.monotonic()
    while wire.answer_after(data).status == 200:
        assert time.monotonic() - said_at < IN_FORCE_S + SLACK_S
    for _ in range(20):
        answer = wire.answer_after(data)
        assert (answer.status, answer.json["detail"]) == (401, "The token was revoked; get a new one.")


def test_one_token_is_revoked_by_its_id(door: RunningServer) -> None:
    revoked_one, another, nameless = draw_of(jti="one"), draw_of(jti="another"), draw_of()
    with Wire(door) as wire, Wire(door) as aside:
        for data in (revoked_one, another, nameless):
            assert [wire.answer_after(data).status for _ in range(5)] == [200] * 5
        say(door, token_id="one")
        assert_ends_in_time(wire, revoked_one)
        assert aside.answer_after(revoked_one).status == 401
        assert [wire.answer_after(data).status for data in (another, nameless) * 3] == [200] * 6


def test_all_tokens_of_a_subject_till_then_are_revoked(door: RunningServer) -> None:
    now = int(time.time())
    early, late = draw_of(sub="mallory", iat=now - 200), draw_of(sub="mallory", iat=now - 50)
    other = draw_of(sub="mallory2", iat=now - 200)
    with Wire(door) as wire:
        for data in (early, late, other):
            assert [wire.answer_after(data).status for _ in range(5)] == [200] * 5
        say(door, subject="mallory", before=now - 100)
        assert_ends_in_time(wire, early)
        assert [wire.answer_after(data).status for data in (late, other) * 3] == [200] * 6
        say(door, subject="mallory", before=now - 150)
        say(door, token_id="to-wait-for")
        wait_until(lambda: wire.answer_after(draw_of(jti="to-wait-for")).status == 401, "it is not revoked")
        assert wire.answer_after(early).status == 401  # an earlier moment takes nothing back
        say(door, subject="mallory", before=now - 50 + 1)
        assert_ends_in_time(wire, late)


def test_by_the_command_on_rewards_too(door: RunningServer) -> None:
    line = bearing(token("update", sub="by-command", jti="by-command"))
    data = post("/v1/e/update", REWARD, line)
    with Wire(door) as wire:
        assert [wire.answer_after(data).status for _ in range(5)] == [200] * 5
        done = run_cli("token", "revoke", "--token-id", "by-command", "--data-dir", door.data_dir)
        assert (done.returncode, done.stderr) == (0, "")
        assert_ends_in_time(wire, data)


def test_a_request_that_was_on_its_way_leaves_nothing_open(door: RunningServer) -> None:
    """Its head came before the token was revoked, its body after."""
    data = post("/v1/e/update", REWARD, bearing(token("update", sub="on-its-way")))
    end_of_head = data.index(b"\r\n\r\n") + 4
    with Wire(door) as wire, Wire(door) as aside:
        assert wire.answer_after(data).status == 200
        wire.send(data[:end_of_head])
        wire.settle()
        say(door, subject="on-its-way", before=time.time() + 1)
        wait_until(lambda: aside.answer_after(draw_of(sub="on-its-way")).status == 401, "it is not revoked")
        assert wire.answer_after(data[end_of_head:]).status in (200, 401)
        for _ in range(5):
            assert [wire.answer_after(data).status, aside.answer_after(data).status] == [401, 401]


def test_it_is_kept_over_a_crash(servers: list[RunningServer]) -> None:
    door, now = servers[0], int(time.time())
    gone = [draw_of(jti="kept"), draw_of(sub="kept", iat=now - 200)]
    stays = draw_of(sub="kept", iat=now)
    say(door, token_id="kept")
    say(door, subject="kept", before=now - 100)
    door.kill()
    door.restart()
    with Wire(door) as wire:
        assert [wire.answer_after(data).status for data in gone * 3] == [401] * 6
        assert [wire.answer_after(stays).status for _ in range(3)] == [200] * 3


# --- what is written -------------------------------------------------------------------------------------------


@pytest.fixture
def settings(servers: list[RunningServer]) -> Settings:
    return Settings(data_dir=str(servers[1].data_dir))


def numbers(settings: Settings) -> list[int]:
    return [found.number for found in revoked(settings)]


def test_what_no_token_can_be_refused_by_any_more_goes(settings: Settings) -> None:
    now = time.time()
    for said in (
        Revocation("long ago", None, None, now - 400 * DAY_S),
        Revocation(None, "long ago, of later", now - DAY_S, now - 400 * DAY_S),
        Revocation("lately", None, None, now - 300 * DAY_S),
    ):
        revoke(settings, said)
    before = numbers(settings)
    revoke(settings, Revocation("now", None, None, now))
    kept = revoked(settings)
    assert {"long ago, of later", "lately", "now"} <= {found.subject or found.token_id for found in kept}
    assert "long ago" not in {found.token_id for found in kept}
    assert kept[-1].number > max(before)
    assert sorted(numbers(settings)) == numbers(settings)


def test_there_is_a_limit(settings: Settings) -> None:
    before = revoked(settings)
    small = Settings(data_dir=settings.data_dir, revocation_limit=len(before) + 1)
    revoke(small, Revocation("the last", None, None, time.time()))
    with pytest.raises(StartError, match="revocation_limit"):
        revoke(small, Revocation("one too many", None, None, time.time()))
    assert [found.token_id for found in revoked(settings)[len(before) :]] == ["the last"]


def test_each_leaves_an_entry_in_the_audit_trail(tmp_path: Path) -> None:
    with RunningServer(tmp_path):
        pass
    for arguments in (["--token-id", "leaked"], ["--subject", "mallory", "--issued-before", "2026-01-01"]):
        done = run_cli("token", "revoke", *arguments, "--data-dir", tmp_path)
        assert done.returncode == 0, done.stderr
    small = Settings(data_dir=str(tmp_path), revocation_limit=2)
    with pytest.raises(StartError, match="revocation_limit"):
        revoke(small, Revocation("one too many", None, None, time.time()))
    done = run_cli("audit", "--data-dir", tmp_path, "--json")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(e["action"], e["subject"], e["experiment_id"], e["token_id"], e["address"]) for e in entries} == {
        ("revoke", f"cli:{pwd.getpwuid(os.getuid()).pw_name}", "", None, None)
    }
    assert [(entry["before"], entry["after"]) for entry in entries] == [
        ({}, {"token_id": "leaked"}),
        ({}, {"subject": "mallory", "issued_before": 1767225600.0}),
    ]
    assert all(abs(entry["at"] - time.time()) < 600 for entry in entries)
    shown = run_cli("audit", "--data-dir", tmp_path).stdout
    assert "leaked" in shown
    assert "mallory" in shown


def test_without_a_database_nothing_is_made(tmp_path: Path) -> None:
    for act in (
        lambda: revoke(Settings(data_dir=str(tmp_path)), Revocation("a", None, None, 1)),
        lambda: revoked(Settings(data_dir=str(tmp_path))),
    ):
        with pytest.raises(StartError, match="no database"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "multiarm.db").write_bytes(b"no database " * 1000)
    with pytest.raises(StartError, match="atabase"):
        revoke(Settings(data_dir=str(tmp_path)), Revocation("a", None, None, 1))
