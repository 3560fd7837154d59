"""The pipeline model, which MAX's scheduler calls for each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from max.driver import Buffer, Device
from max.engine import InferenceSession, Model
from max.graph.weights import WeightData, Weights, WeightsAdapter
from max.nn.kv_cache import KVCacheInputs
from max.nn.transformer import ReturnLogits
from max.pipelines.context import LogProbabilities, TextAndVisionContext
from max.pipelines.lib import (
    KVCacheConfig,
    ModelInputs,
    ModelOutputs,
    PipelineConfig,
    PipelineModelWithKVCache,
)

from mllama.compilation.graph_compiler import GraphCompiler
from mllama.image_cache.encoder_runner import ImageEncoderRunner, PendingImage
from mllama.image_cache.manager import ImageCacheManager
from mllama.image_cache.storage import ImageCacheStorage, ReadSegment
from mllama.images.preprocess import ImageProcessor
from mllama.kernels.dispatch import kernels_summary
from mllama.max_compat.model import (
    GraphRole,
    GraphSpec,
    LogProbabilitiesMixin,
    MemoryPlan,
    process_ragged_kv_outputs,
)
from mllama.max_model.checkpoint_files import local_directory
from mllama.max_model.graphs import graph_specs, log_probabilities, rotary_buffers
from mllama.max_model.log_probabilities import host_log_probabilities
from mllama.max_model.memory_planner import image_cache_pages, image_cache_summary
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.model_inputs import MllamaInputs
from mllama.max_model.settings import ModelSettings
from mllama.max_model.weight_adapters import (
    merge_adapter,
    quantize_vision,
    served_state_dict,
)
from mllama.utils.progress import stage

logger = logging.getLogger(__name__)


class MllamaModel(
    LogProbabilitiesMixin,
    PipelineModelWithKVCache[TextAndVisionContext, MllamaArchConfig, Model],
):
    """Two graphs that share one image cache.

    Images of a batch that the cache lacks are encoded first, straight into the cache.
    The text graph then reads them there, in this step and in later ones.

    Attributes:
        compiler: Compiles the graphs of the pipeline, or takes them from disk.
        image_cache: The image cache.
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
        settings = ModelSettings.from_max(pipeline_config.model)
        self.compiler = GraphCompiler(session, pipeline_config, settings.compiled)
        # The mixin's constructor would trace its graph whenever a model is loaded.
        PipelineModelWithKVCache.__init__(
            self,
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
        models = self.load_graphs(session)
        if not devices[0].is_host:
            self._logprobs_device = devices[0]
            self._logprobs_model = session.load(log_probabilities(devices[0]))
        self._text_decoder = models[GraphRole.DECODER]
        self._freqs_cis = rotary_buffers(config, devices)
        vision_config = config.model.vision_config
        storage = ImageCacheStorage(
            config.image_cache_params,
            devices,
            image_cache_pages(config, pipeline_config),
        )
        self.image_cache = ImageCacheManager(vision_config, storage)
        model = pipeline_config.model
        image_processor = ImageProcessor.from_pretrained(
            local_directory(model.model_path, model.huggingface_model_revision),
            vision_config,
        )
        self._image_encoder = ImageEncoderRunner(
            vision_config,
            image_processor.pixel_table,
            storage,
            models[GraphRole.VISION],
            self.signal_buffers,
        )
        logger.info(image_cache_summary(config, storage.blocks.num_pages))
        if devices[0].is_host:
            logger.info(kernels_summary(self.compiler.kernels))

    def _create_model_config(
        self, state_dict: dict[str, WeightData]
    ) -> MllamaArchConfig:
        config = self.arch_config_as(MllamaArchConfig)
        model = self.pipeline_config.model
        self._state_dict = served_state_dict(state_dict, model, config.model)
        adapter_path = ModelSettings.from_max(model).lora_path
        if adapter_path is not None:
            stage("merging the adapter")
            self._state_dict = merge_adapter(
                self._state_dict, adapter_path, config.model, config.dtype
            )
        if config.int8_vision:
            stage("quantizing the vision encoder to int8")
            self._state_dict = quantize_vision(self._state_dict, config.model)
        config.return_logits = self.return_logits
        return config

    @cached_property
    def signal_buffers(self) -> list[Buffer]:
        """Returns the buffers through which several GPUs synchronize.

        A CPU that stands in for several devices needs none.
        """
        return [] if self.devices[0].is_host else super().signal_buffers

    def graph_specs(self, model_config: MllamaArchConfig) -> dict[str, GraphSpec]:
        """Returns both graphs; MAX reads the weights in place while the model lives."""
        return graph_specs(model_config, self._state_dict, self.compiler)

    def prepare_initial_token_inputs(
        self,
        replica_batches: Sequence[Sequence[TextAndVisionContext]],
        kv_cache_inputs: KVCacheInputs[Buffer, Buffer] | None = None,
        return_n_logits: int = 1,
    ) -> MllamaInputs:
        """Plans one step: which images to encode, and what each token attends to."""
        (batch,) = replica_batches
        device = self.devices[0]
        reads: list[ReadSegment] = []
        pending: list[PendingImage] = []
        for context in batch:
            reads += self.image_cache.plan(context, pending)
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
            reads=self.image_cache.storage.read_inputs(reads),
            pending=pending,
            kv_cache_inputs=kv_cache_inputs,
        )

    def execute(self, model_inputs: ModelInputs) -> ModelOutputs:
        """Encodes new images, then runs the text graph."""
        assert isinstance(model_inputs, MllamaInputs)
        self._image_encoder.store(model_inputs.pending)
        outputs = self._text_decoder.execute(
            *model_inputs.buffers, *self._freqs_cis, *self.signal_buffers
        )
        return process_ragged_kv_outputs(
            outputs,
            return_logits=self.return_logits,
            return_hidden_states=self.return_hidden_states,
        )

    def compute_log_probabilities(
        self,
        session: InferenceSession,
        model_inputs: ModelInputs,
        model_outputs: ModelOutputs,
        next_tokens: Buffer,
        batch_top_n: list[int],
        batch_echo: list[bool],
    ) -> list[LogProbabilities | None]:
        """Returns the log probabilities of a step's tokens; on a CPU without a graph.

        Raises:
            ValueError: If a prompt's log probabilities are asked for, and the model was
                not told to return them.
        """
        if not self.devices[0].is_host:
            return super().compute_log_probabilities(
                session,
                model_inputs,
                model_outputs,
                next_tokens,
                batch_top_n,
                batch_echo,
            )
        assert isinstance(model_inputs, MllamaInputs)
        token_offsets = model_inputs.input_row_offsets.to_numpy()
        if any(batch_echo):
            if self.return_logits is ReturnLogits.LAST_TOKEN:
                raise ValueError("log probabilities of a prompt need --enable-echo")
            logits, logit_offsets = model_outputs.logits, token_offsets
        else:
            logits = model_outputs.next_token_logits
            logit_offsets = np.arange(len(batch_top_n) + 1)
        assert logits is not None
        return host_log_probabilities(
            logits.to_numpy(),
            logit_offsets,
            tokens=model_inputs.tokens.to_numpy(),
            token_offsets=token_offsets,
            next_tokens=next_tokens.to_numpy(),
            top_n=batch_top_n,
            echo=batch_echo,
        )

    def release(self, request_id: Any) -> None:
        """Unpins a request's images; MAX calls it at each end, sometimes twice."""
        self.image_cache.release(request_id)
