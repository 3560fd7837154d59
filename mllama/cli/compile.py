"""``mllama compile``: compiles a model's graphs ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

_UNUSED_WITH_TARGET = ("weight_path", "lora_path", "trust_remote_code")
"""Options about files that ``--target`` doesn't read."""


@click.command(cls=SectionedCommand)
@options_of("compile", output={"type": click.Path(path_type=Path)})
def compile(output: Path, target: str | None, **options: Any) -> None:
    """Compile a model for --serialized-model-path, without running it.

    A compiled model works with the same options, on the same kind of CPU, with the same
    versions. It contains no weights, so fine-tunes of one shape share it.

    \b
    mllama compile --model-path DIR --output compiled
    mllama serve --model-path DIR --serialized-model-path compiled
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


def _compile_for_target(output: Path, target: str, options: dict[str, Any]) -> None:
    from mllama.aot.cross_compile import compile_for_target
    from mllama.aot.targets import find_target
    from mllama.hub.download import download_config
    from mllama.hub.options import HubOptions
    from mllama.launch.devices import count_gpus

    gpu = find_target(target)
    devices = count_gpus(options["devices"])
    for name in _UNUSED_WITH_TARGET:
        if options[name]:
            raise MllamaError(
                f"--{name.replace('_', '-')} does nothing with --target, which reads "
                "only the configuration; leave it out"
            )
    if options["quantization_encoding"] not in (None, "bfloat16"):
        raise MllamaError(
            f"--target compiles in bfloat16, not {options['quantization_encoding']}"
        )
    if options["vision_encoding"] is not None:
        raise MllamaError("--vision-encoding is for CPUs; leave it out with --target")
    config = download_config(
        options["model_path"],
        HubOptions(
            options["huggingface_model_revision"],
            force_download=options["force_download"],
        ),
    )
    graphs = compile_for_target(
        config,
        gpu,
        output,
        devices=devices,
        max_length=options["max_length"],
        max_batch_size=options["max_batch_size"],
        max_ce_batch_size=options["max_ce_batch_size"],
    )
    for graph in graphs:
        click.echo(f"mllama: {graph.name}: {graph.seconds:.0f} s", err=True)
    click.echo(f"mllama: compiled for {devices} x {gpu}, not run: {output}", err=True)
