"""MAX's options of ``mllama serve`` that would have no effect on this model."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from mllama.errors import MllamaError

OPTIONS_FOR_OTHER_MODELS = {
    ("enable_lora", "lora_paths", "max_lora_rank", "max_num_loras"): "takes one "
    "adapter with --lora-path, which is merged into the weights",
    ("export_mefs",): "has --save-to-serialized-model-path",
    ("precompiled_mefs",): "has --serialized-model-path",
    ("max_queue_size_tg", "min_batch_size_tg"): "has --max-batch-size and "
    "--max-queue-size",
    ("section_name",): "reads the whole --config-file",
    ("experimental_device_graph_synthesis",): "has --device-graph-capture",
    ("vision_config_overrides",): "has --image-cache-size and --max-images-per-request",
    ("kv_cache_format",): "has --kv-cache-encoding",
    ("tool_call_policy",): "forces calls where `tool_choice` or `strict` asks for it",
    (
        "reasoning_parser",
        "emit_reasoning_content",
        "thinking_temperature",
    ): "doesn't think before it answers",
    (
        "enable_structured_output",
        "structured_output_backend",
        "structured_output_any_whitespace",
    ): "keeps answers to formats without an option",
    (
        "allow_extra_request_fields",
        "allow_unsupported_logprobs",
        "eager_usage_validator",
        "enable_echo",
        "draft_enable_echo",
    ): "has routes of its own, which check and honor every field without an option",
}
"""MAX options that this server refuses, and the alternatives that messages name."""

_OPTIONS_FOR_OTHERS = {
    "debug_verify_replay": ("device_graph_capture",),
    "disable_overlap": ("device_graph_capture", "enable_overlap_scheduler"),
}
"""MAX options that have an effect only with one of some others."""


def refuse_options_for_other_models(context: click.Context) -> None:
    """Refuses MAX options that this model would ignore, and names the alternatives."""
    for names, alternative in OPTIONS_FOR_OTHER_MODELS.items():
        for name in names:
            source = context.get_parameter_source(name)
            if source not in (None, ParameterSource.DEFAULT):
                raise MllamaError(
                    f"{_option(name)} is for other models; this one {alternative}"
                )


def refuse_options_without_effect(options: dict[str, Any]) -> None:
    """Refuses MAX options that need another option."""
    for name, needed in _OPTIONS_FOR_OTHERS.items():
        if options.get(name) and not any(options.get(other) for other in needed):
            raise MllamaError(
                f"{_option(name)} has no effect without "
                + " or ".join(map(_option, needed))
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
