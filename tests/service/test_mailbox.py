import threading
import time

import pytest

from multiarm.domain.errors import Busy, StoreUnavailable
from multiarm.service.mailbox import Mailbox


class TestMailbox:
    def test_first_in_first_out_as_many_as_weigh_the_limit(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        for message, weight in [("a", 2), ("b", 3), ("c", 1), ("d", 9), ("e", 1)]:
            mailbox.put(message, weight)
        assert mailbox.waiting == 16
        assert mailbox.take(5) == ["a", "b"]
        assert mailbox.take(5) == ["c"]
        assert mailbox.take(5) == ["d"]  # one at least, whatever it weighs
        assert mailbox.waiting == 1
        assert mailbox.take(5) == ["e"]
        assert mailbox.waiting == 0

    def test_a_full_one_is_busy_at_once_and_keeps_what_it_has(self) -> None:
        mailbox: Mailbox[str] = Mailbox(10)
        mailbox.put("a", 7)
        with pytest.raises(Busy, match="7 updates"):
            mailbox.put("b", 4)
        mailbox.put("c", 3)
        with pytest.raises(Busy):
            mailbox.put("d")
        assert mailbox.take(10) == ["a", "c"]
        mailbox.put("d")
        assert mailbox.take(10) == ["d"]

    def test_a_lone_message_fits_however_heavy(self) -> None:
        mailbox: Mailbox[str] = Mailbox(10)
        mailbox.put("heavy", 11)
        with pytest.raises(Busy):
            mailbox.put("light")
        assert mailbox.take(1) == ["heavy"]

    def test_a_closed_one_hands_out_what_waits_and_takes_no_more(self) -> None:
        mailbox: Mailbox[str] = Mailbox(10)
        mailbox.put("a")
        mailbox.close()
        with pytest.raises(StoreUnavailable):
            mailbox.put("b")
        assert mailbox.take(10) == ["a"]
        assert mailbox.take(10) == []

    @pytest.mark.parametrize("closing", [False, True])
    def test_who_takes_waits_until_there_is_something_or_it_is_closed(self, closing: bool) -> None:
        mailbox: Mailbox[str] = Mailbox(10)
        taken: list[list[str]] = []
        thread = threading.Thread(target=lambda: taken.append(mailbox.take(10)))
        thread.start()
        assert not taken
        if closing:
            mailbox.close()
        else:
            mailbox.put("a")
        thread.join(10)
        assert taken == [[]] if closing else [["a"]]


class TestGather:
    """What takes can wait for company."""

    def gathering(self, mailbox: Mailbox[str], weight: int, timeout_s: float) -> tuple[threading.Thread, list[float]]:
        took: list[float] = []

        def gather() -> None:
            start = time.monotonic()
            mailbox.gather(weight, timeout_s)
            took.append(time.monotonic() - start)

        thread = threading.Thread(target=gather)
        thread.start()
        return thread, took

    def test_it_ends_when_enough_is_there(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        thread, took = self.gathering(mailbox, 5, 60)
        for _ in range(4):
            mailbox.put("a")
        thread.join(0.05)
        assert thread.is_alive()
        mailbox.put("a")
        thread.join(10)
        assert took
        assert took[0] < 10
        assert mailbox.take(10) == ["a"] * 5

    def test_it_ends_when_time_is_up(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        mailbox.put("a")
        thread, took = self.gathering(mailbox, 5, 0.05)
        thread.join(10)
        assert 0.04 < took[0] < 5
        assert mailbox.take(10) == ["a"]

    def test_it_ends_when_the_mailbox_is_closed(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        thread, took = self.gathering(mailbox, 5, 60)
        mailbox.close()
        thread.join(10)
        assert took
        assert took[0] < 10

    def test_without_time_or_with_enough_there_it_does_not_wait(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        mailbox.gather(5, -1.0)
        mailbox.put("a", 5)
        mailbox.gather(5, 60)
        assert mailbox.take(10) == ["a"]

    def test_what_came_without_a_wake_up_is_taken_at_the_next(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        mailbox.put("a", wake=False)
        mailbox.gather(1, 0)
        mailbox.put("b", wake=False)
        mailbox.wake()
        assert mailbox.take(10) == ["a", "b"]
