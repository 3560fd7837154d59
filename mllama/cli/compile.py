"""``mllama compile``: compiles a model's graphs ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.aot.targets import Target
    from mllama.config import MllamaConfig
    from mllama.weights.encodings import Encoding

_UNUSED_WITH_TARGET = {
    **dict.fromkeys(
        ("weight_path", "lora_path", "trust_remote_code"),
        "which reads only the configuration",
    ),
    **dict.fromkeys(
        ("max_length", "max_batch_size", "max_ce_batch_size"),
        "whose graphs fit any length and batch size",
    ),
    **dict.fromkeys(
        ("draft_model_path", "draft_model_revision", "speculate"),
        "which compiles no draft model",
    ),
}
"""Options that do nothing with ``--target``, and why."""


@click.command(cls=SectionedCommand)
@options_of("compile", output={"type": click.Path(path_type=Path)})
def compile(output: Path, target: str | None, **options: Any) -> None:
    """Compile a model for --serialized-model-path, without running it.

    A compiled model fits the same versions, and CPUs that have all features of this one
    or of the target. It has no weights, so fine-tunes of one shape share it.

    \b
    mllama compile --model-path DIR --output compiled
    mllama serve --model-path DIR --serialized-model-path compiled
    mllama compile --model-path DIR --target cpu:x86-64-v3 --output compiled
    mllama compile --model-path DIR --target cuda:sm_90 --output compiled
    """
    limit_spinning()
    disable_telemetry()
    if not options["trust_remote_code"]:
        block_torch()
    options["model_path"] = model_or_demo(options["model_path"])
    if target is not None:
        _compile_for_target(output, target, options)
        return
    from mllama.aot.compile import compile_model
    from mllama.launch.options import EngineOptions

    compile_model(EngineOptions(**options), output)
    click.echo(f"mllama: the compiled model is in {output}", err=True)


def _compile_for_target(output: Path, name: str, options: dict[str, Any]) -> None:
    from mllama.aot.cross_compile import compile_for_target
    from mllama.aot.targets import CrossCompilation, find_target
    from mllama.hub.download import download_config
    from mllama.hub.options import HubOptions
    from mllama.launch.devices import count_gpus

    target = find_target(name)
    if target.is_cpu and options["devices"] not in (None, "cpu"):
        raise MllamaError(f"{target} is one device; leave --devices out")
    devices = 1 if target.is_cpu else count_gpus(options["devices"])
    context = click.get_current_context()
    for option, reason in _UNUSED_WITH_TARGET.items():
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            raise MllamaError(
                f"--{option.replace('_', '-')} does nothing with --target, {reason}; "
                "leave it out"
            )
    config = download_config(
        options["model_path"],
        HubOptions(
            options["huggingface_model_revision"],
            force_download=options["force_download"],
        ),
    )
    encoding = _encoding(target, config, options)
    compilation = CrossCompilation(config, target, encoding, devices)
    for graph in compile_for_target(compilation, output):
        click.echo(f"mllama: {graph.name}: {graph.seconds:.0f} s", err=True)
    click.echo(
        f"mllama: compiled for {devices} x {target} in {encoding.full_name}, not run: "
        f"{output}",
        err=True,
    )


def _encoding(
    target: Target, config: MllamaConfig, options: dict[str, Any]
) -> Encoding:
    """Returns the encoding to compile for.

    Raises:
        MllamaError: If the device can't run what was requested.
    """
    from mllama.weights.encodings import (
        choose_encoding,
        with_image_cache_encoding,
        with_kv_cache_encoding,
        with_vision_encoding,
    )

    requested = options["quantization_encoding"]
    if not target.is_cpu and requested not in (None, "bfloat16"):
        raise MllamaError(f"--target compiles for GPUs in bfloat16, not in {requested}")
    encoding = choose_encoding(
        requested, "cpu" if target.is_cpu else "gpu", config.dtype or "bfloat16", config
    )
    encoding = with_vision_encoding(encoding, options["vision_encoding"], config)
    encoding = with_image_cache_encoding(
        encoding, options["image_cache_encoding"], config
    )
    return with_kv_cache_encoding(encoding, options["kv_cache_encoding"], config)
