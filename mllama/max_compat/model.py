"""MAX's undocumented names that the model and its runtime need.

MAX is pinned (``max[serve]==26.7.*``).  Everything imported here is undocumented or
lives in a module that may move, so that a new version of MAX is the work of this folder
alone.  Each comment says why a name is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# The paged KV cache's graph inputs.  The image cache has the same form, so that MAX's
# paged kernels work on it.
from max.nn.kv_cache import KVCacheInputsPerDevice, PagedCacheValues

# The paged kernels take the distance between pages as a separate input.
from max.nn.kv_cache.cache_params import page_stride_of

# A page table must be padded to the width that the kernels read with SIMD loads.
from max.nn.kv_cache.utils import padded_lut_cols

# A request's image, in the form of the scheduler and the prefix cache.
from max.pipelines.context import ImageMetadata

# The argument of a sampler.
from max.pipelines.context.logit_processors_type import BatchProcessorInputs

# Divides the memory among weights, activations and KV cache.
from max.pipelines.kv_cache.memory_planner import PagedMemoryPlanner

# Chooses the encoding from the files, the device and the user's option.
from max.pipelines.lib.config.model_config import (
    _select_quantization_encoding as select_quantization_encoding,
)

# Describes, compiles and loads the graphs of a pipeline model.
from max.pipelines.lib.graph_specs import (
    GraphRole,
    GraphSpec,
    compile_graphs,
    init_graphs,
)

# Mixins of an architecture's configuration.
from max.pipelines.lib.interfaces.arch_config import (
    ArchConfigWithKVCache,
    ArchConfigWithStoredKVParams,
)

# The memory planner's result: maximum length, batch size.
from max.pipelines.lib.memory_estimation import MemoryPlan

# Records new tokens in their requests and makes the scheduler's outputs.
from max.pipelines.lib.pipeline_variants.utils import (
    update_context_and_prepare_responses,
)

# The encodings' names and data types.
from max.pipelines.modeling.config_enums import (
    SupportedEncoding,
    supported_encoding_dtype,
)

# Dataclasses that flatten to the inputs of a graph.  MAX isn't typed, so that type
# checkers get the standard library's.
if TYPE_CHECKING:
    from dataclasses import dataclass as tree_dataclass
else:
    from max.tree import dataclass as tree_dataclass

# Applies the sampler to a batch; compiles it.
from max.pipelines.lib.pipeline_variants.text_generation import (
    FusedSamplingProcessor,
    load_sampler_graphs,
)

# The type of a request's tools, for a signature.
from max.pipelines.modeling.types import TextGenerationRequestTool
from max.pipelines.sampling import TopKSampler

# MAX Serve's continuous batching, which the Python API runs in a thread.
from max.serve.config import Settings
from max.serve.scheduler import load_scheduler
from max.serve.scheduler.base import SchedulerProgress
from max.serve.worker_interface import WorkerQueues

# A stable hash that the prefix cache takes in place of a token.
from max.support.image import hash_image

from mllama.max_compat.compiler import ensure_default_mlir_context

__all__ = [
    "ArchConfigWithKVCache",
    "ArchConfigWithStoredKVParams",
    "BatchProcessorInputs",
    "FusedSamplingProcessor",
    "GraphRole",
    "GraphSpec",
    "ImageMetadata",
    "KVCacheInputsPerDevice",
    "MemoryPlan",
    "PagedCacheValues",
    "PagedMemoryPlanner",
    "SchedulerProgress",
    "Settings",
    "SupportedEncoding",
    "TextGenerationRequestTool",
    "TopKSampler",
    "WorkerQueues",
    "compile_graphs",
    "ensure_default_mlir_context",
    "hash_image",
    "init_graphs",
    "load_sampler_graphs",
    "load_scheduler",
    "padded_lut_cols",
    "page_stride_of",
    "select_quantization_encoding",
    "supported_encoding_dtype",
    "tree_dataclass",
    "update_context_and_prepare_responses",
]
