"""Clients that people use, each as it comes: create, 20 draws, their 20 updates and a batch; then the books."""

import asyncio
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import RunningServer, create, stats
from wire_servers import lane_server

PROGRAMS = Path(__file__).parent.parent / "clients"
DRAWS = 20
CREATED = {"arms": ["a", "b"]}
BATCH = {"updates": [{"arm_id": "a", "reward": 1}, {"arm_id": "b", "reward": 1}]}
TIMEOUT_S = 60.0

server = lane_server()

Speak = Callable[[str, str], object]


def command(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def library(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(name)


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [*map(str, arguments)],
        env=os.environ | {"no_proxy": "*"} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- programs --------------------------------------------------------------------------------------------------


def curl(url: str, experiment_id: str, *options: str) -> None:
    """One process and one connection a step."""
    program = (command("curl"), "--silent", "--show-error", *options)
    json_body = ("--header", "Content-Type: application/json", "--data")
    said = run(*program, f"{url}/v1/create", *json_body, json.dumps({"experiment_id": experiment_id, **CREATED}))
    assert json.loads(said) == {"experiment_id": experiment_id}
    decisions = run(*program, "--write-out", "\n", *[f"{url}/v1/{experiment_id}/draw"] * DRAWS).split()
    assert len(decisions) == DRAWS
    updates: list[str] = []
    for decision in decisions:
        body = json.dumps({"decision_id": json.loads(decision)["decision_id"], "reward": 1})
        updates += ["--next", *program[1:], f"{url}/v1/{experiment_id}/update", *json_body, body]
    assert run(program[0], *updates[1:]) == '{"accepted":1,"duplicates":0}' * DRAWS
    said = run(*program, f"{url}/v1/{experiment_id}/update_batch", *json_body, json.dumps(BATCH))
    assert json.loads(said) == {"accepted": 2, "duplicates": 0}


def curl_http2(url: str, experiment_id: str) -> None:
    curl(url, experiment_id, "--http2")


def java(url: str, experiment_id: str) -> None:
    run(command("java"), "-XX:TieredStopAtLevel=1", PROGRAMS / "Client.java", url, experiment_id)


def node(url: str, experiment_id: str) -> None:
    run(command("node"), PROGRAMS / "client.mjs", url, experiment_id)


# --- libraries -------------------------------------------------------------------------------------------------


def with_httpx(url: str, experiment_id: str) -> None:
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        client.post("/v1/create", json={"experiment_id": experiment_id, **CREATED}).raise_for_status()
        for _ in range(DRAWS):
            drawn = client.get(f"/v1/{experiment_id}/draw").raise_for_status().json()
            update = {"decision_id": drawn["decision_id"], "reward": 1}
            client.post(f"/v1/{experiment_id}/update", json=update).raise_for_status()
        client.post(f"/v1/{experiment_id}/update_batch", json=BATCH).raise_for_status()


def with_requests(url: str, experiment_id: str) -> None:
    with library("requests").Session() as session:
        session.trust_env = False

        def ask(method: str, path: str, body: object = None) -> Any:
            with session.request(method, f"{url}/v1/{path}", json=body, timeout=TIMEOUT_S) as answer:
                answer.raise_for_status()
                return answer.json()

        ask("POST", "create", {"experiment_id": experiment_id, **CREATED})
        for _ in range(DRAWS):
            decision_id = ask("GET", f"{experiment_id}/draw")["decision_id"]
            ask("POST", f"{experiment_id}/update", {"decision_id": decision_id, "reward": 1})
        ask("POST", f"{experiment_id}/update_batch", BATCH)


def with_aiohttp(url: str, experiment_id: str) -> None:
    aiohttp = library("aiohttp")

    async def speak() -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:

            async def ask(method: str, path: str, body: object = None) -> Any:
                async with session.request(method, f"{url}/v1/{path}", json=body) as answer:
                    return await answer.json()

            await ask("POST", "create", {"experiment_id": experiment_id, **CREATED})
            for _ in range(DRAWS):
                decision_id = (await ask("GET", f"{experiment_id}/draw"))["decision_id"]
                await ask("POST", f"{experiment_id}/update", {"decision_id": decision_id, "reward": 1})
            await ask("POST", f"{experiment_id}/update_batch", BATCH)

    asyncio.run(speak())


def ab(url: str, experiment_id: str) -> None:
    """ApacheBench speaks HTTP/1.0 and asks to keep the connection."""
    program = command("ab")
    with httpx.Client(base_url=url, trust_env=False) as client:
        client.post("/v1/create", json={"experiment_id": experiment_id, **CREATED}).raise_for_status()
        decision_ids = [client.get(f"/v1/{experiment_id}/draw").json()["decision_id"] for _ in range(DRAWS)]
    bench(program, f"{url}/v1/{experiment_id}/draw", DRAWS)
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        options = ("-p", body, "-T", "application/json")
        body.write_text(json.dumps({"updates": [{"decision_id": one, "reward": 1} for one in decision_ids]}))
        bench(program, f"{url}/v1/{experiment_id}/update_batch", 1, *options)
        body.write_text(json.dumps({"decision_id": decision_ids[0], "reward": 1}))  # duplicates now
        bench(program, f"{url}/v1/{experiment_id}/update", DRAWS, *options)
        body.write_text(json.dumps(BATCH))
        bench(program, f"{url}/v1/{experiment_id}/update_batch", 1, *options)


def bench(program: str, url: str, count: int, *options: str | Path) -> None:
    said = run(program, "-k", "-l", "-q", "-n", str(count), "-c", "1", *options, url)
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in said.splitlines())}
    assert (found["Complete requests"], found["Failed requests"]) == (str(count), "0"), said
    assert found["Keep-Alive requests"] == str(count), said
    assert "Non-2xx responses" not in found, said


@pytest.fixture(scope="module")
def go_program(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once; what the compiler keeps is kept with pytest's own cache, for it takes a while to make."""
    compiler = command("go")
    kept = pytestconfig.cache.mkdir("go") if pytestconfig.cache else tmp_path_factory.mktemp("go-cache")
    program = tmp_path_factory.mktemp("go") / "client"
    settings = {"GOCACHE": str(kept), "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GO111MODULE": "off"}
    run(compiler, "build", "-o", program, PROGRAMS / "client.go", environment=settings)
    return program


CLIENTS: dict[str, Speak] = {
    "curl": curl,
    "curl --http2": curl_http2,
    "ab": ab,
    "java": java,
    "node": node,
    "httpx": with_httpx,
    "requests": with_requests,
    "aiohttp": with_aiohttp,
}


def assert_spoken(server: RunningServer, speak: Speak, name: str) -> None:
    experiment_id = f"by-{name.replace(' --', '-')}"
    speak(server.url, experiment_id)
    found = stats(server.client(), experiment_id)
    assert sum(arm["pulls"] for arm in found.values()) == DRAWS + 2
    assert all(arm["mean_reward"] == 1 for arm in found.values())


@pytest.mark.parametrize("name", CLIENTS)
def test_it_draws_and_rewards(server: RunningServer, name: str) -> None:
    assert_spoken(server, CLIENTS[name], name)


def test_go_draws_and_rewards(server: RunningServer, go_program: Path) -> None:
    assert_spoken(server, lambda url, experiment_id: run(go_program, url, experiment_id), "go")


@pytest.mark.parametrize("options", [(), ("--http2",)], ids=" ".join)
def test_curl_sends_a_large_batch_once_it_is_told_to_go_on(
    server: RunningServer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    program = command("curl")
    experiment_id = create(server.client(), "a")
    body = tmp_path / "body"
    body.write_text(json.dumps({"updates": [{"arm_id": "a", "reward": 1}] * 10_000}).ljust(2_000_000))
    url = f"{server.url}/v1/{experiment_id}/update_batch"
    headers = ("-H", "Content-Type: application/json", "-H", "Expect: 100-continue")
    begin = time.monotonic()
    said = run(program, "-sS", *options, *headers, "--expect100-timeout", "20", "--data-binary", f"@{body}", url)
    assert json.loads(said) == {"accepted": 10_000, "duplicates": 0}
    assert time.monotonic() - begin < 10, "curl was not told, and waited"
