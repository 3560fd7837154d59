"""Random scenes of colored shapes and printed digits.

A scene is the ground truth: what is drawn, in which color, and where.  The picture
(``drawing``) and all questions and answers are derived from it, so a fresh seed gives
fresh pictures whose right answers are known exactly.  This module doesn't import torch,
since the evaluation runs on machines without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Rgb = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross")
DIGITS = tuple("0123456789")
KINDS = SHAPES + DIGITS
"""Everything an item can be; digits are items too, but never counted as shapes."""

COLORS: dict[str, tuple[Rgb, ...]] = {
    "red": ((220, 40, 40), (255, 0, 0)),
    "green": ((40, 160, 60), (0, 128, 0), (0, 220, 0)),
    "blue": ((40, 80, 220), (0, 0, 255)),
    "yellow": ((240, 220, 50), (255, 255, 0)),
    "purple": ((140, 50, 170), (128, 0, 128)),
    "orange": ((245, 140, 30), (255, 165, 0)),
    "black": ((20, 20, 20), (0, 0, 0)),
    "white": ((245, 245, 245), (255, 255, 255)),
}
"""Typical values of each color, the pure ones included, which people draw with."""

COLOR_NAMES = tuple(COLORS)

MIN_CONTRAST = 110.0
"""Least Euclidean distance in RGB between an item and its background."""

CLEAR = 1.7
"""A direction is clear if its offset is this many times the other's."""

LAYOUTS: dict[tuple[int, int], float] = {
    (2, 2): 0.62,
    (1, 1): 0.12,
    (1, 2): 0.08,
    (2, 1): 0.08,
    (1, 3): 0.04,
    (3, 1): 0.03,
    (1, 4): 0.02,
    (4, 1): 0.01,
}
"""Sizes in tiles (high, wide), and the share of pictures of each.

Ordinary pictures become two by two tiles, so these are the most frequent.
"""


@dataclass(frozen=True)
class Item:
    """A shape or digit; ``x``, ``y`` (its center) and ``size`` are in pixels."""

    kind: str
    color: str
    rgb: Rgb
    x: float
    y: float
    size: float
    angle: float = 0.0

    @property
    def is_digit(self) -> bool:
        """True if the item is a printed digit and not a shape."""
        return self.kind in DIGITS


@dataclass(frozen=True)
class Background:
    """A plain color, or a gradient from ``start`` to ``end`` along ``direction``."""

    start: Rgb
    end: Rgb
    direction: float = 0.0
    noise: int = 0
    noise_seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture's whole content; ``items`` are in reading order."""

    width: int
    height: int
    background: Background
    items: tuple[Item, ...]

    @property
    def shapes(self) -> tuple[Item, ...]:
        """The items that are shapes."""
        return tuple(item for item in self.items if not item.is_digit)

    @property
    def digit(self) -> Item | None:
        """The printed digit or None; a scene has at most one."""
        return next((item for item in self.items if item.is_digit), None)


def is_tall(width: float, height: float) -> bool:
    """Returns True if a picture is read from top to bottom, not from left to right."""
    return height > 1.4 * width


def direction(item: Item, other: Item) -> str | None:
    """Returns the side of ``other`` that ``item`` is on, or None if it isn't clear."""
    dx, dy = item.x - other.x, item.y - other.y
    if abs(dx) >= CLEAR * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= CLEAR * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def band(share: float) -> int | None:
    """Returns 0, 1 or 2 for the first, middle or last part of a side of the picture.

    Returns None where people might disagree.
    """
    if share < 0.3:
        return 0
    if share > 0.7:
        return 2
    return 1 if 0.44 < share < 0.56 else None


def _image_size(rng: np.random.Generator, layout: tuple[int, int]) -> tuple[int, int]:
    """Returns a width and height that the processor splits into about this layout."""
    high, wide = layout
    if layout == (1, 1):
        width = int(rng.integers(48, 65))
        return width, int(np.clip(round(width * rng.uniform(0.85, 1.18)), 44, 64))
    if layout == (2, 2):
        side = float(np.exp(rng.uniform(math.log(100), math.log(420))))
        ratio = float(rng.uniform(0.74, 1.36))
        return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))
    unit = float(rng.uniform(52, 150))
    stretch = float(rng.uniform(0.93, 1.05))
    return round(unit * wide * stretch), round(unit * high / stretch)


def _background(rng: np.random.Generator, items: tuple[Item, ...]) -> Background:
    """Returns a background on which every item can be seen well."""

    def one() -> Rgb:
        for _ in range(200):
            pick = rng.random()
            if pick < 0.25:
                rgb = (255, 255, 255)
            elif pick < 0.3:
                rgb = (0, 0, 0)
            else:
                values = rng.uniform(30, 250) + rng.uniform(-28, 28, 3)
                red, green, blue = np.clip(values, 0, 255).astype(int)
                rgb = (int(red), int(green), int(blue))
            if all(math.dist(rgb, item.rgb) >= MIN_CONTRAST for item in items):
                return rgb
        return (128, 128, 128)  # Far enough from every named color.

    start = one()
    end = one() if rng.random() < 0.3 else start
    # one() does not check the middle of a gradient: fall back to a plain color.
    middle = tuple((a + b) // 2 for a, b in zip(start, end, strict=True))
    if any(math.dist(middle, item.rgb) < MIN_CONTRAST for item in items):
        end = start
    return Background(
        start=start,
        end=end,
        direction=float(rng.uniform(0, 2 * math.pi)),
        noise=int(rng.integers(2, 13)) if rng.random() < 0.3 else 0,
        noise_seed=int(rng.integers(2**31)),
    )


def _rgb(rng: np.random.Generator, color: str) -> Rgb:
    variants = COLORS[color]
    base = variants[int(rng.integers(len(variants)))]
    if rng.random() < 0.4:
        return base
    red, green, blue = np.clip(np.array(base) + rng.integers(-16, 17, 3), 0, 255)
    return int(red), int(green), int(blue)


def _looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Returns kind and color of ``count`` items, with frequent repetitions."""
    shapes = list(SHAPES)
    colors = list(COLOR_NAMES)
    if count > 1 and rng.random() < 0.4:
        shapes = list(rng.choice(shapes, 2, replace=False))
    if count > 1 and rng.random() < 0.4:
        colors = list(rng.choice(colors, 2, replace=False))
    looks = [(str(rng.choice(shapes)), str(rng.choice(colors))) for _ in range(count)]
    if count < 3 and rng.random() < 0.4:
        looks[0] = (str(rng.choice(DIGITS)), looks[0][1])
    return looks


def _place(
    rng: np.random.Generator, width: int, height: int, sizes: list[float]
) -> list[tuple[float, float]] | None:
    """Returns centers of items that don't overlap and have a clear reading order.

    Returns None if no place is found for one of them.
    """
    tall = is_tall(width, height)
    centers: list[tuple[float, float]] = []
    for index, size in enumerate(sizes):
        for _ in range(40):
            x = float(rng.uniform(0.53 * size, width - 0.53 * size))
            y = float(rng.uniform(0.53 * size, height - 0.53 * size))
            if all(
                math.hypot(x - cx, y - cy) > 0.56 * (size + sizes[other])
                and (
                    # Two items may be one above the other.
                    len(sizes) == 2
                    or abs((y - cy) / height if tall else (x - cx) / width) > 0.13
                )
                for other, (cx, cy) in enumerate(centers)
            ):
                centers.append((x, y))
                break
        if len(centers) <= index:
            return None
    if len(sizes) == 2:
        (ax, ay), (bx, by) = centers
        low, high = sorted((abs(ax - bx), abs(ay - by)))
        if high < CLEAR * low:
            return None
    return centers


def random_scene(
    rng: np.random.Generator,
    *,
    max_items: int = 3,
    layout: tuple[int, int] | None = None,
) -> Scene:
    """Returns a random scene.

    Args:
        rng: The source of everything random in it.
        max_items: Most items.
        layout: Height and width of the picture in tiles; None draws one.
    """
    if layout is None:
        layouts = list(LAYOUTS)
        weights = np.array([LAYOUTS[each] for each in layouts])
        layout = layouts[int(rng.choice(len(layouts), p=weights / weights.sum()))]
    weights = np.array([0.36, 0.46, 0.18, 0.06])[:max_items]
    while True:
        width, height = _image_size(rng, layout)
        count = 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
        short = min(width, height)
        room = width * height / short**2
        # Small pictures have few pixels to show an item with.
        least = 0.32 if min(layout) == 1 else 0.26
        most = 0.7 if count == 1 else min(0.5, 0.62 * math.sqrt(room / count))
        looks = _looks(rng, count)
        # A digit has finer lines than a shape, so it is printed larger.
        lows = [max(least, 0.55) if kind in DIGITS else least for kind, _ in looks]
        sizes = [short * float(rng.uniform(low, max(low, most))) for low in lows]
        centers = _place(rng, width, height, sizes)
        if centers is None:
            continue
        items = [
            Item(kind, color, _rgb(rng, color), x, y, size, float(rng.uniform(-1, 1)))
            for (kind, color), (x, y), size in zip(looks, centers, sizes, strict=True)
        ]
        ordered = reading_order(items, width, height)
        return Scene(width, height, _background(rng, ordered), ordered)


def reading_order(items: list[Item], width: int, height: int) -> tuple[Item, ...]:
    """Returns items from left to right, in tall pictures from top to bottom.

    If there are two items, one above the other, the upper one comes first.
    """
    down = is_tall(width, height)
    if len(items) == 2:
        down = direction(items[0], items[1]) in ("above", "below")
    return tuple(sorted(items, key=lambda item: item.y if down else item.x))
