"""Quantizes a matrix to GGUF blocks, its rows shared among the cores."""

from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from std.math import ceildiv

comptime BytePointer = Pointer[UInt8, MutAnyOrigin]
"""Output of a block."""

comptime OK = UInt8(0)
comptime NOT_FINITE = UInt8(1)
"""A weight is NaN or infinite."""
comptime TOO_LARGE = UInt8(2)
"""A block's scale exceeds float16."""

comptime _WEIGHTS_PER_TASK = 1 << 16
comptime _EXPONENT_MASK = UInt32(0x7F800000)
comptime _MAX_EXPONENT = UInt32((127 + 29) << 23)
"""The exponent of 2 to the 29th: no format has scales for such weights, and far beyond
it the sums of the searches would overflow."""


trait BlockFormat:
    """A format of GGUF blocks."""

    comptime LENGTH: Int
    """Weights of a block."""
    comptime SIZE: Int
    """Bytes of a block."""

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: BytePointer) -> Bool:
        """Quantizes a block of finite weights.

        Returns:
            True if its scales fit float16.
        """
        ...


def quantize_matrix[
    Format: BlockFormat
](
    blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
    statuses: OutputTensor[dtype=DType.uint8, rank=1, ...],
    weights: InputTensor[rank=2, ...],
) raises:
    """Quantizes a matrix, its rows shared among the cores.

    Args:
        blocks: Output, `[rows, bytes of a row]`.
        statuses: Output, `[rows]`: `OK`, `NOT_FINITE` or `TOO_LARGE`.
        weights: `[rows, width]`, float32, float16 or bfloat16.
    """
    var rows = weights.dim_size(0)
    var width = weights.dim_size(1)
    var blocks_per_row = width // Format.LENGTH
    if (
        width % Format.LENGTH != 0
        or blocks.dim_size(0) != rows
        or blocks.dim_size(1) != blocks_per_row * Format.SIZE
        or statuses.dim_size(0) != rows
    ):
        raise Error("the shapes of weights and GGUF blocks don't match")
    var source = weights.unsafe_ptr()
    var result = blocks.unsafe_ptr()
    var status_pointer = statuses.unsafe_ptr()
    var rows_per_task = max(1, _WEIGHTS_PER_TASK // max(1, width))

    def work(task: Int) {imm}:
        var first = task * rows_per_task
        for row in range(first, min(rows, first + rows_per_task)):
            var status = OK
            for index in range(blocks_per_row):
                var values = Array[Float32, Format.LENGTH](uninitialized=True)
                var start = row * width + index * Format.LENGTH
                var largest = SIMD[DType.uint32, 16](0)
                for i in range(0, Format.LENGTH, 16):
                    var vector = source.unsafe_load[width=16](start + i).cast[
                        DType.float32
                    ]()
                    largest = max(
                        largest, vector.to_bits[DType.uint32]() & _EXPONENT_MASK
                    )
                    values.unsafe_ptr().unsafe_store(i, vector)
                var largest_bits = largest.reduce_max()
                if largest_bits == _EXPONENT_MASK:
                    status = NOT_FINITE
                    break
                var offset = (row * blocks_per_row + index) * Format.SIZE
                if largest_bits >= _MAX_EXPONENT or not Format.quantize(
                    values, result.unsafe_offset(offset)
                ):
                    status = TOO_LARGE
            status_pointer.unsafe_store(row, status)

    sync_parallelize(work, ceildiv(rows, rows_per_task))


@always_inline
def safe_divide(
    numerator: SIMD[DType.float32, _], denominator: type_of(numerator)
) -> type_of(numerator):
    """Returns the quotient, or zero where the denominator is zero."""
    var zero = denominator.eq(0)
    var safe = zero.select(type_of(numerator)(1), denominator)
    return zero.select(type_of(numerator)(0), numerator / safe)


@always_inline
def float16_bits(scale: Float32) -> UInt16:
    """Returns the bits of a scale that is rounded to float16."""
    return scale.cast[DType.float16]().to_bits[DType.uint16]()


@always_inline
def float16_value(bits: UInt16) -> Float32:
    """Returns the float16 with these bits as float32."""
    return Float16(from_bits=bits).cast[DType.float32]()


@always_inline
def is_finite_float16(bits: UInt16) -> Bool:
    """Returns True if a float16 is finite."""
    return bits & 0x7C00 != 0x7C00
