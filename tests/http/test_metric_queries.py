"""What alerts and dashboard ask Prometheus for: series that there are, by labels that they have, as fits their type."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support import RunningServer, create

ROOT = Path(__file__).parents[2]
ADDED = {"instance", "job"}  # by Prometheus


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Of each series that there is, once everything has been done; those that Prometheus adds too."""
    with RunningServer(tmp_path_factory.mktemp("labels")) as server, server.client() as client:
        path = f"/v1/{create(client, 'a')}"
        client.get(f"{path}/draw").raise_for_status()
        client.post(f"{path}/update", json={"arm_id": "a", "reward": 1}).raise_for_status()
        series = {
            sample.name: {*sample.labels, *ADDED}
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
        }
        return series | {"up": ADDED}


def queries() -> list[tuple[str, str]]:
    """Each with the form of its legend, or what else its labels are named in."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    shown = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    return [
        *((target["expr"], target.get("legendFormat", "")) for target in shown),
        *((rule["expr"], named_in(" ".join(rule["annotations"].values()))) for rule in rules),
    ]


def named_in(annotations: str) -> str:
    """The labels that they name, as a legend does it."""
    return " ".join(f"{{{{{label}}}}}" for label in re.findall(r"\$labels\.(\w+)", annotations))


def selectors(query: str) -> list[tuple[str, str]]:
    """The series that it asks for, and its matchers."""
    return re.findall(r'\b((?:multiarm|process)_\w+|up)\b(?:\{((?:[^"{}]|"[^"]*")*)\})?', query)


def mistakes(query: str, legend: str, labels: dict[str, set[str]]) -> Iterator[str]:
    """What is wrong with a query. It need not know all of PromQL, only what these use."""
    found = selectors(query)
    if missing := {name for name, _ in found} - labels.keys():
        yield f"there is no {missing}"
        return
    for name, matchers in found:
        yield from misused(name, matchers, query, labels[name])
    of_all = set.intersection(*(labels[name] for name, _ in found))
    groups = [set(re.split(r",\s*", by)) for by in re.findall(r"\bby \(([^)]*)\)", query)]
    for group in groups:
        if not group <= of_all:
            yield f"by {sorted(group - of_all)}, which there is not"
    if ("histogram_quantile" in query) != any(name.endswith("_bucket") for name, _ in found):
        yield "quantiles are of buckets"
    if "histogram_quantile" in query and not all("le" in group for group in groups):
        yield "quantiles need le"
    left = groups[0] - {"le"} if groups else of_all
    for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", legend):
        if label not in left:
            yield f"its legend names {label}"


def misused(name: str, matchers: str, query: str, labels: set[str]) -> Iterator[str]:
    for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", re.sub(r'"[^"]*"', "", matchers)):
        if label not in labels:
            yield f"{name} has no label {label}"
    grows = re.search(r"_(total|bucket|count|sum)$", name) is not None
    rated = re.search(rf"\b(?:rate|increase)\({name}\b[^\[]*\[[^\]]+\]\)", query) is not None
    if grows != rated:
        yield f"{name} {'needs' if grows else 'takes no'} rate"


def test_queries_fit_labels_and_types(labels: dict[str, set[str]]) -> None:
    assert len(queries()) >= 25
    assert [(query, wrong) for query, legend in queries() for wrong in mistakes(query, legend, labels)] == []


@pytest.mark.parametrize(
    ("query", "legend", "wrong"),
    [
        ("multiarm_draws_total", "", "needs rate"),
        ("rate(multiarm_experiments[5m])", "", "takes no rate"),
        ('multiarm_experiments{arm="x"}', "", "no label arm"),
        ("multiarm_nothing", "", "there is no"),
        ("sum by (table) (rate(multiarm_draws_total[5m]))", "", "by"),
        ("histogram_quantile(0.5, rate(multiarm_draws_total[5m]))", "", "of buckets"),
        ("histogram_quantile(0.5, sum by (route) (rate(multiarm_http_request_duration_seconds_bucket[5m])))", "", "le"),
        ("sum by (arm_id) (rate(multiarm_draws_total[5m]))", "{{experiment_id}}", "legend"),
    ],
)
def test_such_mistakes_are_found(labels: dict[str, set[str]], query: str, legend: str, wrong: str) -> None:
    assert any(wrong in found for found in mistakes(query, legend, labels))


def test_what_the_dashboard_lets_choose_there_is(labels: dict[str, set[str]]) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    asked = [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    chosen = {each["name"] for each in dashboard["templating"]["list"]}
    for query in asked:
        [(name, label)] = re.findall(r"^label_values\((\w+)(?:\{.*\})?, (\w+)\)$", query)
        assert label in labels[name]
    used = {name for query, _ in queries() for name in re.findall(r"\$(\w+)", query) if not name.startswith("__")}
    assert used <= chosen


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or all(target["expr"] and panel["title"] for target in panel["targets"])
