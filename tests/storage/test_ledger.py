import errno
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from decisions import decided
from multiarm.domain.allocation import Share
from multiarm.domain.arm import Arm
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.policies import Observation, ThompsonRevenue
from multiarm.domain.records import Increment
from multiarm.storage.columns import SCHEMAS, DecisionRun, RequestRun, RewardRun, Table, batches, pieces, row_count
from multiarm.storage.ledger import Ledger
from multiarm.storage.segment import Compacted, Segment

RED, GREEN = Arm(0, "red"), Arm(1, "green")
ONE = (1.0, 1.0, 1.0)
LATER_COLUMNS = ["exposure", "events", "counted_reward", "corrects", "correction"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400
DOCUMENT = Path(__file__).parents[2] / "docs" / "ledger.md"


def request(number: int, time: float = NOON, count: int = 1) -> RequestRun:
    return RequestRun(time, "GET", "/v1/list", 200, float(number), None, count)


def compact(ledger: Ledger) -> list[Compacted]:
    done = []
    while ledger.backlog_count:
        if (one := ledger.compact_step()) is not None:
            done.append(one)
    return done


def read(root: Path, table: Table) -> list[dict[str, Any]]:
    """The Parquet rows, by pointing a reader at the table's whole directory."""
    rows: list[dict[str, Any]] = pq.read_table(root / table).to_pylist()
    return rows


def numbers(root: Path) -> list[int]:
    return sorted(int(row["duration_s"]) for row in read(root, "requests"))


def files(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(f"*/date=*/{pattern}"))


class TestColumns:
    def test_a_decision_keeps_all_that_was_said(self, tmp_path: Path) -> None:
        share = Share(Arm(7, "red"), 0.125, 1.0)
        drawn = decided(DecisionSigner.random(), share, uid=2**63 - 1, epoch=3, at=NOON + 0.25, u=0.5)
        ledger = Ledger(tmp_path)
        assert ledger.write("decisions", [DecisionRun("button", drawn)], NOON) == 1
        ledger.close()
        compact(ledger)
        assert read(tmp_path, "decisions") == [
            {
                "time": datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC),
                "experiment_id": "button",
                "experiment_uid": 2**63 - 1,
                "epoch": 3,
                "arm_id": "red",
                "arm_number": 7,
                "propensity": 0.125,
                "random": True,
                "decision": drawn[0].unique.hex(),
                "date": "2026-03-01",
            }
        ]

    def test_null_is_null(self, tmp_path: Path) -> None:
        rows: list[RewardRun] = [
            reward_row(Increment(RED, ONE, NOON, None, 1.0, None, None, None, None)),
            reward_row(Increment(RED, ONE, NOON, "k:order-7", 1.0, None, None, None, None)),
            reward_row(Increment(RED, ONE, NOON - 1, "d:00", 1.0, 0.5, NOON - 1, bytes(16), NOON - 1), new=False),
        ]
        ledger = Ledger(tmp_path)
        assert ledger.write("rewards", rows, NOON) == 3
        ledger.close()
        compact(ledger)
        plain, keyed, decided = read(tmp_path, "rewards")
        assert [plain[name] for name in ("ts", "key", "decision", "propensity")] == [None] * 4
        assert (keyed["key"], keyed["decision"], keyed["accepted"]) == ("order-7", None, True)
        assert (decided["key"], decided["decision"], decided["propensity"]) == (None, "0" * 32, 0.5)
        assert not decided["accepted"]
        assert decided["ts"] == decided["evidence_time"] == datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)

    def test_what_was_counted_of_a_reward_stands_beside_it(self, tmp_path: Path) -> None:
        """About an origin the numbers are rounded: what is all of a reward is the reward, to the last bit."""
        capped, origin = ThompsonRevenue(reward_cap=20.0), 0.1
        rewards = [0.3, 19.9, 20.0, 20.1, 1e12, 0.0, 1 / 3]
        increments = [
            Increment(RED, capped.increment(Observation(r, origin)), NOON, None, r, None, None, None, None)
            for r in rewards
        ]
        measured = Increment(RED, ONE, NOON, None, 1.0, None, None, None, None, 2.5, 3)
        ledger = Ledger(tmp_path)
        runs = [RewardRun(NOON, "button", 1, 0, increments, [True] * 7, origin), reward_row(measured)]
        assert ledger.write("rewards", runs, NOON) == 8
        ledger.close()
        compact(ledger)
        *rows, last = read(tmp_path, "rewards")
        assert [row["reward"] for row in rows] == rewards
        assert [row["counted_reward"] for row in rows] == [0.3, 19.9, 20.0, 20.0, 20.0, 0.0, 1 / 3]
        assert {(row["exposure"], row["events"]) for row in rows} == {(None, None)}
        assert (last["exposure"], last["events"], last["counted_reward"]) == (2.5, 3.0, 1.0)

    @pytest.mark.parametrize("ts", [1e305, float("inf"), float("nan"), -1e12, 253_402_300_800.0])
    def test_a_time_that_no_reader_could_show_is_null(self, tmp_path: Path, ts: float) -> None:
        row = reward_row(Increment(RED, ONE, ts, None, 1.0, None, None, None, ts))
        ledger = Ledger(tmp_path)
        assert ledger.write("rewards", [row], NOON) == 1
        ledger.close()
        compact(ledger)
        assert [(row["evidence_time"], row["ts"]) for row in read(tmp_path, "rewards")] == [(None, None)]

    @pytest.mark.parametrize(
        "bad",
        [
            RequestRun(*cast("Any", (None, "GET", "/", 200, 0.0, None))),
            RequestRun(float("nan"), "GET", "/", 200, 0.0, None),
            RequestRun(*cast("Any", ("noon", "GET", "/", 200, 0.0, None))),
            RequestRun(*cast("Any", (NOON, "GET", None, 200, 0.0, None))),
            RequestRun(*cast("Any", (NOON, "GET", 7, 200, 0.0, None))),
            RequestRun(NOON, "GET", "\ud800", 200, 0.0, None),
            RequestRun(NOON, "GET", "/", 2**40, 0.0, None),
            RequestRun(NOON, "GET", "/", 2**80, 0.0, None),
            RequestRun(*cast("Any", (NOON, "GET", "/", 200, "fast", None))),
        ],
    )
    @pytest.mark.parametrize("place", [0, 3_000, 5_000])
    def test_a_row_that_does_not_fit_costs_only_itself(self, tmp_path: Path, bad: RequestRun, place: int) -> None:
        rows = [request(number) for number in range(5_000)]
        rows.insert(place, bad)
        ledger = Ledger(tmp_path)
        assert ledger.write("requests", rows, NOON) == 5_000
        ledger.close()
        compact(ledger)
        assert numbers(tmp_path) == list(range(5_000))

    def test_a_reward_that_does_not_fit_costs_nothing_else_of_its_run(self, tmp_path: Path) -> None:
        increments = [plain(number) for number in range(99)]
        increments[40] = Increment(RED, ONE, NOON, None, cast("float", "much"), None, None, None, None)
        news = [number % 3 == 0 for number in range(99)]
        ledger = Ledger(tmp_path)
        assert ledger.write("rewards", [RewardRun(NOON, "button", 1, 0, increments, news)], NOON) == 98
        ledger.close()
        compact(ledger)
        written = {row["reward"]: row["accepted"] for row in read(tmp_path, "rewards")}
        assert written == {float(number): number % 3 == 0 for number in range(99) if number != 40}

    def test_rewards_in_the_same_words_get_a_row_each(self, tmp_path: Path) -> None:
        """In their order, with what their run says of them."""
        capped = ThompsonRevenue(reward_cap=20.0)
        words = [
            Increment(RED, capped.increment(Observation(25.0, 3.0)), NOON, None, 25.0, None, None, None, None),
            Increment(GREEN, (1.0, 1.0, 1.0), NOON - 1, "k:order-7", 1.0, None, None, None, NOON - 2, 0.5),
            Increment(RED, (1.0, 0.0, 0.0), NOON, "d:00", 0.0, 0.5, NOON - 1, bytes(16), None),
        ]
        rng = random.Random(1)
        runs = [
            RewardRun(NOON + n, f"e{n}", n, n, rng.choices(words, k=n), rng.choices([True, False], k=n), 3.0 * (n % 2))
            for n in (1, 5_000, 3, 900)
        ]
        ledger = Ledger(tmp_path)
        assert ledger.write("rewards", runs, NOON) == 5_904
        ledger.close()
        compact(ledger)
        said = ("experiment_uid", "accepted", "arm_id", "reward", "key", "decision", "propensity", "exposure")
        assert [tuple(row[name] for name in said) for row in read(tmp_path, "rewards")] == [
            (
                run.uid,
                new,
                i.arm.arm_id,
                i.reward,
                i.key and i.key[2:] if i.unique is None else None,
                i.unique and i.unique.hex(),
                i.propensity,
                i.exposure,
            )
            for run in runs
            for i, new in zip(run.increments, run.news, strict=True)
        ]
        counted = {(row["experiment_uid"], row["reward"], row["counted_reward"]) for row in read(tmp_path, "rewards")}
        assert counted >= {(5_000, 25.0, 17.0), (3, 25.0, 20.0), (900, 1.0, 1.0)}

    def test_runs_become_as_many_rows(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        counts = (3, 1, 10_000, 2, 4_000, 100, 4_096, 1)
        runs = [request(number, count=count) for number, count in enumerate(counts)]
        assert ledger.write("requests", runs, NOON) == sum(counts)
        ledger.close()
        compact(ledger)
        assert Counter(numbers(tmp_path)) == dict(enumerate(counts))

    @pytest.mark.parametrize("counts", [(5,), (3, 3, 3), (1, 4, 1), (4, 4), (9, 1, 2), (1, 1, 1, 1, 1)])
    @pytest.mark.parametrize("limit_rows", [1, 2, 3, 4, 5, 100])
    def test_pieces_hold_every_row_once_and_in_order(self, counts: tuple[int, ...], limit_rows: int) -> None:
        numbered = iter(range(100))
        runs = [
            RewardRun(NOON, "button", 1, 0, [plain(next(numbered)) for _ in range(count)], [True] * count)
            for count in counts
        ]
        cut = list(pieces(runs, limit_rows))
        assert [row_count(piece) for piece in cut[:-1]] == [limit_rows] * (len(cut) - 1)
        found = [i.reward for piece in cut for run in cast("Sequence[RewardRun]", piece) for i in run.increments]
        assert found == list(range(sum(counts)))


class TestSegments:
    def test_a_row_goes_to_its_own_date(self, tmp_path: Path) -> None:
        midnight = NOON + DAY_S / 2
        rows = [request(number, midnight + (number % 2) - 0.5) for number in range(10)]
        ledger = Ledger(tmp_path)
        ledger.write("requests", rows, midnight)
        ledger.rotate(midnight)
        assert ledger.backlog_count == 1
        ledger.close()
        assert sorted(done.row_count for done in compact(ledger)) == [5, 5]
        assert {(row["date"], row["duration_s"] % 2) for row in read(tmp_path, "requests")} == {
            ("2026-03-01", 0),
            ("2026-03-02", 1),
        }

    def test_a_segment_is_finished_when_it_is_old(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, segment_s=60)
        ledger.write("requests", [request(1)], NOON)
        ledger.rotate(NOON + 59)
        assert ledger.backlog_count == 0
        ledger.rotate(NOON + 60)
        assert ledger.backlog_count == 1

    def test_a_segment_is_finished_when_it_is_large(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, segment_limit_bytes=100_000)
        ledger.write("requests", [request(1)], NOON)
        ledger.rotate(NOON)
        assert ledger.backlog_count == 0
        ledger.write("requests", [request(number) for number in range(5_000)], NOON)
        ledger.rotate(NOON)
        assert ledger.backlog_count == 1

    def test_a_segment_is_finished_when_the_clock_jumps_back(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        ledger.rotate(NOON - 1)
        assert ledger.backlog_count == 1

    def test_many_row_groups_keep_their_order(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(number) for number in range(150_000)], NOON)
        ledger.close()
        assert [ledger.compact_step() for _ in range(3)] == [None] * 3
        [done] = compact(ledger)
        assert done.row_count == 150_000
        assert pq.read_metadata(done.path).num_row_groups == 3
        assert [row["duration_s"] for row in read(tmp_path, "requests")] == list(range(150_000))

    def test_files_are_private(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        [segment] = files(tmp_path, "*")
        assert segment.stat().st_mode & 0o777 == 0o600
        ledger.close()
        [done] = compact(ledger)
        assert done.path.stat().st_mode & 0o777 == 0o600

    def test_an_open_segment_is_a_plain_arrow_stream(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        for number in range(3):
            ledger.write("requests", [request(number)], NOON)
        [segment] = files(tmp_path, "_*.arrows")
        with segment.open("rb") as file, pa.ipc.open_stream(file) as stream:
            assert stream.read_all().column("duration_s").to_pylist() == [0, 1, 2]
        ledger.close()

    def test_nothing_but_parquet_is_left(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        ledger.close()
        compact(ledger)
        assert [path.suffix for path in files(tmp_path, "*")] == [".parquet"]


class TestFailures:
    @pytest.mark.parametrize("failing", ["fsync", "open"])
    def test_a_failed_write_keeps_none_of_its_rows_and_all_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        with monkeypatch.context() as patch:
            # Where "open" fails, the file of the second date cannot be made after the first row was appended.
            patch.setattr(os, failing, fail)
            rows = [request(2), request(3, NOON + DAY_S)]
            with pytest.raises(OSError, match="No space"):
                ledger.write("requests", rows, NOON)
        ledger.write("requests", [request(4)], NOON)
        ledger.close()
        compact(ledger)
        assert numbers(tmp_path) == [1, 4]
        assert [path.suffix for path in files(tmp_path, "*")] == [".parquet"] * 2

    def test_a_failed_compaction_is_done_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        ledger.close()
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", fail)
            with pytest.raises(OSError, match="No space"):
                ledger.compact_step()
        assert ledger.backlog_count == 1
        assert [path.suffix for path in files(tmp_path, "*")] == [".arrows"]
        compact(ledger)
        assert numbers(tmp_path) == [1]

    def test_a_partition_may_be_removed_under_an_open_segment(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        ledger.write("requests", [request(1)], NOON)
        shutil.rmtree(tmp_path / "requests")
        ledger.write("requests", [request(2)], NOON)
        ledger.close()
        compact(ledger)
        assert numbers(tmp_path) == [2]


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestRecovery:
    def test_every_whole_batch_of_a_file_cut_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: None)  # two thousand files
        ledger = Ledger(tmp_path / "whole")
        ends = []
        for number in range(3):
            ledger.write("requests", [request(2 * number), request(2 * number + 1)], NOON)
            [segment] = files(tmp_path / "whole", "_*.arrows")
            ends.append(segment.stat().st_size)
        content = segment.read_bytes()
        ledger.close()
        partition = tmp_path / "cut" / "requests" / "date=2026-03-01"
        partition.mkdir(parents=True)
        for size in range(len(content) + 1):
            (partition / f"_{size:05}.arrows").write_bytes(content[:size])

        recovering = Ledger(tmp_path / "cut")
        assert recovering.recover() == len(content) + 1
        found = {int(done.path.stem): done.row_count for done in compact(recovering)}
        assert found == {size: 2 * sum(end <= size for end in ends) for size in range(len(content) + 1)}
        assert len(files(tmp_path / "cut", "*")) == sum(count > 0 for count in found.values())
        assert len(read(tmp_path / "cut", "requests")) == sum(found.values())

    def test_what_is_lost_of_a_tail_is_told(self, tmp_path: Path) -> None:
        segment = leftover(tmp_path)
        segment.write_bytes(segment.read_bytes() + b"\xff\xff\xff\xff\x10\x00")
        [done] = recover(tmp_path)
        assert (done.row_count, done.lost_bytes) == (2, 6)

    @pytest.mark.parametrize("content", [b"", b"\0" * 500, b"\xff" * 500, b"PAR1" * 100])
    def test_an_unreadable_file_is_removed(self, tmp_path: Path, content: bytes) -> None:
        leftover(tmp_path).write_bytes(content)
        [done] = recover(tmp_path)
        assert (done.row_count, done.lost_bytes) == (0, len(content))
        assert files(tmp_path, "*") == []

    def test_no_damage_is_taken_for_rows(self, tmp_path: Path) -> None:
        segment = leftover(tmp_path)
        content = segment.read_bytes()
        for position in range(0, len(content), 5):
            damaged = bytearray(content)
            damaged[position] ^= 0xFF
            segment.write_bytes(damaged)
            [done] = recover(tmp_path)
            assert done.row_count == 0
            assert done.lost_bytes > 0

    def test_garbage_after_whole_batches_is_cut_off(self, tmp_path: Path) -> None:
        segment = leftover(tmp_path)
        segment.write_bytes(segment.read_bytes() + bytes(range(256)) * 20)
        [done] = recover(tmp_path)
        assert done.row_count == 2
        assert numbers(tmp_path) == [1, 2]

    def test_a_crash_between_renaming_and_removal_doubles_nothing(self, tmp_path: Path) -> None:
        segment = leftover(tmp_path)
        content = segment.read_bytes()
        recover(tmp_path)
        segment.write_bytes(content)
        recover(tmp_path)
        assert numbers(tmp_path) == [1, 2]
        assert [path.suffix for path in files(tmp_path, "*")] == [".parquet"]

    def test_half_a_parquet_file_is_written_anew(self, tmp_path: Path) -> None:
        segment = leftover(tmp_path)
        segment.with_suffix(".tmp").write_bytes(b"PAR1 and no more")
        segment.with_name("_orphan.tmp").write_bytes(b"PAR1 and no more")
        recover(tmp_path)
        assert numbers(tmp_path) == [1, 2]
        assert [path.suffix for path in files(tmp_path, "*")] == [".parquet"]

    def test_what_another_process_writes_is_left_to_it(self, tmp_path: Path) -> None:
        writing = Ledger(tmp_path)
        writing.write("requests", [request(1)], NOON)
        [done] = recover(tmp_path)
        assert done.row_count == 0
        writing.write("requests", [request(2)], NOON)
        writing.close()
        compact(writing)
        assert numbers(tmp_path) == [1, 2]

    def test_what_another_process_compacts_is_left_to_it(self, tmp_path: Path) -> None:
        leftover(tmp_path)
        one = Ledger(tmp_path)
        one.recover()
        assert one.compact_step() is None
        [done] = recover(tmp_path)
        assert done.row_count == 0
        assert [done.row_count for done in compact(one)] == [2]
        assert numbers(tmp_path) == [1, 2]


def leftover(root: Path) -> Path:
    """A segment of two rows whose writer is gone."""
    ledger = Ledger(root)
    ledger.write("requests", [request(1), request(2)], NOON)
    ledger.close()
    [segment] = files(root, "_*.arrows")
    return segment


def recover(root: Path) -> list[Compacted]:
    ledger = Ledger(root)
    ledger.recover()
    return compact(ledger)


def test_pruning_removes_whole_dates_that_are_over_long_enough(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for age_days in range(5):
        ledger.write("requests", [request(age_days, NOON - age_days * DAY_S)], NOON)
    (tmp_path / "requests" / "date=unknown").mkdir()
    ledger.close()
    compact(ledger)
    removed = ledger.prune(NOON, retention_days=2)
    assert [path.name for path in removed] == ["date=2026-02-25", "date=2026-02-26"]
    assert (tmp_path / "requests" / "date=unknown").is_dir()
    shutil.rmtree(tmp_path / "requests" / "date=unknown")
    assert numbers(tmp_path) == [0, 1, 2]


class TestDocument:
    def test_the_queries_answer_what_the_rows_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_example(Ledger(tmp_path / "data" / "ledger"))
        monkeypatch.chdir(tmp_path)
        queries = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'Asia/Kolkata'")
            counted, draws, values, routes = [connection.execute(query).fetchall() for query in queries]

        assert counted == [("blue", 2, 0.5), ("red", 4, 2.75)]
        noon = datetime(2026, 3, 1, 12)
        assert draws == [
            ("button", "blue", noon, 2, pytest.approx(0.4)),
            ("button", "blue", noon.replace(hour=13), 1, pytest.approx(0.75)),
            ("button", "red", noon, 3, pytest.approx(0.6)),
        ]
        # Blue: rewards 1 and 0 at propensities 0.5 and 0.3, one draw unanswered. Red: 1, 1, 0 at 0.5, 0.5, 0.8.
        # Five answered draws: blue (1/0.5)/5 = 0.4, red (1/0.5 + 1/0.5)/5 = 0.8, both equally often 0.6.
        assert values == [
            ("button", "blue", 3, 2, pytest.approx(0.5), pytest.approx(0.4), pytest.approx(0.6)),
            ("button", "red", 3, 3, pytest.approx(2 / 3), pytest.approx(0.8), pytest.approx(0.6)),
        ]
        assert routes == [
            ("GET", "/v1/list", 200, 101, pytest.approx(50.0), pytest.approx(99.0)),
            ("POST", "/v1/{experiment_id}/draw", 404, 1, pytest.approx(2.0), pytest.approx(2.0)),
        ]

    def test_they_do_so_beside_files_of_the_version_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_example(Ledger(tmp_path / "data" / "ledger"))
        [file] = (tmp_path / "data" / "ledger" / "rewards").glob("date=*/*.parquet")
        older = pq.read_table(file, partitioning=None).drop_columns(LATER_COLUMNS)
        for name in ("decision", "key"):  # others, or the rows would be corrections
            others = pc.replace_substring(pc.utf8_reverse(older[name]), "k", "another")
            older = older.set_column(older.column_names.index(name), name, others)
        pq.write_table(older, file.with_name("20260101T000000Z-0123456789abcdef.parquet"))
        monkeypatch.chdir(tmp_path)
        queries = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        with duckdb.connect() as connection:
            answers = [connection.execute(query).fetchall() for query in queries]
        assert answers[0] == [("blue", 4, 0.5), ("red", 8, 2.75)]
        assert [row[:2] for row in answers[2]] == [("button", "blue"), ("button", "red")]

    def test_a_segment_of_the_version_before_becomes_parquet_as_it_is(self, tmp_path: Path) -> None:
        [batch] = batches("rewards", [reward_row(plain(1))])
        older = batch.drop_columns(LATER_COLUMNS)
        segment = Segment(tmp_path / "rewards" / "date=2026-03-01", older.schema, NOON)
        segment.append(older)
        segment.commit()
        segment.close()
        assert [done.row_count for done in recover(tmp_path)] == [1]
        [file] = files(tmp_path, "*.parquet")
        assert pq.read_table(file, partitioning=None).column_names == older.schema.names

    def test_of_a_corrected_reward_the_last_word_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger(tmp_path / "data" / "ledger")
        runs: list[RewardRun] = []
        for key, word in (("a", (2.0, 4.0)), ("b", (8.0, None)), ("c", (8.0, None, 6.0)), ("d", (5.0,))):
            before: float | None = None
            for index, value in enumerate(word):
                increment = Increment(RED, ONE, NOON, f"k:{key}", value or 0.0, None, None, None, None)
                run = RewardRun(NOON + len(runs), "button", 1, 0, [increment], [True])
                runs.append(run._replace(correction=index > 0, corrects=before, withdrawn=value is None))
                before = value
        assert ledger.write("rewards", runs, NOON) == 8
        ledger.close()
        compact(ledger)
        monkeypatch.chdir(tmp_path)
        query = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
        rows = "SELECT reward, corrects, correction FROM 'data/ledger/rewards/**/*.parquet' ORDER BY time"
        with duckdb.connect() as connection:
            assert connection.execute(query.replace("coalesce(counted_reward, reward)", "reward")).fetchall() == [
                ("red", 3, 5.0)
            ]
            assert connection.execute(rows).fetchall() == [
                (2.0, None, False),
                (4.0, 2.0, True),
                (8.0, None, False),
                (None, 8.0, True),
                (8.0, None, False),
                (None, 8.0, True),
                (6.0, None, True),
                (5.0, None, False),
            ]

    def test_requests_of_the_version_before_are_read_beside_new_ones(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        named = request(1)._replace(request_id="mine", trace_id="0af7651916cd43dd8448eb211c80319c")
        ledger.write("requests", [named, request(2, count=3)], NOON)
        ledger.close()
        compact(ledger)
        [file] = files(tmp_path, "*.parquet")
        older = pq.read_table(file, partitioning=None).drop_columns(["request_id", "trace_id"])
        pq.write_table(older, file.with_name("20260101T000000Z-0123456789abcdef.parquet"))  # the first of them
        with duckdb.connect() as connection:
            query = f"SELECT request_id FROM read_parquet('{tmp_path}/requests/**/*.parquet', union_by_name = true)"
            assert sorted(row[0] or "" for row in connection.execute(query).fetchall()) == [""] * 7 + ["mine"]
        schema = pq.read_schema(file)
        found = pq.read_table(tmp_path / "requests", schema=schema, partitioning=None).column("request_id").to_pylist()
        assert sorted(each or "" for each in found) == [""] * 7 + ["mine"]

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_every_column_is_described(self, table: Table) -> None:
        [section] = re.findall(rf"### {table}:(.*?)\n#", DOCUMENT.read_text(), re.DOTALL)
        for field in SCHEMAS[table]:
            assert f"`{field.name}`" in section, f"{table}.{field.name}"


def plain(number: int) -> Increment:
    return Increment(RED, ONE, NOON, None, float(number), None, None, None, None)


def reward_row(increment: Increment, *, new: bool = True) -> RewardRun:
    return RewardRun(increment.issued_at or NOON, "button", 1, 0, [increment], [new])


def write_example(ledger: Ledger) -> None:
    decisions: list[DecisionRun] = []
    rewards: list[RewardRun] = []
    signer = DecisionSigner.random()
    for arm_id, time, propensity, reward in (
        ("blue", NOON, 0.5, 1.0),
        ("blue", NOON + 1, 0.3, 0.0),
        ("blue", NOON + 3_600, 0.75, None),
        ("red", NOON, 0.5, 1.0),
        ("red", NOON, 0.5, 1.0),
        ("red", NOON + 3_599, 0.8, 0.0),
    ):
        arm = Arm(0, arm_id)
        drawn = decided(signer, Share(arm, propensity, 0.0), at=time)
        decisions.append(DecisionRun("button", drawn))
        if reward is not None:
            unique = drawn[0].unique
            numbers = (1.0, reward, reward * reward)
            answer = Increment(arm, numbers, time, "d:", reward, propensity, time, unique, None)
            rewards += [reward_row(answer), reward_row(answer, new=False)]
    rewards.append(reward_row(Increment(RED, (1.0, 9.0, 81.0), NOON, "k:k", 9.0, None, None, None, None)))
    requests = [RequestRun(NOON, "GET", "/v1/list", 200, ms / 1000, None) for ms in range(101)]
    requests.append(RequestRun(NOON, "POST", "/v1/{experiment_id}/draw", 404, 0.002, "no-such"))
    ledger.write("decisions", decisions, NOON)
    ledger.write("rewards", rewards, NOON)
    ledger.write("requests", requests, NOON)
    ledger.close()
    compact(ledger)
