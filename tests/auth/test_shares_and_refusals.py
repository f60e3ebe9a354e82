"""What one sender of bad tokens, or of too much, can take from others; and what he is told."""

import pytest

from multiarm.auth.bearer import ANYONE, Bearer
from multiarm.auth.errors import InsufficientScope, InvalidToken, Unauthorized
from multiarm.auth.pace import Pace
from multiarm.auth.scopes import Scopes
from multiarm.domain.errors import DecisionOfAnother, ExperimentGone, InvalidDecision
from multiarm.http.limits import Amount, LargeBody, Overloaded
from multiarm.http.refusals import WAITING_LIMIT, Refusals

BAD = InvalidToken("of no use")
MEGABYTE = 1 << 20


def test_the_first_refusals_are_answered_at_once_and_more_at_the_rate() -> None:
    refusals = Refusals(10, 2)
    assert [refusals.delay_s(BAD, "a", 0) for _ in range(10)] == pytest.approx([0.0] * 10, abs=1e-6)
    delays = [refusals.delay_s(BAD, "a", 0) for _ in range(40)]
    assert delays[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert max(delays) == 2


def test_another_address_does_not_wait() -> None:
    refusals = Refusals(10, 2)
    for _ in range(100):
        refusals.delay_s(BAD, "a", 0)
    assert refusals.delay_s(Unauthorized("none"), "b", 0) == 0


def test_other_errors_do_not_wait() -> None:
    refusals = Refusals(1, 2)
    assert [refusals.delay_s(InsufficientScope("draw"), "a", 0) for _ in range(50)] == [0.0] * 50


def test_so_many_wait_at_a_time_and_no_more() -> None:
    refusals = Refusals(1, 2)
    delays = [refusals.delay_s(BAD, "a", 0) for _ in range(WAITING_LIMIT + 100)]
    assert sum(delay > 0 for delay in delays) == WAITING_LIMIT
    assert delays[-1] == 0
    assert refusals.delay_s(BAD, "a", 2.5) > 0


def test_a_decision_of_a_hidden_experiment_is_of_none() -> None:
    error = DecisionOfAnother("theirs")
    assert isinstance(error, InvalidDecision)
    assert isinstance(Bearer("me", Scopes("update:mine")).told(error), ExperimentGone)
    assert Bearer("me", Scopes("update:mine read:theirs")).told(error) is error
    assert ANYONE.told(error) is error
    assert Bearer("me", Scopes("")).told(BAD) is BAD


def test_who_has_expired_or_sent_all_that_he_may_cannot_come() -> None:
    bearer = Bearer("me", Scopes("draw"), expires_at=10, pace=Pace(1, 2))
    assert bearer.may_come(9.9, 0)
    assert not bearer.may_come(10, 0)
    bearer.verify_again(9.9)
    with pytest.raises(InvalidToken, match="expired"):
        bearer.verify_again(10)
    for _ in range(2):
        bearer.admit(0, 0)
    assert not bearer.may_come(0, 0)
    assert bearer.may_come(0, 1.1)


def test_one_subject_leaves_something_for_the_others() -> None:
    amount = Amount(8 * MEGABYTE, "bodies_limit_bytes", 0.5)
    greedy = [LargeBody(amount, "greedy") for _ in range(5)]
    for body in greedy[:4]:
        body.grow(MEGABYTE)
    with pytest.raises(Overloaded, match="subject_share"):
        greedy[4].grow(MEGABYTE)
    modest = LargeBody(amount, "modest")
    modest.grow(4 * MEGABYTE)
    with pytest.raises(Overloaded, match="bodies_limit_bytes"):
        LargeBody(amount).grow(MEGABYTE)
    greedy[0].release()
    greedy[4].grow(MEGABYTE)
