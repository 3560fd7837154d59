"""``mllama generate``: one conversation, its answer on stdout."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, TextIO

import click

from mllama.cli.options import (
    compiled_options,
    image_options,
    model_options,
    model_or_demo,
)
from mllama.cli.output import reserve_stdout
from mllama.errors import MllamaError
from mllama.imports import leave_torch_out
from mllama.privacy import turn_telemetry_off


@click.command()
@model_options
@compiled_options
@image_options
@click.option("--prompt", help="The question.")
@click.option(
    "--image",
    "images",
    metavar="IMAGE",
    multiple=True,
    help="A path, an http(s) URL or a data URL, shown before the prompt.  Repeatable.",
)
@click.option("--system", help="A system prompt.")
@click.option(
    "--messages",
    metavar="FILE",
    help="A JSON list of OpenAI-style messages instead of --prompt, kept in its order; "
    "an image_url may be a path, seen from FILE's directory.  - reads stdin.",
)
@click.option(
    "--max-new-tokens",
    type=int,
    default=-1,
    show_default=True,
    help="Longest answer; -1 goes on until the context is full.",
)
@click.option(
    "--top-k",
    type=int,
    help="Choose from this many of the likeliest tokens; 1 is greedy, -1 is all.  "
    "Default: 1; -1 if --temperature, --top-p or --seed asks for sampling.",
)
@click.option(
    "--temperature",
    type=float,
    help="Divides the logits before sampling.  Default: the checkpoint's, or 1.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Share of the probability to choose from, from 0 to 1.",
)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json prints one object, with counts and times, as the last line.",
)
def generate(
    model_path: str | None,
    weight_path: tuple[str, ...],
    lora_path: str | None,
    devices: str | None,
    quantization_encoding: str | None,
    max_length: int | None,
    serialized_model_path: str | None,
    save_to_serialized_model_path: str | None,
    image_cache_size: str | None,
    max_images_per_request: int | None,
    huggingface_model_revision: str | None,
    force_download: bool,
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    messages: str | None,
    output_format: str,
    **sampling: Any,
) -> None:
    """Answer one conversation about images.

    \b
    mllama generate --prompt "What is in the picture?" --image scene.png
    mllama generate --model-path DIR --messages chat.json --format json
    """
    started = time.perf_counter()
    from mllama.engine.sampling import Sampling

    turn_telemetry_off()  # The hub's client reads the environment as it is imported.
    leave_torch_out()
    Sampling(**sampling)  # Refuses what is out of range before the model is loaded.
    conversation = _conversation(prompt, images, system, messages)
    answers = reserve_stdout()
    # Libraries may warn, on stderr; their notes would bury the answer.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    model_path = model_or_demo(model_path)

    from mllama.llm import LLM

    with LLM(
        model_path,
        weight_path=weight_path,
        lora_path=lora_path,
        devices=devices,
        quantization_encoding=quantization_encoding,
        max_length=max_length,
        serialized_model_path=serialized_model_path,
        save_to_serialized_model_path=save_to_serialized_model_path,
        image_cache_size=image_cache_size,
        max_images_per_request=max_images_per_request,
        huggingface_model_revision=huggingface_model_revision,
        force_download=force_download,
        max_batch_size=1,
    ) as llm:
        load_seconds = time.perf_counter() - started
        with llm.chat(conversation, stream=True, **sampling) as answer:
            for chunk in answer:
                if output_format == "text":
                    answers.write(chunk.text)
                    answers.flush()
            _finish(answers, answer.output, output_format, load_seconds)


def _finish(
    answers: TextIO, output: Any, output_format: str, load_seconds: float
) -> None:
    if output_format == "json":
        report = {
            "text": output.text,
            "token_ids": output.token_ids,
            "finish_reason": output.finish_reason,
            "prompt_tokens": output.prompt_tokens,
            "image_tokens": output.image_tokens,
            "completion_tokens": output.completion_tokens,
            "load_seconds": load_seconds,
            "time_to_first_token_seconds": output.time_to_first_token_seconds,
            "tokens_per_second": output.tokens_per_second,
        }
        answers.write(json.dumps(report, ensure_ascii=False))
    answers.write("\n")
    answers.flush()


def _conversation(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    messages: str | None,
) -> list[Any]:
    """The messages that the options describe, their images loaded.

    Raises:
        MllamaError: If they describe none, or an image or a file can't be read.
    """
    from mllama.engine.conversation import load_images, prompt_messages

    if messages is not None:
        if prompt is not None or images or system is not None:
            raise click.UsageError(
                "--messages holds the whole conversation; it can't be combined with "
                "--prompt, --image or --system",
                click.get_current_context(),
            )
        return load_images(*_read_messages(messages))
    if prompt is None:
        raise click.UsageError(
            "--prompt or --messages is needed", click.get_current_context()
        )
    return load_images(prompt_messages(prompt, images, system))


def _read_messages(name: str) -> tuple[Any, Path]:
    """Messages from a file, and the directory that their paths are seen from."""
    try:
        with click.open_file(name, encoding="utf-8") as file:
            return json.load(file), Path() if name == "-" else Path(name).parent
    except OSError as error:
        raise MllamaError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise MllamaError(f"{name} is not JSON: {error}") from error
