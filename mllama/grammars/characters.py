"""Sets of Unicode characters, as ranges of code points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LAST: Final = 0x10FFFF
_SURROGATES: Final = (0xD800, 0xDFFF)

Range = tuple[int, int]


@dataclass(frozen=True)
class CharacterSet:
    """A set of characters.  Surrogates, which no text has, are never in it.

    Attributes:
        ranges: First and last code points, ascending, with gaps between them.
    """

    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> CharacterSet:
        """Returns the union of ranges, which may overlap."""
        merged: list[Range] = []
        for first, last in sorted(ranges):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return cls(tuple(_without(merged, [_SURROGATES])))

    @classmethod
    def of_text(cls, text: Iterable[str]) -> CharacterSet:
        """Returns the set of a text's characters."""
        return cls.of((ord(each), ord(each)) for each in text)

    def __or__(self, other: CharacterSet) -> CharacterSet:
        return CharacterSet.of([*self.ranges, *other.ranges])

    def __sub__(self, other: CharacterSet) -> CharacterSet:
        return CharacterSet(tuple(_without(self.ranges, other.ranges)))

    def __and__(self, other: CharacterSet) -> CharacterSet:
        return self - (ALL - other)

    def __contains__(self, character: str) -> bool:
        code = ord(character)
        return any(first <= code <= last for first, last in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)


def _without(ranges: Iterable[Range], holes: Iterable[Range]) -> list[Range]:
    """Returns ranges without the code points of others; both ascend."""
    left = list(ranges)
    for low, high in holes:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, low - 1)), (max(first, high + 1), last))
            if part[0] <= part[1]
        ]
    return left


ALL: Final = CharacterSet.of([(0, _LAST)])
DIGITS: Final = CharacterSet.of_text("0123456789")
