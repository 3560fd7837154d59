"""The pool's pages are shared, pinned, evicted and never handed out twice."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mllama.images.pool import ZERO_PAGE, ImagePool, PoolFullError


def test_same_images_share_one_entry() -> None:
    pool = ImagePool(num_pages=10, page_size=4)
    first = pool.pin("a", (7,), (6,))
    assert pool.pin("b", (7,), (6,)) is first
    assert len(first.pages) == 2
    assert pool.free_pages == 7


def test_rows_of_a_run_end_image_by_image() -> None:
    entry = ImagePool(10, 4).pin("a", (1, 2), (5, 3))
    assert [entry.rows(1), entry.rows(2)] == [5, 8]
    assert len(entry.pages) == 2


def test_least_recently_used_unpinned_entry_goes_first() -> None:
    pool = ImagePool(num_pages=4, page_size=1)
    kept, old, recent = (pool.pin(name, (i,), (1,)) for i, name in enumerate("abc"))
    pool.unpin("b")
    pool.unpin("c")
    pool.pin("c", (2,), (1,))
    pool.unpin("c")
    new = pool.pin("d", (9,), (1,))
    assert new.pages == old.pages
    assert pool.pin("e", (2,), (1,)) is recent
    assert kept.pinned_by == {"a"}


def test_a_full_pool_says_what_is_missing_and_changes_nothing() -> None:
    pool = ImagePool(num_pages=4, page_size=1)
    pool.pin("a", (1,), (2,))
    with pytest.raises(PoolFullError) as caught:
        pool.pin("b", (2,), (4,))
    assert caught.value.missing_pages == 3
    assert (len(pool), pool.free_pages) == (1, 1)
    pool.grow(7)
    assert len(pool.pin("b", (2,), (4,)).pages) == 4


def test_unpinning_again_or_for_strangers_does_nothing() -> None:
    pool = ImagePool(4, 1)
    pool.pin("a", (1,), (1,))
    pool.unpin("a")
    pool.unpin("a")
    pool.unpin("stranger")
    assert pool.pinned_entries == 0


class AnyUse(RuleBasedStateMachine):
    """Random requests come, read, move on and end."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ImagePool(num_pages=9, page_size=2)
        self.reads: dict[int, tuple[int, ...]] = {}

    @rule(request=st.integers(0, 3), image=st.integers(0, 5), second=st.booleans())
    def read(self, request: int, image: int, second: bool) -> None:
        key = (image, image + 1) if second else (image,)
        try:
            self.pool.pin(request, key, tuple(1 + item % 3 for item in key))
        except PoolFullError as error:
            self.pool.grow(self.pool.num_pages + error.missing_pages)
            self.pool.pin(request, key, tuple(1 + item % 3 for item in key))
        self.pool.unpin(request, keep=[key])
        self.reads[request] = key

    @rule(request=st.integers(0, 3))
    def end(self, request: int) -> None:
        self.pool.unpin(request)
        self.reads.pop(request, None)

    @invariant()
    def pages_are_owned_once(self) -> None:
        entries = list(self.pool._entries.values())
        pages = [page for entry in entries for page in entry.pages] + self.pool._free
        assert sorted(pages) == list(range(ZERO_PAGE + 1, self.pool.num_pages))

    @invariant()
    def what_is_read_is_pinned(self) -> None:
        assert self.pool.pinned_entries == len(set(self.reads.values()))


def test_pages_are_never_lost_or_shared() -> None:
    run_state_machine_as_test(AnyUse)
