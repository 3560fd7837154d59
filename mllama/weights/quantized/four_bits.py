"""bitsandbytes' nf4 and fp4 (QLoRA, arXiv:2305.14314).

Two elements are in a byte, the first in its upper half.  An element is the index of a
value in a table of 16; a block of elements shares a scale, ``absmax``.  With double
quantization the scales are 8-bit indexes themselves, with scales of their own and an
offset.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictFloat, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mllama.utils.bfloat16 import from_bfloat16, to_bfloat16
from mllama.weights.quantized.stored import StoredTensor
from mllama.weights.quantized.tensor import Floats

STATE: Final = "quant_state.bitsandbytes__"

_MAX_STATE_BYTES = 100_000

_Block = Annotated[StrictInt, Field(gt=0, lt=2**31)]


@checked_dataclass(frozen=True)
class _State:
    """What bitsandbytes writes about a tensor, as JSON."""

    quant_type: Literal["nf4", "fp4"]
    blocksize: _Block
    dtype: Literal["float32", "bfloat16", "float16"]
    shape: tuple[StrictInt, ...]
    nested_blocksize: _Block | None = None
    nested_offset: Annotated[StrictFloat, Field(allow_inf_nan=False)] | None = None


@dataclass(frozen=True)
class FourBitLayout:
    """A matrix in nf4 or fp4.

    Attributes:
        weights: The bytes, of any element type.
        shape: Dimensions of the matrix.
        state: The block sizes and the data type, as JSON in bytes.
        absmax: The scale of each block; with double quantization the index of it.
        quant_map: The 16 values.
        nested_absmax: The scales of the scales, for double quantization.
        nested_quant_map: The 256 values of the scales.
    """

    weights: StoredTensor
    shape: tuple[int, ...]
    state: StoredTensor
    absmax: StoredTensor
    quant_map: StoredTensor
    nested_absmax: StoredTensor | None = None
    nested_quant_map: StoredTensor | None = None

    def __post_init__(self) -> None:
        if self.weights.entry.nbytes != (self._count + 1) // 2:
            raise self.weights.error(
                f"has {self.weights.entry.nbytes} bytes, but config.json requires "
                f"{list(self.shape)} weights of 4 bits; they belong to different models"
            )
        if self.quant_map.shape != (16,):
            raise self.quant_map.error("has no 16 values")
        if (self.nested_absmax is None) != (self.nested_quant_map is None):
            raise self.absmax.error("is quantized, but lacks a part of its scales")
        if self.nested_quant_map is not None and (
            self.nested_quant_map.shape != (256,) or self.absmax.dtype != "U8"
        ):
            raise self.absmax.error("is no index of 256 values")

    def check(self) -> None:
        """Checks the block sizes."""
        _ = self._block_size

    def rows(self, start: int, stop: int) -> Floats:
        """Returns the values of some rows, as a new array."""
        columns = math.prod(self.shape[1:])
        first, last = start * columns, stop * columns
        packed = self.weights.bytes()[first // 2 : (last + 1) // 2]
        elements = np.stack((packed >> 4, packed & 15), axis=-1).ravel()
        elements = elements[first % 2 : first % 2 + last - first]
        values = self.quant_map.floats()[elements]
        size = self._block_size
        first_block = first // size
        scales = self._scales(first_block, -(-last // size))
        values *= np.repeat(scales, size)[first - first_block * size :][: len(values)]
        return _rounded(values, self._state.dtype).reshape(-1, columns)

    @property
    def _count(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def _state(self) -> _State:
        if self.state.entry.nbytes > _MAX_STATE_BYTES:
            raise self.state.error("is too long")
        try:
            values = json.loads(self.state.bytes().tobytes())
            state = TypeAdapter(_State).validate_python(values)
        except (ValueError, RecursionError, ValidationError) as error:
            raise self.state.error("is damaged; download it again") from error
        if tuple(state.shape) != self.shape:
            raise self.state.error(
                f"says the shape {list(state.shape)}, but config.json requires "
                f"{list(self.shape)}; they belong to different models"
            )
        return state

    @cached_property
    def _block_size(self) -> int:
        """Returns the number of elements that share a scale.

        Raises:
            CheckpointError: If the state is damaged or doesn't fit the scales.
        """
        state = self._state
        blocks = -(-self._count // state.blocksize)
        if math.prod(self.absmax.shape) != blocks:
            raise self.absmax.error(
                f"has shape {list(self.absmax.shape)}, but there are {blocks} blocks"
            )
        if self.nested_absmax is None:
            return state.blocksize
        if state.nested_blocksize is None or state.nested_offset is None:
            raise self.state.error("lacks nested_blocksize or nested_offset")
        nested_blocks = -(-blocks // state.nested_blocksize)
        if math.prod(self.nested_absmax.shape) != nested_blocks:
            raise self.nested_absmax.error(
                f"has shape {list(self.nested_absmax.shape)}, but there are "
                f"{nested_blocks} blocks"
            )
        return state.blocksize

    def _scales(self, first: int, last: int) -> Floats:
        """Returns the scales of some blocks."""
        if self.nested_absmax is None or self.nested_quant_map is None:
            return self.absmax.floats().reshape(-1)[first:last]
        state = self._state
        assert state.nested_blocksize is not None
        indexes: npt.NDArray[Any] = self.absmax.bytes()[first:last]
        scales = self.nested_quant_map.floats()[indexes]
        blocks = np.arange(first, last) // state.nested_blocksize
        scales *= self.nested_absmax.floats().reshape(-1)[blocks]
        scales += np.float32(state.nested_offset)
        return scales


def _rounded(values: Floats, dtype: str) -> Floats:
    """Rounds values to the type that bitsandbytes returns them in."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(values))
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    return values
