"""The image pool's memory, and the graph inputs that point into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from max.driver import Buffer, Device
from max.nn.kv_cache import MHAKVCacheParams

from mllama.images.pool import ZERO_PAGE, Entry, ImagePool
from mllama.max_api import KVCacheInputsPerDevice, padded_lut_cols, page_stride_of
from mllama.network.image_pool import ImageReadInputs, ImageWriteInputs


@dataclass(frozen=True)
class ReadSegment:
    """Text rows that read the first ``image_rows`` rows of an entry.

    ``entry`` is None for rows that see no image.
    """

    length: int
    entry: Entry | None
    image_rows: int


class ImageStore:
    """Keys and values of images on the device, shared by all requests.

    Args:
        params: Shape of the pool.
        device: Where it lives.
        num_pages: Pages, the page of zeros included.
    """

    def __init__(
        self, params: MHAKVCacheParams, device: Device, num_pages: int
    ) -> None:
        self.params = params
        self.device = device
        self.pool = ImagePool(num_pages, params.page_size)
        self._pages = self._zeros(num_pages)

    def _zeros(self, num_pages: int) -> Buffer:
        pages = Buffer.zeros(
            (num_pages, *self.params.shape_per_block), self.params.dtype, self.device
        )
        # The fill may still be under way when the first image is stored, and would
        # wipe it out: wait for it.
        self.device.synchronize()
        return pages

    def copy(self, source: Entry, image: int, target: Entry, index: int) -> None:
        """Copies an image's keys and values from one entry to another.

        Args:
            source: Where they are.
            image: The image's index there.
            target: Where they are wanted.
            index: The image's index there.
        """
        size = self.params.page_size
        blocks = self._pages.num_elements // self._pages.shape[0]
        row_elements = self._pages.shape[-2] * self._pages.shape[-1]
        rows_per_page = blocks // row_elements
        rows = self._pages.view(
            self._pages.dtype, (self.pool.num_pages * rows_per_page, row_elements)
        )

        def place(entry: Entry, row: int) -> int:
            return entry.pages[row // size] * rows_per_page + row % size

        (read, end), (write, _) = source.span(image), target.span(index)
        while read < end:
            # As far as neither side crosses into another page.
            length = min(end - read, size - read % size, size - write % size)
            start, to = place(source, read), place(target, write)
            for offset in range(0, rows_per_page, size):  # keys and values, by layer
                first, last = to + offset, start + offset
                rows[first : first + length, :].inplace_copy_from(
                    rows[last : last + length, :]
                )
            read, write = read + length, write + length
        # Copies may still be under way when they return, on a CPU too.
        self.device.synchronize()

    def write_inputs(
        self, places: Sequence[tuple[Entry, int]], rows: int
    ) -> ImageWriteInputs[Buffer, Buffer]:
        """Where images of ``rows`` rows each are stored.

        Args:
            places: Per image its entry, and its index in the entry's run.
            rows: Rows of each of the images.
        """
        starts = [entry.row_ends[index] - rows for entry, index in places]
        return ImageWriteInputs(
            pages=self._page_inputs(
                [entry.pages for entry, _ in places],
                starts,
                max_new=rows,
                max_cached=max(starts),
            ),
            row_offsets=self._upload(
                np.arange(len(places) + 1, dtype=np.uint32) * np.uint32(rows)
            ),
        )

    def read_inputs(
        self, reads: Sequence[ReadSegment]
    ) -> ImageReadInputs[Buffer, Buffer]:
        """What the rows of a batch attend to, segment by segment."""
        # Rows that see no image read one row of zeros: the kernel rejects none.
        image_rows = [read.image_rows if read.entry else 1 for read in reads]
        lengths = np.array([read.length for read in reads], dtype=np.uint32)
        longest = max(read.length for read in reads)
        sees_image = np.repeat([read.entry is not None for read in reads], lengths)
        return ImageReadInputs(
            pages=self._page_inputs(
                [read.entry.pages if read.entry else (ZERO_PAGE,) for read in reads],
                [0] * len(reads),
                max_new=longest,
                max_cached=max(image_rows),
            ),
            segment_offsets=self._upload(_offsets(lengths)),
            image_offsets=self._upload(_offsets(image_rows)),
            max_segment_length=Buffer.from_numpy(np.array([longest], dtype=np.uint32)),
            sees_image=self._upload(sees_image[:, None]),
        )

    def _page_inputs(
        self,
        tables: Sequence[Sequence[int]],
        cached: Sequence[int],
        *,
        max_new: int,
        max_cached: int,
    ) -> KVCacheInputsPerDevice[Buffer, Buffer]:
        columns = padded_lut_cols(max(len(pages) for pages in tables))
        table = np.full((len(tables), columns), ZERO_PAGE, dtype=np.uint32)
        for row, pages in zip(table, tables, strict=True):
            row[: len(pages)] = pages
        return KVCacheInputsPerDevice(
            kv_blocks=self._pages,
            cache_lengths=self._upload(np.array(cached, dtype=np.uint32)),
            lookup_table=self._upload(table),
            max_prompt_length=Buffer.from_numpy(np.array([max_new], dtype=np.uint32)),
            max_cache_length=Buffer.from_numpy(np.array([max_cached], dtype=np.uint32)),
            page_stride=Buffer.from_numpy(
                np.array([page_stride_of(self._pages)], dtype=np.int64)
            ),
        )

    def _upload(self, array: np.ndarray) -> Buffer:
        return Buffer.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Running sum that starts at zero, uint32."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)
