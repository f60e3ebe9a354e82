"""Thousands of generated requests through both doors: status, headers and body are the same to the byte."""

import json
import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import RunningServer
from wire import HOST, Answer, Wire, blanked, post
from wire_servers import both_servers

ROOT = "/v1/generated"
UPDATE = st.fixed_dictionaries(
    {"reward": st.one_of(st.sampled_from([0, 1, 0.5, 2, -1, True, None, "1"]), st.floats(0, 1))},
    optional={
        "arm_id": st.sampled_from(["a", "b", "z", "", 7]),
        "key": st.one_of(st.sampled_from(["k", "", "%", "." * 129]), st.text("klmn", min_size=1, max_size=3)),
        "ts": st.sampled_from([0, 1.7e9, 1e300, "2026-01-01T00:00:00Z", "yesterday"]),
        "decision_id": st.sampled_from(["A" * 92, "", 5]),
        "unknown": st.just(1),
    },
)
BODY = st.one_of(
    UPDATE,
    st.fixed_dictionaries({"updates": st.lists(UPDATE, max_size=4)}, optional={"more": st.just(1)}),
    st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)), st.lists, max_leaves=5),
).map(lambda value: json.dumps(value).encode())
BYTES = st.one_of(BODY, BODY.map(lambda body: body[:-1]), st.binary(max_size=30))
HEADER = st.sampled_from(
    [
        "Accept: */*",
        "Content-Type: application/json",
        "Content-Type: application/json; charset=utf-8",
        "Content-Type: text/plain",
        "Connection: keep-alive",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "Connection: close",
        "Cookie: a=b",
        "Expect: something",
        "Host: evil.example",
        "Origin: http://evil.example",
        "Origin: http://localhost",
        "Sec-Fetch-Site: cross-site",
        "X-Request-Id: 17",
        "X-Request-Id: not well formed",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    ]
)
MADE_ID = re.compile(r"[0-9a-f]{20}")
OPERATION = st.sampled_from(["draw", "update", "update_batch", "enable", "draw/", "draw?a=b", "Draw", "no-such"])
EXPERIMENT = st.sampled_from([ROOT, ROOT, ROOT, "/v1/nobody", "/v1/%67enerated", "/v1/ping", f"/v1/{'e' * 65}"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from(["GET", "POST", "POST", "PUT", "OPTIONS"]))
    target = f"{draw(st.sampled_from(['', '', '', 'http://localhost']))}{draw(EXPERIMENT)}/{draw(OPERATION)}"
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    lines = [f"{method} {target} HTTP/{version}", HOST, *draw(st.lists(HEADER, max_size=4))]
    body = draw(BYTES) if method != "GET" or draw(st.booleans()) else b""
    if body and draw(st.integers(0, 4)) == 0:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif body or draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Door:
    """One server, over a connection that is kept while it lets us."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._wire = Wire(server)

    def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        keep = False
        try:
            self._wire.send(request)
            answer = self._wire.answer()
            keep = answer.headers.get("connection") != "close"
        finally:
            if not keep:
                self._wire.socket.close()
                self._wire = Wire(self._server)
        return told(answer)

    def close(self) -> None:
        self._wire.socket.close()


def told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What an answer says, but for the date, the order in which methods are listed, and chance."""
    drawn = b'"decision_id":' in answer.body
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name != "date" and not (drawn and name == "content-length")
    }
    if MADE_ID.fullmatch(headers.get("x-request-id", "")):
        headers["x-request-id"] = "made"
    if "allow" in headers:
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    return answer.status, headers, blanked(answer.body)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Door]]:
    with both_servers(tmp_path_factory.mktemp("generated"), {}) as servers:
        both = [Door(server) for server in servers]
        for door in both:
            door.ask(post("/v1/create", {"experiment_id": ROOT.rpartition("/")[2], "arms": ["a", "b"]}))
        yield both
        for door in both:
            door.close()


@settings(
    max_examples=1_500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asked=requests())
def test_both_doors_say_the_same(doors: Sequence[Door], asked: bytes) -> None:
    """Three times, so that the head is new, seen once, and known."""
    for _ in range(3):
        lane, app = (door.ask(asked) for door in doors)
        assert lane == app
