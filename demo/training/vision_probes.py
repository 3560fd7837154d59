"""Auxiliary heads that train the vision encoder directly.

Answers to questions teach a vision encoder slowly, being a few words per picture.  So
small heads, which are discarded afterwards, also predict from the encoder's output what
each patch shows and what the whole picture contains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from demo.data.drawing import coverage
from demo.data.scenes import COLOR_NAMES, KINDS, SHAPES, Item, Scene, band, direction
from demo.training.architecture import MAX_TILES, PATCH, TILE
from demo.training.pixels import Tiles, cut

SIDE = TILE // PATCH
PATCHES = SIDE * SIDE
SLOTS = 4
FINE = 8
"""Points along a patch's side at which its outline is predicted."""
IGNORED = -100
"""A target that torch's cross entropy leaves out."""

PER_TILE = (
    "outline",
    "kind",
    "color",
    "center",
    "place",
    "beside_kind",
    "beside_color",
)
"""Targets that have an entry for each tile; the others are of the whole picture."""

Targets = dict[str, npt.NDArray[np.int64]]


def outline(scene: Scene, tiles: Tiles) -> npt.NDArray[np.int64]:
    """Returns which points of each patch an item covers: (tiles, patches, points).

    They are 0 or 1, and make shapes learnable: they separate figure from ground without
    regard to color, and a shape follows easily from its outline.
    """
    covered = cut(coverage(scene).convert("RGB")).pixels[..., 0]
    step = PATCH // FINE
    points = covered.reshape(MAX_TILES, SIDE, FINE, step, SIDE, FINE, step)
    dense = points.mean(axis=(3, 6)).transpose(0, 1, 3, 2, 4) > 127
    found: npt.NDArray[np.int64] = dense.reshape(MAX_TILES, PATCHES, -1).astype(int)
    found[tiles.count :] = IGNORED
    return found


def bands(item: Item, scene: Scene) -> tuple[int, int]:
    """Returns an item's part of the width and of the height, where they are clear."""
    across, down = band(item.x / scene.width), band(item.y / scene.height)
    return (
        IGNORED if across is None else across,
        IGNORED if down is None else down,
    )


def beside(item: Item, scene: Scene) -> list[tuple[int, int]]:
    """Returns kind and color of the only item on each of the four sides."""
    found = []
    for side in ("left of", "right of", "above", "below"):
        others = [
            other
            for other in scene.items
            if other is not item and direction(other, item) == side
        ]
        if len(others) > 1:
            found.append((IGNORED, IGNORED))
        elif others:
            kind = KINDS.index(others[0].kind) + 1
            found.append((kind, COLOR_NAMES.index(others[0].color)))
        else:
            found.append((0, IGNORED))
    return found


def probe_targets(scene: Scene, tiles: Tiles) -> Targets:
    """Returns the targets of all heads for one picture.

    ``kind`` and ``color`` tell what covers the middle of each patch, ``center`` which
    item has its center in the patch.  ``slot_kind`` and ``slot_color`` list the items
    in reading order, and ``counts`` has the number of items of each shape and color.
    """
    kind = np.full((MAX_TILES, PATCHES), IGNORED)
    kind[: tiles.count] = 0
    color = np.full((MAX_TILES, PATCHES), IGNORED)
    center = kind.copy()
    rows, columns = tiles.high * SIDE, tiles.wide * SIDE
    y, x = np.mgrid[:rows, :columns]
    tile = (y // SIDE) * tiles.wide + x // SIDE
    inner = (y % SIDE) * SIDE + x % SIDE
    place = np.full((MAX_TILES, PATCHES, 2), IGNORED)
    beside_kind = np.full((MAX_TILES, PATCHES, 4), IGNORED)
    beside_color = beside_kind.copy()
    slot_kind = np.zeros(SLOTS, np.int64)
    slot_color = np.full(SLOTS, IGNORED)
    for index, item in enumerate(scene.items):
        name = KINDS.index(item.kind) + 1
        paint = COLOR_NAMES.index(item.color)
        cx, cy = item.x * tiles.scale[0], item.y * tiles.scale[1]
        radius = item.size * tiles.scale[0] / 2
        away = np.hypot((x + 0.5) * PATCH - cx, (y + 0.5) * PATCH - cy)
        covered = away < max(0.8 * radius, 0.71 * PATCH)
        kind[tile[covered], inner[covered]] = name
        color[tile[covered], inner[covered]] = paint
        at = (min(int(cy // PATCH), rows - 1), min(int(cx // PATCH), columns - 1))
        center[tile[at], inner[at]] = name
        slot_kind[index], slot_color[index] = name, paint
        place[tile[covered], inner[covered]] = bands(item, scene)
        for way, (other_kind, other_color) in enumerate(beside(item, scene)):
            beside_kind[tile[covered], inner[covered], way] = other_kind
            beside_color[tile[covered], inner[covered], way] = other_color
    shapes = scene.shapes
    counts = [sum(item.kind == shape for item in shapes) for shape in SHAPES]
    counts += [sum(item.color == name for item in shapes) for name in COLOR_NAMES]
    return {
        "outline": outline(scene, tiles),
        "kind": kind,
        "color": color,
        "center": center,
        "place": place,
        "beside_kind": beside_kind,
        "beside_color": beside_color,
        "slot_kind": slot_kind,
        "slot_color": slot_color,
        "counts": np.array([*counts, len(shapes)]),
    }


class VisionProbes(nn.Module):
    """The heads on the projected vision states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kinds, colors = len(KINDS) + 1, len(COLOR_NAMES)
        self.outline = nn.Linear(width, FINE * FINE)
        self.kind = nn.Linear(width, kinds)
        self.color = nn.Linear(width, colors)
        self.center = nn.Linear(width, kinds)
        self.place = nn.Linear(width, 2 * 3)
        self.beside_kind = nn.Linear(width, 4 * kinds)
        self.beside_color = nn.Linear(width, 4 * colors)
        self.slot_kind = nn.Linear(width, SLOTS * kinds)
        self.slot_color = nn.Linear(width, SLOTS * colors)
        self.counts = nn.Linear(width, (len(SHAPES) + colors + 1) * (SLOTS + 1))

    def forward(
        self, states: torch.Tensor, wanted: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns the loss and each head's accuracy.

        Args:
            states: (pictures, tiles, 1 + patches, width).
            wanted: The targets, stacked for all pictures.
        """
        whole, patches = states[:, 0, 0], states[:, :, 1:]
        logits = {
            "kind": self.kind(patches),
            "color": self.color(patches),
            "center": self.center(patches),
            "place": self.place(patches).unflatten(-1, (2, -1)),
            "beside_kind": self.beside_kind(patches).unflatten(-1, (4, -1)),
            "beside_color": self.beside_color(patches).unflatten(-1, (4, -1)),
            "slot_kind": self.slot_kind(whole).unflatten(-1, (SLOTS, -1)),
            "slot_color": self.slot_color(whole).unflatten(-1, (SLOTS, -1)),
            "counts": self.counts(whole).unflatten(-1, (-1, SLOTS + 1)),
        }
        points, covered = self.outline(patches), wanted["outline"]
        real = covered != IGNORED
        loss = 3 * F.binary_cross_entropy_with_logits(
            points, (covered > 0).to(points.dtype), real / real.float().mean()
        )
        right = {"outline": float(((points > 0) == (covered > 0))[real].float().mean())}
        for name, values in logits.items():
            flat, target = values.flatten(0, -2), wanted[name].flatten()
            weight = None
            if name in ("kind", "center"):
                # Most patches are background, which would outweigh the rest.
                weight = torch.ones(flat.shape[-1])
                weight[0] = 0.25
                weight[1 + len(SHAPES) :] = 2.0  # Digits are rarer and finer.
            asked = target != IGNORED
            if not asked.any():
                continue
            loss = loss + F.cross_entropy(flat, target, weight, ignore_index=IGNORED)
            if name in ("kind", "center", "slot_kind", "beside_kind"):
                asked &= target != 0
            hit = (flat.detach().argmax(-1) == target)[asked]
            right[name] = float(hit.float().mean())
        return loss, right
