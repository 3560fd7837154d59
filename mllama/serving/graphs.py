"""The two networks of a model, as its configuration asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from max.graph import DeviceRef

from mllama.network.image_encoder import MllamaImageEncoder
from mllama.network.projections import Encodings
from mllama.network.tensor_parallel import spread
from mllama.network.text_decoder import MllamaTextDecoder

if TYPE_CHECKING:
    from mllama.serving.arch_config import MllamaArchConfig

IMAGE_ENCODER = "mllama_image_encoder"
TEXT_DECODER = "mllama_text_decoder"
"""The graphs' names, by which saved ones are found again."""


def networks(
    config: MllamaArchConfig, encodings: Encodings
) -> tuple[MllamaImageEncoder, MllamaTextDecoder]:
    """Both networks on all devices, without weights.

    Args:
        config: The model's, resolved.
        encodings: Which of its tensors are blocks.
    """

    def image_encoder(device: DeviceRef, num_shards: int) -> MllamaImageEncoder:
        return MllamaImageEncoder(
            config.model,
            config.pool,
            config.dtype,
            device,
            num_shards,
            encodings=encodings,
        )

    def text_decoder(device: DeviceRef, num_shards: int) -> MllamaTextDecoder:
        return MllamaTextDecoder(
            config.model,
            config.kv_params,
            config.pool,
            config.dtype,
            device,
            num_shards,
            max_length=config.max_seq_len,
            return_logits=config.return_logits,
            encodings=encodings,
        )

    return (
        spread(image_encoder, config.devices),
        spread(text_decoder, config.devices),
    )
