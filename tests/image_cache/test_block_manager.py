"""Pages are shared, pinned and evicted, and never allocated twice."""

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
    RunTokens,
)


def pin(
    blocks: ImageBlockManager, request: str, key: RunKey, tokens: RunTokens
) -> Entry:
    blocks.reserve(request, {key: tokens})
    return blocks.pinned(request, key)


def test_requests_with_the_same_image_share_an_entry() -> None:
    blocks = ImageBlockManager(num_pages=10, page_size=4)
    first = pin(blocks, "a", (7,), (6,))
    assert pin(blocks, "b", (7,), (6,)) is first
    assert len(first.pages) == 2
    assert blocks.free_pages == 7


def test_an_entry_holds_the_tokens_of_its_images_in_order() -> None:
    entry = pin(ImageBlockManager(10, 4), "a", (1, 2), (5, 3))
    assert [entry.num_tokens(1), entry.num_tokens(2)] == [5, 8]
    assert entry.span(0) == (0, 5)
    assert entry.span(1) == (5, 8)
    assert len(entry.pages) == 2


def test_the_least_recently_used_unpinned_entry_is_evicted_first() -> None:
    blocks = ImageBlockManager(num_pages=4, page_size=1)
    kept, old, recent = (pin(blocks, name, (i,), (1,)) for i, name in enumerate("abc"))
    blocks.unpin("b")
    blocks.unpin("c")
    pin(blocks, "c", (2,), (1,))
    blocks.unpin("c")
    new = pin(blocks, "d", (9,), (1,))
    assert new.pages == old.pages
    assert blocks.evictions == 1
    assert pin(blocks, "e", (2,), (1,)) is recent
    assert kept.pinned_by == {"a"}


def test_a_full_cache_reports_the_missing_pages_and_pins_nothing() -> None:
    blocks = ImageBlockManager(num_pages=5, page_size=1)
    pin(blocks, "a", (1,), (2,))
    with pytest.raises(ImageCacheFullError) as caught:
        blocks.reserve("b", {(1,): (2,), (2,): (1,), (3,): (4,)})
    assert caught.value.missing_pages == 3
    assert (len(blocks), blocks.free_pages) == (1, 2)
    blocks.unpin("a")
    assert blocks.pinned_entries == 0


def test_a_request_never_evicts_its_own_images() -> None:
    blocks = ImageBlockManager(num_pages=3, page_size=1)
    pin(blocks, "a", (1,), (1,))
    blocks.unpin("a")
    with pytest.raises(ImageCacheFullError):
        blocks.reserve("b", {(1,): (1,), (2,): (2,)})


def test_a_filled_image_is_found_until_it_is_evicted() -> None:
    blocks = ImageBlockManager(num_pages=3, page_size=1)
    entry = pin(blocks, "a", (1, 2), (1, 1))
    assert blocks.find(2) is None
    blocks.fill(entry, 1)
    assert blocks.find(2) == (entry, 1)
    assert blocks.find(1) is None
    blocks.unpin("a")
    pin(blocks, "b", (9,), (2,))
    assert blocks.find(2) is None


def test_an_entry_that_holds_a_requested_image_is_evicted_last() -> None:
    blocks = ImageBlockManager(num_pages=4, page_size=1)
    source = pin(blocks, "a", (1,), (1,))
    blocks.fill(source, 0)
    pin(blocks, "b", (5,), (1,))
    blocks.unpin("a")
    blocks.unpin("b")
    pin(blocks, "c", (1, 2), (1, 1))
    assert blocks.find(1) == (source, 0)
    assert len(blocks) == 2


def test_unpinning_twice_or_an_unknown_request_does_nothing() -> None:
    blocks = ImageBlockManager(4, 1)
    pin(blocks, "a", (1,), (1,))
    blocks.unpin("a")
    blocks.unpin("a")
    blocks.unpin("unknown")
    assert blocks.pinned_entries == 0


class RandomUse(RuleBasedStateMachine):
    """Random requests reserve, fill and release images."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = ImageBlockManager(num_pages=9, page_size=2)
        self.reserved: dict[int, set[RunKey]] = {}

    @rule(
        request=st.integers(0, 3),
        images=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        second=st.booleans(),
    )
    def reserve(self, request: int, images: list[int], second: bool) -> None:
        keys = {(image, image + 1) if second else (image,) for image in images}
        wanted = {key: tuple(1 + item % 3 for item in key) for key in keys}
        try:
            self.blocks.reserve(request, wanted)
        except ImageCacheFullError:
            return
        self.reserved.setdefault(request, set()).update(keys)
        for key in keys:
            entry = self.blocks.pinned(request, key)
            for index in range(len(key)):
                self.blocks.fill(entry, index)

    @rule(request=st.integers(0, 3))
    def end(self, request: int) -> None:
        self.blocks.unpin(request)
        self.reserved.pop(request, None)

    @invariant()
    def pages_are_owned_once(self) -> None:
        entries = list(self.blocks._entries.values())
        pages = [page for entry in entries for page in entry.pages] + self.blocks._free
        assert sorted(pages) == list(range(ZERO_PAGE + 1, self.blocks.num_pages))

    @invariant()
    def reserved_images_are_pinned(self) -> None:
        pinned = {e.key for e in self.blocks._entries.values() if e.pinned_by}
        assert pinned == set().union(*self.reserved.values())
        assert self.blocks.pinned_entries == len(pinned)

    @invariant()
    def found_images_are_filled(self) -> None:
        for image in range(7):
            found = self.blocks.find(image)
            held = [e for e in self.blocks._entries.values() if image in e.key]
            assert (found is None) == (not held)
            assert found is None or (found[0] in held and found[0].filled[found[1]])


def test_random_requests_never_lose_or_share_pages() -> None:
    run_state_machine_as_test(RandomUse)
