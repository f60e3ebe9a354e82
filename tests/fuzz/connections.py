"""Whole connections: any bytes, cut anywhere, with the lane and without it, with tokens and without."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import jwt

from fuzz.served import SECRET, Play, Server, servers
from fuzz.strict_http import Said, answers
from fuzz.target import JSON_WORDS, One, Target
from multiarm.server import loop_factory

OPEN_ANSWERS = (b'{"status":"ok"}', b'{"status":"ok","version":')  # to those without a token
REFUSED = (400, 431, 501, 505)  # by the protocol itself: which of them may depend on where the bytes were cut
HIDDEN = b"scratch-"  # experiments that a token may make and delete
A_DAY_S = 86_400
CHANCE = re.compile(rb'[\w-]{30,}|(?<="request_id":")[0-9a-f]{20}(?=")')  # decision_ids, also cut off; made ids

Outline: TypeAlias = tuple[int, bytes]


class Recipe(NamedTuple):
    """How an input is played: in which pieces, and what they are for the server without the lane."""

    with_tokens: bool
    ends: bool
    slow: bool
    alike: bool  # cut for both, else whole for one
    stream: bytes
    pieces: list[tuple[int, int, bool]]

    def play(self, stream: bytes, *, cut: bool) -> Play:
        pieces = self.pieces if cut else [(0, 256, True)]
        size = len(stream)
        cuts = [(stream[start * size // 256 : end * size // 256], waits) for start, end, waits in pieces]
        return Play([piece for piece in cuts if piece[0]], self.ends, self.slow)


def recipe_of(data: bytes) -> Recipe:
    """The first byte says how, the next ones where it is cut; after an even one it is waited."""
    flags = data[0] if data else 0
    count = flags >> 4 & 7
    places, stream = sorted(data[1 : 1 + count]), data[1 + count :]
    pieces = [(start, end, not end & 1) for start, end in zip([0, *places], [*places, 256], strict=True)]
    with_tokens, ends, slow, alike = (bool(flags & bit) for bit in (1, 2, 4, 8))
    return Recipe(with_tokens, ends, slow, alike, stream, pieces)


class Doors:
    """Both servers, and the loop on which they run."""

    def __init__(self, runner: asyncio.Runner, lane: Server, app: Server, tokens: dict[bytes, bytes]) -> None:
        self._runner = runner
        self._lane, self._app = lane, app
        self._tokens = tokens
        self._failures: list[str] = []
        runner.get_loop().set_exception_handler(lambda _, context: self._failures.append(str(context)))

    def one(self, data: bytes) -> bool:
        said = self._runner.run(self._compared(recipe_of(data)))
        assert not self._failures, self._failures.pop()
        return any(answer.status < 300 for answer in said)

    async def _compared(self, recipe: Recipe) -> list[Said]:
        both = self._lane, self._app
        before = [server.described() for server in both]
        lane, unfinished = await self._said(self._lane, recipe, cut=True)
        app, _ = await self._said(self._app, recipe, cut=recipe.alike)
        by_lane, by_app = ([outline(said) for said in door] for door in (lane, app))
        if unfinished and len(by_app) > len(by_lane):
            by_app.pop()  # it need not see a whole body to refuse it
        same = by_lane == by_app if recipe.alike else are_alike(by_lane, by_app)
        statuses = [[status for status, _ in door] for door in (by_lane, by_app)]
        assert same, f"with the lane {statuses[0]}, without it {statuses[1]}\n{by_lane}\n{by_app}"
        after = [server.described() for server in both]
        if recipe.with_tokens:
            assert list(map(visible, before)) == list(map(visible, after)), "an experiment was changed by who may not"
        if after != before:
            for server in both:
                await server.renew()
        return lane

    async def _said(self, server: Server, recipe: Recipe, *, cut: bool) -> tuple[list[Said], bool]:
        """Its answers, and whether the last body was not all there."""
        drawn = server.supervisor.draw("button").token
        stream = recipe.stream.replace(b'"$I"', b'"%b"' % drawn)  # elsewhere its letters would have a meaning
        for name, token in self._tokens.items():
            stream = stream.replace(name, token)
        sent, unfinished = await server.doors[recipe.with_tokens].play(recipe.play(stream, cut=cut))
        found = answers(sent, to_head=b"HEAD" in stream)
        assert all(said.status < 500 or said.status in REFUSED for said in found), found
        final = [said for said in found if said.status >= 200]
        assert len(final) == len(found) or b"100-continue" in stream.lower(), "`100 Continue` was not asked for"
        assert len(final) <= stream.count(b"\r\n\r\n") + 1, "more answers than requests"
        if recipe.with_tokens and not any(token in stream for token in self._tokens.values()):
            assert all(map(is_for_all, final)), f"let in without a token: {final}"
        return final, unfinished


def visible(experiments: dict[str, object]) -> dict[str, object]:
    return {name: said for name, said in experiments.items() if not name.startswith(HIDDEN.decode())}


def are_alike(one: Sequence[Outline], other: Sequence[Outline]) -> bool:
    """Where the cuts are others: what cannot be read may come before an answer that is on its way, or after it."""
    if one == other:
        return True
    if one and one[-1][0] == 431 and one[:-1] == other[: len(one) - 1]:
        return True  # trailers may be longer where they come in one piece
    if not (one and other and one[-1][0] in REFUSED and other[-1][0] in REFUSED):
        return False
    short, long = sorted((one[:-1], other[:-1]), key=len)
    return len(long) - len(short) <= 1 and long[: len(short)] == short


def outline(said: Said) -> Outline:
    """What does not depend on chance: the status, and what is said of an error."""
    is_problem = said.headers.get(b"content-type") == b"application/problem+json"
    return said.status, CHANCE.sub(b"*", said.body) if is_problem else b""


def is_for_all(said: Said) -> bool:
    """An error, or what those without a token may see."""
    if said.status >= 400:
        return True
    return (
        said.status == 200
        and said.headers[b"content-type"] == b"application/json"
        and (said.body.startswith(OPEN_ANSWERS) or (not said.body and int(said.headers[b"content-length"]) < 40))
    )


@contextmanager
def opened() -> Iterator[One]:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        both = servers([True, False])
        lane, app = runner.run(both.__aenter__())
        try:
            yield Doors(runner, lane, app, tokens()).one
        finally:
            runner.run(both.__aexit__(None, None, None))


def tokens() -> dict[bytes, bytes]:
    """By the name that an input has for them: one for much, and one for draws of one experiment."""
    return {b"$T": token("draw update read admin:scratch-*"), b"$D": token("draw:button")}


def token(scope: str, secret: str = SECRET, age_s: int = 0) -> bytes:
    now = int(time.time()) - age_s
    claims = {"iss": "multiarm", "aud": "multiarm", "sub": scope, "iat": now, "exp": now + A_DAY_S, "scope": scope}
    return jwt.encode(claims, secret, "HS256", {"typ": "at+jwt"}).encode()


def asked(line: bytes, *headers: bytes, body: bytes = b"", host: bytes = b"Host: 127.0.0.1") -> bytes:
    length = [b"Content-Type: application/json", b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([line + b" HTTP/1.1", host, *length, *headers, b"", body])


AUTH, DRAWS = b"Authorization: Bearer $T", b"Authorization: Bearer $D"
UPDATE = b'{"arm_id":"a","reward":1,"key":"k"}'
DECIDED = b'{"decision_id":"$I","reward":1}'
BATCH = b'{"updates":[%b,{"arm_id":"b","reward":0}]}' % UPDATE
DRAW = asked(b"GET /v1/button/draw", AUTH)
REWARD = asked(b"POST /v1/button/update", AUTH, body=UPDATE)
CHUNKED = b"POST /v1/button/update HTTP/1.1\r\nHost: localhost\r\n%b\r\nContent-Type: application/json\r\n" % AUTH
STREAMS = [
    DRAW,
    DRAW + DRAW + REWARD + DRAW,
    REWARD * 3,
    asked(b"POST /v1/price/update", AUTH, body=DECIDED) + asked(b"POST /v1/button/update", AUTH, body=DECIDED),
    asked(b"POST /v1/button/update_batch", AUTH, body=BATCH) + DRAW,
    asked(b"GET /v1/button/draw", DRAWS) + asked(b"POST /v1/button/update", DRAWS, body=UPDATE) + DRAW,
    asked(b"GET /v1/button/draw") + asked(b"GET /v1/ping") + asked(b"HEAD /v1/ping") + asked(b"GET /v1/list"),
    asked(b"GET /v1/button", AUTH) + asked(b"GET /v1/button/stats", AUTH) + asked(b"GET /v1/list", DRAWS),
    asked(b"POST /v1/create", AUTH, body=b'{"experiment_id":"scratch-1","arms":["x"]}')
    + asked(b"POST /v1/scratch-1/add_arm", AUTH, body=b'{"arm_id":"y"}')
    + asked(b"PUT /v1/scratch-1/policy", AUTH, body=b'{"policy":{"type":"ucb1"}}')
    + asked(b"GET /v1/scratch-1/draw", AUTH)
    + asked(b"DELETE /v1/scratch-1/delete", AUTH),
    asked(b"PUT /v1/button/reset", AUTH) + asked(b"DELETE /v1/clear", AUTH) + asked(b"PUT /v1/button/disable", AUTH),
    CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(UPDATE), UPDATE) + DRAW,
    CHUNKED + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(UPDATE) + UPDATE + DRAW,
    CHUNKED + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(UPDATE) + UPDATE + DRAW,
    CHUNKED + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000 + DRAW,
    CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n" + DRAW,
    CHUNKED + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + DRAW,
    asked(b"GET /v1/button/draw", AUTH, b"Connection: close") + DRAW,
    asked(b"GET /v1/button/draw", AUTH, b"X: " + b"y" * 1000) + DRAW,
    asked(b"GET http://127.0.0.1/v1/button/draw", AUTH) + asked(b"GET http://evil/v1/button/draw", AUTH),
    asked(b"GET /v1/button/draw", AUTH, host=b"Host: evil")
    + asked(b"GET /v1/button/draw", AUTH, b"Origin: http://evil"),
    DRAW.replace(b"HTTP/1.1", b"HTTP/1.0") + asked(b"OPTIONS *") + asked(b"CONNECT a:1"),
    b"\r\n\r\n" + DRAW.replace(b"\r\n", b"\n") + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
SEEDS = [b"%c" % (how % 16 | 3 << 4) + b"\x40\x81\xc0" + stream for how, stream in enumerate(STREAMS * 3)]
WORDS = [
    *JSON_WORDS,
    *(
        b"$T",
        b"$D",
        b'"$I"',
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"0\r\n\r\n",
        b" HTTP/1.0\r\n",
        b"Connection: close\r\n",
        b"HEAD",
    ),
    *(
        b"Host: evil\r\n",
        b"Host: localhost\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        AUTH + b"\r\n",
    ),
    *(
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"X-Request-Id: 1\r\n",
        b"Origin: null\r\n",
        b"Cookie: a=b\r\n",
    ),
    *(
        b"/v1/create",
        b"/v1/ping",
        b"/health/ready",
        b"/docs",
        b"/metrics",
        b"/stats",
        b"/enable_arm/a",
        b"?x=y",
        b"%2e",
    ),
    *(DRAW, REWARD, b"OPTIONS", b"PUT", b"DELETE", b"scratch-", b"Authorization: Bearer x\r\n", b"\x80", b"\0", b":"),
]

TARGET = Target("connections", opened, SEEDS, WORDS, 2)
