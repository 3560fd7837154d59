"""Questions: answers follow from the scene, computed here in another way."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.data.conversations import KINDS, messages, random_conversation
from demo.data.drawing import render
from demo.data.questions import ASKERS, Asked, ask
from demo.data.scenes import (
    COLOR_NAMES,
    DIGITS,
    SHAPES,
    Background,
    Item,
    Scene,
    random_scene,
)

seeds = st.integers(0, 2**32 - 1)

GROUND = Background((128, 128, 128), (128, 128, 128))


def asked_of(seed: int, kind: str) -> tuple[Scene, Asked]:
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng)
        asked = ask(rng, scene, kind)
        if asked is not None:
            return scene, asked


def words_of(text: str) -> list[str]:
    return text.lower().replace("?", "").replace(".", "").split()


def matching(scene: Scene, words: list[str]) -> list[Item]:
    """Items that fit every color, shape and digit word among ``words``."""
    singular = [word.removesuffix("s") if word != "cross" else word for word in words]
    singular = ["cross" if word in ("crosse", "cros") else word for word in singular]
    found = []
    for item in scene.items:
        colors = [word for word in singular if word in COLOR_NAMES]
        kinds = [word for word in singular if word in (*SHAPES, *DIGITS)]
        if "digit" in singular or "number" in singular:
            kinds += list(DIGITS) if item.is_digit else ["not this"]
        elif not kinds and item.is_digit:
            continue
        if all(item.color == word for word in colors) and (
            not kinds or item.kind in kinds
        ):
            found.append(item)
    return found


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_counts_match_the_scene(seed: int) -> None:
    scene, asked = asked_of(seed, "count")
    numbers = ["Zero.", "One.", "Two.", "Three.", "Four."]
    right = len(matching(scene, words_of(asked.question)))
    assert asked.answer == numbers[right], asked


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_existence_matches_the_scene(seed: int) -> None:
    scene, asked = asked_of(seed, "exists")
    found = matching(scene, words_of(asked.question))
    assert asked.answer == ("Yes." if found else "No."), (asked, scene.items)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_the_digit_is_the_one_in_the_scene(seed: int) -> None:
    scene, asked = asked_of(seed, "digit")
    assert [asked.answer] == [f"{i.kind}." for i in scene.items if i.kind in DIGITS]


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_description_names_every_item_once(seed: int) -> None:
    scene, asked = asked_of(seed, "describe")
    words = words_of(asked.answer.replace(",", ""))
    named = [
        (words[i], words[i + 1])
        for i in range(len(words) - 1)
        if words[i] in COLOR_NAMES
    ]
    assert named == [(item.color, item.kind) for item in scene.items]


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_relation_follows_from_the_centers(seed: int) -> None:
    scene, asked = asked_of(seed, "relation")
    side = words_of(asked.answer)[0]
    second = matching(scene, words_of(asked.answer))
    assert len(second) == 1
    holds = {
        "left": lambda a, b: a.x < b.x,
        "right": lambda a, b: a.x > b.x,
        "above": lambda a, b: a.y < b.y,
        "below": lambda a, b: a.y > b.y,
    }[side]
    firsts = [item for item in scene.items if item is not second[0]]
    assert any(holds(item, second[0]) for item in firsts)


def two(first: tuple[float, float], second: tuple[float, float]) -> Scene:
    items = (
        Item("circle", "red", (255, 0, 0), *first, 30),
        Item("square", "blue", (0, 0, 255), *second, 30),
    )
    return Scene(200, 200, GROUND, items)


@pytest.mark.parametrize(
    ("scene", "described", "place"),
    [
        (two((30, 100), (170, 100)), "left of", "At the left."),
        (two((100, 30), (100, 170)), "above", "At the top."),
        (two((30, 30), (170, 40)), "left of", "At the top left."),
    ],
)
def test_known_scenes_have_known_answers(
    scene: Scene, described: str, place: str
) -> None:
    rng = np.random.default_rng(0)
    description = ask(rng, scene, "describe")
    assert description is not None
    assert description.answer == f"A red circle {described} a blue square."
    places = {
        asked.answer
        for _ in range(40)
        if (asked := ask(rng, scene, "where")) and "square" not in asked.question
        if "blue" not in asked.question
    }
    assert places == {place}
    sides = {asked.answer for _ in range(40) if (asked := ask(rng, scene, "beside"))}
    assert sides == {"A red circle.", "A blue square."}


@pytest.mark.parametrize("kind", ASKERS)
def test_no_answer_can_be_guessed(kind: str) -> None:
    """No answer of a kind is so frequent that priors alone would score."""
    rng = np.random.default_rng(1)
    answers: collections.Counter[str] = collections.Counter()
    while answers.total() < 400:
        asked = ask(rng, random_scene(rng), kind)
        if asked is not None:
            answers[asked.answer] += 1
    limit = {"exists": 0.58, "count": 0.5}.get(kind, 0.3)
    assert answers.most_common(1)[0][1] / answers.total() < limit


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_are_reproducible_and_well_formed(kind: str) -> None:
    for seed in range(10):
        conversation, scenes = random_conversation(np.random.default_rng(seed), kind)
        again = random_conversation(np.random.default_rng(seed), kind)
        assert (conversation, scenes) == again
        sent = messages(conversation, [render(scene) for scene in scenes])
        roles = [message["role"] for message in sent if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        images = sum(
            part["type"] == "image"
            for message in sent
            if isinstance(message["content"], list)
            for part in message["content"]
        )
        assert images == len(scenes)


def test_comparison_tells_the_picture_that_has_it() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        conversation, scenes = random_conversation(rng, "compare")
        words = words_of(conversation.turns[0].question)
        if "more" in words:
            numbers = [len(scene.shapes) for scene in scenes]
        else:
            numbers = [len(matching(scene, words)) for scene in scenes]
        wanted = "The first one." if numbers[0] > numbers[1] else "The second one."
        assert conversation.answer == wanted
