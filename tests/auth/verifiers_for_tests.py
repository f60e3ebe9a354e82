"""Verifiers by themselves, without a server. Import it as `from auth.verifiers_for_tests import …`."""

import asyncio
from collections.abc import Callable

from multiarm.auth.claims import Claims, Rules
from multiarm.auth.key_ring import KeyRing
from multiarm.auth.keys import Key
from multiarm.auth.pace import Pace
from multiarm.auth.verifier import Verifier

LEEWAY_S = 10.0
RULES = Rules("multiarm", "multiarm", ("at+jwt", "jwt"), LEEWAY_S, 366 * 86_400)


def ring_of(*keys: Key) -> KeyRing:
    async def source() -> tuple[Key, ...]:
        return keys

    ring = KeyRing(source)
    asyncio.run(ring.load())
    return ring


def verifier_by(
    *keys: Key,
    is_revoked: Callable[[Claims], bool] = lambda _claims: False,
    new_pace: Callable[[], Pace | None] = lambda: None,
    cache_limit_tokens: int = 10_000,
) -> Verifier:
    return Verifier(ring_of(*keys), RULES, is_revoked, new_pace, cache_limit_tokens=cache_limit_tokens)
