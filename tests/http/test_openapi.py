"""The OpenAPI document and its page: valid, complete, and without the internet."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import schemathesis

from multiarm import __version__
from multiarm.domain.policies import AnyPolicy
from multiarm.http.routes import HANDLERS


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/docs/openapi.json")
    assert answer.status_code == 200
    assert "json" in answer.headers["content-type"]
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def resolve(document: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    assert isinstance(found, dict)
    return found


class TestDocument:
    def test_it_is_openapi_3_1_of_this_version(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1.")
        assert document["info"]["title"] == "multiarm"
        assert document["info"]["version"] == __version__
        schemathesis.openapi.from_dict(document).validate()

    def test_it_is_the_same_when_asked_again(self, client: httpx.Client, document: dict[str, Any]) -> None:
        assert client.get("/docs").status_code == 200
        assert client.get("/docs/openapi.json").json() == document

    def test_it_lists_every_route_and_no_other(self, document: dict[str, Any]) -> None:
        served = {
            (method, re.sub(r"\{(\w+):str\}", r"{\1}", path))
            for handler in HANDLERS
            for path in handler.paths
            for method in handler.http_methods
            if method not in {"OPTIONS", "HEAD"}
        }
        assert {(method, path) for method, path, _ in operations(document) if method != "HEAD"} == served

    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        found = set(references(document))
        assert found
        assert all(resolve(document, reference) for reference in found)

    def test_operation_ids_are_unique_and_every_operation_is_described(self, document: dict[str, Any]) -> None:
        ids = [operation["operationId"] for _, _, operation in operations(document)]
        assert len(ids) == len(set(ids))
        for _, _, operation in operations(document):
            assert " " in operation["summary"] + operation.get("description", "")

    def test_path_parameters_are_declared(self, document: dict[str, Any]) -> None:
        for _, path, operation in operations(document):
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path))

    def test_query_parameters_are_declared(self, document: dict[str, Any]) -> None:
        [declared] = [
            {p["name"]: p for p in operation["parameters"] if p["in"] == "query"}
            for _, path, operation in operations(document)
            if path.endswith("/history")
        ]
        assert list(declared) == ["from", "to", "points"]
        assert declared["points"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 200}
        assert all(p["description"] and not p["required"] for p in declared.values())

    def test_errors_are_problem_documents(self, document: dict[str, Any]) -> None:
        for method, _, operation in operations(document):
            for status, response in operation["responses"].items():
                if status >= "400" and method != "HEAD":
                    assert list(response["content"]) == ["application/problem+json"]

    def test_what_a_token_must_allow_stands_at_each_operation(self, document: dict[str, Any]) -> None:
        needed = {
            operation["operationId"]: operation["security"][0]["token"][0] if "security" in operation else None
            for _, _, operation in operations(document)
        }
        admin = ("create", "clear", "delete", "reset", "enable", "disable", "change_policy", "restore", "audit")
        arms = ("add_arm", "delete_arm", "enable_arm", "disable_arm")
        assert needed == {
            **dict.fromkeys(("ping", "live", "ready")),
            **dict.fromkeys((*admin, *arms), "admin"),
            **dict.fromkeys(("list", "describe", "stats", "history", "metrics"), "read"),
            **dict.fromkeys(("update", "update_batch", "correct_decision", "correct_key"), "update"),
            "draw": "draw",
        }
        for _, _, operation in operations(document):
            refusals = {status for status in ("401", "429") if status in operation["responses"]}
            assert refusals == ({"401", "429"} if "security" in operation else set())

    def test_bodies_are_required_where_they_are(self, document: dict[str, Any]) -> None:
        bodies = {
            path: operation["requestBody"]["required"]
            for _, path, operation in operations(document)
            if "requestBody" in operation
        }
        assert bodies == {
            "/v1/create": False,
            "/v1/{experiment_id}/policy": True,
            "/v1/{experiment_id}/restore": True,
            "/v1/{experiment_id}/add_arm": False,
            "/v1/{experiment_id}/update": True,
            "/v1/{experiment_id}/update_batch": True,
            "/v1/{experiment_id}/reward/decision/{decision_id}": True,
            "/v1/{experiment_id}/reward/key/{key}": True,
        }

    def test_policies_stand_in_the_request_with_their_ranges_and_defaults(self, document: dict[str, Any]) -> None:
        body = document["paths"]["/v1/create"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        policy = resolve(document, body["$ref"])["properties"]["policy"]
        schemas = [resolve(document, option["$ref"]) for option in policy["anyOf"]]
        kinds = {schema["properties"]["type"]["enum"][0]: schema["properties"] for schema in schemas}
        assert set(kinds) == {kind.__struct_config__.tag for kind in AnyPolicy.__args__}
        assert set(policy["discriminator"]["mapping"]) == set(kinds)

        epsilon = kinds["epsilon_greedy"]["epsilon"]
        assert (epsilon["minimum"], epsilon["maximum"], epsilon["default"]) == (0, 1, 0.1)
        prior = kinds["thompson"]["prior"]
        assert prior["default"] == {"alpha": 1.0, "beta": 1.0}
        for shape in resolve(document, prior["$ref"])["properties"].values():
            assert (shape["minimum"], shape["maximum"], shape["default"]) == (1e-3, 1e9, 1.0)

    def test_fields_of_a_creation_stand_there_with_ranges_and_defaults(self, document: dict[str, Any]) -> None:
        fields = document["components"]["schemas"]["CreateExperiment"]["properties"]
        asked = {
            "experiment_id",
            "description",
            "policy",
            "goal",
            "arms",
            "random_share",
            "floor",
            "half_life_s",
            "attribution_window_s",
            "reward_origin",
        }
        assert set(fields) == asked
        floor, random_share = fields["floor"], fields["random_share"]["anyOf"][0]
        assert (floor["minimum"], floor["maximum"], floor["default"]) == (0, 1, 0)
        assert (random_share["minimum"], random_share["maximum"], fields["random_share"]["default"]) == (0, 1, None)
        window = fields["attribution_window_s"]
        assert (window["minimum"], window["maximum"], window["default"]) == (1, 2_592_000, 3600)
        assert fields["goal"]["enum"] == ["maximize", "minimize"]
        assert fields["half_life_s"]["anyOf"][0]["minimum"] == 60


class Links(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe"}:
            self.urls += [value for name, value in attrs if name in {"src", "href"} and value]


class TestPage:
    @pytest.fixture
    def page(self, client: httpx.Client) -> str:
        answer = client.get("/docs")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        return answer.text

    def test_it_loads_everything_from_this_server(self, client: httpx.Client, page: str) -> None:
        links = Links()
        links.feed(page)
        loaded = [url for url in links.urls if not url.startswith("data:")]
        assert len(loaded) >= 2
        for url in loaded:
            assert url.startswith("/")
            assert not url.startswith("//")
            answer = client.get(url)
            assert answer.status_code == 200
            assert len(answer.content) > 1000
            assert answer.headers["content-type"].startswith("text/css" if url.endswith(".css") else "text/javascript")

    def test_it_names_no_other_host(self, page: str) -> None:
        assert re.findall(r"""(?:src|href|url)\s*[=:(]\s*["']?(?:https?:)?//[^\s"')]+""", page) == []

    def test_it_shows_the_whole_document(self, page: str) -> None:
        assert "/v1/{experiment_id}/update_batch" in page
        assert "CreateExperiment" in page

    @pytest.mark.parametrize("name", ["nothing.js", "index.html", "__init__.py"])
    def test_other_files_are_not_served(self, client: httpx.Client, name: str) -> None:
        assert client.get(f"/docs/assets/{name}").status_code == 404
