"""The pieces of English that questions and answers are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demo.data.scenes import Item


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Returns one of the options at random."""
    return options[int(rng.integers(len(options)))]


def fill(rng: np.random.Generator, template: str) -> str:
    """Fills each placeholder of a template with one of several equivalent words."""
    for place, words in (
        ("{c}", ("colour", "color")),
        ("{o}", ("shape", "object", "thing")),
        ("{show}", ("in the {p}", "in this {p}", "here", "there")),
        ("{p}", ("picture", "picture", "image", "image", "photo", "drawing")),
    ):
        while place in template:
            template = template.replace(place, pick(rng, words), 1)
    return template


def loosen(rng: np.random.Generator, question: str) -> str:
    """Returns a question as hurried people write it, now and then."""
    if rng.random() < 0.15:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.12:
        question = question.rstrip("?.")
    if rng.random() < 0.05:
        question += pick(rng, (" Answer briefly.", " Please.", " Tell me."))
    return question


def name(item: Item) -> str:
    """Returns color and kind: ``red circle``, ``blue 7``."""
    return f"{item.color} {item.kind}"


def with_article(words: str) -> str:
    """Returns ``a red circle``, ``an orange star``."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def join(parts: Sequence[str]) -> str:
    """Returns ``x``, ``x and y`` or ``x, y and z``."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(words: str) -> str:
    """Returns words with a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:]}."
