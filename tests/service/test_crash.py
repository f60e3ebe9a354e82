"""kill -9 under load, and that the harness would see what it looks for. More kills: python tests/crash.py --help."""

from collections import Counter
from pathlib import Path

import pytest

from crash import run
from crash_books import Request, Reward, Stored, check_rewards

FIRST = Reward("clicks", "a", "k:1", 0.25)
SECOND = Reward("clicks", "b", "k:2", 0.5)


def test_no_acknowledged_reward_is_lost_and_none_counts_twice(tmp_path: Path) -> None:
    tally = run(kills=12, seed=20, parent=tmp_path)
    assert tally.kills == 12
    assert tally.kills_before_ready >= 1
    assert tally.rewards > 1_000
    assert tally.cut_off >= 10
    assert tally.repeated >= 5


class TestHarness:
    def batch(self, *, acknowledged: bool = False, cut_off: bool = False) -> Request:
        return Request("clicks", "", {}, [FIRST, SECOND], acknowledged=acknowledged, cut_off=cut_off)

    def test_a_whole_batch_passes(self) -> None:
        check_rewards([self.batch(acknowledged=True)], Stored(Counter([FIRST, SECOND])))

    @pytest.mark.parametrize("stored", [[], [FIRST, SECOND]])
    def test_what_was_cut_off_may_be_there_or_not(self, stored: list[Reward]) -> None:
        check_rewards([self.batch(cut_off=True)], Stored(Counter(stored)))

    def test_a_lost_reward_is_seen(self) -> None:
        with pytest.raises(AssertionError, match="stored 0 times"):
            check_rewards([self.batch(acknowledged=True)], Stored())

    @pytest.mark.parametrize("acknowledged", [True, False])
    def test_a_reward_counted_twice_is_seen(self, acknowledged: bool) -> None:
        request = self.batch(acknowledged=acknowledged, cut_off=not acknowledged)
        with pytest.raises(AssertionError, match="stored 2 times"):
            check_rewards([request], Stored(Counter([FIRST, SECOND] * 2)))

    @pytest.mark.parametrize("acknowledged", [True, False])
    def test_half_a_batch_is_seen(self, acknowledged: bool) -> None:
        request = self.batch(acknowledged=acknowledged, cut_off=not acknowledged)
        with pytest.raises(AssertionError, match="counted in part"):
            check_rewards([request], Stored(Counter([FIRST])))

    def test_a_refused_batch_that_is_stored_is_seen(self) -> None:
        with pytest.raises(AssertionError, match="stored 1 times"):
            check_rewards([self.batch()], Stored(Counter([FIRST, SECOND])))

    def test_a_changed_value_is_seen(self) -> None:
        changed = SECOND._replace(value=0.75)
        with pytest.raises(AssertionError, match="counted in part"):
            check_rewards([self.batch(acknowledged=True)], Stored(Counter([FIRST, changed])))

    def test_a_reward_that_nobody_sent_is_seen(self) -> None:
        with pytest.raises(AssertionError, match="nobody sent"):
            check_rewards([], Stored(Counter([FIRST])))

    def test_an_acknowledged_request_must_be_answered_as_duplicates(self) -> None:
        request = self.batch()
        request.acknowledge({"accepted": 2, "duplicates": 0}, 0, may_be_stored=False)
        with pytest.raises(AssertionError):
            request.acknowledge({"accepted": 2, "duplicates": 0}, 0, may_be_stored=True)
