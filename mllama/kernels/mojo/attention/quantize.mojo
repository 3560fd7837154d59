"""Quantization of keys and values to int8."""

from std.math import round

from .simd import FloatPointer

comptime NOT_FINITE = UInt32(0x7F800000)
"""The bits of an infinity; those of NaN are larger."""
comptime SMALLEST = Float32(1.0e-30)
"""Smaller values become zeros: the inverse of their scale might overflow."""


@always_inline
def quantize_vector[
    head_dim: Int
](source: FloatPointer, target: Pointer[Int8, MutUntrackedOrigin]):
    """Writes the nearest of -127 to 127 times a scale for each value, then the scale.

    A NaN or an infinity among the values makes all of them NaN.

    Args:
        source: `[head dim]`.
        target: Output, `[head dim]` int8 values and the bytes of a float32.
    """
    # Without their sign, floats are ordered as their bits are.
    var largest = SIMD[DType.uint32, 8](0)
    for i in range(0, head_dim, 8):
        largest = max(
            largest, source.unsafe_load[width=8](i).to_bits[DType.uint32]() & 0x7FFFFFFF
        )
    var bits = largest.reduce_max()
    var extreme = Float32(from_bits=bits)
    var scale = extreme / 127
    var inverse = Float32(0)
    if extreme < SMALLEST:
        scale = 0
    elif bits < NOT_FINITE:
        inverse = 127 / extreme
    for i in range(0, head_dim, 8):
        var levels = SIMD[DType.int8, 8](0)
        if inverse != 0:
            var vector = source.unsafe_load[width=8](i)
            levels = round(vector * inverse).cast[DType.int32]().cast[DType.int8]()
        target.unsafe_store(i, levels)
    target.unsafe_offset(head_dim).unsafe_bitcast[Float32]().unsafe_store[alignment=1](
        0, scale
    )
