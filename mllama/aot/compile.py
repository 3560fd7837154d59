"""Compilation of a model's graphs without loading its weights into memory."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mllama.errors import CompiledModelError
from mllama.launch.model_files import ModelFiles
from mllama.launch.options import EngineOptions
from mllama.utils.progress import StartupProgress, stage


def compile_model(options: EngineOptions, output: Path) -> None:
    """Compiles the graphs that a model with these options needs, and saves them.

    Quantizes the checkpoint first if running the model would do so.

    Args:
        options: Options for running the model.
        output: Directory to save the graphs to.

    Raises:
        MllamaError: If the options can't be served, or the directory can't be written.
    """
    options = replace(options, save_to_serialized_model_path=output)
    files = options.resolve(quiet=False)
    for line in files.lines():
        print(f"mllama: {line}", file=sys.stderr)
    files = files.ensure_quantized(quiet=False)
    with StartupProgress():
        stage("starting MAX")
        _compile(options, files)


def _compile(options: EngineOptions, files: ModelFiles) -> None:
    from max.driver import load_devices
    from max.engine import InferenceSession
    from max.graph import DeviceRef
    from max.graph.weights import load_weights
    from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

    from mllama.compilation.graph_compiler import GraphCompiler, lazy_sampler
    from mllama.max_compat.model import compile_graphs, load_sampler_graphs
    from mllama.max_model.draft.graph import activation_dtype, draft_kv_params
    from mllama.max_model.draft.model import draft_graph_specs
    from mllama.max_model.graphs import graph_specs
    from mllama.max_model.int8_vision import quantize_vision
    from mllama.max_model.model_config import MllamaArchConfig
    from mllama.max_model.settings import ModelSettings
    from mllama.max_model.weight_adapters import (
        canonical_state_dict,
        served_state_dict,
    )

    pipeline = PipelineConfig.from_args(options.pipeline_args(files))
    retrieved = PIPELINE_REGISTRY.retrieve_factory(pipeline)
    config = MllamaArchConfig.initialize(
        pipeline, max_seq_len=retrieved.memory_plan.planned_max_length
    )
    weights = {}
    if pipeline.model.weight_path[0].suffix != ".gguf":
        weights = dict(load_weights(pipeline.model.weight_path).items())
    state_dict = served_state_dict(
        canonical_state_dict(weights),
        pipeline.model,
        config.model,
        config.dtype,
        only_shapes=True,
    )
    (device,) = load_devices(pipeline.model.device_specs)
    if config.int8_vision:
        state_dict = quantize_vision(state_dict, config.model)
    session = InferenceSession(devices=[device])
    settings = ModelSettings.from_max(pipeline.model)
    compiler = GraphCompiler(session, pipeline, settings.compiled)
    pipeline.configure_session(session)
    compile_graphs(session, graph_specs(config, state_dict, compiler))
    if (draft := settings.draft) is not None:
        dtype = activation_dtype(draft.encoding)
        params = draft_kv_params(draft.config, dtype, DeviceRef.from_device(device))
        compile_graphs(session, draft_graph_specs(draft, params))
    if not device.is_host:
        with lazy_sampler():
            load_sampler_graphs(
                session,
                pipeline,
                DeviceRef.from_device(device),
                len(retrieved.tokenizer.delegate),
            )
    try:
        compiler.finish()
    except OSError as error:
        raise CompiledModelError(
            f"the compiled model can't be written to "
            f"{options.save_to_serialized_model_path}: {error.strerror}"
        ) from error
