"""Conversations about one or two scenes, and their OpenAI-style messages.

A conversation ends with a question whose answer is known; earlier turns include their
answers.  ``questions`` has the kinds that need one turn and one picture; this module
adds those that need more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from demo.data.language import fill, loosen, name, pick, with_article
from demo.data.questions import ASKERS, Asked, ask
from demo.data.scenes import COLOR_NAMES, SHAPES, Scene, random_scene
from demo.data.wordings import MORE_SHAPES, SMALL_TALK, SYSTEMS, WHICH_PICTURE

SINGLE = tuple(ASKERS)
"""Kinds of conversation with one question about one picture."""

KINDS = (*SINGLE, "compare", "follow_up", "new_picture")
"""Every kind of conversation that the evaluation uses."""


@dataclass(frozen=True)
class Turn:
    """A user's question, the pictures shown with it, and the right answer."""

    question: str
    answer: str
    pictures: tuple[int, ...] = ()
    pictures_first: bool = True


@dataclass(frozen=True)
class Conversation:
    """Turns about numbered scenes; the model is asked for the last turn's answer."""

    kind: str
    turns: tuple[Turn, ...]
    system: str | None = None

    @property
    def answer(self) -> str:
        """The right answer to the last question."""
        return self.turns[-1].answer


def messages(
    conversation: Conversation, pictures: Sequence[Image.Image]
) -> list[dict[str, Any]]:
    """Returns the messages to send, without the last answer."""
    sent: list[dict[str, Any]] = []
    if conversation.system is not None:
        sent.append({"role": "system", "content": conversation.system})
    for turn in conversation.turns:
        text = {"type": "text", "text": turn.question}
        shown = [{"type": "image", "image": pictures[i]} for i in turn.pictures]
        content: Any = [*shown, text] if turn.pictures_first else [text, *shown]
        sent.append({"role": "user", "content": content if shown else turn.question})
        sent.append({"role": "assistant", "content": turn.answer})
    return sent[:-1]


def _system(rng: np.random.Generator) -> str | None:
    return pick(rng, SYSTEMS) if rng.random() < 0.35 else None


def _turn(rng: np.random.Generator, asked: Asked, pictures: tuple[int, ...]) -> Turn:
    first = bool(rng.random() < (0.8 if len(pictures) < 2 else 0.65))
    return Turn(asked.question, asked.answer, pictures, first)


def _any_question(rng: np.random.Generator, scene: Scene) -> Asked:
    while True:
        asked = ask(rng, scene, pick(rng, SINGLE))
        if asked is not None:
            return asked


def single(
    rng: np.random.Generator, scene: Scene, kind: str, picture: int = 0
) -> Conversation | None:
    """Returns one question of a kind about one picture, or None if none fits."""
    asked = ask(rng, scene, kind)
    if asked is None:
        return None
    return Conversation(kind, (_turn(rng, asked, (picture,)),), _system(rng))


def follow_up(rng: np.random.Generator, scene: Scene, picture: int = 0) -> Conversation:
    """Returns a conversation of two or three questions about the same picture."""
    count = 2 if rng.random() < 0.7 else 3
    turns = [
        _turn(rng, _any_question(rng, scene), (picture,) if index == 0 else ())
        for index in range(count)
    ]
    return Conversation("follow_up", tuple(turns), _system(rng))


def new_picture(
    rng: np.random.Generator, scenes: Sequence[Scene], first: int = 0, second: int = 1
) -> Conversation:
    """Returns a conversation in which a later turn shows another picture.

    The last question is about the second picture.
    """
    turns = [_turn(rng, _any_question(rng, scenes[first]), (first,))]
    if rng.random() < 0.2:
        turns.append(_turn(rng, _any_question(rng, scenes[first]), ()))
    turns.append(_turn(rng, _any_question(rng, scenes[second]), (second,)))
    if rng.random() < 0.3:
        turns.append(_turn(rng, _any_question(rng, scenes[second]), ()))
    return Conversation("new_picture", tuple(turns), _system(rng))


def compare(
    rng: np.random.Generator, scenes: Sequence[Scene], first: int = 0, second: int = 1
) -> Conversation | None:
    """Returns a question about which of two pictures shows something.

    Both pictures are shown in the same turn.  Returns None if they show the same.
    """
    pair = scenes[first], scenes[second]
    held = [
        {name(item) for item in scene.items}
        | {item.kind for item in scene.shapes}
        | {f"{item.color} shape" for item in scene.shapes}
        for scene in pair
    ]
    winner = int(rng.integers(2))
    only = sorted(held[winner] - held[1 - winner])
    counts = [len(scene.shapes) for scene in pair]
    if counts[0] != counts[1] and rng.random() < 0.15:
        winner = int(counts[1] > counts[0])
        text = fill(rng, pick(rng, MORE_SHAPES))
    elif only:
        thing = with_article(pick(rng, only))
        text = fill(rng, pick(rng, WHICH_PICTURE)).replace("{x}", thing)
    else:
        return None
    answer = ("The first one.", "The second one.")[winner]
    asked = Asked("compare", loosen(rng, text), answer)
    return Conversation("compare", (_turn(rng, asked, (first, second)),), _system(rng))


def small_talk(rng: np.random.Generator) -> Conversation:
    """Returns a conversation without a picture; the evaluation has none."""
    said, answer = SMALL_TALK[int(rng.integers(len(SMALL_TALK)))]
    return Conversation("small_talk", (Turn(pick(rng, said), answer),), _system(rng))


def random_conversation(
    rng: np.random.Generator, kind: str
) -> tuple[Conversation, list[Scene]]:
    """Returns a conversation of a kind about fresh scenes, and the scenes."""
    while True:
        conversation: Conversation | None
        if kind in ("compare", "new_picture"):
            most = 3 if kind == "new_picture" else 1 + int(rng.random() < 0.5)
            scenes = [random_scene(rng, max_items=most) for _ in range(2)]
            make = compare if kind == "compare" else new_picture
            conversation = make(rng, scenes)
        else:
            scenes = [random_scene(rng)]
            if kind == "follow_up":
                conversation = follow_up(rng, scenes[0])
            else:
                conversation = single(rng, scenes[0], kind)
        if conversation is not None:
            return conversation, scenes


def vocabulary_text(rng: np.random.Generator, count: int) -> list[str]:
    """Returns texts to train the tokenizer on: every wording and answer, many times."""
    texts: list[str] = []
    for index in range(count):
        conversation, _ = random_conversation(rng, KINDS[index % len(KINDS)])
        for turn in conversation.turns:
            texts += [turn.question, turn.answer]
    for said, answer in SMALL_TALK:
        texts += [*said, answer] * (count // 100)
    texts += [*SYSTEMS, "user", "assistant", "system", "\n\n"] * (count // 100)
    for word in (*SHAPES, *COLOR_NAMES):
        texts += [word, f" {word}", f" {word}s"] * (count // 100)
    return texts
