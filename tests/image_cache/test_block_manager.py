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

from mllama.image_cache.block_manager import (
    ZERO_PAGE,
    Entry,
    ImageBlockManager,
    ImageCacheFullError,
    RunKey,
    RunRows,
)


def pin(pool: ImageBlockManager, request: str, key: RunKey, rows: RunRows) -> Entry:
    pool.reserve(request, {key: rows})
    return pool.pinned(request, key)


def test_same_images_share_one_entry() -> None:
    pool = ImageBlockManager(num_pages=10, page_size=4)
    first = pin(pool, "a", (7,), (6,))
    assert pin(pool, "b", (7,), (6,)) is first
    assert len(first.pages) == 2
    assert pool.free_pages == 7


def test_rows_of_a_run_end_image_by_image() -> None:
    entry = pin(ImageBlockManager(10, 4), "a", (1, 2), (5, 3))
    assert [entry.rows(1), entry.rows(2)] == [5, 8]
    assert entry.span(0) == (0, 5)
    assert entry.span(1) == (5, 8)
    assert len(entry.pages) == 2


def test_least_recently_used_unpinned_entry_goes_first() -> None:
    pool = ImageBlockManager(num_pages=4, page_size=1)
    kept, old, recent = (pin(pool, name, (i,), (1,)) for i, name in enumerate("abc"))
    pool.unpin("b")
    pool.unpin("c")
    pin(pool, "c", (2,), (1,))
    pool.unpin("c")
    new = pin(pool, "d", (9,), (1,))
    assert new.pages == old.pages
    assert pool.evictions == 1
    assert pin(pool, "e", (2,), (1,)) is recent
    assert kept.pinned_by == {"a"}


def test_a_full_pool_says_what_is_missing_and_pins_nothing() -> None:
    pool = ImageBlockManager(num_pages=5, page_size=1)
    pin(pool, "a", (1,), (2,))
    with pytest.raises(ImageCacheFullError) as caught:
        pool.reserve("b", {(1,): (2,), (2,): (1,), (3,): (4,)})
    assert caught.value.missing_pages == 3
    assert (len(pool), pool.free_pages) == (1, 2)
    pool.unpin("a")
    assert pool.pinned_entries == 0


def test_what_a_request_wants_makes_no_room_for_itself() -> None:
    pool = ImageBlockManager(num_pages=3, page_size=1)
    pin(pool, "a", (1,), (1,))
    pool.unpin("a")
    with pytest.raises(ImageCacheFullError):
        pool.reserve("b", {(1,): (1,), (2,): (2,)})


def test_a_stored_image_is_found_until_it_is_evicted() -> None:
    pool = ImageBlockManager(num_pages=3, page_size=1)
    entry = pin(pool, "a", (1, 2), (1, 1))
    assert pool.find(2) is None
    pool.fill(entry, 1)
    assert pool.find(2) == (entry, 1)
    assert pool.find(1) is None
    pool.unpin("a")
    pin(pool, "b", (9,), (2,))
    assert pool.find(2) is None


def test_an_entry_to_copy_from_is_evicted_last() -> None:
    pool = ImageBlockManager(num_pages=4, page_size=1)
    source = pin(pool, "a", (1,), (1,))
    pool.fill(source, 0)
    pin(pool, "b", (5,), (1,))
    pool.unpin("a")
    pool.unpin("b")
    pin(pool, "c", (1, 2), (1, 1))
    assert pool.find(1) == (source, 0)
    assert len(pool) == 2


def test_unpinning_again_or_for_strangers_does_nothing() -> None:
    pool = ImageBlockManager(4, 1)
    pin(pool, "a", (1,), (1,))
    pool.unpin("a")
    pool.unpin("a")
    pool.unpin("stranger")
    assert pool.pinned_entries == 0


class AnyUse(RuleBasedStateMachine):
    """Random requests come, wait, read, move on and end."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ImageBlockManager(num_pages=9, page_size=2)
        self.reads: dict[int, set[RunKey]] = {}

    @rule(
        request=st.integers(0, 3),
        images=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        second=st.booleans(),
    )
    def read(self, request: int, images: list[int], second: bool) -> None:
        keys = {(image, image + 1) if second else (image,) for image in images}
        wanted = {key: tuple(1 + item % 3 for item in key) for key in keys}
        try:
            self.pool.reserve(request, wanted)
        except ImageCacheFullError:
            return
        self.reads.setdefault(request, set()).update(keys)
        for key in keys:
            entry = self.pool.pinned(request, key)
            for index in range(len(key)):
                self.pool.fill(entry, index)

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
        pinned = {e.key for e in self.pool._entries.values() if e.pinned_by}
        assert pinned == set().union(*self.reads.values())
        assert self.pool.pinned_entries == len(pinned)

    @invariant()
    def what_is_found_is_there(self) -> None:
        for image in range(7):
            found = self.pool.find(image)
            held = [e for e in self.pool._entries.values() if image in e.key]
            assert (found is None) == (not held)
            assert found is None or (found[0] in held and found[0].filled[found[1]])


def test_pages_are_never_lost_or_shared() -> None:
    run_state_machine_as_test(AnyUse)
