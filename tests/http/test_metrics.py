"""What /metrics says: the numbers of what was done, under the names that docs, alerts and dashboard know."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from multiarm.auth.scopes import Scopes
from multiarm.domain.spec import ArmSpec, Update
from multiarm.http.metrics import OTHER, Metrics, View
from multiarm.http.request_meter import RequestMeter
from multiarm.service.accountant import RequestRun
from multiarm.service.health import HealthKeeper
from multiarm.service.tally import Histogram
from multiarm.settings import Settings
from postgres import Service, run_service
from support import RunningServer, create
from wire_servers import LANES, settings_of

ROOT = Path(__file__).parents[2]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module", params=LANES.values(), ids=list(LANES))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = settings_of(request.param) | {"metrics_arm_limit": 4}
    with RunningServer(tmp_path_factory.mktemp("metrics"), settings=settings) as running:
        yield running


def scraped(client: httpx.Client, accept: str = "*/*") -> Samples:
    answer = client.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_it_counts_what_was_done(server: RunningServer) -> None:
    with server.client() as client:
        experiment_id = create(client, "a", "b")
        before = scraped(client)
        path = f"/v1/{experiment_id}"
        drawn = [client.get(f"{path}/draw").json() for _ in range(20)]
        for key in ("x", "y", "x"):
            client.post(f"{path}/update", json={"arm_id": "a", "reward": 1, "key": key})
        client.post(f"{path}/update_batch", json={"updates": [{"arm_id": "b", "reward": 0}] * 5})
        client.post(f"{path}/update", json={"arm_id": "a", "reward": 7})
        client.get("/nowhere/at/all")
        for corrected in (0, None, None, 7):
            client.put(f"{path}/reward/key/x", json={"reward": corrected})
        after = scraped(client)

        def more(name: str, **labels: str) -> float:
            return value(after, name, **labels) - value(before, name, **labels)

        for arm_id, rewards in (("a", 2), ("b", 5)):
            labels = {"experiment_id": experiment_id, "arm_id": arm_id}
            assert value(after, "multiarm_draws_total", **labels) == sum(one["arm_id"] == arm_id for one in drawn)
            assert value(after, "multiarm_rewards_total", **labels) == rewards  # one of a's was withdrawn
        assert more("multiarm_duplicates_total") == 1
        assert more("multiarm_corrections_total") == 2
        assert more("multiarm_refused_rewards_total", reason="invalid-reward") == 1
        draws = {"method": "GET", "route": "/v1/{experiment_id}/draw"}
        assert more("multiarm_http_requests_total", **draws, status_class="2xx") == 20
        assert more("multiarm_http_request_duration_seconds_count", **draws, status_class="2xx") == 20
        assert 0 < more("multiarm_http_request_duration_seconds_sum", **draws, status_class="2xx") < 20
        updates = {"method": "POST", "route": "/v1/{experiment_id}/update"}
        assert more("multiarm_http_requests_total", **updates, status_class="2xx") == 3
        assert more("multiarm_http_requests_total", **updates, status_class="4xx") == 1
        assert more("multiarm_http_requests_total", method="GET", route="unmatched", status_class="4xx") == 1
        assert more("multiarm_commit_updates_sum") == 8
        assert more("multiarm_commit_duration_seconds_count") == 4
        assert ("multiarm_refused_rewards_total", frozenset({("reason", "busy")})) in before
        assert value(after, "multiarm_store_available") == 1
        assert value(after, "multiarm_store_mailbox_updates") == 0
        assert value(after, "multiarm_store_mailbox_limit_updates") == 100_000
        assert 0 <= value(after, "multiarm_evidence_age_seconds", experiment_id=experiment_id) < 60
        assert 0 <= value(after, "multiarm_allocation_age_seconds", experiment_id=experiment_id) < 60
        client.delete(f"{path}/delete")
        assert not any(("experiment_id", experiment_id) in labels for _, labels in scraped(client))


def test_arms_beyond_the_limit_are_added_up(server: RunningServer) -> None:
    with server.client() as client:
        ids = [create(client, "a", "b") for _ in range(4)]
        for experiment_id in ids:
            for _ in range(3):
                client.get(f"/v1/{experiment_id}/draw")
        listed = {dict(labels)["experiment_id"] for name, labels in scraped(client) if name == "multiarm_draws_total"}
        assert listed == {*ids[:2], "(other)"}
        other = {"experiment_id": "(other)", "arm_id": "(other)"}
        assert value(scraped(client), "multiarm_draws_total", **other) == 6
        client.delete("/v1/clear")


def test_whoever_asks_for_open_metrics_gets_it(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        scraped(client, accept="application/openmetrics-text;version=abc")
        assert client.head("/metrics").status_code == 200
        assert client.post("/metrics").status_code == 405


def test_docs_list_each_metric_and_no_other(server: RunningServer) -> None:
    with server.client() as client:
        create(client, "a")
        text = client.get("/metrics").text
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(multiarm_\w+)` \| (\w+) \| (.*?) \|", page, re.MULTILINE)
    documented = {(name, kind) for name, kind, _ in rows}
    served = {
        (family.name + "_total" * (family.type == "counter"), family.type)
        for family in text_string_to_metric_families(text)
        if family.name.startswith("multiarm_")
    }
    assert documented == served


def test_bounds_are_written_as_open_metrics_has_numbers(server: RunningServer) -> None:
    """As floats, always: `1.0` and `1` would be two series to who compares text."""
    with server.client() as client:
        create(client, "a")
        text = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    bounds = set(re.findall(r'^multiarm_\w+_bucket\{.*le="([^"]+)"', text, re.MULTILINE))
    assert {"0.0001", "1.0", "65536.0", "+Inf"} <= bounds
    assert all(re.fullmatch(r"\d+\.\d+|\d\.?\d*e[+-]\d+|\+Inf", bound) for bound in bounds)


def test_there_are_six_alerts_and_docs_know_them() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy/prometheus/alerts.yaml").read_text())
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert len(alerts) == 6
    assert re.findall(r"^\| `(Multiarm\w+)` \|", page, re.MULTILINE) == alerts


def test_words_that_are_no_methods_make_no_series() -> None:
    meter = RequestMeter()
    for method in ("BREW", "GET", "PURGE"):
        meter.note(RequestRun(0.0, method, "unmatched", 404, 0.001))
    assert {method for method, _, _ in meter.durations_s} == {"GET", "other"}


def test_a_histogram_counts_up_to_its_bounds() -> None:
    seen = Histogram((1, 2))
    for number, count in ((0.5, 1), (1, 2), (1.5, 3), (99, 4)):
        seen.observe(number, count)
    assert seen.counts == [3, 3, 4]
    assert seen.total == 0.5 + 2 + 4.5 + 396


def test_counters_by_arm_never_fall(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        supervisor = service.supervisor
        view = View(Scopes("read"), 2)

        async def shown() -> dict[str, tuple[int, int]]:
            arms, _ = await view.seen(list(supervisor.experiments.values()), service.clock())
            return {arm.arm_id: (arm.draws, arm.rewards) for arm in arms}

        await service.create(arms=["red"])
        for key in "abc":
            supervisor.draw("button")
            await supervisor.update("button", Update(1.0, arm_id="red", key=key))
        assert not await supervisor.update("button", Update(1.0, arm_id="red", key="a"))
        await supervisor.correct_key("button", "a", None)
        assert await shown() == {"red": (3, 3)}
        await service.housekeeping.write_draw_counts()
        await supervisor.reset("button")
        assert await shown() == {"red": (3, 3)}
        supervisor.draw("button")
        await supervisor.update("button", Update(1.0, arm_id="red"))
        assert await shown() == {"red": (4, 4)}
        await supervisor.reload(supervisor.experiment("button"))
        assert await shown() == {"red": (4, 4)}
        await supervisor.delete_arm("button", "red")
        await supervisor.add_arm("button", ArmSpec(arm_id="red"))
        supervisor.draw("button")
        assert await shown() == {"red": (5, 4)}
        await service.housekeeping.write_draw_counts()

    async def after_a_restart(service: Service) -> None:
        arms, _ = await View(Scopes("read"), 2).seen(list(service.supervisor.experiments.values()), service.clock())
        assert [(arm.draws, arm.rewards) for arm in arms] == [(0, 0)]

    run_service(tmp_path, story)
    run_service(tmp_path, after_a_restart)


def test_nor_does_what_the_others_add_up_to(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        supervisor = service.supervisor
        view = View(Scopes("read"), 2)

        async def draw(name: str, count: int) -> None:
            supervisor.draw_many(name, count, service.clock())
            await supervisor.update(name, Update(1.0, arm_id="x"))

        async def shown() -> dict[str, tuple[int, int]]:
            arms, _ = await view.seen(list(supervisor.experiments.values()), service.clock())
            return {arm.experiment_id: (arm.draws, arm.rewards) for arm in arms}

        for name in ("a", "b", "c", "d"):
            await service.create(name, arms=["x"])
            await draw(name, 5)
        assert await shown() == {"a": (5, 1), "b": (5, 1), OTHER: (10, 2)}
        await supervisor.add_arm("a", ArmSpec(arm_id="y"))  # b is one of the others now
        await draw("b", 2)
        assert (await shown())[OTHER] == (12, 3)
        await supervisor.delete("d")
        await supervisor.reset("c")
        await supervisor.delete_arm("a", "y")  # and has its own labels again
        assert await shown() == {"a": (5, 1), "b": (7, 2), OTHER: (12, 3)}
        await draw("c", 1)
        assert (await shown())[OTHER] == (13, 4)

    run_service(tmp_path, story)


def test_whoever_asks_while_a_page_is_made_gets_that_one(tmp_path: Path) -> None:
    async def story(service: Service) -> None:
        await service.create()
        metrics = Metrics(service.supervisor, service.accountant, RequestMeter(), Settings())
        all_of_it, some = Scopes("read admin"), Scopes("read:other")
        first, same, other, open_metrics = await asyncio.gather(
            metrics.page("", all_of_it),
            metrics.page("*/*", Scopes("read")),
            metrics.page("", some),
            metrics.page("application/openmetrics-text", all_of_it),
        )
        assert first is same
        assert [b"button" in page.body for page in (first, other, open_metrics)] == [True, False, True]
        assert await metrics.page("", all_of_it) is not first

    run_service(tmp_path, story)


def test_what_the_loop_changes_is_not_read_in_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quarantined_now(_health: HealthKeeper) -> int:
        return 1 if threading.current_thread() is threading.main_thread() else 0

    async def story(service: Service) -> None:
        page = await Metrics(service.supervisor, service.accountant, RequestMeter(), Settings()).page(
            "", Scopes("read")
        )
        assert b"\nmultiarm_quarantined_experiments 1.0\n" in page.body

    monkeypatch.setattr(HealthKeeper, "quarantined_now", property(quarantined_now))
    run_service(tmp_path, story)
