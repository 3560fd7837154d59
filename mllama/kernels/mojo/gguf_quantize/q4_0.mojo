"""Q4_0: blocks of 32 weights with a float16 scale, then 4-bit levels, halves
interleaved."""

from .quantize import BlockFormat, BytePointer, float16_bits, is_finite_float16


struct Q4_0(BlockFormat):
    """The scale maps the largest weight to level -8 of -8 to 7."""

    comptime LENGTH = 32
    comptime SIZE = 18

    @staticmethod
    def quantize(weights: Array[Float32, Self.LENGTH], block: BytePointer) -> Bool:
        """Quantizes a block of finite weights.

        Returns:
            True if its scale fits float16.
        """
        var source = weights.unsafe_ptr()
        var values = source.unsafe_load[width=32](0)
        var high = values.reduce_max()
        var low = values.reduce_min()
        var extreme = high if high > -low else low
        if high == -low:
            # Both signs reach the extreme: the first such weight counts, as in ggml.
            for i in range(32):
                if abs(weights[i]) == high:
                    extreme = weights[i]
                    break
        var scale = extreme / -8
        var bits = float16_bits(scale)
        var inverse = Float32(0) if bits & 0x7FFF == 0 else 1 / scale
        var levels = (values * inverse + 8.5).clamp(0, 15).cast[DType.uint8]()
        block.unsafe_bitcast[UInt16]().unsafe_store[alignment=1](0, bits)
        block.unsafe_store[alignment=1](
            2, levels.slice[16]() | (levels.slice[16, offset=16]() << 4)
        )
        return is_finite_float16(bits)
