"""Half a minute of fuzzing, the same inputs each time; `make fuzz` does a million of them."""

from pathlib import Path

import pytest

from fuzz.engine import Limits, seeded
from fuzz.targets import TARGETS

SEED = 20_260_101
SECONDS = dict.fromkeys(TARGETS, 3.0) | {"connections": 9.0}  # 30 in all
INPUTS_LIMIT = 30_000  # each, so that a fast machine ends sooner


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_from_outside_breaks(name: str, tmp_path: Path) -> None:
    """What is found lies in the folder; `python tests/fuzz/run.py --target NAME --replay FILE` shows it again."""
    result = seeded(TARGETS[name], Limits(SEED, INPUTS_LIMIT, SECONDS[name], tmp_path))
    assert not result.findings, f"in {tmp_path}: {result.findings}"
    assert result.inputs >= len(TARGETS[name].seeds), "there was not even time for the seeds"
    assert 0 < result.accepted < result.inputs, "what is fuzzed takes everything, or nothing"


def test_it_takes_half_a_minute() -> None:
    assert sum(SECONDS.values()) <= 30
