"""Declares the architecture to MAX."""

from __future__ import annotations

from max.graph.weights import WeightsFormat
from max.pipelines.context import TextAndVisionContext
from max.pipelines.lib import SupportedArchitecture
from max.pipelines.modeling.types import InputModality, PipelineTask

from mllama.max_model.memory_planner import MllamaMemoryPlanner
from mllama.max_model.model import MllamaModel
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.tokenizer import MllamaTokenizer
from mllama.max_model.weight_adapters import canonical_state_dict, empty_state_dict

mllama_architecture = SupportedArchitecture(
    name="MllamaForConditionalGeneration",
    task=PipelineTask.TEXT_GENERATION,
    input_modalities={InputModality.TEXT, InputModality.IMAGE},
    example_repo_ids=[
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "meta-llama/Llama-3.2-90B-Vision-Instruct",
    ],
    default_encoding=MllamaArchConfig.DEFAULT_ENCODING,
    supported_encodings=MllamaArchConfig.SUPPORTED_ENCODINGS,
    pipeline_model=MllamaModel,
    tokenizer=MllamaTokenizer,
    context_type=TextAndVisionContext,
    default_weights_format=WeightsFormat.safetensors,
    weight_adapters={
        WeightsFormat.safetensors: canonical_state_dict,
        WeightsFormat.gguf: empty_state_dict,
    },
    config=MllamaArchConfig,
    memory_planner=MllamaMemoryPlanner,
    # MAX turns neither on by itself: no GPU has verified them (docs/gpu.md).
    supports_overlap_scheduler=False,
    supports_device_graph_capture=False,
)
