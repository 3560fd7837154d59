"""Custom ops that write keys and values of new tokens into pages."""

import extensibility

from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from max.gpu.host import DeviceContext

from .simd import FloatPointer
from .pages import pages_of_layer
from .plan import IndexPointer
from .rotary import rotate_and_store
from .store import NewTokens, store_kv


@extensibility.register("mllama_store_kv")
struct StoreKV:
    """Writes keys and values of new tokens into pages."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int
    ](
        cache: MutableInputTensor[rank=6, ...],
        keys: InputTensor[dtype=DType.float32, rank=3, ...],
        values: InputTensor[dtype=DType.float32, rank=3, ...],
        token_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        starts: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime assert (
            head_dim > 0 and head_dim % 8 == 0
        ), "the width of a head must be a multiple of 8"
        var pages = pages_of_layer[head_dim](cache, layer)
        comptime for axis in range(3):
            if keys.dim_size(axis) != values.dim_size(axis):
                raise Error("keys and values differ in shape")
        if keys.dim_size(1) != pages.kv_heads or keys.dim_size(2) != head_dim:
            raise Error("the shapes of keys and pages don't match")
        var tokens = _new_tokens(token_offsets, starts, table)
        tokens.check(keys.dim_size(0), cache.dim_size(0))
        store_kv[cache.dtype, head_dim](
            pages,
            tokens,
            rebind[FloatPointer](keys.unsafe_ptr()),
            rebind[FloatPointer](values.unsafe_ptr()),
        )


@extensibility.register("mllama_rotate_and_store_kv")
struct RotateAndStoreKV:
    """Rotary embedding of queries and keys; writes keys and values into pages."""

    @staticmethod
    def execute[
        target: StaticString, head_dim: Int
    ](
        queries: OutputTensor[dtype=DType.float32, rank=3, ...],
        cache: MutableInputTensor[rank=6, ...],
        qkv: InputTensor[dtype=DType.float32, rank=2, ...],
        rotary_table: InputTensor[dtype=DType.float32, rank=2, ...],
        token_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
        starts: InputTensor[dtype=DType.uint32, rank=1, ...],
        table: InputTensor[dtype=DType.uint32, rank=2, ...],
        layer: UInt32,
        ctx: DeviceContext,
    ) raises:
        comptime assert (
            head_dim > 0 and head_dim % 8 == 0
        ), "the width of a head must be a multiple of 8"
        var pages = pages_of_layer[head_dim](cache, layer)
        var heads = queries.dim_size(1)
        if (
            queries.dim_size(0) != qkv.dim_size(0)
            or queries.dim_size(2) != head_dim
            or qkv.dim_size(1) != (heads + 2 * pages.kv_heads) * head_dim
            or rotary_table.dim_size(1) != head_dim
        ):
            raise Error("the shapes of queries, keys, values and pages don't match")
        var tokens = _new_tokens(token_offsets, starts, table)
        tokens.check(qkv.dim_size(0), cache.dim_size(0))
        if tokens.end() > rotary_table.dim_size(0):
            raise Error("a token's position is beyond the rotary table")
        rotate_and_store[cache.dtype, head_dim](
            pages,
            tokens,
            rebind[FloatPointer](qkv.unsafe_ptr()),
            heads,
            rebind[FloatPointer](rotary_table.unsafe_ptr()),
            rebind[FloatPointer](queries.unsafe_ptr()),
        )


def _new_tokens(
    token_offsets: InputTensor[dtype=DType.uint32, rank=1, ...],
    starts: InputTensor[dtype=DType.uint32, rank=1, ...],
    table: InputTensor[dtype=DType.uint32, rank=2, ...],
) raises -> NewTokens:
    """Returns ranges of tokens, not yet checked.

    Raises:
        Error: If there are fewer offsets or starts than page tables, or more.
    """
    var count = table.dim_size(0)
    if token_offsets.dim_size(0) != count + 1 or starts.dim_size(0) != count:
        raise Error("the ranges' offsets and page tables differ in number")
    return NewTokens(
        count,
        rebind[IndexPointer](token_offsets.unsafe_ptr()),
        rebind[IndexPointer](starts.unsafe_ptr()),
        rebind[IndexPointer](table.unsafe_ptr()),
        table.dim_size(1),
    )
