"""decision_id: a signed token that carries what is needed to credit a decision, on any node, with no table."""

import hmac
import itertools
import os
import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Self

import msgspec
import numpy as np

from multiarm.domain.allocation import Share
from multiarm.domain.errors import InvalidDecision

VERSION = 1
TAG_BYTES = 16
KEY_BYTES = 32

# version, key number, experiment uid, arm number, epoch, time, propensity, unique (process, counter), context length
_BODY = struct.Struct(">BHqIIddQQH")
CLAIMS = np.dtype(
    [
        ("version", "u1"),
        ("key", ">u2"),
        ("uid", ">i8"),
        ("arm_number", ">u4"),
        ("epoch", ">u4"),
        ("time", ">f8"),
        ("propensity", ">f8"),
        ("unique", "u1", 16),
        ("context_length", ">u2"),
    ]
)
UNIQUE = slice(35, 51)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")  # what would be letters of the other alphabet are none
TOKEN_LENGTH = 92  # 69 bytes in base64url, so without padding, and many in one go are each as if alone

_INVALID = "It was not issued by this server, or was damaged on the way; send it exactly as `draw` returned it."


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What a decision_id says. time: seconds since the epoch; unique: 16 bytes, never issued twice."""

    uid: int
    arm_number: int
    epoch: int
    time: float
    propensity: float
    unique: bytes


class DecisionSigner:
    """Packs, signs and opens decision ids: keyed BLAKE2b with a 128-bit tag, in base64url.

    `keys` maps key numbers (1 to 65,535) to keys of 32 bytes; `current` signs, all of them verify.
    """

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"A signing key must have {KEY_BYTES} bytes.")
        self._current = current
        self._macs = {
            number: blake2b(key=key, digest_size=TAG_BYTES, person=b"decision") for number, key in keys.items()
        }
        self._mac = self._macs[current]
        self._process = int.from_bytes(os.urandom(8))
        self._counter = itertools.count()

    @classmethod
    def random(cls) -> Self:
        """A signer with a key of its own, for use without a server."""
        return cls({1: os.urandom(KEY_BYTES)}, current=1)

    def sign(self, uid: int, epoch: int, time: float, shares: Iterable[Share]) -> tuple[list[bytes], bytes]:
        """(a decision_id in ASCII for each share drawn, their claims packed as CLAIMS says)."""
        pack, key, process, counter, new_mac = _BODY.pack, self._current, self._process, self._counter, self._mac.copy
        signed: list[bytes] = []
        for share in shares:
            claims = pack(VERSION, key, uid, share.number, epoch, time, share.propensity, process, next(counter), 0)
            mac = new_mac()
            mac.update(claims)
            signed += claims, mac.digest()
        text = b2a_base64(b"".join(signed), newline=False).translate(_URL_SAFE)
        return [text[at : at + TOKEN_LENGTH] for at in range(0, len(text), TOKEN_LENGTH)], b"".join(signed[::2])

    def open(self, token: str) -> Claims:
        """Verify and unpack; InvalidDecision where the token is malformed or forged."""
        if len(token) != TOKEN_LENGTH:
            raise InvalidDecision(_INVALID)
        try:
            raw = a2b_base64(token.encode().translate(_STANDARD), strict_mode=True)
        except ValueError:
            raise InvalidDecision(_INVALID) from None
        body = raw[: _BODY.size]
        version, key_number, uid, arm_number, epoch, time, propensity, _, _, _ = _BODY.unpack(body)
        if version != VERSION or key_number not in self._macs:
            raise InvalidDecision(_INVALID)
        if not hmac.compare_digest(raw[_BODY.size :], self._tag(key_number, body)):
            raise InvalidDecision(_INVALID)
        return Claims(uid, arm_number, epoch, time, propensity, body[UNIQUE])

    def _tag(self, key_number: int, body: bytes) -> bytes:
        mac = self._macs[key_number].copy()
        mac.update(body)
        return mac.digest()
