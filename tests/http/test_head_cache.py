"""The head cache: what comes in, what stays, and that it never grows past its bounds."""

import random

from multiarm.http.head_cache import LARGEST_HEAD_BYTES, HeadCache


def head(number: int, size: int = 100) -> bytes:
    return f"GET /{number} HTTP/1.1\r\n".encode().ljust(size, b"x")


def admit(cache: HeadCache[int], *numbers: int, times: int = 2, size: int = 100) -> None:
    for _ in range(times):
        for number in numbers:
            cache.admit(head(number, size), number)


def numbers(cache: HeadCache[int]) -> list[int]:
    return list(cache.known.values())


def test_a_head_comes_in_at_its_second_sight() -> None:
    cache: HeadCache[int] = HeadCache(10, 10_000, 1_000)
    admit(cache, 1, 2, times=1)
    assert not cache.known
    admit(cache, 1, times=1)
    assert cache.known == {head(1): 1}
    assert cache.size_bytes == 100


def test_one_more_or_less_byte_is_another_head() -> None:
    cache: HeadCache[int] = HeadCache(10, 10_000, 1_000)
    admit(cache, 1)
    assert cache.known.get(head(1)[:-1]) is None
    assert cache.known.get(head(1) + b"x") is None


def test_the_oldest_goes_where_there_are_too_many() -> None:
    cache: HeadCache[int] = HeadCache(3, 10_000, 1_000)
    admit(cache, 1, 2, 3)
    admit(cache, 4)
    assert numbers(cache) == [2, 3, 4]
    assert cache.size_bytes == 300


def test_the_oldest_go_where_there_are_too_many_bytes() -> None:
    cache: HeadCache[int] = HeadCache(100, 350, 1_000)
    admit(cache, 1, 2, 3)
    admit(cache, 4, size=200)
    assert numbers(cache) == [3, 4]
    assert cache.size_bytes == 300


def test_a_large_head_never_comes_in() -> None:
    cache: HeadCache[int] = HeadCache(100, 1 << 20, 1_000)
    admit(cache, 1, size=LARGEST_HEAD_BYTES)
    admit(cache, 2, size=LARGEST_HEAD_BYTES + 1)
    assert numbers(cache) == [1]


def test_without_room_nothing_comes_in() -> None:
    for cache in (HeadCache[int](0, 10_000, 1_000), HeadCache[int](10, 50, 1_000)):
        admit(cache, 1, 2, times=3)
        assert not cache.known
        assert cache.size_bytes == 0


def test_one_that_comes_again_counts_once() -> None:
    cache: HeadCache[int] = HeadCache(10, 10_000, 1_000)
    admit(cache, 1, times=9)
    assert (numbers(cache), cache.size_bytes) == ([1], 100)


def test_a_stream_of_heads_that_never_come_again_pushes_out_none() -> None:
    cache: HeadCache[int] = HeadCache(10, 10_000, 1_000)
    admit(cache, *range(10))
    admit(cache, *range(100, 10_000), times=1)
    assert numbers(cache) == list(range(10))


def test_it_stays_within_its_bounds_whatever_comes() -> None:
    rng = random.Random(5)
    cache: HeadCache[int] = HeadCache(20, 5_000, 1_000)
    for _ in range(20_000):
        number = rng.randrange(60)
        cache.admit(head(number, 50 + 10 * number), number)
        assert len(cache.known) <= 20
        assert cache.size_bytes == sum(map(len, cache.known)) <= 5_000


def test_whoever_brings_too_many_pushes_out_his_own() -> None:
    cache: HeadCache[int] = HeadCache(100, 1 << 20, 3)
    for number in range(10):
        for _ in range(2):
            cache.admit(head(number, 100), number, "greedy")
            cache.admit(head(100 + number // 4, 100), 100 + number // 4, "modest")
    assert sorted(numbers(cache)) == [7, 8, 9, 100, 101, 102]


def test_those_of_no_owner_are_as_many_as_there_may_be() -> None:
    cache: HeadCache[int] = HeadCache(50, 1 << 20, 3)
    admit(cache, *range(50))
    assert numbers(cache) == list(range(50))


def test_what_is_forgotten_is_judged_anew() -> None:
    cache: HeadCache[int] = HeadCache(10, 10_000, 5)
    for number in (1, 1, 2, 2):
        cache.admit(head(number, 100), number, "owner")
    cache.forget()
    assert (numbers(cache), cache.size_bytes) == ([], 0)
    admit(cache, 3)
    assert (numbers(cache), cache.size_bytes) == ([3], 100)
