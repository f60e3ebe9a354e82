"""Real input: 10,000 impressions of a fashion site with 46 items, logged by a uniformly random policy."""

import csv
import gzip
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from multiarm.storage.check import check_directory
from support import RunningServer, create, stats

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("MULTIARM_TEST_DATA", ROOT.parent / "shared" / "data"))
FILE = FOLDER / "open_bandit_women_random.csv.gz"
HALF_LIFE_S = 30 * 86_400.0  # the log spans a week, years ago
VISITORS = 4
TIMEOUT_S = 30.0
ACCEPTED = {"accepted": 1, "duplicates": 0}

pytestmark = pytest.mark.skipif(
    not FILE.exists(), reason=f"{FILE} is not there: MULTIARM_TEST_DATA names the folder of the Open Bandit data"
)


class Impression(NamedTuple):
    """time: as the file has it."""

    time: str
    arm: str
    click: int

    @property
    def seconds(self) -> float:
        return datetime.fromisoformat(self.time).timestamp()


@pytest.fixture(scope="module")
def log() -> list[Impression]:
    with gzip.open(FILE, "rt", newline="") as file:
        impressions = [Impression(row["timestamp"], row["item_id"], int(row["click"])) for row in csv.DictReader(file)]
    assert len(impressions) == 10_000
    assert len({impression.arm for impression in impressions}) == 46
    return impressions


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "data") as running:
        yield running


def arms_of(log: Sequence[Impression]) -> list[str]:
    return sorted({impression.arm for impression in log}, key=int)


def send_in_batches(server: RunningServer, experiment: str, updates: Sequence[dict[str, Any]], size: int) -> None:
    client = server.client()
    for start in range(0, len(updates), size):
        batch = updates[start : start + size]
        answer = client.post(f"/v1/{experiment}/update_batch", json={"updates": batch})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"accepted": len(batch), "duplicates": 0}


def stop_and_check_books(server: RunningServer, pull_count: int) -> None:
    assert server.terminate() == 0
    report = check_directory(server.data_dir)
    assert report.good, report.summary
    assert sum(entry.pull_count for entry in report.entries) == pull_count


@pytest.mark.parametrize("size", [999, 10_000])
def test_the_whole_log_in_batches(server: RunningServer, log: list[Impression], size: int) -> None:
    experiment = create(server.client(), *arms_of(log))
    send_in_batches(server, experiment, [{"arm_id": i.arm, "reward": i.click} for i in log], size)
    found = stats(server.client(), experiment)
    pulls = Counter(impression.arm for impression in log)
    clicks = Counter(impression.arm for impression in log if impression.click)
    assert {arm: arm_stats["pulls"] for arm, arm_stats in found.items()} == pulls
    for arm, arm_stats in found.items():
        assert arm_stats["mean_reward"] == pytest.approx(clicks[arm] / pulls[arm], rel=0, abs=1e-12)
        assert arm_stats["effective_pulls"] == pulls[arm]
        assert arm_stats["draws"] == 0
    assert sum(arm_stats["share"] for arm_stats in found.values()) == pytest.approx(1)
    stop_and_check_books(server, len(log))


@pytest.mark.parametrize("as_text", [True, False], ids=["rfc3339", "seconds"])
def test_rewards_weigh_what_their_age_gives(server: RunningServer, log: list[Impression], as_text: bool) -> None:
    experiment = create(server.client(), *arms_of(log), half_life_s=HALF_LIFE_S)
    updates = [{"arm_id": i.arm, "reward": i.click, "ts": i.time if as_text else i.seconds} for i in log]
    send_in_batches(server, experiment, updates, 2_500)
    before = time.time()
    found = stats(server.client(), experiment)
    after = time.time()
    for arm, arm_stats in found.items():
        mine = [impression for impression in log if impression.arm == arm]
        assert arm_stats["pulls"] == len(mine)
        assert weight(mine, after) * (1 - 1e-9) <= arm_stats["effective_pulls"] <= weight(mine, before) * (1 + 1e-9)
        mean = weight([impression for impression in mine if impression.click], after) / weight(mine, after)
        assert arm_stats["mean_reward"] == pytest.approx(mean, rel=1e-9)
    stop_and_check_books(server, len(log))


def weight(impressions: Sequence[Impression], now: float) -> float:
    """What is left of them after forgetting."""
    return math.fsum(2.0 ** (-(now - impression.seconds) / HALF_LIFE_S) for impression in impressions)


def test_replay(server: RunningServer, log: list[Impression]) -> None:
    """Draw for each logged impression; where the drawn arm is the logged one, its click is the reward."""
    experiment = create(server.client(), *arms_of(log), policy={"type": "thompson"})
    with ThreadPoolExecutor(VISITORS) as pool:
        visits = [pool.submit(replay, server.url, experiment, log[n::VISITORS]) for n in range(VISITORS)]
    matches = [match for visit in visits for match in visit.result()]
    pulls = Counter(impression.arm for impression in matches)
    clicks = Counter(impression.arm for impression in matches if impression.click)
    assert 50 < len(matches) < 1_000  # one in 46 on average
    found = stats(server.client(), experiment)
    assert sum(arm_stats["draws"] for arm_stats in found.values()) == len(log)
    for arm, arm_stats in found.items():
        assert arm_stats["pulls"] == pulls[arm] <= arm_stats["draws"]
        assert arm_stats["mean_reward"] == (pytest.approx(clicks[arm] / pulls[arm]) if pulls[arm] else None)
    stop_and_check_books(server, len(matches))


def replay(url: str, experiment: str, log: Sequence[Impression]) -> list[Impression]:
    """The impressions whose arm the server drew too, each rewarded."""
    matches = []
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)) as connection:
        for impression in log:
            drawn = ask(connection, "GET", f"/v1/{experiment}/draw")
            assert 0 < drawn["propensity"] <= 1
            if drawn["arm_id"] == impression.arm:
                reward = {"decision_id": drawn["decision_id"], "reward": impression.click}
                assert ask(connection, "POST", f"/v1/{experiment}/update", reward) == ACCEPTED
                matches.append(impression)
    return matches


def ask(connection: HTTPConnection, method: str, path: str, document: object = None) -> Any:
    """Over one kept connection, without a client library's cost: there are ten thousand."""
    body, headers = (None, {}) if document is None else (json.dumps(document), {"Content-Type": "application/json"})
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer
    return json.loads(answer)
