import threading

import pytest

from multiarm.domain.errors import Busy, StoreUnavailable
from multiarm.service.mailbox import Mailbox


class TestMailbox:
    def test_first_in_first_out_as_many_as_weigh_the_limit(self) -> None:
        mailbox: Mailbox[str] = Mailbox(100)
        for message, weight in [("a", 2), ("b", 3), ("c", 1), ("d", 9), ("e", 1)]:
            mailbox.put(message, weight)
        mailbox.wake()
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
        mailbox.wake()
        assert mailbox.take(10) == ["a", "c"]
        mailbox.put("d")
        mailbox.wake()
        assert mailbox.take(10) == ["d"]

    def test_a_lone_message_fits_however_heavy(self) -> None:
        mailbox: Mailbox[str] = Mailbox(10)
        mailbox.put("heavy", 11)
        with pytest.raises(Busy):
            mailbox.put("light")
        mailbox.wake()
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
            thread.join(0.05)
            assert not taken  # it sleeps until it is woken
            mailbox.wake()
        thread.join(10)
        assert taken == [[]] if closing else [["a"]]
