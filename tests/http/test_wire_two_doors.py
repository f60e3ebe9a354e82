"""The express lane and the application say the same to the same bytes, whatever these are, known head or new."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from support import RunningServer
from wire import HOST, JSON, Wire, get, post, request, transcript
from wire_servers import assert_unharmed, shared_server

EXPERIMENT = "two-doors"
UPDATE = b'{"arm_id": "a", "reward": 1, "key": "k"}'
BATCH = b'{"updates": [%b, {"arm_id": "a", "reward": 0.5, "key": "l"}]}' % UPDATE
ROOT = f"/v1/{EXPERIMENT}"


class Doors(NamedTuple):
    lane: RunningServer
    app: RunningServer

    def assert_alike(self, *pieces: bytes) -> bytes:
        """Both say the same, each time; returns it."""
        expected = transcript(self.app, *pieces)
        for _ in range(3):
            assert transcript(self.lane, *pieces) == expected, pieces
        return expected


@pytest.fixture(scope="module")
def doors(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Two servers with the same experiment, whose keys have all been used."""
    both = Doors(*(shared_server(lane, pytestconfig, tmp_path_factory) for lane in (True, False)))
    before = [len(server.log) for server in both]
    for server in both:
        with Wire(server) as wire:
            wire.send(post("/v1/create", {"experiment_id": EXPERIMENT, "arms": ["a", "b"]}))
            assert wire.answer().status == 201
            wire.send(post(f"{ROOT}/update_batch", BATCH))
            assert wire.answer().status == 200
    yield both
    for server, log_size in zip(both, before, strict=True):
        assert_unharmed(server, log_size)


BASES = [
    get(f"{ROOT}/draw", "User-Agent: x/1", "Accept: */*"),
    post(f"{ROOT}/update", UPDATE),
    post(f"{ROOT}/update_batch", BATCH, "Connection: keep-alive"),
]
HEADERS = [
    "Host: evil.example",
    "Host: localhost",
    "Origin: http://evil.example",
    "Origin: null",
    "Origin: http://localhost:3000",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-origin",
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=utf-8",
    "CONTENT-TYPE:APPLICATION/JSON",
    "Content-Length: 0",
    "Content-Length: 0040",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade",
    "Upgrade: h2c",
    "Expect: nothing",
    "Cookie: a=b",
    "X-Request-Id: 17",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Accept-Encoding: gzip",
    "X-Forwarded-For: 1.2.3.4",
    "X-Empty:",
    "X-Long: " + "x" * 3000,
    "X-Latin: \xe9",
    "Authorization: Basic eDp5",
    "If-None-Match: *",
    "Range: bytes=0-1",
    "X-HTTP-Method-Override: DELETE",
]
TARGETS = [
    "/v1/two-doors/draw?a=b",
    "/v1/two-doors/draw#f",
    "/v1/two-doors\\draw",
    "/v1/two-doors/draw/",
    "/v1/two-doors/update?",
    "/v1/two-doors/update/x",
    "/v1/two-doors/updates",
    "/v1/two%2Ddoors/draw",
    "/v1/TWO-DOORS/draw",
    "/v1/nobody/draw",
    "/v1/nobody/update",
    "/v1/nobody/update_batch",
    "/v1/ping/draw",
    "/v1/create/update",
    "/v1/-x/draw",
    "/v1/x y/draw",
    "/v1//draw",
    "/v1/draw",
    "/draw",
    "*",
    "http://127.0.0.1/v1/two-doors/draw",
    "http://evil.example/v1/two-doors/draw",
    "http://127.0.0.1/v1/two-doors/update",
    "https://localhost:1/v1/two-doors/draw",
    f"/v1/{'e' * 64}/draw",
    f"/v1/{'e' * 65}/draw",
    f"/v1/{'e' * 65}/update",
]
BODIES = [
    b"",
    b" ",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b'"\xff"',
    b"\xef\xbb\xbf{}",
    b'{"arm_id": "a"}',
    b'{"reward": 1}',
    b'{"arm_id": "c", "reward": 1}',
    b'{"arm_id": "a", "reward": 2}',
    b'{"arm_id": "a", "reward": true}',
    b'{"arm_id": "a", "reward": "1"}',
    b'{"arm_id": "a", "reward": NaN}',
    b'{"arm_id": "a", "reward": 1e400}',
    b'{"arm_id": "a", "reward": 1, "ts": 1e300}',
    b'{"arm_id": "a", "reward": 1, "ts": "2999-01-01T00:00:00Z"}',
    b'{"arm_id": "a", "reward": 1, "ts": "yesterday"}',
    b'{"arm_id": "a", "reward": 1, "key": "k"}',
    b'{"arm_id": "a", "reward": 1, "key": "%"}',
    b'{"arm_id": "a", "reward": 1, "key": "k", "unknown": 1}',
    b'{"arm_id": "b", "arm_id": "a", "reward": 1, "key": "k"}',
    b'{"decision_id": "A", "reward": 1}',
    b'{"decision_id": "%b", "reward": 1}' % (b"A" * 92),
    b'{"decision_id": "%b", "arm_id": "a", "reward": 1}' % (b"A" * 92),
    b'{"updates": []}',
    b'{"updates": [{}]}',
    b'{"updates": [{"arm_id": "a", "reward": 7}, {"arm_id": "z", "reward": 1}]}',
    b'{"updates": [{"arm_id": "a", "reward": 1, "key": "k"}, {"arm_id": "z", "reward": 1}]}',
    b'{"updates": [{"arm_id": "a", "reward": 1, "key": "k"}]}',
    b'{"updates": [{"arm_id": "a", "reward": 1, "key": "k"}], "more": 1}',
    b'{"updates": {"arm_id": "a"}}',
    b"[" * 2000,
    b'{"a":' * 2000,
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:40])
def test_another_header(doors: Doors, header: str) -> None:
    for base in BASES:
        line, rest = base.split(b"\r\n", 1)
        for one in (header, header.lower(), header.upper()):
            doors.assert_alike(line + b"\r\n" + one.encode("latin-1") + b"\r\n" + rest)
            doors.assert_alike(rest_first(base, one.encode("latin-1")))


def rest_first(base: bytes, header: bytes) -> bytes:
    """The header last, where a header of its name came before."""
    head, _, body = base.partition(b"\r\n\r\n")
    return head + b"\r\n" + header + b"\r\n\r\n" + body


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40])
def test_another_target(doors: Doors, target: str) -> None:
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for version in ("1.1", "1.0"):
            line = f"{method} {target} HTTP/{version}"
            doors.assert_alike(request(line, HOST, JSON, f"Content-Length: {len(UPDATE)}", body=UPDATE))
            doors.assert_alike(request(line, HOST))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:50]))
def test_another_body(doors: Doors, body: bytes) -> None:
    for operation in ("update", "update_batch", "draw"):
        data = post(f"{ROOT}/{operation}", body)
        said = doors.assert_alike(data)
        start = data.index(b"\r\n\r\n") + 4
        assert doors.assert_alike(data[:start], data[start:]) == said
        assert doors.assert_alike(data * 3) == said * 3


@pytest.mark.parametrize("seed", range(6))
def test_bytes_changed_at_random(doors: Doors, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        doors.assert_alike(mutated(rng))


@pytest.mark.parametrize("seed", range(2))
def test_packets_cut_at_random(doors: Doors, seed: int) -> None:
    rng = random.Random(100 + seed)
    for _ in range(25):
        data = b"".join(mutated(rng) if rng.random() < 0.2 else rng.choice(BASES) for _ in range(5))
        said = doors.assert_alike(data)
        cuts = sorted(rng.sample(range(1, len(data)), 4))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        for server in doors:
            assert transcript(server, *pieces) == said, pieces


def mutated(rng: random.Random) -> bytes:
    """A good request with one to three changes: a byte, a swap of lines, a line twice, a line less, a cut."""
    data = rng.choice(BASES)
    for _ in range(rng.randint(1, 3)):
        lines = data.split(b"\r\n")
        at = rng.randrange(len(data) + 1)
        number = rng.randrange(len(lines))
        choice = rng.randrange(7)
        if choice == 0:
            data = data[:at] + bytes([rng.choice(b"\0\r\n\t :,;/?%#0aA\x7f\xff")]) + data[at:]
        elif choice == 1:
            data = data[:at] + data[at + 1 :]
        elif choice == 2:
            data = data[:at] + data[at : at + 1].swapcase() + data[at + 1 :]
        elif choice == 3:
            data = b"\r\n".join([*lines[:number], lines[number], *lines[number:]])
        elif choice == 4:
            data = b"\r\n".join([*lines[:number], *lines[number + 1 :]])
        elif choice == 5:
            other = rng.choice(BASES).split(b"\r\n")
            data = b"\r\n".join([*lines[:number], rng.choice(other), *lines[number:]])
        else:
            data = data[: max(at, 1)]
    return data + b"\r\n" * 500  # ends whatever it left open: who sees half a body need not say the same
