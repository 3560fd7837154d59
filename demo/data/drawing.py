"""Pictures of scenes, drawn with Pillow."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.data.scenes import Item, Scene


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _outline(kind: str, angle: float) -> list[tuple[float, float]]:
    """Returns the corners of a shape within the unit circle; y points down."""

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


@lru_cache(maxsize=16)  # render and coverage need the same ones
def _stencil(item: Item) -> tuple[Image.Image, int, int]:
    """Returns an item's coverage in gray, and the left and top of its place."""
    side = math.ceil(item.size) + 2
    left, top = round(item.x - side / 2), round(item.y - side / 2)
    fine = 4  # Drawn four times as large, then reduced, for smooth edges.
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


def _background(scene: Scene) -> Image.Image:
    background = scene.background
    if background.start == background.end and not background.noise:
        return Image.new("RGB", (scene.width, scene.height), background.start)
    x = np.linspace(-0.5, 0.5, scene.width)[None, :]
    y = np.linspace(-0.5, 0.5, scene.height)[:, None]
    direction = background.direction
    along = x * math.cos(direction) + y * math.sin(direction)
    share = np.clip(along + 0.5, 0, 1)[..., None]
    start, end = np.array(background.start), np.array(background.end)
    pixels = start + share * (end - start)
    if background.noise:
        rng = np.random.default_rng(background.noise_seed)
        noise = rng.integers(-background.noise, background.noise + 1, pixels.shape)
        pixels = pixels + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render(scene: Scene) -> Image.Image:
    """Draws a scene as an RGB picture of its own size."""
    picture = _background(scene)
    for item in scene.items:
        stencil, left, top = _stencil(item)
        picture.paste(item.rgb, (left, top), stencil)
    return picture


def item_box(item: Item) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of what is drawn of an item, in pixels."""
    stencil, left, top = _stencil(item)
    box = stencil.getbbox()
    assert box is not None, "every item covers some pixels"
    return left + box[0], top + box[1], left + box[2], top + box[3]


def coverage(scene: Scene) -> Image.Image:
    """Returns a gray picture that is white where items are."""
    covered = Image.new("L", (scene.width, scene.height), 0)
    for item in scene.items:
        stencil, left, top = _stencil(item)
        covered.paste(255, (left, top), stencil)
    return covered
