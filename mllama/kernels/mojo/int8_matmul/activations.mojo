"""A row of floats as bytes with one scale."""

from std.math import round
from std.memory import bitcast

from .lanes import Bytes, Floats

comptime _NOT_FINITE = UInt32(0x7F800000)
comptime _SMALLEST = Float32(1e-30)
"""Values below it are zeros: the inverse of their scale might overflow."""


def quantize[lanes: Int](values: Floats, width: Int, bytes: Bytes) -> Float32:
    """Quantizes a row to the nearest of -127 to 127 times a scale.

    Args:
        values: The row.
        width: Its values, a multiple of 16.
        bytes: Where they go; with 16 lanes 128 is added to each, see `add_products`.

    Returns:
        The scale, NaN if a value is NaN or infinity.
    """
    # Of numbers without a sign the bits are in the numbers' order.
    var largest = SIMD[DType.uint32, lanes](0)
    for i in range(0, width, lanes):
        var some = values.unsafe_load[width=lanes, alignment=4](i)
        largest = max(largest, some.to_bits[DType.uint32]() & 0x7FFFFFFF)
    var top = largest.reduce_max()
    var extreme = Float32(from_bits=top)
    var scale = extreme / 127
    var inverse = Float32(0)
    if top >= _NOT_FINITE:
        scale = Float32(from_bits=UInt32(0x7FC00000))
    elif extreme < _SMALLEST:
        scale = 0
    else:
        inverse = 127 / extreme
    comptime Levels = SIMD[DType.int8, lanes]
    comptime shift = Levels(-128 if lanes == 16 else 0)
    for i in range(0, width, lanes):
        var levels = Levels(0)
        if inverse != 0:
            var some = values.unsafe_load[width=lanes, alignment=4](i)
            levels = round(some * inverse).cast[DType.int32]().cast[DType.int8]()
        bytes.unsafe_store(i, levels ^ shift)
    return scale
