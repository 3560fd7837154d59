"""The draft model's cache follows the truth, and gives pages to who is guessed for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mllama.max_model.draft.cache import CachedSequence, DraftCacheManager


def tokens(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def cached(*values: int) -> CachedSequence:
    return CachedSequence(tokens(*values), [0])


def test_what_is_cached_need_not_be_computed() -> None:
    sequence = cached(1, 2, 3)
    assert sequence.follow(tokens(1, 2, 3, 4, 5)).tolist() == [4, 5]
    assert sequence.tokens.tolist() == [1, 2, 3]


def test_wrong_guesses_are_dropped() -> None:
    sequence = cached(1, 2, 3, 4)
    assert sequence.follow(tokens(1, 2, 9)).tolist() == [9]
    assert sequence.tokens.tolist() == [1, 2]
    sequence.append(tokens(9))
    assert sequence.follow(tokens(7, 2)).tolist() == [7, 2]


def test_the_last_token_is_computed_again() -> None:
    assert cached(1, 2, 3).follow(tokens(1, 2)).tolist() == [2]
    assert cached(1, 2, 3).follow(tokens(1, 2, 3)).tolist() == [3]


def test_a_request_takes_pages_from_those_not_guessed_for_longest() -> None:
    cache = DraftCacheManager(4, page_size=10)
    for name in "abc":
        cache.sequence(name)
        assert cache.reserve(name, 10, keep=())
    cache.sequence("a")  # Used again.
    cache.sequence("d")
    assert cache.reserve("d", 20, keep=())
    assert "b" not in cache
    assert "a" in cache
    assert "c" in cache
    assert cache.num_free == 0


def test_pages_of_the_same_batch_are_kept() -> None:
    cache = DraftCacheManager(2, page_size=10)
    cache.sequence("a")
    assert cache.reserve("a", 11, keep=())
    cache.sequence("b")
    assert not cache.reserve("b", 1, keep={"a", "b"})
    assert "a" in cache
    assert cache.reserve("b", 1, keep={"b"})


def test_a_request_that_never_fits_takes_nothing() -> None:
    cache = DraftCacheManager(2, page_size=10)
    cache.sequence("a")
    assert cache.reserve("a", 5, keep=())
    cache.sequence("b")
    assert not cache.reserve("b", 21, keep=())
    assert "a" in cache
    assert cache.num_free == 1


def test_a_released_request_is_forgotten() -> None:
    cache = DraftCacheManager(2, page_size=10)
    cache.sequence("a").append(tokens(1))
    cache.reserve("a", 20, keep=())
    cache.release("a")
    cache.release("a")
    assert cache.num_free == 2
    assert not len(cache.sequence("a").tokens)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.integers(0, 70), st.booleans(), st.booleans()
        )
    )
)
def test_no_two_requests_share_a_page(
    steps: list[tuple[str, int, bool, bool]],
) -> None:
    cache = DraftCacheManager(6, page_size=10)
    for name, length, releases, keeps in steps:
        if releases:
            cache.release(name)
            continue
        sequence = cache.sequence(name)
        if cache.reserve(name, length, keep=set("ab") if keeps else ()):
            assert len(sequence.pages) * 10 >= length
        owned = [
            page
            for other in "abcd"
            if other in cache
            for page in cache._sequences[other].pages
        ]
        assert len(owned) == len(set(owned))
        assert len(owned) + cache.num_free == 6


def test_a_batch_has_room_in_its_order() -> None:
    cache = DraftCacheManager(5, page_size=10)
    assert cache.rooms([8, 20, 18, 1], 3) == [20, 30, 0, 0]
    assert cache.rooms([30, 18, 1], 3) == [40, 0, 10]
    assert cache.rooms([30, 20], 3) == [40, 0]
    assert cache.rooms([40, 10], 0) == [40, 10]
    cache.sequence("a")
    assert cache.reserve("a", 45, keep=())
    # Pages of requests outside the batch can be taken.
    assert cache.rooms([50], 8) == [50]
    assert cache.length("a") == cache.length("b") == 0
