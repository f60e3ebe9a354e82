"""Two engines that feed a target: atheris, guided by coverage, where it is installed; else mutations by a seed."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from fuzz.mutation import LARGEST_BYTES, Material, changed
from fuzz.target import One, Target

INPUT_TIMEOUT_S = 20.0  # beyond, an input is a finding
KEPT_SHARE = 0.05  # of what was taken, to go on from there


class Result(msgspec.Struct):
    """findings: how each crash ended, by the file that holds its input."""

    target: str
    inputs: int
    accepted: int
    seconds: float
    findings: dict[str, str]


class Limits(NamedTuple):
    """How far to go. folder: for the inputs that crash. findings: after so many it has seen enough."""

    seed: int
    inputs: int
    seconds: float
    folder: Path
    findings: int = 20


class Finding(NamedTuple):
    """What a crash is known by, so that one bug is found once. what: of an invariant, which one."""

    kind: str
    where: str
    what: str

    @classmethod
    def of(cls, error: BaseException) -> "Finding":
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = str(error).partition("\n")[0][:100] if isinstance(error, AssertionError) else ""
        return cls(type(error).__name__, f"{Path(last.filename).name}:{last.lineno}", what)


class Tally:
    """Feeds a target one input at a time, counts, and keeps each input that shows something new."""

    def __init__(self, name: str, one: One, limits: Limits) -> None:
        self.inputs = self.accepted = 0
        self.findings: set[Finding] = set()
        self.said: dict[str, str] = {}  # by the name of the file with the input
        self._name = name
        self._one = one
        self._limits = limits
        self._start = time.monotonic()
        self._until = self._start + limits.seconds
        signal.signal(signal.SIGALRM, too_long)

    @property
    def is_done(self) -> bool:
        return (
            self.inputs >= self._limits.inputs
            or time.monotonic() >= self._until
            or len(self.findings) >= self._limits.findings
        )

    def feed(self, data: bytes) -> bool:
        """Whether the target took it."""
        self.inputs += 1
        signal.setitimer(signal.ITIMER_REAL, INPUT_TIMEOUT_S)
        try:
            accepted = self._one(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            self._keep(data, error)
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.accepted += accepted
        return accepted

    @property
    def result(self) -> Result:
        return Result(self._name, self.inputs, self.accepted, time.monotonic() - self._start, self.said)

    def _keep(self, data: bytes, error: BaseException) -> None:
        finding = Finding.of(error)
        if finding in self.findings:
            return
        name = f"{self._name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
        self.findings.add(finding)
        self.said[name] = f"{finding.kind} at {finding.where}: {str(error)[:300]}"
        self._limits.folder.mkdir(parents=True, exist_ok=True)
        (self._limits.folder / name).write_bytes(data)
        (self._limits.folder / f"{name}.txt").write_text("".join(traceback.format_exception(error)))


def too_long(_number: int, _frame: object) -> NoReturn:
    raise TimeoutError(f"an input took longer than {INPUT_TIMEOUT_S:g} s")


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def seeded(target: Target, limits: Limits) -> Result:
    """By mutations: the same inputs in the same order for the same seed."""
    rng = random.Random(f"{target.name} {limits.seed}")
    material = Material(target.seeds, target.words)
    with target.opened() as one:
        tally = Tally(target.name, one, limits)
        for data in target.seeds:
            if not tally.is_done:
                tally.feed(data)
        while not tally.is_done:
            data = changed(rng, rng.choice(material.inputs), material)
            if tally.feed(data) and rng.random() < KEPT_SHARE:
                material.add(rng, data)
        return tally.result


def guided(target: Target, limits: Limits, report: Callable[[Result], None]) -> None:
    """By atheris, which does not come back: `report` gets the result, and the process ends."""
    atheris = importlib.import_module("atheris")
    rng = random.Random(f"{target.name} {limits.seed}")
    material = Material(target.seeds, target.words)

    def mutate(data: bytes, max_size: int, _seed: int) -> bytes:
        """A third as libFuzzer sees fit; else by words, from what covers most or from what was taken."""
        choice = rng.randrange(3)
        if choice:
            start = bytes(data) if choice == 1 else rng.choice(material.inputs)
            return changed(rng, start, material)[:max_size]
        found: bytes = atheris.Mutate(bytes(data), max_size)
        return found

    with target.opened() as one:
        tally = Tally(target.name, one, limits)

        def feed(data: bytes) -> None:
            if tally.feed(data) and rng.random() < KEPT_SHARE:
                material.add(rng, data)
            if tally.is_done:
                report(tally.result)
                os._exit(0)

        with tempfile.TemporaryDirectory() as corpus:  # the parent removes it
            for number, data in enumerate(target.seeds):
                (Path(corpus) / f"{number}").write_bytes(data)
            options = [
                f"-seed={limits.seed % (1 << 31) or 1}",
                f"-max_len={LARGEST_BYTES}",
                "-len_control=0",
                "-timeout=0",
            ]
            atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=0", corpus], feed, custom_mutator=mutate)
            atheris.Fuzz()


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """What is imported meanwhile tells atheris which of its code has run."""
    with importlib.import_module("atheris").instrument_imports(include=["multiarm", "jwt"]):
        yield
