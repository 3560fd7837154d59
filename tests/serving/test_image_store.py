"""The store's graph inputs point where the pool says, also after it has grown."""

from __future__ import annotations

import numpy as np
from max.driver import CPU
from max.dtype import DType
from max.graph import DeviceRef
from max.nn.kv_cache import MHAKVCacheParams

from mllama.serving.image_store import ImageStore, ReadSegment


def store(num_pages: int) -> ImageStore:
    params = MHAKVCacheParams(
        dtype=DType.float32,
        n_kv_heads=1,
        head_dim=16,
        num_layers=1,
        page_size=128,
        devices=[DeviceRef.CPU()],
    )
    return ImageStore(params, CPU(), num_pages)


def test_growing_keeps_what_is_stored() -> None:
    images = store(num_pages=2)
    entry = images.pin("a", (1,), (128,))
    pages = images.write_inputs([(entry, 0)], 128).pages.kv_blocks.to_numpy()
    pages[entry.pages[0]] = 7
    images.pin("b", (2,), (300,))
    grown = images.write_inputs([(entry, 0)], 128).pages.kv_blocks.to_numpy()
    assert grown.shape[0] == 5
    assert (grown[entry.pages[0]] == 7).all()
    assert not grown[0].any()


def test_an_image_of_a_run_is_written_after_those_before_it() -> None:
    images = store(num_pages=9)
    entry = images.pin("a", (1, 2), (130, 20))
    second = images.write_inputs([(entry, 1)], 20)
    assert second.pages.cache_lengths.to_numpy().tolist() == [130]
    assert second.row_offsets.to_numpy().tolist() == [0, 20]
    table = second.pages.lookup_table.to_numpy()
    assert table[0, :2].tolist() == list(entry.pages)


def test_rows_without_image_read_the_page_of_zeros_and_are_taken_out() -> None:
    images = store(num_pages=9)
    entry = images.pin("a", (1,), (130,))
    read = images.read_inputs([ReadSegment(3, None, 0), ReadSegment(2, entry, 130)])
    assert read.segment_offsets.to_numpy().tolist() == [0, 3, 5]
    assert read.image_offsets.to_numpy().tolist() == [0, 1, 131]
    assert read.max_segment_length.to_numpy().tolist() == [3]
    assert read.sees_image.to_numpy()[:, 0].tolist() == [False] * 3 + [True] * 2
    assert not read.pages.lookup_table.to_numpy()[0].any()
    assert np.issubdtype(read.segment_offsets.to_numpy().dtype, np.uint32)
