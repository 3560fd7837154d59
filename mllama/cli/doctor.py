"""``mllama doctor``: prints information for a problem report."""

from __future__ import annotations

import json
import os

import click

from mllama.cli.output import reserve_stdout
from mllama.utils.telemetry import disable_telemetry


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
    """Show information for a problem report: versions, machine, caches, settings.

    Secrets in environment variables are hidden.
    """
    from mllama.cli.environment_report import as_text, environment_report

    settings = dict(os.environ)  # Before this package and MAX add theirs.
    disable_telemetry()
    stream = reserve_stdout()
    report = environment_report(settings)
    stream.write(
        json.dumps(report, indent=2, ensure_ascii=False)
        if output_format == "json"
        else as_text(report)
    )
    stream.write("\n")
