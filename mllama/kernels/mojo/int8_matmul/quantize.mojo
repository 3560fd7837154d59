"""Quantizes the activations of a token to int8 with one scale."""

from std.math import round
from std.memory import bitcast

from .simd import BytePointer, FloatPointer

comptime _NOT_FINITE = UInt32(0x7F800000)
comptime _SMALLEST = Float32(1e-30)
"""Smaller values become zeros: the inverse of their scale might overflow."""


def quantize_token[
    simd_width: Int
](values: FloatPointer, width: Int, quantized: BytePointer) -> Float32:
    """Quantizes a token's values to the nearest of -127 to 127 times a scale.

    Args:
        values: The values.
        width: Number of values, a multiple of 16.
        quantized: Output; 128 is added to each value, which makes it unsigned.

    Returns:
        The scale, NaN if a value is NaN or infinity.
    """
    # Without their sign bits, floats are ordered as their bits are.
    var largest = SIMD[DType.uint32, simd_width](0)
    for i in range(0, width, simd_width):
        var vector = values.unsafe_load[width=simd_width, alignment=4](i)
        largest = max(largest, vector.to_bits[DType.uint32]() & 0x7FFFFFFF)
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
    comptime Levels = SIMD[DType.int8, simd_width]
    comptime offset = Levels(-128)
    for i in range(0, width, simd_width):
        var levels = Levels(0)
        if inverse != 0:
            var vector = values.unsafe_load[width=simd_width, alignment=4](i)
            levels = round(vector * inverse).cast[DType.int32]().cast[DType.int8]()
        quantized.unsafe_store(i, levels ^ offset)
    return scale
