"""Questions about one scene, in varied wording, and their exact answers.

Each kind of question has one function, which returns a random question, or None if the
scene has no clear answer.  Each answer has one canonical wording, so that exact match
is well defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from demo.data.language import fill, join, loosen, name, pick, sentence, with_article
from demo.data.scenes import COLOR_NAMES, SHAPES, Item, Scene, band, direction
from demo.data.wordings import (
    BESIDE,
    COLOR_ALL,
    COLOR_ALONE,
    COLOR_OF,
    COUNT,
    DESCRIBE,
    DIGIT,
    EXISTS,
    RELATION,
    SHAPE_ALL,
    SHAPE_ALONE,
    SHAPE_OF,
    WHERE,
)

NUMBERS = ("Zero", "One", "Two", "Three", "Four")
LONG = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "over",
    "below": "under",
}
"""A second wording of each direction; answers use the first."""


@dataclass(frozen=True)
class Asked:
    """A question of a kind and its only right answer."""

    kind: str
    question: str
    answer: str


def references(item: Item, scene: Scene) -> list[str]:
    """Returns the expressions that only this item matches, without an article."""
    others = [other for other in scene.items if other is not item]
    found = []
    if all(name(other) != name(item) for other in others):
        found.append(name(item))
    if item.is_digit:
        found += ["digit", "number"]
    elif all(other.kind != item.kind for other in others):
        found.append(item.kind)
    if not item.is_digit and all(other.color != item.color for other in others):
        found += [f"{item.color} shape", f"{item.color} object"]
    return found


def _referable(rng: np.random.Generator, scene: Scene) -> list[tuple[Item, str]]:
    """Returns the items that can be singled out, each with one expression for it.

    The order is random.
    """
    pairs = [
        (item, pick(rng, options))
        for item in scene.items
        if (options := references(item, scene))
    ]
    order = rng.permutation(len(pairs))
    return [pairs[int(index)] for index in order]


def shape(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks which shape an item of a color is, or which shapes there are."""
    if not scene.shapes:
        return None
    unique = [
        item
        for item in scene.shapes
        if sum(other.color == item.color for other in scene.items) == 1
    ]
    if len(scene.items) == 1 and rng.random() < 0.5:
        text = fill(rng, pick(rng, SHAPE_ALONE))
        return Asked("shape", text, sentence(with_article(scene.items[0].kind)))
    if unique and rng.random() < 0.75:
        item = unique[int(rng.integers(len(unique)))]
        text = fill(rng, pick(rng, SHAPE_OF)).replace("{x}", item.color)
        return Asked("shape", text, sentence(with_article(item.kind)))
    kinds = list(dict.fromkeys(item.kind for item in scene.shapes))
    answer = sentence(join([with_article(kind) for kind in kinds]))
    return Asked("shape", fill(rng, pick(rng, SHAPE_ALL)), answer)


def color(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks which color an item has, or which colors there are."""
    if len(scene.items) == 1 == len(scene.shapes) and rng.random() < 0.4:
        text = fill(rng, pick(rng, COLOR_ALONE))
        return Asked("color", text, sentence(scene.items[0].color))
    options = [
        (item, words)
        for item in scene.items
        for words in references(item, scene)
        if item.color not in words
    ]
    if options and rng.random() < 0.8:
        item, words = options[int(rng.integers(len(options)))]
        text = fill(rng, pick(rng, COLOR_OF)).replace("{x}", words)
        return Asked("color", text, sentence(item.color))
    if scene.digit is not None:
        return None  # "Which colors" would leave open whether the digit counts.
    colors = list(dict.fromkeys(item.color for item in scene.items))
    return Asked("color", fill(rng, pick(rng, COLOR_ALL)), sentence(join(colors)))


def count(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks how many shapes there are of a kind, of a color, of both, or in all."""
    shapes = scene.shapes
    totals: dict[str, int] = {"shapes": len(shapes)}
    for kind in SHAPES:
        plural = f"{kind}es" if kind == "cross" else f"{kind}s"
        totals[plural] = sum(item.kind == kind for item in shapes)
        for paint in COLOR_NAMES:
            both = sum(item.kind == kind and item.color == paint for item in shapes)
            # Ask about absent shapes only if the kind or the color is there.
            near = totals[plural] or any(item.color == paint for item in shapes)
            if both or (near and rng.random() < 0.3):
                totals[f"{paint} {plural}"] = both
    for paint in COLOR_NAMES:
        number = sum(item.color == paint for item in shapes)
        totals[f"{paint} {pick(rng, ('shapes', 'objects'))}"] = number
    # The answer is drawn before the question, so that priors alone score low.
    wanted = np.array([0.7, 1.0, 1.3, 1.6, 1.6])
    present = [n for n in range(5) if n in totals.values()]
    weights = wanted[present] / wanted[present].sum()
    answer = present[int(rng.choice(len(present), p=weights))]
    what = pick(rng, [words for words, total in totals.items() if total == answer])
    text = fill(rng, pick(rng, COUNT)).replace("{x}", what)
    return Asked("count", text, sentence(NUMBERS[answer]))


def place(item: Item, scene: Scene) -> str | None:
    """Returns an item's region of the picture, or None if it is between two."""
    bands = [band(item.x / scene.width), band(item.y / scene.height)]
    if bands[0] is None or bands[1] is None:
        return None
    across = ("left", "", "right")[bands[0]]
    down = ("top", "", "bottom")[bands[1]]
    if not across and not down:
        return "At the middle."
    if not down:
        return f"At the {across}."
    return f"At the {f'{down} {across}'.strip()}."


def where(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks in which part of the picture an item is."""
    for item, words in _referable(rng, scene):
        answer = place(item, scene)
        if answer is not None:
            what = "it" if len(scene.items) == 1 and rng.random() < 0.2 else None
            text = pick(rng, WHERE).replace("{x}", what or f"the {words}")
            return Asked("where", fill(rng, text), answer)
    return None


def relation(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks on which side of a second item a first one is."""
    pairs = _referable(rng, scene)
    if len(pairs) < 2:
        return None
    (first, first_words), (second, second_words) = pairs[:2]
    side = direction(first, second)
    if side is None:
        return None
    text = pick(rng, RELATION)
    if rng.random() < 0.4:
        sides = ("left or right of", "right or left of", "above or below")
        index = 2 if side in ("above", "below") else int(rng.integers(2))
        text = f"Is {{x}} {sides[index]} {{y}}?"
    text = text.replace("{x}", f"the {first_words}")
    text = text.replace("{y}", f"the {second_words}")
    return Asked("relation", fill(rng, text), sentence(f"{side} the {second_words}"))


def beside(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks what is on one side of an item."""
    for item, words in _referable(rng, scene):
        sides = {
            other: direction(other, item) for other in scene.items if other is not item
        }
        if None in sides.values():
            continue
        found = {
            side: other
            for other, side in sides.items()
            if list(sides.values()).count(side) == 1
        }
        if found:
            side = pick(rng, [str(each) for each in found])
            text = pick(rng, BESIDE)
            text = text.replace("{d}", side if rng.random() < 0.7 else LONG[side])
            text = fill(rng, text.replace("{x}", f"the {words}"))
            return Asked("beside", text, sentence(with_article(name(found[side]))))
    return None


def digit(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks which digit is printed."""
    if scene.digit is None:
        return None
    text = fill(rng, pick(rng, DIGIT))
    return Asked("digit", text, f"{scene.digit.kind}.")


def exists(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks if an item is there; the answer is yes as often as no."""
    true = rng.random() < 0.5
    if true:
        item = scene.items[int(rng.integers(len(scene.items)))]
        options = [name(item), f"{item.color} {'digit' if item.is_digit else 'shape'}"]
        options.append("digit" if item.is_digit else item.kind)
    else:
        paints, kinds = list(COLOR_NAMES), list(SHAPES)
        swapped = pick(rng, paints), pick(rng, kinds)
        item = scene.items[int(rng.integers(len(scene.items)))]
        options = [swapped[1], f"{swapped[0]} shape", f"{swapped[0]} {swapped[1]}"]
        if not item.is_digit:
            options += [f"{swapped[0]} {item.kind}", f"{item.color} {swapped[1]}"]
        held = {name(each) for each in scene.items}
        held |= {each.kind for each in scene.items}
        held |= {f"{each.color} shape" for each in scene.items}
        options = [each for each in options if each not in held]
        if not options:
            return None
    text = fill(rng, pick(rng, EXISTS))
    return Asked(
        "exists",
        text.replace("{x}", with_article(pick(rng, options))),
        "Yes." if true else "No.",
    )


def description(scene: Scene) -> str:
    """Returns the canonical description: all items in reading order."""
    names = [with_article(name(item)) for item in scene.items]
    if len(names) == 2:
        side = direction(scene.items[0], scene.items[1])
        return sentence(f"{names[0]} {side} {names[1]}")
    return sentence(join(names))


def describe(rng: np.random.Generator, scene: Scene) -> Asked | None:
    """Asks what the picture shows."""
    return Asked("describe", fill(rng, pick(rng, DESCRIBE)), description(scene))


ASKERS: dict[str, Callable[[np.random.Generator, Scene], Asked | None]] = {
    "shape": shape,
    "color": color,
    "count": count,
    "where": where,
    "relation": relation,
    "beside": beside,
    "digit": digit,
    "exists": exists,
    "describe": describe,
}
"""Each kind of question about one picture, and the function that asks it."""


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Asked | None:
    """Returns a question of a kind as people type it, or None if none fits."""
    asked = ASKERS[kind](rng, scene)
    if asked is None:
        return None
    return Asked(asked.kind, loosen(rng, asked.question), asked.answer)
