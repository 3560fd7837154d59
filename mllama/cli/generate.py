"""``mllama generate``: answers conversations and prints the answers to stdout."""

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
from mllama.launch.prompt_options import PROMPT_OPTIONS
from mllama.launch.sampling_options import SAMPLING_OPTIONS
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

_PROMPT = {option.name: option.default for option in PROMPT_OPTIONS}
_SAMPLING = [option.name for option in SAMPLING_OPTIONS if "generate" in option.takers]


@click.command(cls=SectionedCommand)
@options_of("generate", messages={"type": click.Path(allow_dash=True)})
def generate(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    raw: bool,
    prompt_token_ids: str | None,
    messages: str | None,
    output_format: str,
    model_path: str | None,
    **settings: Any,
) -> None:
    """Answer conversations about images.

    \b
    mllama generate --prompt "What is in the picture?" --image scene.png
    mllama generate --model-path DIR --messages chat.json --format json

    The answers to several conversations come in order, each under a heading.
    """
    started = time.perf_counter()
    disable_telemetry()  # The hub's client reads the environment when imported.
    if not settings["trust_remote_code"]:
        block_torch()
    shape = {name: settings.pop(name) for name in _PROMPT}
    sampling = _answer_fields({name: settings.pop(name) for name in _SAMPLING})
    question: Any
    if raw or prompt_token_ids is not None:
        _refuse_for_raw_prompts({"system": system, "messages": messages, **shape})
        question = _read_raw_prompt(prompt, prompt_token_ids, images)
    else:
        question = _read_conversations(prompt, images, system, messages)
        _check_prompts(question, shape)
    stream = reserve_stdout()
    # Libraries may warn on stderr, but their info messages would bury the answer.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    model_path = model_or_demo(model_path)

    from mllama.llm import LLM

    with LLM(model_path, **settings) as llm:
        load_seconds = time.perf_counter() - started
        answers = Answers(stream, output_format, load_seconds)
        if isinstance(question, Conversations):
            for output in llm.answers(question.messages, **shape, **sampling):
                answers.write_one_of_many(output)
            return
        generation = (
            llm.complete(question.prompt, question.images, stream=True, **sampling)
            if isinstance(question, RawPrompt)
            else llm.chat(question, stream=True, **shape, **sampling)
        )
        with generation as answer:
            if sampling["n"] > 1:
                answers.write_one_of_many(answer.wait())
                return
            for chunk in answer:
                answers.write_chunk(chunk)
            answers.end(answer.output)


def _answer_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of an answer as ``LLM`` takes them.

    Raises:
        MllamaError: If a value is out of range, before the model is loaded.
    """
    from mllama.requests.request import check_answer_fields

    fields = options | {"logit_bias": dict(options["logit_bias"])}
    check_answer_fields(fields)
    return fields


@dataclass(frozen=True)
class Conversations:
    """A list of conversations that are answered together."""

    messages: list[list[Any]]


@dataclass(frozen=True)
class RawPrompt:
    """A prompt that is continued as it is."""

    prompt: str | list[int]
    images: list[Any]


def _refuse_for_raw_prompts(options: dict[str, Any]) -> None:
    """Checks that nothing is given that shapes a conversation's prompt.

    Raises:
        click.UsageError: If an option is given.
    """
    for name, value in options.items():
        if value != _PROMPT.get(name):
            context = click.get_current_context()
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"a raw prompt takes no {option}", context)


def _read_raw_prompt(
    prompt: str | None,
    token_ids: str | None,
    images: tuple[str, ...],
) -> RawPrompt:
    """Returns a raw prompt, with its images loaded.

    Raises:
        click.UsageError: If the options name no prompt, or name it twice.
        MllamaError: If an image can't be read.
    """
    from mllama.requests.messages import load_images, prompt_messages

    context = click.get_current_context()
    if (prompt is None) == (token_ids is None):
        raise click.UsageError(
            "a raw prompt is either --raw with --prompt or --prompt-token-ids", context
        )
    loaded: list[Any] = []
    if images:
        (message,) = load_images(prompt_messages("", images))
        loaded = [part["image"] for part in message["content"][:-1]]
    if token_ids is None:
        assert prompt is not None
        return RawPrompt(prompt, loaded)
    try:
        return RawPrompt([int(each) for each in token_ids.split(",")], loaded)
    except ValueError as error:
        raise click.UsageError(
            "--prompt-token-ids takes ids of tokens, separated by commas", context
        ) from error


def _read_conversations(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    messages: str | None,
) -> list[Any] | Conversations:
    """Returns the messages of one conversation or of several, with checked images.

    Raises:
        click.UsageError: If the options name no conversation, or name it twice.
        MllamaError: If the messages are malformed, or a file can't be read.
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
            "--messages contains the whole conversation; it can't be combined with "
            "--prompt, --image or --system",
            click.get_current_context(),
        )
    content, directory = _read_messages(messages)
    has_several = isinstance(content, list) and any(
        isinstance(entry, list) for entry in content
    )
    if not has_several:
        return load_images(content, directory)
    conversations = []
    for number, entry in enumerate(content, 1):
        try:
            conversations.append(load_images(entry, directory))
        except MllamaError as error:
            raise type(error)(f"conversation {number}: {error}") from error
    return Conversations(conversations)


def _check_prompts(question: list[Any] | Conversations, shape: dict[str, Any]) -> None:
    """Checks what shapes the prompts, before the model is loaded.

    Raises:
        MllamaError: If a value can't be used, or doesn't fit the messages.
    """
    from mllama.requests.chat_prompt import ChatPrompt

    if not isinstance(question, Conversations):
        ChatPrompt(messages=question, **shape)
        return
    for number, messages in enumerate(question.messages, 1):
        try:
            ChatPrompt(messages=messages, **shape)
        except MllamaError as error:
            raise type(error)(f"conversation {number}: {error}") from error


def _read_messages(name: str) -> tuple[Any, Path]:
    """Returns the messages in a file, and the directory of their relative paths."""
    try:
        # Some editors put a byte order mark at the beginning.
        with click.open_file(name, encoding="utf-8-sig") as file:
            text = file.read().removeprefix("\ufeff")
        return json.loads(text), Path() if name == "-" else Path(name).parent
    except OSError as error:
        raise MllamaError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise MllamaError(f"{name} is not JSON: {error}") from error
