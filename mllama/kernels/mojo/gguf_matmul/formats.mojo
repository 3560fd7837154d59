"""The interface of a GGUF format."""

from .simd import UNROLL, BytePointer, FloatPointer, FloatVector, Simd

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
    ](column: BytePointer, stride: Int, tile: BytePointer, part: Int):
        """Unpacks a super-block of each column into a tile.

        Args:
            column: The first column's super-block.
            stride: Bytes from one column to the next.
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

    @staticmethod
    def dot_super_blocks[
        count: Int, simd_width: Int
    ](blocks: BytePointer, records: BytePointer, reordered: BytePointer) -> FloatVector[
        UNROLL
    ]:
        """Returns the dot products of a column's super-blocks with a token, without the
        activations' scales.

        Parameters:
            count: Number of super-blocks, at most four; the result's other values are
                undefined.
            simd_width: Columns of a vector in the other layout.

        Args:
            blocks: The column's first super-block.
            records: The token's records, beginning with that of the first super-block.
            reordered: The same values, as `reorder_records` lays them out.
        """
        ...
