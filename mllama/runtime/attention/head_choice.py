"""The head whose maps localize best, chosen without labels.

The idea is that of Kang et al., "Your Large Vision-Language Model Only Needs A Few
Attention Heads For Visual Grounding" (https://arxiv.org/abs/2503.06287): a head that
localizes looks at the pictures at all, and at one place in them.  ``docs/attention.md``
compares this rule with others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import Head, HeadScore
from mllama.requests.map_entropy import map_entropy
from mllama.runtime.attention.weights import AttentionWeights

SCORED_TOKENS: Final = 128
"""Tokens by which heads are judged, at most."""


def head_scores(
    weights: AttentionWeights,
    grids: Sequence[PatchGrid],
    heads: Mapping[int, Sequence[int]],
    tokens: range,
    layer_numbers: Sequence[int],
) -> list[HeadScore]:
    """Judges heads by the maps of some tokens.

    Which of the queries around a word looks at what it names differs between models
    and words, so that the clearer of two consecutive ones counts.  About half of an
    answer's words name nothing in a picture, so that a head is judged by the clearer
    half.

    Args:
        weights: The attention weights.
        grids: The patches of each image.
        heads: The heads of each layer, by its index among those of cross-attention.
        tokens: Indices of the tokens, of which the first are used.
        layer_numbers: The numbers of the cross-attention layers.

    Returns:
        A score of each head, best first; none if no token attends to an image.
    """
    some = np.array(tokens[:SCORED_TOKENS], np.int64)
    scores = []
    for layer, chosen in heads.items():
        masses = np.zeros((len(grids), len(chosen), len(some)), np.float32)
        entropies = np.zeros_like(masses)
        for image, rows, values in weights.of_layer(layer, some):
            picture = grids[image].split(values[list(chosen)]).picture
            at = np.searchsorted(some, rows)
            flat = picture.reshape(*picture.shape[:2], -1)
            masses[image][:, at] = flat.sum(axis=-1)
            entropies[image][:, at] = map_entropy(flat)
        scores += _scores(
            masses, entropies, [(layer_numbers[layer], h) for h in chosen]
        )
    return sorted(scores, key=lambda score: (score.entropy, score.head))


def _scores(
    masses: npt.NDArray[np.float32],
    entropies: npt.NDArray[np.float32],
    heads: Sequence[Head],
) -> list[HeadScore]:
    """Returns the scores of a layer's heads.

    Args:
        masses: ``[images, heads, tokens]``, the mass in each picture.
        entropies: The same of the maps' entropies.
        heads: The heads.
    """
    if not len(masses):
        return []
    looked_at = masses.argmax(axis=0)[None]
    mass = np.take_along_axis(masses, looked_at, axis=0)[0]
    entropy = np.take_along_axis(entropies, looked_at, axis=0)[0]
    sees = mass.max(axis=0, initial=0) > 0
    if not sees.any():
        return []
    mass, entropy = mass[:, sees], entropy[:, sees]
    clearest = entropy
    if entropy.shape[1] > 1:
        clearest = np.minimum(entropy[:, :-1], entropy[:, 1:])
    half = np.sort(clearest, axis=1)[:, : max(1, clearest.shape[1] // 2)]
    return [
        HeadScore(head, float(half[index].mean()), float(mass[index].mean()))
        for index, head in enumerate(heads)
    ]
