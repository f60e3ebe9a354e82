"""Decision ids: one is opened if and only if we signed it, and says what we signed."""

import base64
import re
import struct
from hashlib import blake2b

import msgspec
import numpy as np

from fuzz.target import Target, assert_told, simple
from multiarm.domain.decision import CLAIMS, TAG_BYTES, TOKEN_LENGTH, VERSION, DecisionSigner
from multiarm.domain.errors import InvalidDecision

KEYS = {1: bytes(range(32)), 7: b"k" * 32}
SIGNER = DecisionSigner(KEYS, current=7)
NUMBERS = ("uid", "arm_number", "epoch", "time", "propensity")
BODY_BYTES = CLAIMS.itemsize
LETTERS = re.compile(r"[A-Za-z0-9_-]{92}", re.ASCII)
# key 7, experiment 0, arm 1, epoch 0; made here, for DecisionSigner.sign gives others each time
BODY = b"\1\0\7" + bytes(11) + b"\1" + bytes(4) + struct.pack(">dd", 1.75e9, 0.25) + b"\xfb\xef\xbe\xff" * 4 + b"\0\0"


def one(data: bytes) -> bool:
    token = token_of(data)
    try:
        claims = SIGNER.open(token)
    except InvalidDecision as error:
        assert not is_ours(token), "a decision id of ours is refused"
        assert_told(error)
        return False
    assert is_ours(token), "a decision id is opened that we never signed"
    raw = base64.urlsafe_b64decode(token)
    assert base64.urlsafe_b64encode(raw).decode() == token, "two spellings of one decision id"
    packed = np.frombuffer(raw[:BODY_BYTES], CLAIMS)[0]
    said = [*(packed[name].item() for name in NUMBERS), raw[35:51]]
    assert repr(list(msgspec.structs.astuple(claims))) == repr(said), "it says something else"  # by repr for NaN
    return True


def token_of(data: bytes) -> str:
    """As text, a valid one with letters changed, any claims with our signature, or any bytes in base64."""
    kind, rest = data[:1], data[1:]
    if kind == b"e":
        token = bytearray(VALID)
        for place, letter in zip(rest[::2], rest[1::2], strict=False):
            token[place % TOKEN_LENGTH] = letter
        return token.decode("latin-1")
    if kind == b"s":
        body = rest[:BODY_BYTES].ljust(BODY_BYTES, b"\0")
        return signed(body).decode()
    if kind == b"r":
        return base64.urlsafe_b64encode(rest).decode()
    return rest.decode("utf-8", "surrogateescape")


def signed(body: bytes) -> bytes:
    return base64.urlsafe_b64encode(body + tag(body))


def tag(body: bytes) -> bytes:
    """Ours of these claims; by key 7 where they name a key that we have not."""
    key = KEYS.get(int.from_bytes(body[1:3]), KEYS[7])
    return blake2b(body, key=key, digest_size=TAG_BYTES, person=b"decision").digest()


def is_ours(token: str) -> bool:
    """By another way than the signer's own."""
    if not LETTERS.fullmatch(token):
        return False
    raw = base64.urlsafe_b64decode(token)
    body = raw[:BODY_BYTES]
    return body[0] == VERSION and int.from_bytes(body[1:3]) in KEYS and raw[BODY_BYTES:] == tag(body)


VALID = signed(BODY)
RAW = base64.urlsafe_b64decode(VALID)
STRANGE = base64.urlsafe_b64encode(BODY + blake2b(BODY, key=b"s" * 32, digest_size=16, person=b"decision").digest())
SEEDS = [
    b"e",
    b"e\0A",
    b"e\x5b=",
    b"s" + RAW[:BODY_BYTES],
    b"s\1\0\1" + RAW[3:BODY_BYTES],
    b"s\1\0\2" + RAW[3:BODY_BYTES],
    b"s\2" + RAW[1:BODY_BYTES],
    b"r" + RAW,
    b"t" + VALID,
    b"t" + VALID.replace(b"-", b"+").replace(b"_", b"/"),
    b"t" + VALID[:-2] + b"==",
    b"t" + STRANGE,
    b"t" + "ä".encode() * TOKEN_LENGTH,
    b"t" + b"\xff" * TOKEN_LENGTH,
]

TARGET: Target = simple("decision ids", one, SEEDS, [b"=", b"-", b"_", b"+", b"/", b"\n", VALID, VALID[:4]], 30)
