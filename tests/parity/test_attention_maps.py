"""Attention maps equal the attention weights of transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mllama.images.patch_grid import PatchGrid
from mllama.images.preprocess import ImageProcessor
from mllama.launch.options import EngineOptions
from mllama.requests.attention import AttentionOptions
from mllama.runtime.attention import queries
from mllama.runtime.attention.maps import MapRunner
from tests.parity.pipeline import Pipeline
from tests.reference.cases import Case, case
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import Reference

TOLERANCE = 1e-4

CASES = (
    "one_tile",
    "tall",
    "larger_than_canvas",
    "text_before_image",
    "three_adjacent_images",
    "image_per_turn",
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The test checkpoint with the demo model's graphs, which ship."""
    files = EngineOptions(model_path=checkpoint(), devices="cpu").resolve()
    return Pipeline(
        checkpoint(),
        max_batch_size=4,
        vision_config_overrides=files.settings.to_max(),
    )


@pytest.fixture(scope="module")
def runner(pipeline: Pipeline) -> MapRunner:
    return MapRunner(pipeline.model)


@cache
def eager() -> Reference:
    return Reference(checkpoint(), attention="eager")


@torch.inference_mode()
def reference_weights(sample: Case) -> dict[int, np.ndarray]:
    """Returns each layer's weights, ``[heads, tokens, images, tiles, patches]``."""
    model = eager().model
    prompt = eager().prompt(sample.messages)
    found: dict[int, np.ndarray] = {}

    def record(layer: int) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            found[layer] = output[1][0].float().numpy()

        return hook

    layers = model.model.language_model.layers
    handles = [
        layers[i].cross_attn.register_forward_hook(record(i))
        for i in model.config.text_config.cross_attention_layers
    ]
    try:
        model(**prompt.tensors, use_cache=False, output_attentions=True)
    finally:
        for handle in handles:
            handle.remove()
    vision = model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    return {
        layer: weights.reshape(
            *weights.shape[:2], len(sample.images), vision.max_num_tiles, patches
        )
        for layer, weights in found.items()
    }


def expected_maps(
    grids: list[PatchGrid], weights: np.ndarray, prompt: np.ndarray, first: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns each image's maps and class-token mass, of weights ``[tokens, ...]``.

    Written apart from the code under test: patch by patch.
    """
    sees = np.cumsum(prompt == eager().model.config.image_token_index) > 0
    result = []
    for image, grid in enumerate(grids):
        count = len(weights)
        maps = np.zeros((count - first, grid.rows, grid.columns))
        class_mass = np.zeros(count - first)
        for token in range(first, count):
            if not sees[token - 1]:
                continue
            row = weights[token - 1, image]
            tiles = grid.tile_rows * grid.tile_columns
            assert np.abs(row[tiles:]).max(initial=0) == 0
            class_mass[token - first] = row[:tiles, 0].sum()
            for y in range(grid.rows):
                for x in range(grid.columns):
                    side = grid.patches
                    tile = (y // side) * grid.tile_columns + x // side
                    patch = 1 + (y % side) * side + x % side
                    maps[token - first, y, x] = row[tile, patch]
        result.append((maps, class_mass))
    return result


def grids_of(pipeline: Pipeline, sample: Case) -> list[PatchGrid]:
    vision = pipeline.model.arch_config.model.vision_config
    processor = ImageProcessor.from_pretrained(checkpoint(), vision)
    return [PatchGrid.of(processor(image), vision) for image in sample.images]


@pytest.mark.parametrize("name", CASES)
def test_maps_equal_the_weights_of_the_reference(
    pipeline: Pipeline, runner: MapRunner, name: str
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case(name, tile)
    context = pipeline.context(sample)
    grids = grids_of(pipeline, sample)
    prompt = context.tokens.all
    weights = reference_weights(sample)
    # Each head shares its keys with another.
    for head in range(runner.num_heads):
        layer = runner.cross_layers[head % 2]
        options = AttentionOptions(heads=[(layer, head)])
        found = runner.compute(context, grids, 1, 1, options)
        expected = expected_maps(grids, weights[layer][head], prompt, 1)
        for image, (maps, class_mass) in zip(found.images, expected, strict=True):
            assert np.abs(image.maps - maps).max() <= TOLERANCE
            assert np.abs(image.class_mass - class_mass).max() <= TOLERANCE
    total = sum(
        i.maps.sum((1, 2)) + i.class_mass + i.padding_mass for i in found.images
    )
    sees = np.cumsum(prompt == pipeline.model.arch_config.model.image_token_index) > 0
    np.testing.assert_allclose(total, sees[:-1], atol=1e-5)
    assert pipeline.model.image_cache.blocks.pinned_entries == 0


def test_means_chunks_and_a_text_without_images(
    pipeline: Pipeline, runner: MapRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case("text_between_images", tile)
    context, grids = pipeline.context(sample), grids_of(pipeline, sample)
    prompt, weights = context.tokens.all, reference_weights(sample)
    mean = np.concatenate(list(weights.values())).mean(axis=0)
    monkeypatch.setattr(queries, "CHUNK", 7)
    found = runner.compute(context, grids, 9, 9, AttentionOptions(heads="all"))
    for image, (maps, _) in zip(
        found.images, expected_maps(grids, mean, prompt, 9), strict=True
    ):
        assert np.abs(image.maps - maps).max() <= TOLERANCE

    text = pipeline.context(case("text_only", tile))
    assert runner.compute(text, [], 3, 5, AttentionOptions()).images == []
