"""Logs: one event a line, whatever is in it, for people and as JSON, ours and the libraries'."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FORMATS = ("human", "json")
START = "import logging, sys, threading, warnings\nimport structlog\nfrom multiarm.logs import configure_logs\n"
NASTY = ["one\ntwo", "a\r\nb", "\x1b[31mred", "x\x00\x07y", "\udcff", "nel\x85ls\u2028", "{'a': \"b\"}", "ü"]


def said(log_format: str, code: str, level: str = "info") -> list[str]:
    """The lines that a process of its own writes to its log."""
    program = f"{START}configure_logs({log_format!r}, {level!r})\nlog = structlog.get_logger()\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def event(line: str) -> dict[str, Any]:
    """Read as strictly as the standard is written."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    assert {"event", "level", "timestamp"} <= found.keys()
    return found


class TestNastyValues:
    @pytest.mark.parametrize("value", NASTY, ids=ascii)
    def test_stay_in_their_line(self, value: str) -> None:
        code = (
            f"log.info({value!r}, field={value!r}, nested=[{value!r}])\nlogging.getLogger('lib').error('%s', {value!r})"
        )
        human = said("human", code)
        assert len(human) == 2
        assert all(line.isprintable() for line in human)
        ours, library = map(event, said("json", code))
        assert (ours["event"], ours["field"], ours["nested"]) == (value, value, [value])
        assert (library["event"], library["logger"]) == (value, "lib")

    def test_that_are_no_json_are_told_all_the_same(self) -> None:
        code = (
            "loop = []; loop.append(loop)\n"
            "class Odd:\n    def __repr__(self): return 'odd\\n'\n"
            "for value in (float('nan'), float('-inf'), b'\\xff', {1, 1}, {(1, 2): 3}, loop, Odd(), ValueError('x')):\n"
            "    log.info('value', value=value, beside=1)\n"
        )
        events = list(map(event, said("json", code)))
        assert [each["value"] for each in events] == [
            "nan", "-inf", "b'\\xff'", "{1}", "{(1, 2): 3}", "[[...]]", "odd\n", "ValueError('x')"
        ]  # fmt: skip
        assert {each["beside"] for each in events} == {1}
        lines = said("human", code)
        assert len(lines) == 8
        assert all(line.isprintable() for line in lines)


class TestErrors:
    CODE = (
        "def deep():\n    raise ValueError('first\\nsecond')\n"
        "def outer():\n"
        "    try:\n        deep()\n    except ValueError as error:\n        raise RuntimeError('outside') from error\n"
        "try:\n    outer()\nexcept RuntimeError as error:\n"
        "    log.exception('ours', code=5)\n"
        "    log.error('given', exc_info=error)\n"
        "    logging.getLogger('lib').exception('theirs')\n"
    )

    def test_for_people_are_one_line_with_where_they_passed(self) -> None:
        lines = said("human", self.CODE)
        assert len(lines) == 3
        for line, name in zip(lines, ("ours", "given", "theirs"), strict=True):
            assert line.isprintable()
            assert name in line
            assert "RuntimeError: outside (Traceback, innermost first: <string>:" in line
            assert "from ValueError: first" in line
            assert line.index("deep") < line.rindex("outer")

    def test_as_json_have_the_whole_traceback(self) -> None:
        for line, name in zip(said("json", self.CODE), ("ours", "given", "theirs"), strict=True):
            told = event(line)
            assert (told["event"], told["level"]) == (name, "error")
            assert told["exception"].startswith("Traceback (most recent call last):\n")
            assert "ValueError: first\nsecond" in told["exception"]
            assert told["exception"].endswith("RuntimeError: outside")

    @pytest.mark.parametrize("log_format", FORMATS)
    def test_of_groups_name_each(self, log_format: str) -> None:
        code = "log.error('many', exc_info=ExceptionGroup('two', [ValueError('v'), OSError(5, 'gone')]))"
        [line] = said(log_format, code)
        assert all(text in line for text in ("two", "ValueError: v", "OSError: [Errno 5] gone"))

    @pytest.mark.parametrize("log_format", FORMATS)
    def test_that_end_a_thread_are_events(self, log_format: str) -> None:
        code = "t = threading.Thread(target=lambda: 1 / 0, name='worker'); t.start(); t.join()"
        [line] = said(log_format, code)
        assert all(text in line for text in ("thread_failed", "worker", "ZeroDivisionError"))


@pytest.mark.parametrize("log_format", FORMATS)
def test_warnings_go_the_same_way(log_format: str) -> None:
    [line] = said(log_format, "warnings.warn('mind\\nthe gap')")
    assert "gap" in line
    assert "py.warnings" in line


@pytest.mark.parametrize("log_format", FORMATS)
def test_less_than_the_level_is_not_said(log_format: str) -> None:
    code = "for each in (log, logging.getLogger('lib')):\n    each.info('quiet')\n    each.warning('loud')"
    assert len(said(log_format, code, "warning")) == 2


def test_threads_do_not_mix_their_lines() -> None:
    code = (
        "sys.setswitchinterval(1e-6)\n"
        "def ours(name):\n    for n in range(300): log.info('ours', name=name, n=n, fill='x' * 100)\n"
        "def theirs(name):\n    for n in range(300): logging.getLogger(name).error('theirs %s', n)\n"
        "threads = [threading.Thread(target=each, args=(f't{n}',)) for n in range(4) for each in (ours, theirs)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
    )
    events = [event(line) for line in said("json", code)]
    assert len(events) == 8 * 300


@pytest.mark.parametrize("log_format", FORMATS)
def test_what_is_bound_to_the_context_is_in_each_line(log_format: str) -> None:
    code = (
        "with structlog.contextvars.bound_contextvars(request_id='mine'):\n"
        "    log.info('ours'); logging.getLogger('lib').error('theirs')\n"
        "log.info('after')\n"
    )
    first, second, after = said(log_format, code)
    assert "mine" in first
    assert "mine" in second
    assert "mine" not in after


def test_docs_list_each_event_and_no_other() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    calls = re.findall(r"\blog\.(?:debug|info|warning|error|critical|exception)\(([^,)]*)", source)
    logged = {name for call in calls for name in re.findall(r'"(\w+)"', call)}
    assert all('"' in call for call in calls)
    table = (ROOT / "docs" / "logs.md").read_text().partition("| event |")[2].partition("\n\n")[0]
    listed = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(listed) == len(set(listed))
    assert set(listed) == logged
