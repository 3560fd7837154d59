"""Attention maps of a prompt and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mllama.image_cache.segments import segments
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import (
    LOCALIZING,
    AttentionMaps,
    AttentionOptions,
    Head,
    HeadScore,
    ImageMaps,
)
from mllama.runtime.attention.head_choice import head_scores
from mllama.runtime.attention.queries import QueryRunner
from mllama.runtime.attention.weights import AttentionWeights, TokenSpan


class MapRunner:
    """Computes attention maps.

    Args:
        model: The ``MllamaModel``, on a CPU.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._queries = QueryRunner(model)
        text = model.arch_config.model.text_config
        self.cross_layers: tuple[int, ...] = tuple(text.cross_attention_layers)
        self.num_heads: int = text.num_attention_heads

    def compute(
        self,
        context: Any,
        grids: Sequence[PatchGrid],
        first: int,
        answer: int,
        options: AttentionOptions,
    ) -> AttentionMaps:
        """Computes the maps of the tokens from ``first`` to the last.

        Args:
            context: A request whose tokens are prompt and answer, with its images.
                They are pinned meanwhile, and encoded if the image cache lacks them.
            grids: The patches of each image.
            first: The position of the first token that gets maps, at least 1.
            answer: The position of the answer's first token, by whose tokens localizing
                heads are chosen; by all that have maps if there are none.
            options: The layers and heads.

        Raises:
            RequestError: If the model has no such layer or head.
            ImageCacheFullError: If other requests pin too many images.
        """
        heads = options.chosen(self.cross_layers, self.num_heads)
        scores: list[HeadScore] = []
        try:
            self._model.image_cache.reserve(context)
            weights = self._weights(context, grids, first)
            if options.heads == LOCALIZING:
                count = len(context.tokens.all)
                scores = head_scores(
                    weights,
                    grids,
                    self._by_layer(heads),
                    range((answer if answer < count else first) - first, count - first),
                    self.cross_layers,
                )
                heads = [score.head for score in scores[:1]] or heads
            means = weights.mean(self._by_layer(heads))
        finally:
            self._model.release(context.request_id)
        images = []
        for grid, mean in zip(grids, means, strict=True):
            parts = grid.split(mean)
            images.append(
                ImageMaps(grid, parts.picture, parts.class_tokens, parts.padding)
            )
        return AttentionMaps(first, images, heads, scores)

    def _weights(
        self, context: Any, grids: Sequence[PatchGrid], first: int
    ) -> AttentionWeights:
        """Returns the weights of the queries that predict the tokens from ``first``."""
        # The last token predicts nothing that is there.
        tokens = context.tokens.all[:-1]
        cache = self._model.image_cache
        # A query is at the position before the token that it predicts.
        start = first - 1
        queries = self._queries.run(context, tokens, start)
        spans = [
            TokenSpan(
                segment.start - start,
                segment.end - start,
                cache.entry_of(context, segment.run),
                segment.run[: segment.images_seen],
            )
            for segment in segments(
                [image.start_idx for image in context.images], start, len(tokens)
            )
            if segment.run
        ]
        return AttentionWeights(
            cache.storage,
            queries,
            spans,
            [grid.image_tokens for grid in grids],
        )

    def _by_layer(self, heads: Sequence[Head]) -> dict[int, list[int]]:
        """Returns each layer's heads, by its index among cross-attention layers."""
        found: dict[int, list[int]] = {}
        for layer, head in heads:
            found.setdefault(self.cross_layers.index(layer), []).append(head)
        return found
