"""The steps of decode on a tile of int8 keys and values: scores and weighted sums for
four queries of a head.

Queries and weights are rounded to 16 bits, which adds a hundredth of the error of keys
and values in 8. Products are added in pairs in 32 bits, so that an instruction has
twice as many of them as with float32.
"""

from std.math import ceildiv, fma, round
from std.memory import bitcast
from std.sys.intrinsics import llvm_intrinsic

from .pages import HEAD_STRIDE, vector_scale
from .quantize import NOT_FINITE, SMALLEST
from .simd import FloatPointer, FloatVector
from .tiles import KEYS_PER_VECTOR, prefetch_values, row_sums

comptime ShortPointer = Pointer[Int16, MutUntrackedOrigin]
comptime _BytePointer = Pointer[Int8, MutUntrackedOrigin]
comptime _Shorts[simd_width: Int] = SIMD[DType.int16, 2 * simd_width]
comptime _Sums[simd_width: Int] = SIMD[DType.int32, simd_width]
comptime _LARGEST_WEIGHT = Float32(32767)
comptime SHORT_STRIDE[head_dim: Int, simd_width: Int] = (
    ceildiv(head_dim, 2 * simd_width) * 2 * simd_width
)
"""Values from one rounded query to the next: whole vectors."""


@always_inline
def _add_pairs[
    simd_width: Int
](
    sums: _Sums[simd_width], a: _Shorts[simd_width], b: _Shorts[simd_width]
) -> _Sums[simd_width]:
    """Adds the products of neighbors, in pairs.

    For CPUs with AVX-VNNI the compiler makes one instruction of the form for AVX2.
    """
    comptime if simd_width == 16:
        return llvm_intrinsic[
            "llvm.x86.avx512.vpdpwssd.512", _Sums[simd_width], has_side_effect=False
        ](sums, a, b)
    else:
        return (
            sums
            + llvm_intrinsic[
                "llvm.x86.avx2.pmadd.wd", _Sums[simd_width], has_side_effect=False
            ](a, b)
        )


def round_query[
    head_dim: Int, simd_width: Int
](query: FloatPointer, target: ShortPointer) -> Float32:
    """Rounds a query to 16 bits, padded with zeros.

    Args:
        query: `[head dim]`.
        target: Output, `[SHORT_STRIDE]`.

    Returns:
        The scale of the rounded values, NaN or infinity if a value isn't finite.
    """
    # The sums of all products must fit 32 bits.
    comptime levels = Float32(min(32767, 32767 * 512 // head_dim))
    var largest = SIMD[DType.uint32, 8](0)
    for i in range(0, head_dim, 8):
        largest = max(
            largest, query.unsafe_load[width=8](i).to_bits[DType.uint32]() & 0x7FFFFFFF
        )
    var bits = largest.reduce_max()
    var extreme = Float32(from_bits=bits)
    var inverse = levels / extreme
    var scale = extreme / levels
    if bits >= NOT_FINITE:
        inverse = 0
    elif extreme < SMALLEST:
        inverse = 0
        scale = 0
    for i in range(0, SHORT_STRIDE[head_dim, simd_width], 8):
        var rounded = SIMD[DType.int16, 8](0)
        if i < head_dim and inverse != 0:
            rounded = (
                round(query.unsafe_load[width=8](i) * inverse)
                .cast[DType.int32]()
                .cast[DType.int16]()
            )
        target.unsafe_store(i, rounded)
    return scale


@always_inline
def int8_tile_scores[
    head_dim: Int, simd_width: Int
](
    keys: _BytePointer,
    token_width: Int,
    last: Int,
    query: ShortPointer,
    scales: FloatPointer,
) -> FloatVector[simd_width]:
    """Returns the dot products of the next keys with four queries, `[keys, 4]`.

    Args:
        keys: The first key.
        token_width: Values from one key to the next.
        last: Index of the last key, which is read in place of those beyond it.
        query: `[4, SHORT_STRIDE]`.
        scales: `[4]`, of the queries.
    """
    comptime keys_per_vector = KEYS_PER_VECTOR[simd_width]
    comptime stride = SHORT_STRIDE[head_dim, simd_width]
    comptime width = 2 * simd_width
    comptime whole = head_dim // width * width
    var sums = Array[_Sums[simd_width], simd_width](fill=_Sums[simd_width](0))
    var key = Array[_Shorts[simd_width], keys_per_vector](uninitialized=True)
    var offsets = Array[Int, keys_per_vector](uninitialized=True)
    var factors = Array[FloatVector[4], keys_per_vector](uninitialized=True)
    var query_scales = scales.unsafe_load[width=4](0)
    comptime for k in range(keys_per_vector):
        offsets[k] = min(k, last) * token_width
        factors[k] = query_scales * vector_scale[DType.int8, head_dim](
            keys.unsafe_offset(offsets[k])
        )
    comptime for i in range(0, head_dim, width):
        comptime for k in range(keys_per_vector):
            comptime if i < whole:
                key[k] = keys.unsafe_load[width=width, alignment=1](
                    offsets[k] + i
                ).cast[DType.int16]()
            else:
                key[k] = rebind[_Shorts[simd_width]](
                    keys.unsafe_load[width=simd_width, alignment=1](offsets[k] + i)
                    .cast[DType.int16]()
                    .join(SIMD[DType.int16, simd_width](0))
                )
        comptime for j in range(4):
            var vector = query.unsafe_load[width=width, alignment=2](j * stride + i)
            comptime for k in range(keys_per_vector):
                sums[4 * k + j] = _add_pairs[simd_width](
                    sums[4 * k + j], vector, key[k]
                )
    var products = row_sums(sums).cast[DType.float32]()
    comptime if simd_width == 16:
        return products * rebind[FloatVector[simd_width]](
            factors[0].join(factors[1]).join(factors[2].join(factors[3]))
        )
    else:
        return products * rebind[FloatVector[simd_width]](factors[0].join(factors[1]))


@always_inline
def accumulate_int8_values[
    head_dim: Int, simd_width: Int
](
    values: _BytePointer,
    token_width: Int,
    count: Int,
    weights: FloatPointer,
    output: FloatPointer,
    upcoming: _BytePointer,
    prefetches: Bool,
):
    """Adds weighted values to the sums of four queries.

    Args:
        values: The first key's value.
        token_width: Values from one key to the next.
        count: Number of keys.
        weights: `[keys, 4]`, with room for an even number of keys; overwritten.
        output: `[4, head dim]`.
        upcoming: As many values as are added here, which are needed next.
        prefetches: Whether `upcoming` is prefetched.
    """
    var scales = _round_weights[head_dim](values, token_width, count, weights)
    var pairs = weights.unsafe_bitcast[Int32]()
    # As many dimensions at a time as there are registers for the sums of four queries.
    comptime step = simd_width // 4 * simd_width
    comptime for i in range(0, head_dim, step):
        comptime vectors = min(step, head_dim - i) // simd_width
        var sums = Array[_Sums[simd_width], 4 * vectors](fill=_Sums[simd_width](0))
        for index in range(0, count, 2):
            var first = index * token_width + i
            var second = min(index + 1, count - 1) * token_width + i
            if prefetches:
                comptime for k in range(2):
                    prefetch_values[DType.int8, vectors * simd_width](
                        upcoming.unsafe_offset(
                            (index + k) * HEAD_STRIDE[DType.int8, head_dim] + i
                        )
                    )
            var value = Array[_Shorts[simd_width], vectors](uninitialized=True)
            comptime for v in range(vectors):
                value[v] = _interleaved[simd_width](
                    values.unsafe_offset(first + v * simd_width),
                    values.unsafe_offset(second + v * simd_width),
                )
            comptime for j in range(4):
                var weight = bitcast[DType.int16, 2 * simd_width](
                    _Sums[simd_width](pairs.unsafe_load(index * 2 + j))
                )
                comptime for v in range(vectors):
                    sums[j * vectors + v] = _add_pairs[simd_width](
                        sums[j * vectors + v], value[v], weight
                    )
        comptime for j in range(4):
            comptime for v in range(vectors):
                comptime offset = j * head_dim + i + v * simd_width
                output.unsafe_store(
                    offset,
                    fma(
                        sums[j * vectors + v].cast[DType.float32](),
                        FloatVector[simd_width](scales[j]),
                        output.unsafe_load[width=simd_width](offset),
                    ),
                )


@always_inline
def _interleaved[
    simd_width: Int
](a: _BytePointer, b: _BytePointer) -> _Shorts[simd_width]:
    """Returns the values of two tokens, alternating."""
    return (
        a.unsafe_load[width=simd_width, alignment=1](0)
        .interleave(b.unsafe_load[width=simd_width, alignment=1](0))
        .cast[DType.int16]()
    )


@always_inline
def _round_weights[
    head_dim: Int
](
    values: _BytePointer, token_width: Int, count: Int, weights: FloatPointer
) -> FloatVector[4]:
    """Multiplies weights with the scales of their values and rounds them to 16 bits.

    Args:
        values: The first key's value.
        token_width: Values from one key to the next.
        count: Number of keys.
        weights: `[keys, 4]`, none of which is negative. Output: pairs of the rounded
            weights of two keys, `[pairs of keys, 4]`.

    Returns:
        The scale of the rounded weights of each query, NaN or infinity if a product
        isn't finite.
    """
    var largest = SIMD[DType.uint32, 4](0)
    for index in range(count):
        var product = weights.unsafe_load[width=4](index * 4) * vector_scale[
            DType.int8, head_dim
        ](values.unsafe_offset(index * token_width))
        weights.unsafe_store(index * 4, product)
        largest = max(largest, product.to_bits[DType.uint32]() & 0x7FFFFFFF)
    if count % 2 == 1:
        weights.unsafe_store(count * 4, FloatVector[4](0))
    var extreme = FloatVector[4](from_bits=largest)
    var is_usable = largest.lt(NOT_FINITE) & extreme.ge(SMALLEST)
    var inverse = is_usable.select(_LARGEST_WEIGHT / extreme, FloatVector[4](0))
    var scales = extreme.lt(SMALLEST).select(
        FloatVector[4](0), extreme / _LARGEST_WEIGHT
    )
    var pairs = weights.unsafe_bitcast[Int32]()
    for index in range(0, count, 2):
        var two = weights.unsafe_load[width=8](index * 4)
        var low = is_usable.select(two.slice[4, offset=0]() * inverse + 0.5, 0)
        var high = is_usable.select(two.slice[4, offset=4]() * inverse + 0.5, 0)
        # In half the space, this overwrites only weights that have been read.
        pairs.unsafe_store(
            index * 2, low.cast[DType.int32]() | (high.cast[DType.int32]() << 16)
        )
    return scales
