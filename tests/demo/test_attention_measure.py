"""The measure of attention maps: what it counts, and that the demo model passes it."""

from __future__ import annotations

import numpy as np
import pytest

from demo.data.drawing import item_box
from demo.data.scenes import Background, Item, Scene
from demo.evaluate_attention import (
    Answered,
    NamedItem,
    _asked,
    blanked,
    cells_in,
    choose_head,
    measure_words,
    named_items,
    scenes,
    score,
)
from mllama import LLM
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention_words import AttentionWord

RED = Item("circle", "red", (255, 0, 0), 20.0, 20.0, 20.0)
BLUE = Item("circle", "blue", (0, 0, 255), 60.0, 20.0, 20.0)
NINE = Item("9", "red", (255, 0, 0), 100.0, 20.0, 30.0)
SCENE = Scene(128, 64, Background((255, 255, 255), (255, 255, 255)), (RED, BLUE, NINE))
GRID = PatchGrid(1, 2, 4, 4, 8, 128, 64, 128.0, 64.0)


def named(text: str) -> list[tuple[str, Item, str]]:
    words = [
        AttentionWord(each, index, index + 1, is_prompt=False, at=index)
        for index, each in enumerate(text.split())
    ]
    return [
        (each.word.text, each.item, each.kind) for each in named_items(words, SCENE)
    ]


def test_words_that_name_one_item_are_found() -> None:
    assert named("A red circle left of a blue circle") == [
        ("red", RED, "color"),
        ("circle", RED, "shape"),
        ("blue", BLUE, "color"),
        ("circle", BLUE, "shape"),
    ]
    # Several items are red, and several are circles.
    assert named("Red and circle") == []
    assert named("A red 9") == [("red", NINE, "digit"), ("9", NINE, "digit")]
    assert named("A green star") == []


def test_a_map_is_scored_by_its_highest_patch_and_its_mass_in_the_box() -> None:
    inside = cells_in(GRID, item_box(RED))
    assert inside.shape == (4, 8)
    assert inside.any()
    values = np.zeros((4, 8), np.float32)
    rows, columns = np.nonzero(inside)
    values[rows[0], columns[0]] = 0.6
    values[3, 7] = 0.2
    hit, mass = score(values, GRID, RED)
    assert hit
    assert mass == pytest.approx(0.75)
    assert not score(values, GRID, BLUE)[0]


def test_scenes_of_streams_differ_and_are_the_same_again() -> None:
    judged = [scene for scene, _ in scenes(3, 4, stream=5)]
    assert judged == [scene for scene, _ in scenes(3, 4, stream=5)]
    assert not set(judged) & {scene for scene, _ in scenes(3, 4, stream=6)}


@pytest.fixture(scope="module")
def judged(llm: LLM) -> list[Answered]:
    head, _ = choose_head(llm, 1234, 15)
    return [
        _asked(llm, scene, question, {"heads": [head]})
        for scene, question in scenes(1234, 40, stream=5)
    ]


def test_words_look_at_what_they_name(judged: list[Answered]) -> None:
    report, failures = measure_words(judged, {})
    for kind in ("shape", "color"):
        chosen, center = report[kind]["chosen head"], report[kind]["center"]
        assert chosen["words"] >= 30
        assert chosen["maximum_in_box"] >= 0.88
        assert chosen["mass_in_box"] >= 0.8
        assert center["maximum_in_box"] < 0.5
    assert all(isinstance(each, NamedItem) for _, each in failures)


def test_blanking_what_an_answer_looked_at_hides_it(judged: list[Answered]) -> None:
    each = judged[0]
    grid = each.attention.images[0].grid
    total = each.attention.images[0].maps.sum(axis=0).ravel()
    most = np.argsort(total)[::-1][: len(total)]
    hidden = np.asarray(blanked(each, most.tolist()))
    assert (hidden == hidden[0, 0]).all()
    assert hidden.shape == (grid.height, grid.width, 3)
