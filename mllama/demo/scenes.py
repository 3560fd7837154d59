"""Random scenes of coloured shapes and printed digits, and their pictures.

A scene is the ground truth: what is drawn, in which colour, and where.  The picture
is derived from it with Pillow, and so are all questions and answers, so a fresh seed
gives fresh pictures whose right answers are known exactly.  No torch here: the
evaluation uses this module on machines that have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross")
DIGITS = tuple("0123456789")
KINDS = SHAPES + DIGITS
"""Everything an item can be; digits are items too, but never counted as shapes."""

COLOURS: dict[str, tuple[Rgb, ...]] = {
    "red": ((220, 40, 40), (255, 0, 0)),
    "green": ((40, 160, 60), (0, 128, 0), (0, 220, 0)),
    "blue": ((40, 80, 220), (0, 0, 255)),
    "yellow": ((240, 220, 50), (255, 255, 0)),
    "purple": ((140, 50, 170), (128, 0, 128)),
    "orange": ((245, 140, 30), (255, 165, 0)),
    "black": ((20, 20, 20), (0, 0, 0)),
    "white": ((245, 245, 245), (255, 255, 255)),
}
"""Typical values of each colour; pure ones too, since people draw with those."""

COLOUR_NAMES = tuple(COLOURS)

MIN_CONTRAST = 110.0
"""Least distance in RGB between an item and the background behind it."""

CLEAR = 1.7
"""One direction counts as clear when it outweighs the other by this factor."""

# Sizes in tiles (high, wide) and how often each is drawn.  Ordinary pictures become
# two by two tiles, so these are the most frequent.
LAYOUTS: dict[tuple[int, int], float] = {
    (2, 2): 0.56,
    (1, 1): 0.14,
    (1, 2): 0.08,
    (2, 1): 0.08,
    (1, 3): 0.05,
    (3, 1): 0.03,
    (1, 4): 0.03,
    (4, 1): 0.03,
}


@dataclass(frozen=True)
class Item:
    """One thing in the picture; ``x``, ``y`` and ``size`` are in pixels."""

    kind: str
    colour: str
    rgb: Rgb
    x: float
    y: float
    size: float
    angle: float = 0.0

    @property
    def is_digit(self) -> bool:
        """Whether the item is a printed digit and not a shape."""
        return self.kind in DIGITS


@dataclass(frozen=True)
class Background:
    """A plain ground, or a gradient from ``start`` to ``end`` along ``direction``."""

    start: Rgb
    end: Rgb
    direction: float = 0.0
    noise: int = 0
    noise_seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture's whole content; ``items`` stand in reading order."""

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
        """The printed digit, if there is one; a scene has at most one."""
        return next((item for item in self.items if item.is_digit), None)


def is_tall(width: float, height: float) -> bool:
    """Whether a picture is read from top to bottom and not from left to right."""
    return height > 1.4 * width


def direction(item: Item, other: Item) -> str | None:
    """Where ``item`` stands seen from ``other``, or None if neither axis is clear."""
    dx, dy = item.x - other.x, item.y - other.y
    if abs(dx) >= CLEAR * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= CLEAR * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def _image_size(rng: np.random.Generator, layout: tuple[int, int]) -> tuple[int, int]:
    """Pixel width and height that the processor splits into about this layout."""
    high, wide = layout
    if layout == (1, 1):
        side = int(rng.integers(48, 65))
        return side, int(np.clip(round(side * rng.uniform(0.85, 1.18)), 44, 64))
    if layout == (2, 2):
        side = float(np.exp(rng.uniform(math.log(100), math.log(420))))
        ratio = float(rng.uniform(0.74, 1.36))
        return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))
    unit = float(rng.uniform(52, 150))
    stretch = float(rng.uniform(0.93, 1.05))
    return round(unit * wide * stretch), round(unit * high / stretch)


def _contrast(a: Rgb, b: Rgb) -> float:
    return math.dist(a, b)


def _background(rng: np.random.Generator, items: tuple[Item, ...]) -> Background:
    """A ground on which every item can be seen well."""

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
            if all(_contrast(rgb, item.rgb) >= MIN_CONTRAST for item in items):
                return rgb
        return (128, 128, 128)  # far enough from every named colour

    start = one()
    end = one() if rng.random() < 0.3 else start
    # The middle of a gradient is not checked by one(): fall back to a plain ground.
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


def _rgb(rng: np.random.Generator, colour: str) -> Rgb:
    variants = COLOURS[colour]
    base = variants[int(rng.integers(len(variants)))]
    if rng.random() < 0.4:
        return base
    red, green, blue = np.clip(np.array(base) + rng.integers(-16, 17, 3), 0, 255)
    return int(red), int(green), int(blue)


def _looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Kind and colour of ``count`` items; repetitions are frequent on purpose."""
    shapes = list(SHAPES)
    colours = list(COLOUR_NAMES)
    if count > 1 and rng.random() < 0.4:
        shapes = list(rng.choice(shapes, 2, replace=False))
    if count > 1 and rng.random() < 0.4:
        colours = list(rng.choice(colours, 2, replace=False))
    looks = [(str(rng.choice(shapes)), str(rng.choice(colours))) for _ in range(count)]
    if rng.random() < (0.3 if count == 1 else 0.22):
        looks[0] = (str(rng.choice(DIGITS)), looks[0][1])
    return looks


def _place(
    rng: np.random.Generator, width: int, height: int, sizes: list[float]
) -> list[tuple[float, float]] | None:
    """Centres that neither overlap nor leave the reading order in doubt."""
    tall = is_tall(width, height)
    centres: list[tuple[float, float]] = []
    for index, size in enumerate(sizes):
        for _ in range(40):
            x = float(rng.uniform(0.53 * size, width - 0.53 * size))
            y = float(rng.uniform(0.53 * size, height - 0.53 * size))
            if all(
                math.hypot(x - cx, y - cy) > 0.56 * (size + sizes[other])
                and (
                    # two items may stand one above the other
                    len(sizes) == 2
                    or abs((y - cy) / height if tall else (x - cx) / width) > 0.13
                )
                for other, (cx, cy) in enumerate(centres)
            ):
                centres.append((x, y))
                break
        if len(centres) <= index:
            return None
    if len(sizes) == 2:
        (ax, ay), (bx, by) = centres
        low, high = sorted((abs(ax - bx), abs(ay - by)))
        if high < CLEAR * low:
            return None
    return centres


def random_scene(
    rng: np.random.Generator,
    *,
    max_items: int = 4,
    layout: tuple[int, int] | None = None,
) -> Scene:
    """Draw a scene; ``layout`` asks for a picture of about that many tiles."""
    if layout is None:
        layouts = list(LAYOUTS)
        weights = np.array([LAYOUTS[each] for each in layouts])
        layout = layouts[int(rng.choice(len(layouts), p=weights / weights.sum()))]
    weights = np.array([0.28, 0.32, 0.26, 0.14])[:max_items]
    while True:
        width, height = _image_size(rng, layout)
        count = 1 + int(rng.choice(len(weights), p=weights / weights.sum()))
        short = min(width, height)
        room = width * height / short**2
        # Small pictures have few pixels to show an item with.
        least = 0.3 if min(layout) == 1 else 0.22
        most = 0.7 if count == 1 else min(0.5, 0.62 * math.sqrt(room / count))
        looks = _looks(rng, count)
        # A digit is finer than a shape, so it is printed larger.
        lows = [max(least, 0.38) if kind in DIGITS else least for kind, _ in looks]
        sizes = [short * float(rng.uniform(low, max(low, most))) for low in lows]
        centres = _place(rng, width, height, sizes)
        if centres is None:
            continue
        items = [
            Item(kind, colour, _rgb(rng, colour), x, y, size, float(rng.uniform(-1, 1)))
            for (kind, colour), (x, y), size in zip(looks, centres, sizes, strict=True)
        ]
        ordered = reading_order(items, width, height)
        return Scene(width, height, _background(rng, ordered), ordered)


def reading_order(items: list[Item], width: int, height: int) -> tuple[Item, ...]:
    """The order of a description: left to right, in tall pictures top to bottom.

    Of two items one of which stands above the other the upper one comes first.
    """
    down = is_tall(width, height)
    if len(items) == 2:
        down = direction(items[0], items[1]) in ("above", "below")
    return tuple(sorted(items, key=lambda item: item.y if down else item.x))


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _outline(kind: str, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape within the circle of radius one; y points down."""

    def ring(count: int, radius: float, turn: float) -> list[tuple[float, float]]:
        turns = [turn + 2 * math.pi * k / count for k in range(count)]
        return [(radius * math.sin(t), -radius * math.cos(t)) for t in turns]

    if kind == "square":
        return ring(4, 1.0, math.pi / 4 + 0.12 * angle)
    if kind == "triangle":
        return ring(3, 1.0, 0.2 * angle)
    if kind == "star":
        outer, inner = ring(5, 1.0, 0.3 * angle), ring(5, 0.42, 0.3 * angle + 0.628)
        return [point for pair in zip(outer, inner, strict=True) for point in pair]
    arm = 0.3  # cross
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [(-y, x) for x, y in quarter]
    return [*quarter, *turned, *[(-x, -y) for x, y in quarter + turned]]


def _stencil(item: Item) -> tuple[Image.Image, int, int]:
    """The item's coverage as a grey image, and where its corner goes."""
    side = math.ceil(item.size) + 2
    left, top = round(item.x - side / 2), round(item.y - side / 2)
    fine = 4  # drawn four times as large, then reduced: smooth edges
    stencil = Image.new("L", (side * fine, side * fine), 0)
    draw = ImageDraw.Draw(stencil)
    middle, radius = side * fine / 2, item.size * fine / 2
    if item.is_digit:
        font = _font(round(item.size * fine * 1.25))
        draw.text((middle, middle), item.kind, fill=255, font=font, anchor="mm")
    elif item.kind == "circle":
        edge = 0.92 * radius
        box = (middle - edge, middle - edge, middle + edge, middle + edge)
        draw.ellipse(box, fill=255)
    else:
        corners = _outline(item.kind, item.angle)
        draw.polygon(
            [(middle + radius * x, middle + radius * y) for x, y in corners], fill=255
        )
    return stencil.reduce(fine), left, top


def _ground(scene: Scene) -> Image.Image:
    ground = scene.background
    if ground.start == ground.end and not ground.noise:
        return Image.new("RGB", (scene.width, scene.height), ground.start)
    x = np.linspace(-0.5, 0.5, scene.width)[None, :]
    y = np.linspace(-0.5, 0.5, scene.height)[:, None]
    along = x * math.cos(ground.direction) + y * math.sin(ground.direction)
    share = np.clip(along + 0.5, 0, 1)[..., None]
    start, end = np.array(ground.start), np.array(ground.end)
    pixels = start + share * (end - start)
    if ground.noise:
        rng = np.random.default_rng(ground.noise_seed)
        pixels = pixels + rng.integers(-ground.noise, ground.noise + 1, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB picture of its own size."""
    picture = _ground(scene)
    for item in scene.items:
        stencil, left, top = _stencil(item)
        picture.paste(item.rgb, (left, top), stencil)
    return picture


def coverage(scene: Scene) -> Image.Image:
    """Where the items are: a grey picture, white on their pixels."""
    covered = Image.new("L", (scene.width, scene.height), 0)
    for item in scene.items:
        stencil, left, top = _stencil(item)
        covered.paste(255, (left, top), stencil)
    return covered
