"""``mllama doctor``: prints information for a problem report."""

from __future__ import annotations

import json
import os
import sys

import click

from mllama.cli.output import reserve_stdout
from mllama.cli.repeated_options import SingleValueCommand
from mllama.utils.telemetry import disable_telemetry


@click.command(cls=SingleValueCommand)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json prints one object.",
)
@click.option(
    "--devices",
    metavar="DEVICES",
    help="Also run the demo model on these devices (cpu, gpu, gpu:N) and compare its "
    "results with a CPU's. The first time, a GPU's graphs are compiled for many "
    "minutes. Exits with 1 if a result is wrong.",
)
@click.option(
    "--serialized-model-path",
    metavar="DIR",
    type=click.Path(),
    help="The demo model, compiled for these devices by mllama compile.",
)
def doctor(
    output_format: str, devices: str | None, serialized_model_path: str | None
) -> None:
    """Show information for a problem report: versions, machine, caches, settings.

    Secrets in environment variables are hidden.
    """
    if serialized_model_path is not None and devices is None:
        raise click.UsageError("--serialized-model-path needs --devices")
    from mllama.cli.environment_report import as_text, environment_report

    settings = dict(os.environ)  # Before this package and MAX add theirs.
    disable_telemetry()
    stream = reserve_stdout()
    report = environment_report(settings)
    is_right = True
    if devices is not None:
        from mllama.engine.device_check import check_device

        device = check_device(devices, serialized_model_path)
        report["demo model"], is_right = device.facts(), device.is_right
    stream.write(
        json.dumps(report, indent=2, ensure_ascii=False)
        if output_format == "json"
        else as_text(report)
    )
    stream.write("\n")
    if not is_right:
        sys.exit(1)
