"""kill -9 under load: is every acknowledged reward there exactly once, and none twice that was retried?

By hand: python tests/crash.py --kills 1000 [--seed S]

A campaign keeps one data directory through many lives of the server. Visitors send rewards until the kill cuts them
off; what was cut off and can be repeated is repeated, verbatim, in the next life. The client's own account of what it
sent is compared with the database after each kill, with `stats` after each start, and with the ledger in the end.
"""

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from crash_books import Counted, Drawn, Request, Reward, Stored, check_ledger, check_rewards, check_stats, inspect
from crash_server import Client, ConnectionLost, Server, check_by_command

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "clicks": {"policy": {"type": "thompson"}},
    "fading": {"policy": {"type": "epsilon_greedy", "epsilon": 0.3}, "half_life_s": 600, "random_share": 0.1},
    "restarted": {"policy": {"type": "thompson"}, "half_life_s": 86_400},
}
RESET = "restarted"  # the one that is reset now and then; there, and only there, 410 is an answer
FIRST_ARMS = ("a", "b", "c")
ARM_LIMIT = 8
VISITORS = 6
KILLS_PER_CAMPAIGN = 25
VIRGIN_KILLS = 2  # while the database is being made
EARLY_SHARE = 0.25  # of the kills: counted from the start of the process, not from its first answer
HEAVY_UPDATES = 2_000


@dataclass
class Tally:
    """What happened, for people and for tests that it happened at all."""

    kills: int = 0
    kills_before_ready: int = 0
    rewards: int = 0
    cut_off: int = 0
    repeated: int = 0
    repeated_counted_before: int = 0
    resets: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Campaign:
    """One data directory, `kills` kills. Raises AssertionError at the first thing that is wrong."""

    directory: Path
    kills: int
    rng: random.Random
    requests: list[Request] = field(default_factory=list)
    draws: list[Drawn] = field(default_factory=list)
    arms: dict[str, list[str]] = field(default_factory=lambda: {name: list(FIRST_ARMS) for name in EXPERIMENTS})
    arms_asked: dict[str, set[str]] = field(default_factory=lambda: {name: set(FIRST_ARMS) for name in EXPERIMENTS})
    resets_sent: int = 0
    resets_answered: int = 0
    killed_at: list[float] = field(default_factory=list)
    stored: Stored = field(default_factory=Stored)
    tally: Tally = field(default_factory=Tally)
    heavy_share: float = 0.0
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    # --- the lives of the server ---------------------------------------------------------------------------------

    def run(self) -> Tally:
        for _ in range(min(VIRGIN_KILLS, self.kills)):
            with Server(self.directory) as server:
                server.kill_after(self.rng.uniform(0.05, 1.2))
                self._note_kill(server)
        self._create()
        while len(self.killed_at) < self.kills:
            self._life()
        self._finish()
        self.tally.rewards = len(self.stored.rewards)
        self.tally.cut_off = sum(request.cut_off for request in self.requests)
        self.tally.resets = self.resets_answered
        return self.tally

    def _create(self) -> None:
        with Server(self.directory) as server, Client(server.require_url()) as client:
            for name, spec in EXPERIMENTS.items():
                client.expect(201, "POST", "/v1/create", {"experiment_id": name, "arms": FIRST_ARMS, **spec})
            server.stop()
        self.stored = inspect(self.directory)

    def _life(self) -> None:
        """Start, compare, load, kill, compare."""
        early = self.rng.random() < EARLY_SHARE
        self.heavy_share = self.rng.choice((0.001, 0.001, 0.05))
        with Server(self.directory) as server:
            if early:
                server.kill_after(self.rng.uniform(0.3, 1.3))
            url = server.url()
            if url is not None:
                if not early:
                    self._compare_stats(url)
                    server.kill_after(self.rng.uniform(0.0, self.rng.choice((0.4, 2.0))))
                self._load(url)
            self._note_kill(server, before_ready=url is None)
        self._inspect(audited=self.rng.random() < 0.3)

    def _finish(self) -> None:
        """Answer what is open, stop cleanly, and compare everything."""
        with Server(self.directory) as server:
            url = server.require_url()
            self._load(url, retries_only=True)
            assert not self._open_requests()
            stats = self._stats(url)
            server.stop()
        self.killed_at.append(math.inf)
        self._inspect(audited=True)
        check_stats(stats, self.stored, self.draws, self.killed_at)
        check_by_command(self.directory)
        check_ledger(self.directory / "ledger", self.requests, self.draws, self.killed_at, self.stored)

    def _note_kill(self, server: Server, *, before_ready: bool = True) -> None:
        self.killed_at.append(server.killed())
        self.tally.kills += 1
        self.tally.kills_before_ready += before_ready

    def _inspect(self, *, audited: bool) -> None:
        self.stored = inspect(self.directory, audited=audited)
        check_rewards(self.requests, self.stored)
        assert self.resets_answered <= self.stored.epochs[RESET] <= self.resets_sent

    def _compare_stats(self, url: str) -> None:
        stats = self._stats(url)
        for name, arms in self.arms.items():
            assert set(arms) <= stats[name].keys() <= self.arms_asked[name], f"{name} has {list(stats[name])}"
        check_stats(stats, self.stored, self.draws, self.killed_at)

    def _stats(self, url: str) -> dict[str, dict[str, Any]]:
        with Client(url) as client:
            return {name: client.expect(200, "GET", f"/v1/{name}/stats")["arms"] for name in EXPERIMENTS}

    # --- the visitors --------------------------------------------------------------------------------------------

    def _open_requests(self) -> list[Request]:
        return [request for request in self.requests if request.repeatable and not request.settled]

    def _load(self, url: str, *, retries_only: bool = False) -> None:
        """Visitors at work until the server is gone, or only until what is open is answered."""
        retries = self._open_requests()
        with ThreadPoolExecutor(VISITORS) as pool:
            visits = [
                pool.submit(self._visit, url, self.rng.getrandbits(32), retries[n::VISITORS], retries_only)
                for n in range(VISITORS)
            ]
        for visit in visits:
            visit.result()

    def _visit(self, url: str, seed: int, retries: Sequence[Request], retries_only: bool) -> None:
        rng = random.Random(seed)
        with Client(url) as client:
            try:
                for request in retries:
                    self._repeat(client, request)
                while not retries_only:
                    self._act(client, rng)
            except ConnectionLost:
                assert not retries_only, "the server went away by itself"

    def _act(self, client: Client, rng: random.Random) -> None:
        experiment = rng.choice(list(EXPERIMENTS))
        chance = rng.random()
        if chance < 0.06:
            self._replay(client, rng)
        elif chance < 0.064:
            self._administer(client, experiment)
        elif chance < 0.6:
            update, reward = self._update(client, rng, experiment, rng.choice("kdp"))
            self._send(client, Request(experiment, f"/v1/{experiment}/update", update, [reward]))
        else:
            self._send(client, self._batch(client, rng, experiment))

    def _batch(self, client: Client, rng: random.Random, experiment: str) -> Request:
        """Keys and decisions, or plain rewards only: a request can be repeated if all of it can."""
        if rng.random() < 0.1:
            update, reward = self._update(client, rng, experiment, "p")
            copy_count = rng.randint(2, 50)
            alike = {"updates": [update] * copy_count}
            return Request(experiment, f"/v1/{experiment}/update_batch", alike, [reward], copy_count=copy_count)
        size = HEAVY_UPDATES if rng.random() < self.heavy_share else rng.randint(2, 30)
        kinds = "p" if rng.random() < 0.2 else "k" * 20 + "d"
        pairs = [self._update(client, rng, experiment, rng.choice(kinds)) for _ in range(size)]
        updates = [update for update, _ in pairs]
        again = [{**update, "reward": 0.5} for update in updates if kinds != "p" and rng.random() < 0.02]
        body = {"updates": updates + again}  # the first of a key wins
        return Request(experiment, f"/v1/{experiment}/update_batch", body, [reward for _, reward in pairs], len(again))

    def _update(
        self, client: Client, rng: random.Random, experiment: str, kind: str
    ) -> tuple[dict[str, object], Reward]:
        """An update and how it will be stored: by key, by decision or plain. No two have the same value."""
        number = next(self.numbers)
        value = number * 0x9E3779B1 % 2**30 / 2**30  # sums of exact binary fractions are exact
        if kind == "d":
            drawn = Drawn(experiment, len(self.killed_at))
            self.draws.append(drawn)
            answer = client.expect(200, "GET", f"/v1/{experiment}/draw")
            drawn.answered(answer["decision_id"])
            arm = answer["arm_id"]
            update = {"decision_id": drawn.decision_id, "reward": value}
            return update, Reward(experiment, arm, self.stored.key_of(drawn.decision_id), value)
        arm = rng.choice(self.arms[experiment])
        update = {"arm_id": arm, "reward": value}
        if rng.random() < 0.2:
            update["ts"] = round(time.time() - rng.expovariate(1 / 300), 3)
        if kind == "k":
            update["key"] = f"key-{number}"
        return update, Reward(experiment, arm, f"k:key-{number}" if kind == "k" else None, value)

    def _send(self, client: Client, request: Request) -> Counted | None:
        """Send, and hold the answer against all that is known. ConnectionLost leaves the outcome open."""
        if not request.sent:
            request.sent = True
            self.requests.append(request)
        with request.in_doubt() as may_be_stored:
            status, answer = client.ask("POST", request.path, request.body)
        if status == 410 and request.experiment == RESET:
            request.settled = True
            return None
        assert status == 200, f"{status} for {request.path}: {answer}"
        return request.acknowledge(answer, len(self.killed_at), may_be_stored)

    def _repeat(self, client: Client, request: Request) -> None:
        counted = self._send(client, request)
        self.tally.repeated += 1
        self.tally.repeated_counted_before += counted is Counted.BEFORE

    def _replay(self, client: Client, rng: random.Random) -> None:
        """What was acknowledged, once more: it must be answered as duplicates."""
        recent = [request for request in self.requests[-200:] if request.repeatable and request.acknowledged]
        if recent:
            self._send(client, rng.choice(recent))

    def _administer(self, client: Client, experiment: str) -> None:
        if experiment == RESET:
            self.resets_sent += 1
            client.expect(204, "PUT", f"/v1/{RESET}/reset")
            self.resets_answered += 1
        elif len(self.arms[experiment]) < ARM_LIMIT:
            arm = f"arm-{next(self.numbers)}"
            self.arms_asked[experiment].add(arm)
            client.expect(201, "POST", f"/v1/{experiment}/add_arm", {"arm_id": arm})
            self.arms[experiment].append(arm)


def run(kills: int, seed: int, parent: Path, *, report: bool = False) -> Tally:
    """That many kills, in campaigns of 25, each on a directory of its own below `parent`; one that fails stays."""
    rng = random.Random(seed)
    total = Tally()
    while total.kills < kills:
        directory = Path(tempfile.mkdtemp(prefix="campaign-", dir=parent))
        todo = min(KILLS_PER_CAMPAIGN, kills - total.kills)
        total += Campaign(directory / "data", todo, random.Random(rng.getrandbits(64))).run()
        shutil.rmtree(directory)
        if report:
            sys.stdout.write(f"{json.dumps(vars(total))}\n")
            sys.stdout.flush()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 under load; exit status 0 if every reward is there once")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start = time.monotonic()
    parent = Path(tempfile.mkdtemp(prefix="multiarm-crash-"))
    sys.stdout.write(f"If it fails, the data directory stays in {parent}\n")
    total = run(arguments.kills, arguments.seed, parent, report=True)
    parent.rmdir()
    sys.stdout.write(f"{total.kills} kills, {total.rewards:,} rewards, every one exactly once;")
    sys.stdout.write(f" {time.monotonic() - start:.0f} s\n")


if __name__ == "__main__":
    main()
