"""What the formats share: rows shared out among the cores, and what can go wrong."""

from extensibility import InputTensor, OutputTensor
from max.algorithm import sync_parallelize
from std.math import ceildiv

comptime Bytes = Pointer[UInt8, MutAnyOrigin]
"""Where a block is written."""

comptime FINE = UInt8(0)
comptime NOT_FINITE = UInt8(1)
"""A weight is NaN or infinite."""
comptime TOO_LARGE = UInt8(2)
"""A block's scale is beyond float16."""

comptime _WEIGHTS_PER_TASK = 1 << 16
comptime _EXPONENT = UInt32(0x7F800000)
comptime _TOO_LARGE = UInt32((127 + 29) << 23)
"""The exponent of 2 to the 29th: no format's scales reach it, and the sums of the
searches would overflow far beyond it."""


trait BlockFormat:
    """A format of blocks."""

    comptime LENGTH: Int
    """Weights of a block."""
    comptime SIZE: Int
    """Bytes of a block."""

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: Bytes) -> Bool:
        """Writes a block of finite weights.

        Returns:
            Whether its scales fit float16.
        """
        ...


def quantize_rows[
    Format: BlockFormat
](
    blocks: OutputTensor[dtype=DType.uint8, rank=2, ...],
    faults: OutputTensor[dtype=DType.uint8, rank=1, ...],
    weights: InputTensor[rank=2, ...],
) raises:
    """Quantizes a matrix, its rows shared out among the cores.

    Args:
        blocks: `[rows, bytes of a row]`.
        faults: `[rows]`, what is wrong with each.
        weights: `[rows, width]`, float32, float16 or bfloat16.
    """
    var rows = weights.dim_size(0)
    var width = weights.dim_size(1)
    var per_row = width // Format.LENGTH
    if (
        width % Format.LENGTH != 0
        or blocks.dim_size(0) != rows
        or blocks.dim_size(1) != per_row * Format.SIZE
        or faults.dim_size(0) != rows
    ):
        raise Error("the shapes of weights and blocks contradict each other")
    var source = weights.unsafe_ptr()
    var result = blocks.unsafe_ptr()
    var found = faults.unsafe_ptr()
    var rows_per_task = max(1, _WEIGHTS_PER_TASK // max(1, width))

    def work(task: Int) {imm}:
        var first = task * rows_per_task
        for row in range(first, min(rows, first + rows_per_task)):
            var fault = FINE
            for index in range(per_row):
                var values = Array[Float32, Format.LENGTH](uninitialized=True)
                var start = row * width + index * Format.LENGTH
                var largest = SIMD[DType.uint32, 16](0)
                for i in range(0, Format.LENGTH, 16):
                    var some = source.unsafe_load[width=16](start + i).cast[
                        DType.float32
                    ]()
                    largest = max(largest, some.to_bits[DType.uint32]() & _EXPONENT)
                    values.unsafe_ptr().unsafe_store(i, some)
                var top = largest.reduce_max()
                if top == _EXPONENT:
                    fault = NOT_FINITE
                    break
                var place = (row * per_row + index) * Format.SIZE
                if top >= _TOO_LARGE or not Format.quantize(
                    values, result.unsafe_offset(place)
                ):
                    fault = TOO_LARGE
            found.unsafe_store(row, fault)

    sync_parallelize(work, ceildiv(rows, rows_per_task))


@always_inline
def divided(
    numerator: SIMD[DType.float32, _], denominator: type_of(numerator)
) -> type_of(numerator):
    """Quotient, zero where the denominator is."""
    var zero = denominator.eq(0)
    var safe = zero.select(type_of(numerator)(1), denominator)
    return zero.select(type_of(numerator)(0), numerator / safe)


@always_inline
def scale_bits(scale: Float32) -> UInt16:
    """A scale as the bits of float16."""
    return scale.cast[DType.float16]().to_bits[DType.uint16]()


@always_inline
def scale_value(bits: UInt16) -> Float32:
    """What float16 keeps of a scale."""
    return Float16(from_bits=bits).cast[DType.float32]()


@always_inline
def fits(bits: UInt16) -> Bool:
    """Whether a scale is finite in float16."""
    return bits & 0x7C00 != 0x7C00
