"""The interface of a GGUF format."""

from .simd import UNROLL, BytePointer, FloatPointer, FloatVector, Simd, Sums

comptime TILE_BYTES = 8192
"""Bytes of a tile: 256 unpacked weights of sixteen columns."""
comptime TILE_SCALES = 4096
"""Offset in a tile of the scales, which follow the quantization levels."""


trait BlockFormat:
    """A format of GGUF blocks.

    `tokens` is the number of tokens, `simd` the form of the vectors.
    """

    comptime SUPER_BLOCK_BYTES: Int
    """Bytes of a super-block: 256 weights, whether of one block or of eight."""

    @staticmethod
    def multiply_packed[
        tokens: Int, simd: Simd
    ](
        column: BytePointer,
        stride: Int,
        upcoming: BytePointer,
        records: BytePointer,
        totals: FloatPointer,
    ):
        """Adds the products of a super-block of each column with a few tokens,
        unpacking weights in registers.

        Args:
            column: The first column's super-block.
            stride: Bytes from one column to the next.
            upcoming: The super-block of the first column that is prefetched.
            records: The tokens' values, one record after the other.
            totals: Sums of the products, sixteen for each token.
        """
        ...

    @staticmethod
    def unpack[
        simd: Simd
    ](
        column: BytePointer,
        stride: Int,
        upcoming: BytePointer,
        tile: BytePointer,
        part: Int,
    ):
        """Unpacks a super-block of each column into a tile.

        Args:
            column: The first column's super-block.
            stride: Bytes from one column to the next.
            upcoming: The super-block of the first column that is prefetched.
            tile: Output, quantization levels and scales.
            part: Which of the tile's vectors of `simd_width` columns these columns
                fill.
        """
        ...

    @staticmethod
    def multiply_tile[
        tokens: Int, simd: Simd
    ](tile: BytePointer, records: BytePointer, totals: FloatPointer):
        """Adds the products of a tile's columns with some tokens.

        Args:
            tile: A tile that `unpack` has filled.
            records: The tokens' values, one record after the other.
            totals: Sums of the products, `[tokens, 16]`.
        """
        ...


trait GemvFormat(BlockFormat):
    """A format that multiplies a single token faster column by column."""

    comptime PREFETCH_DISTANCE: Int
    """Bytes from what is read to what is prefetched, as measured."""
    comptime SCALES_STRIDE: Int
    """Bytes from the unpacked scales of a super-block to those of the next."""

    @staticmethod
    def unpack_scales[
        count: Int
    ](blocks: BytePointer, scales: BytePointer, group: Int):
        """Unpacks the scales of four super-blocks.

        Parameters:
            count: Number of super-blocks, at most four; the others get scales of zero.

        Args:
            blocks: The first of the super-blocks.
            scales: Output, `SCALES_BYTES`.
            group: Which four of the output.
        """
        ...

    @staticmethod
    def dot[
        simd_width: Int
    ](
        block: BytePointer,
        scales: BytePointer,
        record: BytePointer,
        reordered: BytePointer,
    ) -> Sums[simd_width]:
        """Returns the products of a super-block's levels with a token, multiplied by
        their sub-blocks' scales; their sum is the super-block's.

        Parameters:
            simd_width: Columns of a vector in the other layout.

        Args:
            block: The super-block.
            scales: Its unpacked scales, `SCALES_STRIDE` after those of the one before.
            record: The token's record (for q6_k).
            reordered: Its values, as `reorder_values` lays them out (for q4_k).
        """
        ...

    @staticmethod
    def dot_products[
        simd_width: Int
    ](
        scales: BytePointer,
        group: Int,
        sums: Array[Sums[simd_width], UNROLL],
        grouped_sums: BytePointer,
    ) -> FloatVector[UNROLL]:
        """Returns the dot products of four super-blocks with a token, without the
        activations' scales.

        Args:
            scales: What `unpack_scales` has written.
            group: Which four of it.
            sums: What `dot` has returned for each.
            grouped_sums: The token's sums, as `group_sums` lays them out (for q4_k).
        """
        ...
