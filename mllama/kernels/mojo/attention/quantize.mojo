"""Quantization of keys and values to int8."""

from std.math import round

from .simd import FloatPointer, FloatVector

comptime _LARGEST = Float32(127)
comptime _INFINITY_BITS = UInt32(0x7F800000)
comptime _LEAST = Float32(1.0e-30)
"""Vectors of smaller values become zeros: the inverse of their scale would overflow."""


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
    # Without their sign, the bits of floats are ordered like the floats, and NaN is
    # the largest.
    var bits = SIMD[DType.uint32, 8](0)
    for i in range(0, head_dim, 8):
        bits = max(
            bits,
            source.unsafe_load[width=8](i).to_bits[DType.uint32]() & 0x7FFFFFFF,
        )
    var largest_bits = bits.reduce_max()
    var largest = Float32(from_bits=largest_bits)
    var scale = largest / _LARGEST
    var inverse = _LARGEST / largest
    if largest_bits >= _INFINITY_BITS:
        # All of them become zero times infinity or NaN.
        inverse = 0
    elif largest < _LEAST:
        inverse = 0
        scale = 0
    for i in range(0, head_dim, 8):
        var levels = SIMD[DType.int8, 8](0)
        if inverse != 0:
            levels = (
                round(source.unsafe_load[width=8](i) * inverse)
                .cast[DType.int32]()
                .cast[DType.int8]()
            )
        target.unsafe_store(i, levels)
    target.unsafe_offset(head_dim).unsafe_bitcast[Float32]().unsafe_store[alignment=1](
        0, scale
    )
