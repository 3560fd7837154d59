"""The pipeline model: what MAX's scheduler calls for every batch."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from max import tree
from max.driver import Buffer, Device
from max.engine import InferenceSession, Model
from max.graph.weights import WeightData, Weights, WeightsAdapter
from max.nn.kv_cache import KVCacheInputs
from max.nn.transformer import ReturnLogits
from max.pipelines.context import TextAndVisionContext
from max.pipelines.lib import (
    KVCacheConfig,
    ModelInputs,
    ModelOutputs,
    PipelineConfig,
    PipelineModelWithKVCache,
)

from mllama.images.pool import Entry
from mllama.max_api import (
    GraphRole,
    GraphSpec,
    LogProbabilitiesMixin,
    MemoryPlan,
    process_ragged_kv_outputs,
)
from mllama.network.image_encoder import MllamaImageEncoder
from mllama.network.image_pool import ImageReadInputs
from mllama.network.text_decoder import MllamaTextDecoder
from mllama.serving.arch_config import MllamaArchConfig
from mllama.serving.batch_plan import segments
from mllama.serving.image_store import ImageStore, ReadSegment
from mllama.serving.memory import pool_pages
from mllama.serving.model_weights import (
    image_encoder_weights,
    text_decoder_weights,
)
from mllama.serving.progress import reporting
from mllama.serving.tokenizer import ASPECT_RATIO_IDS

logger = logging.getLogger(__name__)

MAX_IMAGES_PER_CALL = 4
"""Images encoded in one run of the vision graph: its activations grow with them."""


@dataclass(frozen=True)
class PendingImage:
    """An image whose keys and values are not in the pool yet."""

    entry: Entry
    index: int
    """Place in the entry's run."""
    pixel_values: np.ndarray
    """float32 ``[valid tiles, channels, size, size]``."""
    aspect_ratio_id: int


@dataclass(kw_only=True)
class MllamaInputs(ModelInputs):
    """One step's inputs."""

    tokens: Buffer
    input_row_offsets: Buffer
    return_n_logits: Buffer
    read: ImageReadInputs[Buffer, Buffer]
    pending: list[PendingImage]


class MllamaModel(
    LogProbabilitiesMixin,
    PipelineModelWithKVCache[TextAndVisionContext, MllamaArchConfig, Model],
):
    """Two graphs over one image store.

    Images that a batch shows and the store lacks are encoded first, straight into
    the store; the text graph then reads them there, now and in later steps.
    """

    model_config_cls: ClassVar[type[Any]] = MllamaArchConfig

    def __init__(
        self,
        pipeline_config: PipelineConfig,
        session: InferenceSession,
        devices: list[Device],
        kv_cache_config: KVCacheConfig,
        weights: Weights,
        *,
        memory_plan: MemoryPlan,
        adapter: WeightsAdapter | None = None,
        return_logits: ReturnLogits = ReturnLogits.LAST_TOKEN,
        max_batch_size: int = 1,
    ) -> None:
        super().__init__(
            pipeline_config,
            session,
            devices,
            kv_cache_config,
            weights,
            adapter=adapter,
            return_logits=return_logits,
            memory_plan=memory_plan,
            max_batch_size=max_batch_size,
        )
        config = self.arch_config_as(MllamaArchConfig)
        self._vision_config = config.model.vision_config
        models = self.load_graphs(reporting(session))
        self._image_encoder = models[GraphRole.VISION]
        self._text_decoder = models[GraphRole.DECODER]
        self.images = ImageStore(
            config.pool, devices[0], pool_pages(config, max_batch_size, devices)
        )
        self.encoded_images = 0
        """Images that went through the vision graph so far."""

    def _create_model_config(
        self, state_dict: dict[str, WeightData]
    ) -> MllamaArchConfig:
        self._state_dict = state_dict
        config = self.arch_config_as(MllamaArchConfig)
        config.return_logits = self.return_logits
        return config

    def graph_specs(self, model_config: MllamaArchConfig) -> dict[str, GraphSpec]:
        """Both graphs, each an artifact of its own so that it can be saved."""
        device = model_config.devices[0]
        image_encoder = MllamaImageEncoder(
            model_config.model, model_config.pool, model_config.dtype, device
        )
        image_encoder.load_state_dict(
            image_encoder_weights(
                self._state_dict,
                model_config.model,
                list(image_encoder.raw_state_dict()),
                model_config.dtype,
            ),
            weight_alignment=1,
        )
        text_decoder = MllamaTextDecoder(
            model_config.model,
            model_config.kv_params,
            model_config.pool,
            model_config.dtype,
            device,
            max_length=model_config.max_seq_len,
            return_logits=model_config.return_logits,
        )
        text_decoder.load_state_dict(
            text_decoder_weights(
                self._state_dict,
                model_config.model,
                list(text_decoder.raw_state_dict()),
                model_config.dtype,
            ),
            weight_alignment=1,
        )
        del self._state_dict
        return {
            GraphRole.VISION: GraphSpec(
                image_encoder,
                "mllama_image_encoder",
                image_encoder.input_types(),
                weights=image_encoder.state_dict(),
            ),
            GraphRole.DECODER: GraphSpec(
                text_decoder,
                "mllama_text_decoder",
                text_decoder.input_types(),
                weights=text_decoder.state_dict(),
            ),
        }

    def prepare_initial_token_inputs(
        self,
        replica_batches: Sequence[Sequence[TextAndVisionContext]],
        kv_cache_inputs: KVCacheInputs[Buffer, Buffer] | None = None,
        return_n_logits: int = 1,
    ) -> MllamaInputs:
        """Plans one step: which images to encode, what each row attends to."""
        (batch,) = replica_batches
        device = self.devices[0]
        reads: list[ReadSegment] = []
        pending: list[PendingImage] = []
        for context in batch:
            reads += self._plan(context, pending)
        tokens = np.concatenate([context.tokens.active for context in batch])
        offsets = np.cumsum(
            [0, *(context.tokens.active_length for context in batch)], dtype=np.uint32
        )
        return MllamaInputs(
            tokens=Buffer.from_numpy(np.ascontiguousarray(tokens)).to(device),
            input_row_offsets=Buffer.from_numpy(offsets).to(device),
            return_n_logits=Buffer.from_numpy(
                np.array([return_n_logits], dtype=np.int64)
            ),
            read=self.images.read_inputs(reads),
            pending=pending,
            kv_cache_inputs=kv_cache_inputs,
        )

    def _plan(
        self, context: TextAndVisionContext, pending: list[PendingImage]
    ) -> list[ReadSegment]:
        """Pins the images that this step's rows of a request see, and no others.

        Appends those that nobody has encoded yet to ``pending``.
        """
        start = context.tokens.processed_length
        end = start + context.tokens.active_length
        positions = [image.start_idx for image in context.images]
        reads: list[ReadSegment] = []
        keys = []
        for segment in segments(positions, start, end):
            if not segment.run:
                reads.append(ReadSegment(segment.length, None, 0))
                continue
            images = [context.images[i] for i in segment.run]
            key = tuple(_content_hash(image.image_hash) for image in images)
            entry = self.images.pin(
                context.request_id, key, tuple(map(self._rows, images))
            )
            keys.append(key)
            if not entry.filled and all(image.entry is not entry for image in pending):
                ids = context.extra_model_args[ASPECT_RATIO_IDS]
                pending += [
                    PendingImage(
                        entry, index, image.pixel_values, int(ids[segment.run[index]])
                    )
                    for index, image in enumerate(images)
                ]
            reads.append(
                ReadSegment(segment.length, entry, entry.rows(segment.images_seen))
            )
        self.images.pool.unpin(context.request_id, keep=keys)
        return reads

    def _rows(self, image: Any) -> int:
        """Vision tokens of an image: those of its valid tiles."""
        return len(image.pixel_values) * self._vision_config.num_patches

    def execute(self, model_inputs: ModelInputs) -> ModelOutputs:
        """Encodes the images that are new, then runs the text graph."""
        assert isinstance(model_inputs, MllamaInputs)
        self._encode(model_inputs.pending)
        outputs = self._text_decoder.execute(
            model_inputs.tokens,
            model_inputs.input_row_offsets,
            model_inputs.return_n_logits,
            *tree.leaves(model_inputs.read),
            *tree.leaves(model_inputs.kv_cache_inputs),
        )
        return process_ragged_kv_outputs(
            outputs,
            return_logits=self.return_logits,
            return_hidden_states=self.return_hidden_states,
        )

    def _encode(self, pending: Sequence[PendingImage]) -> None:
        by_tiles: dict[int, list[PendingImage]] = defaultdict(list)
        for image in pending:
            by_tiles[len(image.pixel_values)].append(image)
        for tiles, group in by_tiles.items():
            for first in range(0, len(group), MAX_IMAGES_PER_CALL):
                self._encode_call(group[first : first + MAX_IMAGES_PER_CALL], tiles)
        for image in pending:
            image.entry.filled = True

    def _encode_call(self, images: Sequence[PendingImage], tiles: int) -> None:
        """Runs the vision graph on images of one number of valid tiles."""
        started = time.perf_counter()
        vision, device = self._vision_config, self.devices[0]
        side = vision.image_size
        pixels = np.zeros(
            (len(images), vision.max_num_tiles, vision.num_channels, side, side),
            dtype=np.float32,
        )
        for target, image in zip(pixels, images, strict=True):
            target[:tiles] = image.pixel_values
        rows = np.arange(vision.max_num_tiles * vision.padded_patches, dtype=np.int64)
        is_real = (rows < tiles * vision.padded_patches) & (
            rows % vision.padded_patches < vision.num_patches
        )
        ids = np.array([image.aspect_ratio_id for image in images], dtype=np.int64)
        write = self.images.write_inputs(
            [(image.entry, image.index) for image in images],
            tiles * vision.num_patches,
        )
        self._image_encoder.execute(
            *(
                Buffer.from_numpy(array).to(device)
                for array in (pixels, ids, rows[is_real], rows[~is_real])
            ),
            *tree.leaves(write),
        )
        self.encoded_images += len(images)
        logger.debug(
            "encoded %d image(s) of %d tile(s) in %.2f s",
            len(images),
            tiles,
            time.perf_counter() - started,
        )

    def release(self, request_id: Any) -> None:
        """Unpins a request's images; MAX calls it on every end, even twice."""
        self.images.pool.unpin(request_id)


def _content_hash(image_hash: int | None) -> int:
    assert image_hash is not None, "the tokenizer hashes every image"
    return image_hash
