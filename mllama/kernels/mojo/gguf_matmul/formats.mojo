"""What a format of blocks has to say."""

from .lanes import SPANS, Bytes, Floats, Lanes

comptime TILE = 8192
"""Bytes for what is unpacked of 256 weights of sixteen columns."""
comptime FACTORS = 4096
"""Place in a tile of what follows the levels."""


trait BlockFormat:
    """A format of blocks of GGUF files.

    Its functions know the `rows` and the columns of a vector, `lanes`, from parameters.
    """

    comptime SIZE: Int
    """Bytes of 256 weights."""

    @staticmethod
    def multiply_packed[
        rows: Int, lanes: Int
    ](column: Bytes, stride: Int, ahead: Bytes, records: Bytes, totals: Floats):
        """Adds products of 256 values of few rows with columns.

        Args:
            column: Where the weights of the first column are.
            stride: Bytes from a column to the next.
            ahead: What is to be read next, of as many columns.
            records: The rows' values, one record after the other.
            totals: Sums of the products, a row of them in every sixteen.
        """
        ...

    @staticmethod
    def unpack[lanes: Int](column: Bytes, stride: Int, tile: Bytes, part: Int):
        """Unpacks 256 weights of columns.

        Args:
            column: Where those of the first column are.
            stride: Bytes from a column to the next.
            tile: Where levels and their factors go.
            part: Which of the tile's parts of so many columns they are.
        """
        ...

    @staticmethod
    def multiply[rows: Int, lanes: Int](tile: Bytes, records: Bytes, totals: Floats):
        """Adds products of 256 values of some rows with a tile's columns.

        Args:
            tile: What `unpack` made of the columns.
            records: The rows' values, one record after the other.
            totals: Sums of the products, `[rows, 16]`.
        """
        ...


trait SpanFormat(BlockFormat):
    """A format that is fast to multiply with one row, column by column."""

    comptime AHEAD: Int
    """Bytes from what is being read to what is being fetched, as measured."""

    @staticmethod
    def multiply_spans[
        count: Int, lanes: Int
    ](blocks: Bytes, records: Bytes, crossed: Bytes) -> Lanes[SPANS]:
        """Products of a column's spans with values of a row, but for these' scales.

        Parameters:
            count: How many spans, at most four; the lanes of others hold anything.
            lanes: Of a vector.

        Args:
            blocks: Where the first span's weights are.
            records: The values of the first span, then those of the others.
            crossed: The same once more, as `cross` lays them out.
        """
        ...
