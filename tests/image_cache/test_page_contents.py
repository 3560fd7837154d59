"""Whole pages are filled and downloaded on every device."""

from __future__ import annotations

import numpy as np
import pytest
from max.dtype import DType

from mllama.image_cache.page_contents import (
    download_keys,
    download_pages,
    fill_pages,
)

from .small_cache import small_image_cache


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16, DType.int8])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_pages_have_what_they_were_filled_with(dtype: DType, num_devices: int) -> None:
    storage = small_image_cache(
        5, scratch_pages=2, layers=3, heads=2, dtype=dtype, devices=num_devices
    )
    fill_pages(storage, [1, 3, 6], -24576)
    fill_pages(storage, [3], 0.5)
    pages = download_pages(storage, range(7))
    assert pages.shape == (7, 2, 3, 128, 2, 16)
    assert pages.dtype == np.float32
    expected = [0, -24576, 0, 0.5, 0, 0, -24576]
    for page, value in zip(pages, expected, strict=True):
        assert np.all(page == value)


def test_keys_in_int8_are_multiplied_by_the_scale_of_their_head_and_token() -> None:
    storage = small_image_cache(4, layers=3, heads=2, head_dim=8, dtype=DType.int8)
    storage.blocks.reserve("request", {(1,): (200,)})
    entry = storage.blocks.pinned("request", (1,))
    rng = np.random.default_rng(0)
    levels = rng.integers(-127, 128, (4, 2, 3, 128, 2, 8), np.int8)
    scales = rng.uniform(0.1, 2, (4, 2, 3, 128, 2)).astype(np.float32)
    storage.pages[0].to_numpy()[..., :8] = levels
    storage.pages[0].to_numpy()[..., 8:] = scales[..., None].view(np.int8)
    values = levels * scales[..., None]
    keys = values[list(entry.pages), 0, 2].reshape(-1, 2, 8)[:200]
    np.testing.assert_array_equal(download_keys(storage, entry, 2), keys)
    np.testing.assert_array_equal(download_pages(storage, [3, 0]), values[[3, 0]])


def test_heads_of_devices_stand_side_by_side() -> None:
    storage = small_image_cache(2, heads=2, head_dim=4, devices=2)
    for number, pages in enumerate(storage.pages):
        pages.to_numpy()[1] = number
    (page,) = download_pages(storage, [1])
    assert np.all(page[..., 0, :] == 0)
    assert np.all(page[..., 1, :] == 1)
