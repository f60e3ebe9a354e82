import errno
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from decisions import decided
from multiarm.domain.allocation import Share
from multiarm.domain.arm import Arm
from multiarm.domain.decision import DecisionSigner
from multiarm.domain.records import Increment
from multiarm.service.accountant import Accountant, Tray
from multiarm.service.reports import DropReport
from multiarm.storage.columns import DecisionRun, RequestRun, RewardRun, Run, Table
from multiarm.storage.ledger import Ledger
from small_disk import SmallDisk

SIGNER = DecisionSigner.random()
NOON = 1_772_366_400.0


def record_request(accountant: Accountant, number: int, count: int = 1) -> None:
    accountant.record_requests(RequestRun(NOON, "GET", "/v1/list", 200, float(number), row_count=count))


def decision(number: int) -> DecisionRun:
    share = Share(Arm(0, f"red-{number}"), 0.5, 0.0)
    return DecisionRun("button", decided(SIGNER, share, at=NOON))


def rewards(*numbers: int) -> RewardRun:
    increments = [
        Increment(Arm(0, "red"), (1.0, 1.0, 1.0), NOON, None, float(n), None, None, None, None) for n in numbers
    ]
    return RewardRun(NOON, "button", 1, 0, increments, [True] * len(numbers))


def accountant_of(ledger: Ledger, *, mailbox_size_rows: int = 10_000, flush_interval_s: float = 0.01) -> Accountant:
    return Accountant(
        ledger,
        mailbox_size_rows=mailbox_size_rows,
        flush_interval_s=flush_interval_s,
        retention_days=30,
        clock=lambda: NOON,
    )


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def numbers(root: Path, table: Table = "requests", column: str = "duration_s") -> list[int]:
    return sorted(int(number or 0) for number in pq.read_table(root / table).column(column).to_pylist())


class TestRecording:
    def test_after_a_stop_all_rows_are_parquet(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path))
        accountant.start()
        for number in range(100):
            record_request(accountant, number)
            accountant.record_decisions(decision(number))
            accountant.record_rewards(rewards(number))
        assert accountant.stop(10)
        assert numbers(tmp_path) == list(range(100))
        assert numbers(tmp_path, "rewards", "reward") == list(range(100))
        assert pq.read_table(tmp_path / "decisions").num_rows == 100
        assert accountant.written == {"decisions": 100, "rewards": 100, "requests": 100}
        assert accountant.dropped == {"decisions": 0, "rewards": 0, "requests": 0}
        assert list(tmp_path.rglob("*.arrows")) == []

    def test_rows_are_on_disk_without_a_stop(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path))
        accountant.start()
        record_request(accountant, 1)
        until(lambda: accountant.written["requests"] == 1)
        assert accountant.lag_s < 10
        accountant.stop(10)

    def test_a_full_mailbox_drops_and_counts(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path), mailbox_size_rows=3)
        for number in range(5):
            accountant.record_rewards(rewards(number))
        accountant.record_rewards(rewards(5, 6, 7))
        record_request(accountant, 0, count=2)
        record_request(accountant, 1, count=2)
        record_request(accountant, 2)
        record_request(accountant, 3)
        assert accountant.dropped == {"decisions": 0, "rewards": 5, "requests": 3}
        with capture_logs() as logs:
            accountant.start()
            accountant.stop(10)
        assert numbers(tmp_path, "rewards", "reward") == [0, 1, 2]
        assert numbers(tmp_path) == [0, 0, 1]
        assert [(entry["table"], entry["dropped_count"], entry["reason"]) for entry in logs] == [
            ("rewards", 5, "the mailbox is full"),
            ("requests", 3, "the mailbox is full"),
        ]

    def test_of_a_run_larger_than_the_mailbox_the_first_rows_are_kept(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path), mailbox_size_rows=3)
        accountant.record_rewards(rewards(*range(10)))
        accountant.record_rewards(rewards(10))
        assert accountant.dropped["rewards"] == 8
        accountant.start()
        until(lambda: accountant.written["rewards"] == 3)
        accountant.record_rewards(rewards(11, 12))
        accountant.stop(10)
        assert numbers(tmp_path, "rewards", "reward") == [0, 1, 2, 11, 12]

    def test_where_it_may_not_give_way_it_works_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError("not here")

        monkeypatch.setattr("os.setpriority", refuse)
        accountant = accountant_of(Ledger(tmp_path))
        accountant.start()
        record_request(accountant, 1)
        accountant.stop(10)
        assert numbers(tmp_path) == [1]

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
    def test_it_is_nicer_than_the_process_by_five(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[int, ...]] = []
        monkeypatch.setattr("os.setpriority", lambda *args: asked.append(args))
        monkeypatch.setattr("os.getpriority", lambda *_: 10)
        accountant = accountant_of(Ledger(tmp_path))
        accountant.start()
        accountant.stop(10)
        assert [niceness for _, _, niceness in asked] == [15]

    def test_a_row_of_the_wrong_type_costs_only_itself(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path))
        with capture_logs() as logs:
            accountant.start()
            record_request(accountant, 1)
            accountant.record_requests(RequestRun(float("nan"), "GET", "/v1/list", 200, 0.0))
            record_request(accountant, 2)
            accountant.stop(10)
        assert numbers(tmp_path) == [1, 2]
        assert accountant.dropped["requests"] == 1
        assert [entry["event"] for entry in logs] == ["ledger_rows_dropped"]

    def test_between_two_threads_no_row_is_lost_or_doubled(self) -> None:
        tray: Tray[RequestRun] = Tray(1_000_000)
        sent = [RequestRun(NOON, "GET", "/", 200, float(number), None) for number in range(200_000)]

        def send() -> None:
            for run in sent:
                tray.put(run, 1)

        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            thread = threading.Thread(target=send)
            thread.start()
            received: list[RequestRun] = []
            while thread.is_alive():
                received += tray.take()
            received += tray.take()
        finally:
            sys.setswitchinterval(interval_s)
        assert received == sent


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


class TestFailures:
    def test_a_full_disk_costs_only_what_came_meanwhile(self, disk: SmallDisk) -> None:
        accountant = accountant_of(Ledger(disk.path / "ledger"))
        with capture_logs() as logs:
            accountant.start()
            record_request(accountant, 1)
            until(lambda: accountant.written["requests"] == 1)
            disk.fill()
            for number in range(1_000, 1_500):
                record_request(accountant, number)
            until(lambda: accountant.dropped["requests"] == 500)
            accountant.record_decisions(decision(1))
            until(lambda: accountant.dropped["decisions"] == 1)
            disk.empty()
            record_request(accountant, 2)
            until(lambda: accountant.written["requests"] == 2)
            assert accountant.stop(10)
        assert numbers(disk.path / "ledger") == [1, 2]
        assert accountant.written == {"decisions": 0, "rewards": 0, "requests": 2}
        warnings = [entry for entry in logs if entry["event"] == "ledger_rows_dropped"]
        assert [entry["table"] for entry in warnings] == ["requests", "decisions"]
        assert {entry["log_level"] for entry in warnings} == {"warning"}

    def test_a_segment_that_could_not_be_compacted_is_compacted_at_the_stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        accountant = accountant_of(Ledger(tmp_path, segment_s=0))
        with capture_logs() as logs:
            with monkeypatch.context() as patch:
                patch.setattr(pq.ParquetWriter, "write_table", fail)
                record_request(accountant, 1)
                accountant.start()
                until(lambda: logs)
            assert accountant.stop(10)
        assert [entry["event"] for entry in logs] == ["ledger_step_failed"]
        assert numbers(tmp_path) == [1]

    def test_no_error_ends_the_thread(self, tmp_path: Path) -> None:
        class Broken(Ledger):
            broken = True

            def write(self, table: Table, rows: Sequence[Run], now: float) -> int:
                return 1 // 0 if self.broken else super().write(table, rows, now)

            recover = prune = rotate = fail

        ledger = Broken(tmp_path)
        accountant = accountant_of(ledger)
        with capture_logs():
            accountant.start()
            record_request(accountant, 1)
            until(lambda: accountant.dropped["requests"] == 1)
            ledger.broken = False
            record_request(accountant, 2)
            until(lambda: accountant.written["requests"] == 1)
            assert accountant.stop(10)
        assert numbers(tmp_path) == [2]

    def test_a_stop_that_has_no_time_leaves_the_rest_to_the_next_start(self, tmp_path: Path) -> None:
        accountant = accountant_of(Ledger(tmp_path))
        accountant.start()
        record_request(accountant, 1)
        accountant.stop(0)
        until(lambda: accountant.stop(0))
        assert list(tmp_path.rglob("*.parquet")) == []
        following = accountant_of(Ledger(tmp_path))
        with capture_logs() as logs:
            following.start()
            assert following.stop(10)
        assert [entry["event"] for entry in logs] == ["ledger_recovery_began"]
        assert numbers(tmp_path) == [1]

    def test_a_stop_without_a_start_is_at_once(self, tmp_path: Path) -> None:
        assert accountant_of(Ledger(tmp_path)).stop(10)

    def test_old_dates_are_removed_at_the_start(self, tmp_path: Path) -> None:
        old = tmp_path / "requests" / "date=2025-12-31"
        old.mkdir(parents=True)
        accountant = accountant_of(Ledger(tmp_path))
        with capture_logs():
            accountant.start()
            until(lambda: not old.exists())
            assert accountant.stop(10)


class TestDropReport:
    def test_it_speaks_at_the_start_every_minute_and_at_the_end(self) -> None:
        report = DropReport("requests")
        with capture_logs() as logs:
            for second in range(131):
                report.observe(10 * (second + 1), written_count=5, reason="disk", now=float(second))
            for second in range(131, 200):
                report.observe(1_310, written_count=5, reason="", now=float(second))
        assert [(entry["event"], entry["dropped_count"]) for entry in logs] == [
            ("ledger_rows_dropped", 10),
            ("ledger_rows_dropped", 610),
            ("ledger_rows_dropped", 1_210),
            ("ledger_rows_kept_again", 1_310),
        ]

    def test_it_is_not_over_before_rows_are_written_again(self) -> None:
        report = DropReport("requests")
        with capture_logs() as logs:
            report.observe(1, written_count=0, reason="disk", now=0.0)
            report.observe(1, written_count=0, reason="", now=1_000.0)
            assert len(logs) == 1
            report.observe(1, written_count=1, reason="", now=1_001.0)
            assert len(logs) == 2

    def test_a_second_incident_counts_anew(self) -> None:
        report = DropReport("requests")
        with capture_logs() as logs:
            report.observe(7, written_count=0, reason="disk", now=0.0)
            report.observe(7, written_count=1, reason="", now=20.0)
            report.observe(9, written_count=0, reason="disk", now=30.0)
        assert [entry["dropped_count"] for entry in logs] == [7, 7, 2]


RECORD_FOR_EVER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from multiarm.service.accountant import Accountant, RequestRun
    from multiarm.storage.ledger import Ledger

    ledger = Ledger(Path(sys.argv[1]), segment_s=0.4)
    accountant = Accountant(ledger, mailbox_size_rows=100_000, flush_interval_s=0.2, retention_days=1)
    accountant.start()
    number = 0
    while True:
        for _ in range(20):
            accountant.record_requests(RequestRun(time.time(), "GET", "/", 200, float(number)))
            number += 1
        print(number, time.monotonic(), flush=True)
        time.sleep(0.001)
    """
)


def test_a_killed_process_loses_at_most_its_last_second(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECORD_FOR_EVER, str(tmp_path)]
    lines: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            number, second = line.split()
            lines.append((int(number), float(second)))
            if lines[-1][1] - lines[0][1] > 2:
                break
        process.kill()
    due = max(number for number, second in lines if second < lines[-1][1] - 1)

    ledger = Ledger(tmp_path)
    ledger.recover()
    while ledger.backlog_count:
        ledger.compact_step()
    found = numbers(tmp_path)
    assert found == list(range(len(found)))
    assert len(found) >= due > 0
