"""Inputs from inputs: a few changes each, of bytes, of words and of what other inputs hold."""

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

LARGEST_BYTES = 4096
ODD_BYTES = bytes(range(32)) + b"%+-./0:=A[]_az{}\x7f\x80\xff" + bytes([34, 92])

Edit: TypeAlias = Callable[[random.Random, bytes, "Material"], bytes]


class Material:
    """What inputs are made of: seeds, words, and some inputs that were taken, the newest in place of any."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
        self.inputs = list(seeds)
        self.words = words
        self._seed_count = len(seeds)

    def add(self, rng: random.Random, data: bytes) -> None:
        if len(self.inputs) < 4 * self._seed_count:
            self.inputs.append(data)
        else:
            self.inputs[rng.randrange(self._seed_count, len(self.inputs))] = data


def changed(rng: random.Random, data: bytes, material: Material) -> bytes:
    """With one to five changes; few are the most frequent."""
    for _ in range(1 + int(5 * rng.random() ** 3)):
        data = rng.choice(EDITS)(rng, data, material)
    return data[:LARGEST_BYTES]


def flip(rng: random.Random, data: bytes, _: Material) -> bytes:
    at = place(rng, data)
    return data[:at] + bytes([(data[at] if at < len(data) else 0) ^ 1 << rng.getrandbits(3)]) + data[at + 1 :]


def put_byte(rng: random.Random, data: bytes, _: Material) -> bytes:
    """In place of another."""
    at = place(rng, data)
    return data[:at] + odd(rng) + data[at + 1 :]


def insert_byte(rng: random.Random, data: bytes, _: Material) -> bytes:
    at = place(rng, data)
    return data[:at] + odd(rng) + data[at:]


def insert_word(rng: random.Random, data: bytes, material: Material) -> bytes:
    at = place(rng, data)
    return data[:at] + rng.choice(material.words) + data[at:]


def put_word(rng: random.Random, data: bytes, material: Material) -> bytes:
    """In place of as much, or of another word that is there."""
    word, other = rng.choice(material.words), rng.choice(material.words)
    at = data.find(other)
    if at >= 0:
        return data[:at] + word + data[at + len(other) :]
    at = place(rng, data)
    return data[:at] + word + data[at + len(word) :]


def drop(rng: random.Random, data: bytes, _: Material) -> bytes:
    start, end = span(rng, data)
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes, _: Material) -> bytes:
    start, end = span(rng, data)
    return data[:end] + data[start:end] * (1 + rng.getrandbits(2)) + data[end:]


def cross(rng: random.Random, data: bytes, material: Material) -> bytes:
    """Goes on as another input does."""
    other = rng.choice(material.inputs)
    return data[: place(rng, data)] + other[place(rng, other) :]


def put_span(rng: random.Random, data: bytes, material: Material) -> bytes:
    """A piece of another input."""
    other = rng.choice(material.inputs)
    start, end = span(rng, other)
    at = place(rng, data)
    return data[:at] + other[start:end] + data[at:]


def place(rng: random.Random, data: bytes) -> int:
    return int(rng.random() * (len(data) + 1))


def span(rng: random.Random, data: bytes) -> tuple[int, int]:
    """Mostly a short one."""
    start = place(rng, data)
    return start, start + 1 + int(rng.random() ** 4 * (len(data) - start))


def odd(rng: random.Random) -> bytes:
    return bytes([rng.choice(ODD_BYTES) if rng.random() < 0.5 else rng.getrandbits(8)])


EDITS: Sequence[Edit] = (flip, put_byte, insert_byte, insert_word, put_word, drop, repeat, cross, put_span)
