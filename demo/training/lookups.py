"""What the text side is asked directly while it learns to look things up.

"What color is the star?" needs the word *star* to find the star in the picture.
Answers alone teach this slowly, so the hidden state at such a word is asked, through
small heads that are thrown away afterwards, what it has found; and the state at
``<|image|>`` what the picture holds.  Where a word sees two pictures it is asked which
of them holds what it means: the answer needs the state at the first ``<|image|>``,
the only one that sees the first picture alone.
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
from demo.training.eye import NOTHING, bands, beside

GENERAL = ("shape", "object", "thing", "one")
PRINTED = ("digit", "number")

SIZES = {"count": (1, 5), "kind": (1, len(KINDS)), "color": (1, len(COLOR_NAMES))}
SIZES |= {"place": (2, 3), "beside_kind": (4, len(KINDS) + 1)}
SIZES |= {"beside_color": (4, len(COLOR_NAMES))}
"""What is asked about a word: how many questions of how many possible answers."""

Found = dict[str, list[int]]


class Words:
    """Which tokens are words for things, and what they stand for."""

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
        """The items that the phrase ending at this token means, if it is one."""
        word = self.of.get(ids[at])
        if word is None:
            return None
        before = at - 2 if at > 1 and ids[at - 1] == self.space else at - 1
        color = self.of.get(ids[before])
        if word in COLOR_NAMES:
            if at + 1 < len(ids) and (
                ids[at + 1] in self.of or ids[at + 1] == self.space
            ):
                return None  # the phrase goes on
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


def found(items: list[Item], scene: Scene) -> Found:
    """The right answers about the items a phrase means."""
    kinds = {item.kind for item in items}
    colors = {item.color for item in items}
    only = items[0] if len(items) == 1 else None
    sides = beside(only, scene) if only else [(NOTHING, NOTHING)] * 4
    return {
        "count": [len(items)],
        "kind": [KINDS.index(kinds.pop()) if len(kinds) == 1 else NOTHING],
        "color": [COLOR_NAMES.index(colors.pop()) if len(colors) == 1 else NOTHING],
        "place": list(bands(only, scene)) if only else [NOTHING] * 2,
        "beside_kind": [kind for kind, _ in sides],
        "beside_color": [color for _, color in sides],
    }


def holds(scene: Scene) -> npt.NDArray[np.float32]:
    """What a picture holds: each kind, each color, each shape in each color."""
    kinds = [any(i.kind == kind for i in scene.items) for kind in KINDS]
    colors = [any(i.color == name for i in scene.items) for name in COLOR_NAMES]
    pairs = [
        any(item.kind == shape and item.color == name for item in scene.items)
        for shape in SHAPES
        for name in COLOR_NAMES
    ]
    return np.array([*kinds, *colors, *pairs], np.float32)


HELD = len(KINDS) + len(COLOR_NAMES) * (1 + len(SHAPES))


@dataclass
class Notes:
    """Positions in a batch and the right answers there."""

    at: list[tuple[int, int]]
    answers: list[Found]
    images_at: list[tuple[int, int]]
    held: list[npt.NDArray[np.float32]]
    both_at: list[tuple[int, int]]
    which: list[int]

    def tensors(self) -> dict[str, torch.Tensor]:
        """As tensors of a batch."""
        made = {
            name: torch.tensor([answer[name] for answer in self.answers])
            for name in SIZES
        }
        made["at"] = torch.tensor(self.at)
        made["images_at"] = torch.tensor(self.images_at).view(-1, 2)
        made["both_at"] = torch.tensor(self.both_at, dtype=torch.long).view(-1, 2)
        made["which"] = torch.tensor(self.which, dtype=torch.long)
        made["held"] = torch.from_numpy(np.array(self.held)).view(-1, HELD)
        return made


class LookupHeads(nn.Module):
    """The throw-away heads on the states of one layer of the text side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, n * size) for name, (n, size) in SIZES.items()}
        )
        self.held = nn.Linear(width, HELD)
        self.which = nn.Linear(width, 4)  # neither picture, the first, the second, both

    def forward(
        self, states: torch.Tensor, notes: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and accuracies for states of (rows, tokens, width)."""
        states = F.rms_norm(states.float(), states.shape[-1:])
        at, images_at, both_at = notes["at"], notes["images_at"], notes["both_at"]
        here = states[at[:, 0], at[:, 1]]
        loss, right = states.new_zeros(()), {}
        for name, (questions, _) in SIZES.items():
            logits = self.heads[name](here).unflatten(-1, (questions, -1)).flatten(0, 1)
            target = notes[name].flatten()
            asked = target != NOTHING
            if asked.any():
                loss = loss + F.cross_entropy(logits, target, ignore_index=NOTHING)
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
