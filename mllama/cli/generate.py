"""``mllama generate``: conversations, their answers on stdout."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.output import Answers, reserve_stdout
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.launch.option_table import SAMPLING_OPTIONS
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

_SAMPLING = [option.name for option in SAMPLING_OPTIONS if "generate" in option.takers]


@click.command(cls=SectionedCommand)
@options_of("generate", messages={"type": click.Path(allow_dash=True)})
def generate(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    messages: str | None,
    output_format: str,
    model_path: str | None,
    **settings: Any,
) -> None:
    """Answer conversations about images.

    \b
    mllama generate --prompt "What is in the picture?" --image scene.png
    mllama generate --model-path DIR --messages chat.json --format json

    The answers to several conversations stand under headings of their own, in order.
    """
    started = time.perf_counter()
    from mllama.requests.sampling_params import Sampling

    disable_telemetry()  # The hub's client reads the environment as it is imported.
    if not settings["trust_remote_code"]:
        block_torch()
    sampling = {name: settings.pop(name) for name in _SAMPLING}
    Sampling(**sampling)  # Refuses what is out of range before the model is loaded.
    asked = _conversations(prompt, images, system, messages)
    stream = reserve_stdout()
    # Libraries may warn, on stderr; their notes would bury the answer.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    model_path = model_or_demo(model_path)

    from mllama.llm import LLM

    with LLM(model_path, **settings) as llm:
        load_seconds = time.perf_counter() - started
        answers = Answers(stream, output_format, load_seconds)
        if isinstance(asked, Conversations):
            for output in llm.answers(asked.messages, **sampling):
                answers.write_one_of_many(output)
            return
        with llm.chat(asked, stream=True, **sampling) as answer:
            for chunk in answer:
                answers.write_chunk(chunk)
            answers.end(answer.output)


@dataclass(frozen=True)
class Conversations:
    """Several conversations, which are answered together."""

    messages: list[list[Any]]


def _conversations(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    messages: str | None,
) -> list[Any] | Conversations:
    """What the options ask: the messages of one conversation or of several, their
    images loaded.

    Raises:
        MllamaError: If they describe none, or an image or a file can't be read.
    """
    from mllama.requests.messages import load_images, prompt_messages

    if messages is None:
        if prompt is None:
            raise click.UsageError(
                "--prompt or --messages is needed", click.get_current_context()
            )
        return load_images(prompt_messages(prompt, images, system))
    if prompt is not None or images or system is not None:
        raise click.UsageError(
            "--messages holds the whole conversation; it can't be combined with "
            "--prompt, --image or --system",
            click.get_current_context(),
        )
    content, directory = _read_messages(messages)
    if not (
        isinstance(content, list) and any(isinstance(each, list) for each in content)
    ):
        return load_images(content, directory)
    read = []
    for number, each in enumerate(content, 1):
        try:
            read.append(load_images(each, directory))
        except MllamaError as error:
            raise type(error)(f"conversation {number}: {error}") from error
    return Conversations(read)


def _read_messages(name: str) -> tuple[Any, Path]:
    """Messages from a file, and the directory that their paths are seen from."""
    try:
        with click.open_file(name, encoding="utf-8") as file:
            return json.load(file), Path() if name == "-" else Path(name).parent
    except OSError as error:
        raise MllamaError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise MllamaError(f"{name} is not JSON: {error}") from error
