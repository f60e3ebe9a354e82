"""For crash.py: the client's own account of what it sent, and its comparison with database, `stats` and ledger."""

import json
import math
import shutil
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from multiarm.domain.decision import DecisionSigner
from multiarm.storage.check import check_directory

LEDGER_GRACE_S = 1.0  # a crash may cost that much of the ledger,
DRAW_COUNT_GRACE_S = 1.5  # and that much of the draw counts: written once a second, after the last was


class Reward(NamedTuple):
    """As it is stored. key: `k:…`, `d:…` or None."""

    experiment: str
    arm: str
    key: str | None
    value: float


class Counted(Enum):
    """Whether an answer says that a request was counted by it, or had been before."""

    NOW = "now"
    BEFORE = "before"


@dataclass(eq=False)
class Request:
    """An update or a batch, and what is known of it.

    rewards: what it adds, each so many times as copy_count says, in the same words, which only plain ones can be;
    repeat_count: updates in it whose key stands earlier in it. cut_off: some attempt's outcome
    is not known. settled: answered, with 200 (`acknowledged`) or refused. counted_at: monotonic time of the answer by
    which it was counted, in that life of the server.
    """

    experiment: str
    path: str
    document: Mapping[str, object]
    rewards: Sequence[Reward]
    repeat_count: int = 0
    copy_count: int = 1
    sent: bool = False
    cut_off: bool = False
    settled: bool = False
    acknowledged: bool = False
    counted_at: float = math.inf
    life: int = -1
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.body = json.dumps(self.document).encode()

    @property
    def repeatable(self) -> bool:
        return all(reward.key is not None for reward in self.rewards)

    @property
    def possible_counts(self) -> set[int]:
        """How often each of its rewards may be stored."""
        if self.acknowledged:
            return {self.copy_count}
        return {0, self.copy_count} if self.cut_off else {0}

    @contextmanager
    def in_doubt(self) -> Iterator[bool]:
        """Around an attempt: its outcome is unknown unless it is answered. Gives whether one was unknown before."""
        before, self.cut_off = self.cut_off, True
        yield before or self.acknowledged
        self.cut_off = before

    def acknowledge(self, answer: Mapping[str, int], life: int, may_be_stored: bool) -> Counted:
        """The answer must count all as new, or all as duplicates, whichever can be true."""
        size = len(self.rewards) * self.copy_count
        fresh = {"accepted": size, "duplicates": self.repeat_count}
        again = {"accepted": 0, "duplicates": size + self.repeat_count}
        allowed = [again] if self.acknowledged else [fresh, again] if may_be_stored else [fresh]
        assert answer in allowed, f"{answer} for {self.body!r:.500}"
        self.settled = self.acknowledged = True
        if answer == again:
            return Counted.BEFORE
        self.counted_at, self.life = time.monotonic(), life
        return Counted.NOW


@dataclass(eq=False)
class Drawn:
    """A draw that was sent, in that life of the server; answered_at: monotonic, infinite without an answer."""

    experiment: str
    life: int
    decision_id: str = ""
    answered_at: float = math.inf

    def answered(self, decision_id: str) -> None:
        self.decision_id, self.answered_at = decision_id, time.monotonic()


@dataclass
class Stored:
    """What a data directory holds. seen: (value, evidence time) of this epoch's rewards, by experiment and arm."""

    rewards: Counter[Reward] = field(default_factory=Counter)
    seen: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    half_lives: dict[str, float | None] = field(default_factory=dict)
    signer: DecisionSigner | None = None

    def key_of(self, decision_id: str) -> str:
        assert self.signer is not None
        return f"d:{self.signer.open(decision_id).unique.hex()}"


def inspect(directory: Path, *, audited: bool = False) -> Stored:
    """Look at a copy, so that it is the server that recovers the original. `audited`: its books must balance."""
    with tempfile.TemporaryDirectory(prefix="multiarm-copy-") as copied:
        copy = Path(copied)
        for file in directory.iterdir():
            if file.is_file() and file.suffix != ".db-shm":
                shutil.copy(file, copy)
        if audited:
            report = check_directory(copy)
            assert report.good, (report.summary, [entry for entry in report.entries if not entry.balanced])
        with closing(sqlite3.connect(copy / "multiarm.db")) as database:
            return read(database)


def read(database: sqlite3.Connection) -> Stored:
    stored = Stored()
    seen: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for name, epoch, spec in database.execute("SELECT id, epoch, spec FROM experiment"):
        stored.epochs[name] = epoch
        stored.half_lives[name] = json.loads(spec)["half_life_s"]
    rows = database.execute(
        "SELECT e.id, a.id, r.key, r.reward, r.epoch, r.evidence_time, r.pull_count FROM reward r JOIN experiment e"
        " ON e.uid = r.experiment JOIN arm a ON a.experiment = r.experiment AND a.number = r.arm"
    )
    for experiment, arm, key, value, epoch, evidence_time, pull_count in rows:
        stored.rewards[Reward(experiment, arm, key, value)] += pull_count
        if epoch == stored.epochs[experiment]:
            seen[experiment, arm] += [(value, evidence_time)] * pull_count
    pull_count = database.execute("SELECT coalesce(sum(pull_count), 0) FROM reward").fetchone()[0]
    assert stored.rewards.total() == pull_count, "there are rewards without experiment or arm"
    stored.seen = dict(seen)
    keys = dict(database.execute("SELECT number, key FROM signing_key"))
    stored.signer = DecisionSigner(keys, max(keys))
    return stored


def check_rewards(requests: Sequence[Request], stored: Stored) -> None:
    """Every request whole or not at all, every acknowledged reward exactly once, and nothing else."""
    left = Counter(stored.rewards)
    for request in requests:
        counts = {left.pop(reward, 0) for reward in request.rewards}
        assert len(counts) == 1, f"counted in part: {request!s:.500}"
        assert counts <= request.possible_counts, f"stored {counts.pop()} times: {request!s:.500}"
    assert not left, f"nobody sent these: {left!s:.500}"


def check_stats(
    stats: Mapping[str, Mapping[str, Mapping[str, Any]]],
    stored: Stored,
    draws: Sequence[Drawn],
    killed_at: Sequence[float],
) -> None:
    """`stats` is what the stored rewards add up to; draws of the last second before a crash may be missing."""
    sent = Counter(drawn.experiment for drawn in draws)
    sure = Counter(d.experiment for d in draws if d.answered_at < killed_at[d.life] - DRAW_COUNT_GRACE_S)
    for name, arms in stats.items():
        for arm, found in arms.items():
            seen = stored.seen.get((name, arm), [])
            assert found["pulls"] == len(seen), f"{name}, {arm}: {found}"
            check_mean(found["mean_reward"], seen, stored.half_lives[name])
        if stored.epochs[name] == 0:
            assert sure[name] <= sum(found["draws"] for found in arms.values()) <= sent[name], name


def check_mean(mean: float | None, seen: Collection[tuple[float, float]], half_life_s: float | None) -> None:
    if not seen:
        assert mean is None
        return
    if half_life_s is None:  # sums of these values are exact, in any order
        assert mean == math.fsum(value for value, _ in seen) / len(seen)
        return
    latest = max(evidence_time for _, evidence_time in seen)
    weights = [2.0 ** ((evidence_time - latest) / half_life_s) for _, evidence_time in seen]
    expected = math.fsum(w * value for w, (value, _) in zip(weights, seen, strict=True)) / math.fsum(weights)
    assert mean is not None
    assert math.isclose(mean, expected, rel_tol=1e-9)


def check_ledger(
    root: Path, requests: Sequence[Request], draws: Sequence[Drawn], killed_at: Sequence[float], stored: Stored
) -> None:
    """No row twice, none of what was not counted; and all that was answered more than a second before a kill."""
    assert not list(root.rglob("*.arrows")), "a clean stop leaves Parquet only"
    rewards = Counter(
        Reward(name, arm, f"d:{decision}" if decision else f"k:{key}" if key else None, value)
        for name, arm, key, decision, value, accepted in columns(
            root / "rewards", "experiment_id", "arm_id", "key", "decision", "reward", "accepted"
        )
        if accepted
    )
    decisions = Counter(
        (name, f"d:{decision}") for name, decision in columns(root / "decisions", "experiment_id", "decision")
    )
    assert max(decisions.values(), default=1) == 1, "a row is there twice"
    assert rewards <= stored.rewards, "a row is there too often"
    answered = {(d.experiment, stored.key_of(d.decision_id)): d for d in draws if d.decision_id}
    kept = {key for key, d in answered.items() if d.answered_at < killed_at[d.life] - LEDGER_GRACE_S}
    assert not (lost := kept - decisions.keys()), f"{len(lost)} of {len(kept)} decisions are not in the ledger"
    old = [r for r in requests if r.counted_at < killed_at[r.life] - LEDGER_GRACE_S]
    missing = [reward for request in old for reward in request.rewards if rewards[reward] < request.copy_count]
    assert not missing, f"{len(missing)} rewards are not in the ledger, such as {missing[:3]}"


def columns(table: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """Rows of these columns; none where the table was never written."""
    if not table.exists():
        return iter(())
    read_columns = pq.read_table(table, columns=list(names))
    return zip(*(read_columns.column(name).to_pylist() for name in names), strict=True)
