"""Draws and updates, a few, seen from core 1 beside whatever else happens there."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from open_loop import Plan, Stream
from probe import DRAIN_TIMEOUT_S, READY, Seen
from processes import HERE, LOAD_CORE, TIED, Server
from works import BENCH

DRAWS_A_SECOND, UPDATES_A_SECOND, CONNECTIONS = 500, 250, 32


def probe(server: Server, seconds: float, seed: int, token: str = "") -> dict[str, Seen]:
    """By the names `draw` and `update`."""
    with probing(server, seconds, seed, token) as seen_now:
        return seen_now()


@contextmanager
def probing(server: Server, seconds: float, seed: int, token: str = "") -> Iterator[Callable[[], dict[str, Seen]]]:
    """A prober whose connections are accepted, before a storm begins; call what is given to let it begin."""
    command = [*TIED, "taskset", "-c", LOAD_CORE, sys.executable, str(HERE / "probe.py")]
    plan = Plan(port=server.port, seconds=seconds, streams=streams(seconds, token), seed=seed)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(plan) + b"\n")
        process.stdin.flush()
        if process.stdout.readline().decode().strip() != READY:
            sys.exit(f"The prober could not connect\n{server.said()}")

        def seen_now() -> dict[str, Seen]:
            output, _ = process.communicate(b"go\n", timeout=seconds + DRAIN_TIMEOUT_S + 30)
            if process.returncode:
                sys.exit(f"The prober failed, exit status {process.returncode}\n{server.said()}")
            return {seen.name: seen for seen in msgspec.json.decode(output, type=list[Seen])}

        try:
            yield seen_now
        finally:
            process.kill()


def streams(seconds: float, token: str) -> list[Stream]:
    """Updates have keys that were never used before."""
    head = f"Host: 127.0.0.1\r\n{f'Authorization: Bearer {token}' if token else 'Accept: */*'}\r\n"
    draw = f"GET {BENCH}/draw HTTP/1.1\r\n{head}\r\n".encode()
    keyed = list(updates(head, int(UPDATES_A_SECOND * seconds * 1.2) + 200))
    return [
        Stream(name="draw", rate=DRAWS_A_SECOND, connections=CONNECTIONS, requests=[draw]),
        Stream(name="update", rate=UPDATES_A_SECOND, connections=CONNECTIONS, requests=keyed),
    ]


def updates(head: str, count: int) -> Iterator[bytes]:
    word = f"{time.time_ns():x}"
    for number in range(count):
        body = f'{{"arm_id":"arm-{number % 5 + 1}","reward":1,"key":"{word}-{number:06}"}}'
        lines = f"POST {BENCH}/update HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        yield f"{lines}Content-Length: {len(body)}\r\n\r\n{body}".encode()
