"""Attention weights: softmax(q K / sqrt(d)) over the image cache's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mllama.image_cache.block_manager import Entry
from mllama.image_cache.page_contents import download_keys
from mllama.image_cache.storage import ImageCacheStorage

_SCRATCH_VALUES: Final = 16 << 20
"""Weights that are computed at a time: of some tokens and all heads of a layer."""

Array = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


def softmax_weights(queries: Array, keys: Array) -> Array:
    """Returns the attention weights of one layer.

    Args:
        queries: ``[tokens, heads, head dim]``, after q_norm.
        keys: ``[image tokens, kv heads, head dim]``, after k_norm.  Consecutive heads
            share a kv head.

    Returns:
        float32 ``[heads, tokens, image tokens]``; each row adds up to 1.
    """
    tokens, heads, head_dim = queries.shape
    image_tokens, kv_heads, _ = keys.shape
    grouped = queries.transpose(1, 0, 2).reshape(kv_heads, -1, head_dim)
    weights = grouped @ keys.transpose(1, 2, 0)
    weights *= np.float32(head_dim**-0.5)
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights.reshape(heads, tokens, image_tokens)


@dataclass(frozen=True)
class TokenSpan:
    """Consecutive tokens that attend to the same images.

    Attributes:
        start: Index of the first token among those that have maps.
        end: One past the index of the last.
        entry: Where the keys of the images are.
        images: The images' numbers in the request; the tokens attend to all of them.
    """

    start: int
    end: int
    entry: Entry
    images: range


class AttentionWeights:
    """The attention weights of some tokens, computed when they are asked for.

    Args:
        storage: The image cache, in which the images are pinned.
        queries: ``[cross-attention layers, tokens, heads, head dim]``, after q_norm.
        spans: The tokens that attend to images; the others have no weights.
        image_tokens: The image tokens of each image of the request.
    """

    def __init__(
        self,
        storage: ImageCacheStorage,
        queries: Array,
        spans: Sequence[TokenSpan],
        image_tokens: Sequence[int],
    ) -> None:
        self._storage = storage
        self._queries = queries
        self._spans = spans
        self._image_tokens = image_tokens

    def mean(self, heads: Mapping[int, Sequence[int]]) -> list[Array]:
        """Returns the mean weights of some heads.

        Args:
            heads: The heads of each layer, by its index among those of cross-attention.

        Returns:
            For each image, float32 ``[tokens, image tokens]``, which are 0 where a
            token doesn't attend to the image.
        """
        count = self._queries.shape[1]
        totals = [np.zeros((count, size), np.float32) for size in self._image_tokens]
        for layer, chosen in heads.items():
            for image, rows, weights in self.of_layer(layer, np.arange(count)):
                totals[image][rows] += weights[list(chosen)].sum(axis=0)
        number = sum(map(len, heads.values()))
        for total in totals:
            total /= number
        return totals

    def of_layer(
        self, layer: int, tokens: Numbers
    ) -> Iterator[tuple[int, Numbers, Array]]:
        """Yields the weights of a layer, some tokens at a time.

        Args:
            layer: The layer's index among those of cross-attention.
            tokens: Indices of tokens, ascending.

        Yields:
            An image, the tokens, and the weights ``[heads, tokens, image tokens]`` of
            the image.
        """
        heads = self._queries.shape[2]
        for span in self._spans:
            wanted = tokens[(tokens >= span.start) & (tokens < span.end)]
            if not len(wanted):
                continue
            seen = span.entry.num_tokens(len(span.images))
            keys = download_keys(self._storage, span.entry, layer)[:seen]
            at_a_time = max(1, _SCRATCH_VALUES // (heads * seen))
            for start in range(0, len(wanted), at_a_time):
                rows = wanted[start : start + at_a_time]
                weights = softmax_weights(self._queries[layer, rows], keys)
                for index, image in enumerate(span.images):
                    first, end = span.entry.span(index)
                    yield image, rows, weights[:, :, first:end]
