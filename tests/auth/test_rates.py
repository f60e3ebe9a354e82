"""How fast: the bucket of each token, and the queue of those who are refused too often."""

import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.tokens_for_tests import BY_SECRET, NO_TARPIT, SECRET, bearing, create, doors, token
from multiarm.auth.pace import Pace
from support import PROBLEM_PREFIX, RunningServer
from wire import Answer, Wire, get, post
from wire_servers import settings_of

BURST = 4
RATE_PER_S = 1 / 64
REWARD = {"arm_id": "a", "reward": 1}

# --- by themselves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (10, 1), (10, 3), (3, 3), (7, 5), (100, 100), (100_000, 1000)])
def test_a_full_bucket_gives_all_that_it_holds_at_once(rate: float, burst: int) -> None:
    rng = random.Random(1)
    for _ in range(50):
        pace, now = Pace(rate, burst), rng.uniform(0, 1e6)
        assert [pace.take(now) for _ in range(burst)] == [0.0] * burst
        assert pace.take(now) == pytest.approx(1 / rate, rel=0.05)


@given(
    st.floats(0.01, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 10) | st.just(0.0), max_size=200),
    st.floats(0, 1e6),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_no_more_pass_than_flow_in(rate: float, burst: int, gaps: list[float], start: float) -> None:
    """Between any two moments, at most what the bucket held and what flowed in."""
    pace, now, passed = Pace(rate, burst), start, list[float]()
    for gap in gaps:
        now += gap
        if not pace.take(now):
            passed.append(now)
            assert all(len(passed) - index <= burst + (now - since) * rate + 0.51 for index, since in enumerate(passed))


@given(st.floats(0.01, 1000), st.integers(1, 50), st.floats(0, 1e6))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_whoever_waits_as_long_as_he_is_told_passes(rate: float, burst: int, now: float) -> None:
    pace = Pace(rate, burst)
    while not (wait_s := pace.take(now)):
        pass
    assert 0 < wait_s <= 1 / rate + 1e-6
    assert pace.take(now + wait_s / 4) > 0
    assert pace.take(now + wait_s + 1e-6) == 0


def test_refusals_do_not_use_up_anything() -> None:
    pace = Pace(2, 1)
    assert pace.take(100.0) == 0
    assert all(pace.take(100.0) > 0 for _ in range(1000))
    assert pace.take(100.5) == 0


def test_a_queue_leaves_at_its_rate_and_no_one_waits_longer_than_the_limit() -> None:
    queue = Pace(8, 8)
    waits = [queue.queue(1000.0, 5) for _ in range(100)]
    assert waits[:8] == [0.0] * 8
    assert waits[8:16] == [number / 8 for number in range(1, 9)]
    assert waits[48:] == [5.0] * 52
    assert queue.queue(1006.5, 5) == 0.0


# --- on servers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    """Each token may send so many, and then none for a minute."""
    rates = {"token_rate_limit_per_s": RATE_PER_S, "token_burst_limit_requests": BURST}
    with doors(tmp_path_factory.mktemp("rates"), {"jwt_secret": SECRET, **NO_TARPIT, **rates}) as both:
        for server in both:
            create(server, "e", bearing(token(sub="creator")))
        yield both


@pytest.fixture(params=[0, 1], ids=["lane", "no-lane"])
def door(request: pytest.FixtureRequest, servers: list[RunningServer]) -> RunningServer:
    server: RunningServer = servers[request.param]
    return server


def assert_limited(answer: Answer) -> None:
    assert (answer.status, answer.json["type"]) == (429, PROBLEM_PREFIX + "rate-limited"), answer
    wait_s = int(answer.headers["retry-after"])
    assert 1 <= wait_s <= 64
    assert answer.headers["ratelimit"] == f'"token";r=0;t={wait_s}'
    assert answer.headers["ratelimit-policy"] == f'"token";q={BURST};w={BURST * 64}'


def test_too_many_are_429_and_another_token_is_not_affected(door: RunningServer) -> None:
    data, other = (get("/v1/e/draw", bearing(token("draw", sub=f"{name}-{door.url}"))) for name in ("fast", "slow"))
    with Wire(door) as wire:
        assert [wire.answer_after(data).status for _ in range(BURST)] == [200] * BURST
        for _ in range(5):
            assert_limited(wire.answer_after(data))
        assert wire.answer_after(other).status == 200
        assert wire.answer_after(get("/v1/ping")).status == 200


@pytest.mark.parametrize("first", [0, 1])
def test_there_is_one_bucket_for_all_routes_and_spellings(door: RunningServer, first: int) -> None:
    text = token(sub=f"spelled-{first}-{door.url}")
    lines = [
        f"{name}: {scheme} {text}" for name in ("Authorization", "authorization") for scheme in ("bearer", "BEARER")
    ]
    requests = [
        *(get("/v1/e/draw", line) for line in lines),
        *(post("/v1/e/update", REWARD, line) for line in lines),
        *(get("/v1/list", line) for line in lines),
        *(get("/docs/openapi.json", line) for line in lines),
    ][:: -1 if first else 1]
    with Wire(door) as wire:
        answers = [wire.answer_after(data) for data in requests]
    assert [answer.status for answer in answers[:BURST]] == [200] * BURST
    for answer in answers[BURST:]:
        assert_limited(answer)


def test_what_is_refused_counts_too(door: RunningServer) -> None:
    """Else one token could ask without end for what it may not have."""
    line = bearing(token("draw:e", sub=f"refused-{door.url}"))
    with Wire(door) as wire:
        statuses = [
            wire.answer_after(get(path, line)).status for path in ("/v1/x/draw", "/v1/e", "/v1/list", "/nowhere")
        ]
        assert statuses == [404, 403, 403, 404]
        assert_limited(wire.answer_after(get("/v1/e/draw", line)))


def test_many_at_once_are_no_more_than_one_after_another(door: RunningServer) -> None:
    data = get("/v1/e/draw", bearing(token("draw", sub=f"at-once-{door.url}")))
    with Wire(door) as wire:
        wire.send(data * 20)
        assert [wire.answer().status for _ in range(20)] == [200] * BURST + [429] * (20 - BURST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Says one refusal in two seconds."""
    tarpit = {"refusal_rate_limit_per_s": 0.5, "refusal_delay_limit_s": 1.5}
    rates = {"token_rate_limit_per_s": RATE_PER_S, "token_burst_limit_requests": BURST}
    folder = tmp_path_factory.mktemp("tarpit")
    with RunningServer(folder, settings=settings_of(True) | BY_SECRET | tarpit | rates) as server:
        create(server, "e", bearing(token(sub="creator")))
        yield server


def test_refusals_wait_and_nobody_else_does(slow: RunningServer) -> None:
    bad = get("/v1/e/draw", bearing("a.b.c"))
    fast = get("/v1/e/draw", bearing(token("draw", sub="fast")))
    with Wire(slow) as wire, Wire(slow) as good, Wire(slow) as limited:
        assert wire.answer_after(bad).status == 401
        assert [limited.answer_after(fast).status for _ in range(BURST)] == [200] * BURST
        started_at = time.monotonic()
        wire.send(bad)
        limited.send(fast)
        assert [good.answer_after(get("/v1/e/draw", bearing(token("draw")))).status for _ in range(3)] == [200] * 3
        assert good.answer_after(get("/v1/nobody", bearing(token("read")))).status == 404
        assert wire.answer().status == 401
        assert limited.answer().status == 429
        assert 1.4 < time.monotonic() - started_at < 10
