"""Private attributes of MAX's pipelines that this package reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What a pipeline keeps of its compiled graphs, and the graphs' names in it.
from max.pipelines.lib.graph_specs import CompiledArtifacts, GraphRole

# The pipeline that returns a batch's tokens one step late.
from max.pipelines.lib.pipeline_variants.overlap_text_generation import (
    OverlapTextGenerationPipeline,
)


def pipeline_model(pipeline: Any) -> Any:
    """Returns the ``PipelineModel`` of a MAX ``TextGenerationPipeline``."""
    return pipeline._pipeline_model


def is_on_host(pipeline: Any) -> bool:
    """Returns True if a pipeline runs on the CPU."""
    return bool(pipeline._devices[0].is_host)


def is_overlapped(pipeline: Any) -> bool:
    """Returns True if a pipeline is that of MAX's overlap scheduler."""
    return isinstance(pipeline, OverlapTextGenerationPipeline)


def sampler_device(pipeline: Any) -> Any:
    """Returns the device on which a pipeline samples."""
    return pipeline._sampler_device


def forward_pass(pipeline: Any) -> Callable[..., Any]:
    """Returns the function that runs a pipeline's model on a prepared batch."""
    launch: Callable[..., Any] = pipeline._launch_forward_pass
    return launch


def no_sampler_graphs() -> tuple[CompiledArtifacts, dict[str, Any]]:
    """Returns what stands for compiled samplers where nothing ever runs them.

    MAX checks that there are some before it makes a sampling processor.
    """
    missing = object()
    roles = (GraphRole.SAMPLER, GraphRole.SAMPLER_BITMASK)
    return CompiledArtifacts(), dict.fromkeys(roles, missing)
