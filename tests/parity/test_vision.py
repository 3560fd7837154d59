"""Every stage of the vision encoder and the projector equals the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from max.driver import CPU
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorValue
from safetensors.numpy import load_file

from mllama.config import MllamaConfig
from mllama.images.preprocess import ImageProcessor
from mllama.nn.image_encoder import MllamaImageEncoder
from mllama.nn.layers.image_cache_inputs import image_cache_params
from mllama.nn.vision.embeddings import normalized_pixels
from mllama.nn.vision.projector import concat_layers
from mllama.weights.names import canonical_name
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import assert_close
from tests.reference.oracle import reference

CPU_REF = DeviceRef.CPU()


class Stages:
    """The vision model and projector, compiled with every stage as an output."""

    def __init__(self) -> None:
        folder = checkpoint()
        self.config = MllamaConfig.from_path(folder)
        self.processor = ImageProcessor.from_pretrained(
            folder, self.config.vision_config
        )
        encoder = MllamaImageEncoder(
            self.config,
            image_cache_params(self.config, DType.float32, [CPU_REF]),
            DType.float32,
            CPU_REF,
            encodings={},
        )
        tensors = {
            canonical_name(name): tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        # This graph doesn't use cross-attention, whose weights have other names here.
        encoder.load_state_dict(
            {
                name: tensors.get(name, np.zeros(tuple(map(int, weight.shape)), "f4"))
                for name, weight in encoder.raw_state_dict().items()
            },
            weight_alignment=1,
        )

        def forward(*inputs: Any) -> tuple[TensorValue, ...]:
            tiles, table, ids, real, padding = (value.tensor for value in inputs)
            vision = encoder.vision_model
            pixels = normalized_pixels(tiles, table)
            states = vision(pixels, ids, real, padding, [], path="vision_model")
            return (
                pixels,
                vision.embed(pixels, ids),
                concat_layers(states),
                encoder.multi_modal_projector(states),
            )

        with encoder.custom_ops_scope():
            graph = Graph("stages", forward, input_types=encoder.input_types()[:5])
        self.model = InferenceSession(devices=[CPU()]).load(
            graph, weights_registry=encoder.state_dict()
        )

    def __call__(self, image: Any) -> tuple[np.ndarray, ...]:
        vision = self.config.vision_config
        tiles = self.processor(image)
        patches = np.arange(vision.max_num_tiles * vision.padded_patches)
        is_real = (patches < tiles.num_tiles * vision.padded_patches) & (
            patches % vision.padded_patches < vision.num_patches
        )
        outputs = self.model.execute(
            tiles.pixel_values[np.newaxis],
            self.processor.pixel_table,
            np.array([tiles.aspect_ratio_id]),
            patches[is_real],
            patches[~is_real],
        )
        return tuple(output.to_numpy()[0] for output in outputs)


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages()


@pytest.mark.parametrize(
    "name", ["one_tile", "two_tiles", "four_tiles", "wide", "tall", "one_pixel"]
)
def test_vision_stages_equal_the_reference(stages: Stages, name: str) -> None:
    vision = stages.config.vision_config
    (image,) = case(name, vision.image_size).images
    (expected,) = reference(checkpoint()).vision([image])
    pixels, embedded, output, projected = stages(image)
    tiles, patches, width = vision.max_num_tiles, vision.num_patches, vision.hidden_size

    processor = reference(checkpoint()).processor.image_processor
    features = processor([[image]], return_tensors="np")
    # Bit by bit: as values, 0 and -0 are equal.
    np.testing.assert_array_equal(
        pixels.view(np.uint32),
        features["pixel_values"][0, 0, : expected.valid].view(np.uint32),
    )
    normed = embedded.reshape(tiles, vision.padded_patches, width)
    assert_close(normed[:, :patches], expected.normed, what="embeddings")
    assert not normed[:, patches:].any()

    def valid(state: np.ndarray) -> np.ndarray:
        return state[: expected.valid].reshape(-1, state.shape[-1])

    assert_close(output[:, :width], valid(expected.after_global), what="global layers")
    assert_close(
        output[:, width:], valid(expected.intermediate), what="intermediate states"
    )
    assert_close(projected, valid(expected.projected), what="projector")
