"""The image cache's memory, and the graph inputs that point into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import Buffer, Device
from max.nn.kv_cache import MHAKVCacheParams

from mllama.image_cache.block_manager import ZERO_PAGE, Entry, ImageBlockManager
from mllama.image_cache.uploads import Uploads
from mllama.max_compat.lazy_buffer import LazilyCommittedBuffer
from mllama.max_compat.model import (
    KVCacheInputsPerDevice,
    padded_lut_cols,
    page_stride_of,
)
from mllama.nn.layers.image_cache_inputs import (
    AttendingMask,
    AttendingTokens,
    ImageReadInputs,
    ImageWriteInputs,
    selects_tokens,
)


@dataclass(frozen=True)
class ReadSegment:
    """Consecutive text tokens that attend to the beginning of an entry.

    Attributes:
        length: Number of text tokens.
        entry: The entry; None for tokens that see no image.
        image_tokens: Number of the entry's image tokens that they attend to.
    """

    length: int
    entry: Entry | None
    image_tokens: int


class ImageCacheStorage:
    """Keys and values of images on the devices, shared by all requests.

    Each device stores those of its own heads.  An image has the same pages on all.

    Args:
        params: Shape of a page ``[2, layers, page size, kv heads, head dim]``.
        devices: The devices of the model.
        num_pages: Number of pages, the zero page included.
        scratch_pages: Number of further pages, for a sacrificial image.
        is_overlapped: Whether a step starts while the last one may be running.
        decode_image_tokens: The most image tokens that a request may attend to, if the
            text graph's inputs of a decode step must depend on nothing but the number
            of its requests, except by values in the memory of the devices; else None.

    Attributes:
        blocks: The manager of the pages, which doesn't know the scratch pages.
        scratch: The numbers of the scratch pages.
        pages: All pages, on each device.
        uploads: Copies the inputs of graphs to the devices.
    """

    def __init__(
        self,
        params: MHAKVCacheParams,
        devices: Sequence[Device],
        num_pages: int,
        scratch_pages: int = 0,
        *,
        is_overlapped: bool = False,
        decode_image_tokens: int | None = None,
    ) -> None:
        self.params = params
        self.devices = list(devices)
        self.blocks = ImageBlockManager(num_pages, params.page_size)
        self.scratch = range(num_pages, num_pages + scratch_pages)
        self.pages = [self._zeros(self.scratch.stop, device) for device in devices]
        self.uploads = Uploads(devices, is_overlapped=is_overlapped)
        self._decode_image_tokens = decode_image_tokens
        self._selects_tokens = selects_tokens(is_host=self.devices[0].is_host)

    def _zeros(self, num_pages: int, device: Device) -> Buffer:
        pages = LazilyCommittedBuffer.zeros(
            (num_pages, *self.params.shape_per_block), self.params.dtype, device
        )
        # A device fills the buffer asynchronously; an image stored before that ends
        # would be lost.
        device.synchronize()
        return pages

    def scratch_entry(self, tokens: int) -> Entry:
        """Returns the place of a sacrificial image, which is never filled or found.

        Args:
            tokens: Its image tokens.
        """
        pages = tuple(self.scratch[: self.blocks.pages_for([tokens])])
        assert pages, "the image cache has no scratch pages"
        return Entry((), pages, (tokens,), [False])

    def copy(self, source: Entry, image: int, target: Entry, index: int) -> None:
        """Copies an image's keys and values from one entry to another.

        Args:
            source: The entry that contains them.
            image: The image's index in the source's run.
            target: The entry to copy them to.
            index: The image's index in the target's run.
        """
        for pages, device in zip(self.pages, self.devices, strict=True):
            self._copy(pages, (source, image), (target, index))
            # Copies are asynchronous, on a CPU too.
            device.synchronize()

    def _copy(
        self, pages: Buffer, source: tuple[Entry, int], target: tuple[Entry, int]
    ) -> None:
        """Copies within the memory of one device."""
        size = self.params.page_size
        page_elements = pages.num_elements // pages.shape[0]
        row_elements = pages.shape[-2] * pages.shape[-1]
        rows_per_page = page_elements // row_elements
        rows = pages.view(pages.dtype, (pages.shape[0] * rows_per_page, row_elements))

        def row_of(entry: Entry, token: int) -> int:
            return entry.pages[token // size] * rows_per_page + token % size

        (source_entry, image), (target_entry, index) = source, target
        (read, end), (write, _) = source_entry.span(image), target_entry.span(index)
        while read < end:
            # Up to the end of a page on either side.
            length = min(end - read, size - read % size, size - write % size)
            start, to = row_of(source_entry, read), row_of(target_entry, write)
            for offset in range(0, rows_per_page, size):  # keys and values, by layer
                first, last = to + offset, start + offset
                rows[first : first + length, :].inplace_copy_from(
                    rows[last : last + length, :]
                )
            read, write = read + length, write + length

    def write_inputs(
        self, places: Sequence[tuple[Entry, int]], tokens: int
    ) -> list[ImageWriteInputs[Buffer, Buffer]]:
        """Returns the vision graph's inputs that say where images are stored.

        Args:
            places: The entry of each image, and its index in the entry's run.
            tokens: Image tokens of each image.

        Returns:
            The inputs for each device.
        """
        starts = [entry.token_ends[index] - tokens for entry, index in places]
        page_inputs = self._page_inputs(
            [entry.pages for entry, _ in places],
            starts,
            max_new=tokens,
            max_cached=max(starts),
        )
        offsets = self._upload(
            np.arange(len(places) + 1, dtype=np.uint32) * np.uint32(tokens)
        )
        return [
            ImageWriteInputs(pages=pages, patch_offsets=patch_offsets)
            for pages, patch_offsets in zip(page_inputs, offsets, strict=True)
        ]

    def read_inputs(
        self, reads: Sequence[ReadSegment]
    ) -> list[ImageReadInputs[Buffer, Buffer]]:
        """Returns the text graph's inputs for the segments of a batch.

        Args:
            reads: The batch's segments.

        Returns:
            The inputs for each device.
        """
        attending = self._attending(reads)
        if self._selects_tokens:
            reads = [read for read in reads if read.entry is not None]
        # Tokens that see no image read one token of zeros: the kernel needs a key.
        image_tokens = [read.image_tokens if read.entry else 1 for read in reads]
        lengths = [read.length for read in reads]
        longest, max_cached = max(lengths, default=1), max(image_tokens, default=1)
        columns = 0
        if longest == 1 and self._decode_image_tokens is not None:
            max_cached = max(max_cached, self._decode_image_tokens)
            columns = self.blocks.pages_for([max_cached])
        return [
            ImageReadInputs(
                pages=pages,
                segment_offsets=segment_offsets,
                image_offsets=image_offsets,
                max_segment_length=_host(longest, np.uint32),
                attending=attending_of_device,
            )
            for pages, segment_offsets, image_offsets, attending_of_device in zip(
                self._page_inputs(
                    [
                        read.entry.pages if read.entry else (ZERO_PAGE,)
                        for read in reads
                    ],
                    [0] * len(reads),
                    max_new=longest,
                    max_cached=max_cached,
                    min_columns=columns,
                ),
                self._upload(_offsets(lengths)),
                self._upload(_offsets(image_tokens)),
                attending,
                strict=True,
            )
        ]

    def _attending(
        self, reads: Sequence[ReadSegment]
    ) -> list[AttendingTokens[Buffer] | AttendingMask[Buffer]]:
        """Returns the tokens of segments that see an image, for each device."""
        sees_image = np.repeat(
            [read.entry is not None for read in reads],
            [read.length for read in reads],
        )
        if self._selects_tokens:
            indices = np.flatnonzero(sees_image).astype(np.int64)
            return [AttendingTokens(buffer) for buffer in self._upload(indices)]
        factors = sees_image[:, None].astype(np.float32)
        return [AttendingMask(buffer) for buffer in self._upload(factors)]

    def _page_inputs(
        self,
        tables: Sequence[Sequence[int]],
        cached: Sequence[int],
        *,
        max_new: int,
        max_cached: int,
        min_columns: int = 0,
    ) -> list[KVCacheInputsPerDevice[Buffer, Buffer]]:
        columns = max([1, min_columns, *(len(pages) for pages in tables)])
        columns = padded_lut_cols(columns)
        table = np.full((len(tables), columns), ZERO_PAGE, dtype=np.uint32)
        for row, pages in zip(table, tables, strict=True):
            row[: len(pages)] = pages
        return [
            KVCacheInputsPerDevice(
                kv_blocks=blocks,
                cache_lengths=cache_lengths,
                lookup_table=lookup_table,
                max_prompt_length=_host(max_new, np.uint32),
                max_cache_length=_host(max_cached, np.uint32),
                page_stride=_host(page_stride_of(blocks), np.int64),
            )
            for blocks, cache_lengths, lookup_table in zip(
                self.pages,
                self._upload(np.array(cached, dtype=np.uint32)),
                self._upload(table),
                strict=True,
            )
        ]

    def _upload(self, array: np.ndarray) -> list[Buffer]:
        """Copies an array to each device."""
        return [self.uploads.copy(array, device) for device in self.devices]


def _host(value: int, dtype: type[np.integer[Any]]) -> Buffer:
    """Returns a number as a buffer ``[1]`` on the host."""
    return Buffer.from_numpy(np.array([value], dtype=dtype))


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    """Returns the running sum of lengths, which starts at zero, uint32."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)
