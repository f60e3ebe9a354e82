"""schemathesis drives a running server by its own document: no 5xx, no undocumented status, no ill-formed answer."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support import RunningServer

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 15  # of each operation and mode
KNOWN = "known"
KNOWN_IDS = {"experiment_id": KNOWN, "arm_id": "a"}

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """schemathesis clears it now and then."""
    with RunningServer(tmp_path_factory.mktemp("schemathesis")) as running:
        yield running
        assert running.terminate() == 0
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def document(own_server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = own_server.client().get("/docs/openapi.json").json()
    return found


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_the_document_gives_rise_to_is_answered_as_documented(
    own_server: RunningServer, document: dict[str, Any], mode: GenerationMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valid requests and invalid ones; half of them to an experiment that is there."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = own_server.client()
    api = schemathesis.openapi.from_dict(document)
    statuses: Counter[int] = Counter()

    for result in api.get_all_operations():
        assert not isinstance(result, Err)
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and "requestBody" not in document["paths"][operation.path][operation.method]:
            continue  # ids may be any text: nothing that it takes could be invalid

        @bounded
        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def check(case: Case[Any], known: bool) -> None:
            if known:
                client.post("/v1/create", json={"experiment_id": KNOWN, "arms": ["a", "b"]})
                for name in KNOWN_IDS.keys() & case.path_parameters.keys():
                    case.path_parameters[name] = KNOWN_IDS[name]
            answer = case.call_and_validate(base_url=own_server.url, checks=CHECKS, timeout=30)
            statuses[answer.status_code] += 1

        check()
    assert statuses.total() >= 3 * EXAMPLES
    assert statuses[404]
    assert statuses[200] if mode is GenerationMode.POSITIVE else statuses[422]
