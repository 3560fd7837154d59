"""``mllama doctor``: what a report of a problem needs."""

from __future__ import annotations

import json
import os

import click

from mllama.cli.output import reserve_stdout
from mllama.utils.telemetry import turn_telemetry_off


@click.command()
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json prints one object.",
)
def doctor(output_format: str) -> None:
    """Show what a report of a problem needs: versions, machine, caches, settings.

    Values of the environment that are secret are hidden.
    """
    from mllama.cli.environment_report import as_text, diagnosis

    settings = dict(os.environ)  # Without what we and MAX set.
    turn_telemetry_off()
    stream = reserve_stdout()
    report = diagnosis(settings)
    stream.write(
        json.dumps(report, indent=2, ensure_ascii=False)
        if output_format == "json"
        else as_text(report)
    )
    stream.write("\n")
