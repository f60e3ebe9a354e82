"""Bad tokens: through neither door, however often, and nothing of them is told or written down."""

import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from auth.attacks import NO_TOKEN, Attack, Mode, attacks_by_secret
from auth.forgeries import forgeries, settings_by_mode, signers_by_mode
from auth.routes_for_tests import clear
from auth.tokens_for_tests import (
    SECRET,
    Signer,
    bearing,
    challenge,
    claims_of,
    counted,
    create,
    doors,
    header_of,
    hmac_signer,
    jws,
    listed,
    shared_doors,
    token,
)
from support import PROBLEM_PREFIX, RunningServer
from wire import Answer, Wire, get, post, request

Doors: TypeAlias = dict[Mode, list[RunningServer]]

ATTACKS = [*attacks_by_secret(), *forgeries()]
SIGHTS = 3  # a head is remembered at its second
by_secret = shared_doors
REWARD = {"arm_id": "a", "reward": 1}


@pytest.fixture(scope="module")
def attacked(by_secret: list[RunningServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """With the lane and without it, for each place where keys come from; each has an experiment `e`."""
    folder = tmp_path_factory.mktemp("attacked")
    modes = settings_by_mode(folder)
    with ExitStack() as stack:
        started: Doors = {"secret": by_secret}
        for mode in ("set", "file"):
            settings = modes[mode] | {"log_level": "debug"}
            started[mode] = stack.enter_context(doors(folder / mode, settings))
        clear(by_secret[0])
        clear(by_secret[1])
        for mode, both in started.items():
            for server in both:
                create(server, "e", bearing(token(by=signers_by_mode()[mode][0])))
        yield started


def requests(*lines: str) -> list[bytes]:
    return [
        get("/v1/e/draw", *lines),
        post("/v1/e/update", REWARD, *lines),
        get("/v1/list", *lines),
        post("/v1/create", {"experiment_id": "mine"}, *lines),
    ]


def signers() -> list[tuple[Mode, Signer]]:
    return [(mode, by) for mode, many in signers_by_mode().items() for by in many]


def assert_refused(answer: Answer, reason: str) -> None:
    assert answer.status == 401, answer
    slug = "unauthorized" if reason in NO_TOKEN else "invalid-token"
    assert answer.json["type"] == PROBLEM_PREFIX + slug, answer
    assert re.search(reason, answer.json["detail"]), answer
    said = challenge(answer)
    assert said.startswith('Bearer realm="multiarm"')
    assert ('error="invalid_token"' in said) == (slug == "invalid-token")
    assert re.fullmatch(r"[\x20-\x7e]+", said)


def assert_nothing_told(lines: list[str], told: str) -> None:
    """Of any piece of a token, or of the secret."""
    pieces = {piece for line in lines for piece in re.split(r"[^\w+/-]", line) if len(piece) > 12}
    for piece in {*pieces, SECRET} - {"Authorization", "Proxy-Authorization", "X-Authorization"}:
        assert piece not in told, piece


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_there_is_no_way_in(attacked: Doors, attack: Attack) -> None:
    good, lines = bearing(token(by=signers_by_mode()[attack.mode][0])), attack.lines()
    for server in attacked[attack.mode]:
        before, log_size = (listed(server, good), counted(server, "e", good)), len(server.log)
        with Wire(server) as wire:
            for data in requests(*lines) * SIGHTS:
                answer = wire.answer_after(data)
                assert_refused(answer, attack.reason)
                assert_nothing_told(lines, f"{answer.headers} {answer.body.decode()}")
        assert (listed(server, good), counted(server, "e", good)) == before
        assert_nothing_told(lines, server.log[log_size:])


def test_there_are_many_attacks_and_none_twice() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 150


@pytest.mark.parametrize(("mode", "by"), signers(), ids=[f"{mode} {by.algorithm}" for mode, by in signers()])
def test_a_good_token_opens_all_of_it(attacked: Doors, mode: Mode, by: Signer) -> None:
    for server in attacked[mode]:
        line = bearing(token(by=by))
        draws, pulls = (sum(column) for column in zip(*counted(server, "e", line).values(), strict=True))
        with Wire(server) as wire:
            for data in requests(line)[:3] * SIGHTS:
                assert wire.answer_after(data).status == 200
        after = [sum(column) for column in zip(*counted(server, "e", line).values(), strict=True)]
        assert after == [draws + SIGHTS, pulls + SIGHTS]
        assert_nothing_told([line], server.log)


@pytest.mark.parametrize("written", ["bearer", "BEARER", "bEaReR"])
def test_the_scheme_may_be_written_in_any_case(attacked: Doors, written: str) -> None:
    for server in attacked["secret"]:
        with Wire(server) as wire:
            for data in requests(f"authorization: {written} {token()}")[:3] * SIGHTS:
                assert wire.answer_after(data).status == 200


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "JWT", "jwt", "application/at+jwt", "Application/JWT"])
def test_the_type_may_be_written_in_any_case_and_in_full(attacked: Doors, kind: str) -> None:
    by = hmac_signer()
    for server in attacked["secret"]:
        with Wire(server) as wire:
            written = jws(header_of(by, typ=kind), claims_of(), by)
            assert wire.answer_after(get("/v1/list", bearing(written))).status == 200


def test_a_good_token_is_no_help_to_a_bad_one_on_the_same_connection(attacked: Doors) -> None:
    good, bad = requests(bearing(token())), requests(bearing(token()[:-4]))
    for server in attacked["secret"]:
        with Wire(server) as wire:
            for allowed, refused in zip(good[:3] * SIGHTS, bad[:3] * SIGHTS, strict=True):
                assert wire.answer_after(allowed).status == 200
                assert wire.answer_after(refused).status == 401
            wire.send(b"".join(good[:2] + bad[:2]) * SIGHTS)
            assert [wire.answer().status for _ in range(4 * SIGHTS)] == [200, 200, 401, 401] * SIGHTS


def test_a_token_in_the_query_or_the_body_is_none(attacked: Doors) -> None:
    text = token()
    form = f"access_token={text}".encode()
    kind = "Content-Type: application/x-www-form-urlencoded"
    for server in attacked["secret"]:
        log_size = len(server.log)
        with Wire(server) as wire:
            for path in ("/v1/e/draw", "/v1/list", "/v1/create"):
                for name in ("access_token", "authorization", "token"):
                    assert wire.answer_after(get(f"{path}?{name}={text}")).status == 401
            line = "POST /v1/create HTTP/1.1"
            data = request(line, "Host: 127.0.0.1", kind, f"Content-Length: {len(form)}", body=form)
            assert wire.answer_after(data).status == 401
        assert_nothing_told([bearing(text)], server.log[log_size:])


def test_a_folded_header_is_no_request(attacked: Doors) -> None:
    text = token()
    for server in attacked["secret"]:
        with Wire(server) as wire:
            answer = wire.answer_after(get("/v1/e/draw", f"Authorization: Bearer {text[:40]}\r\n {text[40:]}"))
            assert answer.status == 400


@pytest.mark.parametrize(("mode", "by"), signers(), ids=[f"{mode} {by.algorithm}" for mode, by in signers()])
def test_a_letter_changed_anywhere_is_seen(attacked: Doors, mode: Mode, by: Signer) -> None:
    rng = random.Random(11)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ "
    text = token(by=by)
    with Wire(attacked[mode][0]) as wire:
        for at in rng.sample(range(len(text)), 60):
            other = rng.choice(letters.replace(text[at], ""))
            changed = text[:at] + other + text[at + 1 :]
            answer = wire.answer_after(get("/v1/list", bearing(changed)))
            assert answer.status == 401, changed
