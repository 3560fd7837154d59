"""``mllama chat``: a conversation about pictures in the terminal."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.output import reserve_stdout
from mllama.cli.sections import SectionedCommand
from mllama.errors import EngineError, MllamaError
from mllama.launch.model_options import MODEL_OPTIONS
from mllama.launch.sampling_options import SAMPLING_OPTIONS
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.cli.chat_session.backend import Backend

API_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable with the key for a server."""

_SAMPLING = [option.name for option in SAMPLING_OPTIONS if "chat" in option.takers]


@click.command(cls=SectionedCommand)
@click.argument("question", required=False)
@options_of("chat")
def chat(
    question: str | None,
    images: tuple[str, ...],
    system: str | None,
    url: str | None,
    api_key: str | None,
    model_path: str | None,
    verbose: bool,
    no_history: bool,
    **options: Any,
) -> None:
    """Chat about pictures in the terminal.

    \b
    mllama chat
    mllama chat --url http://127.0.0.1:8000
    mllama chat --image photo.jpg "What is in the picture?"
    echo "What is in the picture?" | mllama chat --image photo.jpg

    A path in a line, typed or dropped, attaches the picture. /help lists the commands.
    Without a terminal, the question and what stdin has are one turn.
    """
    context = click.get_current_context()
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if url is not None:
        _refuse_engine_options(context)
    elif api_key is not None:
        raise click.UsageError("--api-key is for a server, with --url", context)
    if not is_terminal:
        question = _piped_question(question, context)
    disable_telemetry()  # The hub's client reads the environment when imported.
    if not options["trust_remote_code"]:
        block_torch()

    from mllama.cli.chat_session.chat import Chat
    from mllama.cli.chat_session.settings import AnswerSettings
    from mllama.cli.chat_session.transcript import Transcript

    settings = AnswerSettings({name: options.pop(name) for name in _SAMPLING})
    stream = sys.stdout if url is not None else reserve_stdout()
    # Libraries may warn on stderr, but their info messages would bury the answer.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _backend(url, api_key, model_path, options) as backend:
        # From here on Ctrl-C stops an answer.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session = Chat(
            backend,
            settings,
            stream,
            stream if is_terminal else sys.stderr,
            Transcript(system),
            is_verbose=verbose,
        )
        session.attach(images)
        if is_terminal:
            _converse(session, question, no_history)
            return
        assert question is not None
        try:
            session.ask(question)
        except EngineError as error:
            raise MllamaError(str(error)) from error


def _converse(session: Any, question: str | None, no_history: bool) -> None:
    from mllama.cli.chat_session.conversation_loop import converse
    from mllama.cli.chat_session.history import history_file
    from mllama.cli.chat_session.line_reader import LineReader

    session.note(f"{session.backend.name}: /help lists the commands, Ctrl-D leaves.")
    file = None if no_history else history_file()
    converse(session, LineReader(session.stream, file), question)


def _piped_question(question: str | None, context: click.Context) -> str:
    """Returns the question of a chat without a terminal: the argument, then stdin.

    Raises:
        click.UsageError: If there is none.
    """
    piped = "" if sys.stdin.isatty() else _decoded(sys.stdin)
    parts = [part for part in (question, piped.strip()) if part]
    if not parts:
        raise click.UsageError(
            "without a terminal, a question is needed: as argument or on stdin", context
        )
    return "\n\n".join(parts)


def _decoded(stdin: TextIO) -> str:
    buffer = getattr(stdin, "buffer", None)
    return stdin.read() if buffer is None else buffer.read().decode("utf-8", "replace")


@contextmanager
def _backend(
    url: str | None,
    api_key: str | None,
    model_path: str | None,
    options: dict[str, Any],
) -> Iterator[Backend]:
    """Yields a server's model, or one in this process."""
    if url is not None:
        from mllama.cli.chat_session.server_backend import ServerBackend

        key = api_key or os.environ.get(API_KEY_VARIABLE)
        server = ServerBackend(url, key, model_path)
        try:
            yield server
        finally:
            server.close()
        return
    name = model_path or "the demo model"
    model_path = model_or_demo(model_path)

    from mllama.cli.chat_session.engine_backend import EngineBackend
    from mllama.llm import LLM

    with LLM(model_path, **options) as llm:
        yield EngineBackend(llm, name)


def _refuse_engine_options(context: click.Context) -> None:
    """Checks that no option of an engine is given for a server.

    Raises:
        click.UsageError: If one is.
    """
    for option in MODEL_OPTIONS:
        source = context.get_parameter_source(option.name)
        if option.name != "model_path" and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.option_name} is an option of the server, and not with --url",
                context,
            )
