"""``mllama compile``: a model's graphs, compiled ahead of its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mllama.cli.options import graph_options, model_or_demo
from mllama.cli.sections import OUTPUT, SectionedCommand, option
from mllama.imports import leave_torch_out
from mllama.privacy import turn_telemetry_off


@click.command(cls=SectionedCommand)
@graph_options
@option(
    "--output",
    section=OUTPUT,
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to write the compiled model to.",
)
def compile(output: Path, **options: Any) -> None:
    """Compile a model for --serialized-model-path, without starting it.

    The compiled model is for the same options, CPU and versions.  It holds no weights,
    so that fine-tunes of one shape share it.

    \b
    mllama compile --model-path DIR --output compiled
    mllama serve --model-path DIR --serialized-model-path compiled
    """
    turn_telemetry_off()
    if not options["trust_remote_code"]:
        leave_torch_out()
    from mllama.engine.compile import compile_model
    from mllama.engine.options import EngineOptions

    options["model_path"] = model_or_demo(options["model_path"])
    options["max_batch_size"] = options["max_batch_size"] or 1
    compile_model(EngineOptions(**options), output)
    click.echo(f"mllama: the compiled model is in {output}", err=True)
