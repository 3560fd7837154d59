"""Scenes: the same seed draws the same picture, and the picture shows the scene."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.data.drawing import coverage, render
from demo.data.scenes import (
    COLOR_NAMES,
    LAYOUTS,
    MIN_CONTRAST,
    SHAPES,
    Scene,
    direction,
    is_tall,
    random_scene,
)

seeds = st.integers(0, 2**32 - 1)


def scene_of(seed: int) -> Scene:
    return random_scene(np.random.default_rng(seed))


def test_same_seed_same_picture() -> None:
    for seed in range(5):
        first, second = scene_of(seed), scene_of(seed)
        assert first == second
        assert render(first).tobytes() == render(second).tobytes()
    assert scene_of(1) != scene_of(2)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_color_is_where_the_scene_says(seed: int) -> None:
    scene = scene_of(seed)
    picture = np.asarray(render(scene)).astype(int)
    for item in scene.shapes:  # a digit may be hollow in its middle
        pixel = picture[int(item.y), int(item.x)]
        assert math.dist(pixel, item.rgb) < 2, item


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_items_are_apart_inside_and_visible(seed: int) -> None:
    scene = scene_of(seed)
    assert 1 <= len(scene.items) <= 4
    assert sum(item.is_digit for item in scene.items) <= 1
    for index, item in enumerate(scene.items):
        assert item.x - item.size / 2 > 0
        assert item.x + item.size / 2 < scene.width
        assert item.y - item.size / 2 > 0
        assert item.y + item.size / 2 < scene.height
        for end in (scene.background.start, scene.background.end):
            assert math.dist(item.rgb, end) >= MIN_CONTRAST - 1
        for other in scene.items[:index]:
            apart = math.hypot(item.x - other.x, item.y - other.y)
            assert apart > (item.size + other.size) / 2


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_coverage_is_what_differs_from_the_ground(seed: int) -> None:
    scene = scene_of(seed)
    empty = Scene(scene.width, scene.height, scene.background, ())
    with_items = np.asarray(render(scene)).astype(int)
    changed = np.abs(with_items - np.asarray(render(empty)).astype(int)).max(-1) > 0
    covered = np.asarray(coverage(scene)) > 0
    assert not (changed & ~covered).any()
    assert changed.sum() > 0.9 * covered.sum()


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_items_stand_in_reading_order(seed: int) -> None:
    scene = scene_of(seed)
    items = scene.items
    if len(items) == 2:
        assert direction(*items) in ("left of", "above")
    elif is_tall(scene.width, scene.height):
        assert [i.y for i in items] == sorted(i.y for i in items)
    else:
        assert [i.x for i in items] == sorted(i.x for i in items)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts_have_their_proportions(layout: tuple[int, int]) -> None:
    high, wide = layout
    for seed in range(20):
        scene = random_scene(np.random.default_rng(seed), layout=layout)
        ratio = scene.width / scene.height
        assert 0.7 * wide / high < ratio < 1.45 * wide / high


def test_everything_is_drawn_about_equally_often() -> None:
    rng = np.random.default_rng(0)
    items = [item for _ in range(1500) for item in random_scene(rng).items]
    shapes = [item for item in items if not item.is_digit]
    for shape in SHAPES:
        share = sum(item.kind == shape for item in shapes) / len(shapes)
        assert abs(share - 1 / len(SHAPES)) < 0.05
    for color in COLOR_NAMES:
        share = sum(item.color == color for item in items) / len(items)
        assert abs(share - 1 / len(COLOR_NAMES)) < 0.04
