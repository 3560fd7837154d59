"""``mllama batch``: answers a file of requests, or a question about many pictures."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.launch.sampling_options import SAMPLING_OPTIONS
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.batch.inputs.question import Question
    from mllama.batch.inputs.reader import InputReader
    from mllama.batch.lines import BatchLine
    from mllama.batch.results import LineAnswer
    from mllama.batch.run import BatchCounts, BatchRun, ResultWriter
    from mllama.engine.engine import Engine
    from mllama.server.batches.line_answers import LineAnswers
    from mllama.server.batches.local_images import LocalImages

ANY_NUMBER: Final = -1
"""The value of --max-errors with which a batch goes on whatever fails."""

_ENGINE_FAILED: Final = 1
"""Exit code after the model has failed as a whole."""

_PREPARED_PER_SLOT: Final = 2
"""Lines asked at a time for each place of the model's batch, as ``LLM.chat`` does."""

_SAMPLING: Final = {
    option.name: option for option in SAMPLING_OPTIONS if "batch" in option.takers
}
_QUESTION: Final = ("prompt", "system", "image_column", "prompt_column", "id_column")


@click.command(cls=SectionedCommand)
@click.argument("source", metavar="IN")
@click.argument("output", metavar="OUT")
@options_of("batch")
def batch(
    source: str,
    output: str,
    max_errors: int,
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
    """
    disable_telemetry()  # The hub's client reads the environment when imported.
    if not settings["trust_remote_code"]:
        block_torch()
    if max_errors < ANY_NUMBER:
        raise MllamaError(f"--max-errors must be -1 or more, not {max_errors}")

    from mllama.batch.destination import Destination
    from mllama.batch.inputs.parquet import load_pyarrow
    from mllama.batch.run import BatchCounts, unanswered
    from mllama.batch.seen_ids import SeenIds

    # Some later file may be the first that needs it.
    load_pyarrow()
    question = _question(settings)
    destination = Destination(output, output_format, shard_lines)  # type: ignore[arg-type]
    reader = _reader(source, question, settings, destination.path)
    for name in (*_QUESTION, *_SAMPLING):
        settings.pop(name)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    seen, counts = SeenIds(), BatchCounts()
    with destination.opened(seen) as writer:
        lines = unanswered(reader, seen, counts)
        first = next(lines, None)
        if first is None:
            click.echo(f"mllama: {output} has all {counts.read:,} answers", err=True)
            return
        from mllama.engine.engine import Engine
        from mllama.launch.options import EngineOptions
        from mllama.server.model_names import served_name

        options = EngineOptions(model_path=model_or_demo(model_path), **settings)
        engine = Engine(options, quiet=quiet)
        try:
            command = _Batch(
                engine,
                chain([first], lines),
                writer,
                counts,
                reader,
                model_name=served_name(served_model_name, options.model),
                folder=Path(source).parent,
                max_errors=None if max_errors == ANY_NUMBER else max_errors,
                quiet=quiet,
            )
            code = asyncio.run(command.run(output))
        finally:
            engine.close()
        if code:
            # The last file stays open for the next run.
            sys.exit(code)


class _Batch:
    """A batch that is answered by an engine of this process."""

    def __init__(
        self,
        engine: Engine,
        lines: Iterable[BatchLine],
        writer: ResultWriter,
        counts: BatchCounts,
        reader: InputReader,
        *,
        model_name: str,
        folder: Path,
        max_errors: int | None,
        quiet: bool,
    ) -> None:
        self._engine = engine
        self._lines = lines
        self._writer = writer
        self._counts = counts
        self._reader = reader
        self._model_name = model_name
        self._folder = folder
        self._max_errors = max_errors
        self._quiet = quiet
        self._signal: int | None = None

    async def run(self, output: str) -> int:
        """Answers the lines, and returns the exit code.

        Raises:
            MllamaError: If too many fail, or a file can't be read or written.
        """
        from mllama.batch.progress import BatchProgress
        from mllama.batch.run import BatchRun, TooManyErrors
        from mllama.server.batches.line_answers import LineAnswers
        from mllama.server.batches.local_images import LocalImages

        images = LocalImages(self._folder)
        answers = LineAnswers(*self._answering_parts(images))
        run = BatchRun(
            self._lines,
            lambda line: self._ask(line, answers, images),
            self._writer,
            self._counts,
            concurrency=_PREPARED_PER_SLOT * self._engine.max_batch_size,
            max_errors=self._max_errors,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number, run)
        resume = f"run the same command again to go on; {output} has all answers so far"
        try:
            with BatchProgress(
                self._counts, lambda: self._reader.fraction, quiet=self._quiet
            ):
                await run.run()
        except TooManyErrors as error:
            raise MllamaError(
                f"more than {self._max_errors} lines failed (--max-errors), the first "
                f"one so: {error}; {output} has their errors"
            ) from None
        except asyncio.CancelledError:
            if self._signal is None:
                raise
        except RuntimeError as error:
            cause = error.__cause__ or error
            click.echo(f"error: the model failed: {cause}; {resume}", err=True)
            return _ENGINE_FAILED
        if self._signal is not None:
            click.echo(f"mllama: interrupted: {resume}", err=True)
            return 128 + self._signal
        if self._counts.failed:
            click.echo(
                f"mllama: {self._counts.failed:,} lines failed; {output} has their "
                "errors",
                err=True,
            )
        return 0

    def _answering_parts(self, images: LocalImages) -> Any:
        from mllama.engine.async_client import AsyncEngineClient
        from mllama.server.capabilities import ServerCapabilities
        from mllama.server.model_description import ModelDescription

        client = AsyncEngineClient(self._engine)
        capabilities = ServerCapabilities.of(
            self._engine.settings,
            self._engine.tokenizer,
            model_name=self._model_name,
            max_images=None,
            max_image_bytes=None,
            description=ModelDescription(),
        )
        return client, capabilities, images

    async def _ask(
        self, line: BatchLine, answers: LineAnswers, images: LocalImages
    ) -> LineAnswer:
        images.attach(line.attachments)
        try:
            answer = await answers(line)
        finally:
            images.detach(line.attachments)
        if answer.status >= 500:
            # If the whole model has failed, no line is at fault.
            self._engine.check_alive()
        return answer

    def _interrupt(self, number: int, run: BatchRun) -> None:
        if self._signal is not None:
            run.cancel()
            return
        self._signal = number
        run.stop()
        click.echo(
            "\nmllama: ending after the answers that are being written; press Ctrl-C "
            "again to drop them",
            err=True,
        )


def _question(settings: dict[str, Any]) -> Question:
    """Returns what is asked about each picture, checked.

    Raises:
        MllamaError: If a value can't be used.
    """
    from mllama.batch.inputs.question import Question
    from mllama.server.bodies.parsing import parse_body
    from mllama.server.bodies.rejection import RequestRejected
    from mllama.server.dialects.openai.chat_body import ChatBody
    from mllama.server.dialects.openai.format_translation import openai_output_format

    question = Question(settings["prompt"], settings["system"], _fields(settings))
    try:
        # A wrong value is wrong for all pictures.
        openai_output_format(parse_body(ChatBody, question.body([], "x")))
    except RequestRejected as error:
        raise MllamaError(str(error)) from error
    return question


def _fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of requests that the options for answers make."""
    context = click.get_current_context()
    fields: dict[str, Any] = {}
    for name, option in _SAMPLING.items():
        if not _is_given(context, name):
            continue
        value = settings[name]
        if name == "logprobs":
            fields["logprobs"] = True
        if name == "logit_bias":
            value = {str(token): bias for token, bias in value}
        elif name == "response_format":
            value = {"type": value}
        elif option.repeatable:
            value = list(value)
        if (name, value) != ("max_new_tokens", -1):
            assert option.request_field is not None
            fields[option.request_field] = value
    return fields


def _reader(
    source: str, question: Question, settings: dict[str, Any], output: Path
) -> InputReader:
    """Returns what reads the input.

    Raises:
        MllamaError: If there is no input, or an option doesn't fit it.
    """
    from mllama.batch.inputs.reader import InputReader

    reader = InputReader(
        source,
        question,
        image_column=settings["image_column"],
        prompt_column=settings["prompt_column"],
        id_column=settings["id_column"],
        output=output,
    )
    context = click.get_current_context()
    if reader.kind == "lines":
        for name in (*_QUESTION, *_SAMPLING):
            if _is_given(context, name):
                flag = f"--{name.replace('_', '-')}"
                if name in _SAMPLING:
                    flag = _SAMPLING[name].option_name
                raise MllamaError(
                    f"{source} has whole requests, in OpenAI's format: {flag} can't "
                    "be combined with it"
                )
    return reader


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
