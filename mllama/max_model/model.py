"""The pipeline model, which MAX's scheduler calls for each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
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
    MemoryPlan,
    compile_graphs,
    init_graphs,
)
from mllama.max_model.checkpoint_files import local_directory
from mllama.max_model.graphs import graph_specs, rotary_buffers
from mllama.max_model.host_buffers import on_host
from mllama.max_model.int8_vision import quantize_vision
from mllama.max_model.log_probabilities import (
    PromptLogProbabilities,
    logit_indices,
    prompt_logits,
    step_log_probabilities,
)
from mllama.max_model.memory_planner import (
    image_cache_pages,
    image_cache_summary,
    image_tokens_per_request,
    scratch_pages,
)
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.model_inputs import MllamaInputs
from mllama.max_model.query_graph import TEXT_QUERIES, query_graph_spec
from mllama.max_model.sampling_context import guess_count
from mllama.max_model.settings import ModelSettings
from mllama.max_model.weight_adapters import (
    merge_adapter,
    served_state_dict,
)
from mllama.utils.progress import stage

logger = logging.getLogger(__name__)


class MllamaModel(
    PipelineModelWithKVCache[TextAndVisionContext, MllamaArchConfig, Model],
):
    """Two graphs that share one image cache.

    Images of a batch that the cache lacks are encoded first, straight into the cache.
    The text graph then reads them there, in this step and in later ones.

    Attributes:
        compiler: Compiles the graphs of the pipeline, or takes them from disk.
        text_constants: The text graph's inputs that are the same in every step.
        image_cache: The image cache.
        image_encoder: Fills the image cache.
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
        self._session = session
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
        models = self.load_graphs(session)
        self._text_decoder = models[GraphRole.DECODER]
        self.text_constants = [*rotary_buffers(config, devices), *self.signal_buffers]
        self._vocabulary = config.model.text_config.vocab_size
        self._prompt_log_probabilities = PromptLogProbabilities(self._vocabulary)
        vision_config = config.model.vision_config
        runtime = pipeline_config.runtime
        self._is_captured = bool(runtime.device_graph_capture)
        pages = image_cache_pages(config, pipeline_config)
        storage = ImageCacheStorage(
            config.image_cache_params,
            devices,
            pages,
            scratch_pages(config),
            is_overlapped=bool(runtime.enable_overlap_scheduler),
            decode_image_tokens=image_tokens_per_request(
                config, settings.image_limit, pages
            )
            if self._is_captured
            else None,
        )
        self.image_cache = ImageCacheManager(vision_config, storage)
        model = pipeline_config.model
        image_processor = ImageProcessor.from_pretrained(
            local_directory(model.model_path, model.huggingface_model_revision),
            vision_config,
        )
        self.image_encoder = ImageEncoderRunner(
            vision_config,
            image_processor.pixel_table,
            storage,
            models[GraphRole.VISION],
            self.signal_buffers,
        )
        logger.info(image_cache_summary(config, storage.blocks.num_pages))
        logger.info("KV cache: in %s", config.kv_params.dtype.name)
        if devices[0].is_host:
            logger.info(kernels_summary(self.compiler.kernels))

    def _create_model_config(
        self, state_dict: dict[str, WeightData]
    ) -> MllamaArchConfig:
        config = self.arch_config_as(MllamaArchConfig)
        model = self.pipeline_config.model
        self._state_dict = served_state_dict(
            state_dict, model, config.model, config.dtype
        )
        adapter_path = ModelSettings.from_max(model).lora_path
        if adapter_path is not None:
            stage("merging the adapter")
            self._state_dict = merge_adapter(
                self._state_dict, adapter_path, config.model, config.dtype
            )
        if config.int8_vision:
            stage("quantizing the vision encoder to int8")
            self._state_dict = quantize_vision(self._state_dict, config.model)
        return config

    @cached_property
    def signal_buffers(self) -> list[Buffer]:
        """Returns the buffers through which several GPUs synchronize.

        A CPU that stands in for several devices needs none.
        """
        return [] if self.devices[0].is_host else super().signal_buffers

    @property
    def model(self) -> Model:
        """Returns the text graph, whose decode steps MAX can capture and replay."""
        return self._text_decoder

    def graph_specs(self, model_config: MllamaArchConfig) -> dict[str, GraphSpec]:
        """Returns both graphs; MAX reads the weights in place while the model lives."""
        return graph_specs(model_config, self._state_dict, self.compiler)

    def load_query_graph(self) -> Model:
        """Loads the graph that returns the queries of cross-attention.

        It is compiled unless it is saved, cached or ships.  On a CPU it reads GGUF
        blocks in place; of float weights, MAX copies those that it joins.
        """
        spec = query_graph_spec(self.arch_config_as(MllamaArchConfig), self._state_dict)
        specs = {TEXT_QUERIES: spec}
        compiled = compile_graphs(self._session, specs)
        return init_graphs(self._session, compiled, specs)[TEXT_QUERIES]

    def prepare_initial_token_inputs(
        self,
        replica_batches: Sequence[Sequence[TextAndVisionContext]],
        kv_cache_inputs: KVCacheInputs[Buffer, Buffer] | None = None,
        return_n_logits: int = 1,
    ) -> MllamaInputs:
        """Plans one step: which images to encode, what each token attends to, and which
        tokens' logits are wanted."""
        del return_n_logits  # More than one only if MAX verifies drafts.
        (batch,) = replica_batches
        device = self.devices[0]
        uploads = self.image_cache.storage.uploads
        uploads.begin_step()
        reads: list[ReadSegment] = []
        pending: list[PendingImage] = []
        for context in batch:
            if isinstance(context, TextAndVisionContext):
                reads += self.image_cache.plan(context, pending)
            else:  # MAX captures device graphs with made-up requests.
                reads.append(ReadSegment(context.tokens.active_length, None, 0))
        if self._is_captured:
            # MAX replays a captured step itself instead of calling `execute`.
            self.image_encoder.store(pending)
            pending = []
        tokens = np.concatenate([context.tokens.active for context in batch])
        offsets = np.cumsum(
            [0, *(context.tokens.active_length for context in batch)], dtype=np.uint32
        )
        prompts = prompt_logits(batch, offsets, self._vocabulary)
        guesses = [guess_count(context) for context in batch]
        logits = logit_indices(offsets, prompts, guesses)
        return MllamaInputs(
            tokens=uploads.copy(tokens, device),
            input_row_offsets=uploads.copy(offsets, device),
            logit_indices=uploads.copy(logits, device),
            reads=self.image_cache.storage.read_inputs(reads),
            pending=pending,
            batch=batch,
            prompt_logits=prompts,
            constants=self.text_constants,
            kv_cache_inputs=kv_cache_inputs,
        )

    def execute(self, model_inputs: ModelInputs) -> ModelOutputs:
        """Encodes new images, then runs the text graph."""
        assert isinstance(model_inputs, MllamaInputs)
        self.image_encoder.store(model_inputs.pending)
        (logits,) = self._text_decoder.execute(*model_inputs.buffers)
        if model_inputs.prompt_logits:
            answers = model_inputs.answer_logits
            self._prompt_log_probabilities.record(
                model_inputs.prompt_logits, on_host(logits[answers:, :])
            )
            logits = logits[:answers, :]
        return ModelOutputs(logits=logits, next_token_logits=logits)

    def compute_log_probabilities(
        self,
        session: InferenceSession,
        model_inputs: ModelInputs,
        model_outputs: ModelOutputs,
        next_tokens: Buffer,
        batch_top_n: list[int],
        batch_echo: list[bool],
    ) -> list[LogProbabilities | None]:
        """Returns the log probabilities of a step's tokens, computed on the host."""
        del session, batch_top_n, batch_echo
        assert isinstance(model_inputs, MllamaInputs)
        assert model_outputs.next_token_logits is not None
        return self.log_probabilities(
            model_inputs.batch,
            on_host(model_outputs.next_token_logits),
            on_host(next_tokens),
        )

    def log_probabilities(
        self,
        contexts: Sequence[Any],
        logits: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.integer],
    ) -> list[LogProbabilities | None]:
        """Returns the log probabilities that requests get with new tokens.

        Args:
            contexts: The request of each token, before it gets it.
            logits: The logits that each was chosen from ``[tokens, vocabulary]``.
            tokens: The tokens ``[tokens]``.
        """
        return step_log_probabilities(
            contexts, logits, tokens, self._prompt_log_probabilities
        )

    def release(self, request_id: Any) -> None:
        """Unpins a request's images; MAX calls it at each end, sometimes twice."""
        self.image_cache.release(request_id)
        self._prompt_log_probabilities.release(request_id)
