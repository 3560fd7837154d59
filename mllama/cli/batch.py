"""``mllama batch``: answers a file of requests, or a question about many pictures."""

from __future__ import annotations

import asyncio
import logging
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mllama.cli.batch_cluster import run_on_cluster, take_cluster_settings
from mllama.cli.batch_question import QUESTION_SETTINGS, input_reader, question_of
from mllama.cli.batch_run import TerminalBatch
from mllama.cli.options import model_or_demo, options_of
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.launch.options import EngineOptions

ANY_NUMBER: Final = -1
"""The value of --max-errors with which a batch goes on whatever fails."""


@click.command(cls=SectionedCommand, context_settings={"allow_extra_args": True})
@click.argument("source", metavar="IN")
@click.argument("output", metavar="OUT")
@options_of("batch")
def batch(
    source: str,
    output: str,
    max_errors: int,
    retry_errors: bool,
    ray: bool,
    output_format: str | None,
    shard_lines: int | None,
    served_model_name: str | None,
    quiet: bool,
    model_path: str | None,
    **settings: Any,
) -> None:
    """Answer a file of requests, or ask a question about many pictures.

    \b
    mllama batch requests.jsonl answers.jsonl
    mllama batch photos/ captions.jsonl --prompt "Describe the picture."
    mllama batch "data/*.parquet" answers/ --prompt-column question

    IN has requests in OpenAI's batch format, or is a folder, a glob, Parquet files,
    WebDataset's tar files, or a URL of fsspec. What OUT has already is not asked again:
    to go on after an interruption, run the same command again.

    With --ray the replicas of a cluster answer.
    """
    _check_arguments(source, output)
    disable_telemetry()  # The hub's client reads the environment when imported.
    if not settings["trust_remote_code"]:
        block_torch()
    if max_errors < ANY_NUMBER:
        raise MllamaError(f"--max-errors must be -1 or more, not {max_errors}")

    cluster = take_cluster_settings(settings, ray=ray)
    if ray:
        from mllama.cluster.ray_import import import_ray

        # Before anything else takes time.
        import_ray(one_machine=cluster["address"] is None)
    from mllama.batch.destination import Destination
    from mllama.batch.inputs.parquet import load_pyarrow
    from mllama.batch.run import BatchCounts, unanswered
    from mllama.batch.seen_ids import SeenIds
    from mllama.server.model_names import served_name

    # Some later file may be the first that needs it.
    load_pyarrow()
    question = question_of(settings)
    destination = Destination(output, output_format, shard_lines)  # type: ignore[arg-type]
    reader = input_reader(source, question, settings, destination.path)
    for name in QUESTION_SETTINGS:
        settings.pop(name)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    seen, counts = SeenIds(), BatchCounts()
    with destination.opened(seen, retry_errors=retry_errors) as writer:
        lines = unanswered(reader, seen, counts, has_one_file=reader.has_one_file)
        first = next(lines, None)
        if first is None:
            click.echo(f"mllama: {output} has all {counts.read:,} answers", err=True)
            return
        from mllama.launch.options import EngineOptions

        options = EngineOptions(model_path=model_or_demo(model_path), **settings)
        run = TerminalBatch(
            chain([first], lines),
            reader,
            writer,
            counts,
            output,
            max_errors=None if max_errors == ANY_NUMBER else max_errors,
            quiet=quiet,
        )
        model_name = served_name(served_model_name, options.model)
        folder = Path(source).parent
        if ray:
            code = run_on_cluster(run, options, model_name, folder, cluster)
        else:
            code = _run_here(run, options, model_name, folder)
        if code:
            # The last file stays open for the next run.
            sys.exit(code)


def _check_arguments(source: str, output: str) -> None:
    """Refuses more arguments than IN and OUT, which patterns become in a shell.

    Raises:
        click.UsageError: If there are more.
    """
    context = click.get_current_context()
    if context.args:
        count = 2 + len(context.args)
        raise click.UsageError(
            f"batch takes IN and OUT, and got {count} arguments ({source} {output} "
            f"{context.args[0]}{' ...' if count > 3 else ''}): quote patterns, as in "
            '"photos/*.jpg", and texts with spaces',
            context,
        )


def _run_here(
    run: TerminalBatch, options: EngineOptions, model_name: str, folder: Path
) -> int:
    """Has an engine of this process answer, and returns the exit code."""
    from mllama.engine.async_client import AsyncEngineClient
    from mllama.engine.engine import Engine
    from mllama.server.batches.local_answers import LocalAnswers, engine_capabilities

    engine = Engine(options, quiet=run.quiet)

    async def main() -> int:
        ask = LocalAnswers(
            AsyncEngineClient(engine),
            engine_capabilities(engine.settings, engine.tokenizer, model_name),
            folder,
            engine.check_alive,
        )
        return await run.run(ask, engine.max_batch_size)

    try:
        return asyncio.run(main())
    finally:
        engine.close()
