"""Auxiliary heads that train the text decoder to find items in pictures.

To answer "What color is the star?", the hidden state at *star* must find the star in
the picture.  Answers alone teach this slowly.  So small heads, which are discarded
afterwards, predict from the hidden state at such a word what the matching items are,
and from the state at ``<|image|>`` what the picture contains.  At a word that attends
to two pictures they predict which of them contains a match.  That needs the state at
the first ``<|image|>``, the only one that attends to the first picture alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from demo.data.scenes import COLOR_NAMES, DIGITS, KINDS, SHAPES, Item, Scene
from demo.training.vision_probes import IGNORED, bands, beside

GENERAL = ("shape", "object", "thing", "one")
PRINTED = ("digit", "number")

SIZES = {"count": (1, 5), "kind": (1, len(KINDS)), "color": (1, len(COLOR_NAMES))}
SIZES |= {"place": (2, 3), "beside_kind": (4, len(KINDS) + 1)}
SIZES |= {"beside_color": (4, len(COLOR_NAMES))}
"""Predictions at a word: how many, and of how many classes."""

PhraseTargets = dict[str, list[int]]


class ItemWords:
    """The tokens that are words for items, and what they stand for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        raw = tokenizer.backend_tokenizer
        self.of: dict[int, str] = {}
        for word in (*COLOR_NAMES, *SHAPES, *GENERAL, *PRINTED):
            plural = f"{word}es" if word == "cross" else f"{word}s"
            for spelled in (word, plural):
                for text in (spelled, f" {spelled}", spelled.capitalize()):
                    ids = raw.encode(text, add_special_tokens=False).ids
                    if len(ids) == 1:
                        self.of[ids[0]] = word
        for digit in DIGITS:
            self.of[raw.encode(digit, add_special_tokens=False).ids[0]] = digit
        self.space = raw.encode(" ", add_special_tokens=False).ids[0]

    def meant(self, ids: Sequence[int], at: int, scene: Scene) -> list[Item] | None:
        """Returns the items of a scene that a phrase means.

        Args:
            ids: Tokens of the conversation.
            at: Where the phrase ends.
            scene: The scene.

        Returns:
            The items; None if no phrase ends there.
        """
        word = self.of.get(ids[at])
        if word is None:
            return None
        before = at - 2 if at > 1 and ids[at - 1] == self.space else at - 1
        color = self.of.get(ids[before])
        if word in COLOR_NAMES:
            if at + 1 < len(ids) and (
                ids[at + 1] in self.of or ids[at + 1] == self.space
            ):
                return None  # The phrase goes on.
            return [item for item in scene.items if item.color == word]
        fits = [
            item
            for item in scene.items
            if item.kind == word
            or (word in PRINTED and item.is_digit)
            or (word in GENERAL and not item.is_digit)
        ]
        if color in COLOR_NAMES:
            fits = [item for item in fits if item.color == color]
        return fits


def phrase_targets(items: list[Item], scene: Scene) -> PhraseTargets:
    """Returns the targets for the items that a phrase means."""
    kinds = {item.kind for item in items}
    colors = {item.color for item in items}
    only = items[0] if len(items) == 1 else None
    sides = beside(only, scene) if only else [(IGNORED, IGNORED)] * 4
    return {
        "count": [len(items)],
        "kind": [KINDS.index(kinds.pop()) if len(kinds) == 1 else IGNORED],
        "color": [COLOR_NAMES.index(colors.pop()) if len(colors) == 1 else IGNORED],
        "place": list(bands(only, scene)) if only else [IGNORED] * 2,
        "beside_kind": [kind for kind, _ in sides],
        "beside_color": [color for _, color in sides],
    }


def picture_contents(scene: Scene) -> npt.NDArray[np.float32]:
    """Returns which kinds, colors and shapes of a color a scene has, as 0 or 1."""
    kinds = [any(i.kind == kind for i in scene.items) for kind in KINDS]
    colors = [any(i.color == name for i in scene.items) for name in COLOR_NAMES]
    pairs = [
        any(item.kind == shape and item.color == name for item in scene.items)
        for shape in SHAPES
        for name in COLOR_NAMES
    ]
    return np.array([*kinds, *colors, *pairs], np.float32)


CONTENTS = len(KINDS) + len(COLOR_NAMES) * (1 + len(SHAPES))


@dataclass
class TextProbeTargets:
    """Positions in a batch and the heads' targets there."""

    at: list[tuple[int, int]]
    answers: list[PhraseTargets]
    images_at: list[tuple[int, int]]
    held: list[npt.NDArray[np.float32]]
    both_at: list[tuple[int, int]]
    which: list[int]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns the positions and targets as tensors."""
        made = {
            name: torch.tensor([answer[name] for answer in self.answers])
            for name in SIZES
        }
        made["at"] = torch.tensor(self.at)
        made["images_at"] = torch.tensor(self.images_at).view(-1, 2)
        made["both_at"] = torch.tensor(self.both_at, dtype=torch.long).view(-1, 2)
        made["which"] = torch.tensor(self.which, dtype=torch.long)
        made["held"] = torch.from_numpy(np.array(self.held)).view(-1, CONTENTS)
        return made


class TextProbes(nn.Module):
    """The heads on the hidden states of one layer of the text decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, n * size) for name, (n, size) in SIZES.items()}
        )
        self.held = nn.Linear(width, CONTENTS)
        self.which = nn.Linear(
            width, 4
        )  # Neither picture, the first, the second, both.

    def forward(
        self, states: torch.Tensor, notes: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns the loss and each head's accuracy.

        Args:
            states: (sequences, tokens, width).
            notes: Positions and targets, as tensors.
        """
        states = F.rms_norm(states.float(), states.shape[-1:])
        at, images_at, both_at = notes["at"], notes["images_at"], notes["both_at"]
        here = states[at[:, 0], at[:, 1]]
        loss, right = states.new_zeros(()), {}
        for name, (questions, _) in SIZES.items():
            logits = self.heads[name](here).unflatten(-1, (questions, -1)).flatten(0, 1)
            target = notes[name].flatten()
            asked = target != IGNORED
            if asked.any():
                loss = loss + F.cross_entropy(logits, target, ignore_index=IGNORED)
                hit = logits.detach().argmax(-1) == target
                right[name] = float(hit[asked].float().mean())
        if len(images_at):
            logits = self.held(states[images_at[:, 0], images_at[:, 1]])
            loss = loss + 3 * F.binary_cross_entropy_with_logits(logits, notes["held"])
            all_right = ((logits > 0) == (notes["held"] > 0)).all(-1)
            right["held"] = float(all_right.float().mean())
        if len(both_at):
            logits = self.which(states[both_at[:, 0], both_at[:, 1]])
            loss = loss + 3 * F.cross_entropy(logits, notes["which"])
            hit = logits.detach().argmax(-1) == notes["which"]
            right["which"] = float(hit.float().mean())
        return loss, right
