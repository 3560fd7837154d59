"""Graph inputs and copies address the pages that the block manager allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from max import tree
from max.driver import CPU
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from mllama.image_cache import storage
from mllama.image_cache.block_manager import Entry, RunKey, RunTokens
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.kernels.ops.attention import stored_head_dim
from mllama.nn.layers.image_cache_inputs import AttendingMask, AttendingTokens


def storage_of(
    num_pages: int,
    num_layers: int = 1,
    num_devices: int = 1,
    dtype: DType = DType.float32,
    **options: Any,
) -> ImageCacheStorage:
    params = MHAKVCacheParams(
        dtype=dtype,
        n_kv_heads=2,
        head_dim=stored_head_dim(16, dtype),
        num_layers=num_layers,
        page_size=128,
        devices=[DeviceRef.CPU()] * num_devices,
    )
    return ImageCacheStorage(params, [CPU()] * num_devices, num_pages, **options)


def reserved(images: ImageCacheStorage, key: RunKey, tokens: RunTokens) -> Entry:
    images.blocks.reserve("request", {key: tokens})
    return images.blocks.pinned("request", key)


@pytest.mark.parametrize(
    ("num_devices", "dtype"),
    [(1, DType.float32), (2, DType.float32), (1, DType.int8)],
)
def test_an_image_is_copied_between_entries_across_pages(
    num_devices: int, dtype: DType
) -> None:
    """Copies the keys and values of every layer on every device, scales included."""
    images = storage_of(
        num_pages=10, num_layers=2, num_devices=num_devices, dtype=dtype
    )
    source = reserved(images, (1, 2), (100, 300))
    target = reserved(images, (3, 2), (217, 300))
    devices = [
        write.pages.kv_blocks.to_numpy()
        for write in images.write_inputs([(source, 0)], 100)
    ]
    assert len(devices) == num_devices
    for number, blocks in enumerate(devices):
        assert blocks.shape[-2] == 2 // num_devices
        if dtype is DType.int8:
            blocks[:] = np.random.default_rng(0).integers(-128, 128, blocks.shape)
            continue
        values = np.arange(blocks.size, dtype=np.float32).reshape(blocks.shape)
        blocks[:] = values + number * blocks.size

    def values_of(entry: Entry, index: int) -> np.ndarray:
        """Returns an image's values: [devices, key or value, layers, tokens, ...]."""
        first, last = entry.span(index)
        return np.stack(
            [
                np.concatenate([blocks[page] for page in entry.pages], axis=2)[
                    :, :, first:last
                ]
                for blocks in devices
            ]
        )

    before, other = values_of(source, 1), values_of(target, 0)
    images.copy(source, 1, target, 1)
    np.testing.assert_array_equal(values_of(target, 1), before)
    np.testing.assert_array_equal(values_of(target, 0), other)
    np.testing.assert_array_equal(values_of(source, 1), before)


def test_an_image_is_written_after_the_earlier_images_of_its_run() -> None:
    images = storage_of(num_pages=9)
    entry = reserved(images, (1, 2), (130, 20))
    (second,) = images.write_inputs([(entry, 1)], 20)
    assert second.pages.cache_lengths.to_numpy().tolist() == [130]
    assert second.patch_offsets.to_numpy().tolist() == [0, 20]
    table = second.pages.lookup_table.to_numpy()
    assert table[0, :2].tolist() == list(entry.pages)


def test_segments_without_an_image_are_left_out_on_a_cpu() -> None:
    images = storage_of(num_pages=9)
    entry = reserved(images, (1,), (130,))
    (read,) = images.read_inputs(
        [
            ReadSegment(3, None, 0),
            ReadSegment(2, entry, 130),
            ReadSegment(4, None, 0),
            ReadSegment(1, entry, 65),
        ]
    )
    assert isinstance(read.attending, AttendingTokens)
    assert read.attending.indices.to_numpy().tolist() == [3, 4, 9]
    assert read.segment_offsets.to_numpy().tolist() == [0, 2, 3]
    assert read.image_offsets.to_numpy().tolist() == [0, 130, 195]
    assert read.max_segment_length.to_numpy().tolist() == [2]
    table = read.pages.lookup_table.to_numpy()
    assert table[:, :2].tolist() == [list(entry.pages)] * 2
    assert read.pages.cache_lengths.to_numpy().tolist() == [0, 0]


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_batch_without_images_has_no_segments_on_a_cpu(num_devices: int) -> None:
    images = storage_of(num_pages=9, num_devices=num_devices)
    reads = images.read_inputs([ReadSegment(3, None, 0), ReadSegment(1, None, 0)])
    assert len(reads) == num_devices
    for read in reads:
        assert isinstance(read.attending, AttendingTokens)
        assert read.attending.indices.shape == (0,)
        assert read.attending.indices.dtype is DType.int64
        assert read.segment_offsets.to_numpy().tolist() == [0]
        assert read.image_offsets.to_numpy().tolist() == [0]
        assert read.pages.lookup_table.shape[0] == 0
        assert read.pages.cache_lengths.shape == (0,)


def test_tokens_without_an_image_read_the_zero_page_and_are_masked_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(storage, "selects_tokens", lambda **_: False)
    images = storage_of(num_pages=9)
    entry = reserved(images, (1,), (130,))
    (read,) = images.read_inputs([ReadSegment(3, None, 0), ReadSegment(2, entry, 130)])
    assert read.segment_offsets.to_numpy().tolist() == [0, 3, 5]
    assert read.image_offsets.to_numpy().tolist() == [0, 1, 131]
    assert read.max_segment_length.to_numpy().tolist() == [3]
    assert isinstance(read.attending, AttendingMask)
    factors = read.attending.factors.to_numpy()
    assert factors[:, 0].tolist() == [0] * 3 + [1] * 2
    assert factors.dtype == np.float32
    assert not read.pages.lookup_table.to_numpy()[0].any()
    assert np.issubdtype(read.segment_offsets.to_numpy().dtype, np.uint32)


def test_inputs_of_a_captured_decode_step_depend_on_its_requests_number_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replayed device graph reads nothing anew that the host has."""
    monkeypatch.setattr(storage, "selects_tokens", lambda **_: False)
    images = storage_of(num_pages=9, decode_image_tokens=1000)
    small = reserved(images, (1,), (130,))
    images.blocks.reserve("other", {(2,): (700,)})
    large = images.blocks.pinned("other", (2,))
    without, with_images = (
        images.read_inputs(reads)[0]
        for reads in (
            [ReadSegment(1, None, 0)] * 2,
            [ReadSegment(1, small, 130), ReadSegment(1, large, 700)],
        )
    )
    for one, other in zip(tree.leaves(without), tree.leaves(with_images), strict=True):
        assert one.shape == other.shape
    assert without.pages.lookup_table.shape[1] >= 8
    for name in ("max_prompt_length", "max_cache_length", "page_stride"):
        values = [getattr(r.pages, name).to_numpy()[0] for r in (without, with_images)]
        assert values[0] == values[1]
    assert with_images.pages.max_cache_length.to_numpy()[0] == 1000
    assert with_images.image_offsets.to_numpy().tolist() == [0, 130, 830]
    table = with_images.pages.lookup_table.to_numpy()
    assert table[1, :6].tolist() == list(large.pages)


def test_other_steps_have_inputs_of_their_own_size() -> None:
    entry, reads = Entry((1,), (3, 4), (130,), [True]), []
    for images in (storage_of(9), storage_of(9, decode_image_tokens=1000)):
        reads += images.read_inputs([ReadSegment(2, entry, 130)])
    assert reads[1].pages.max_cache_length.to_numpy()[0] == 130
    assert reads[1].pages.lookup_table.shape == reads[0].pages.lookup_table.shape
