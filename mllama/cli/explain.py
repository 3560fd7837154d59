"""``mllama explain``: shows where in its images each word of an answer looked."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from mllama.cli.options import model_or_demo, options_of
from mllama.cli.output import reserve_stdout
from mllama.cli.sections import SectionedCommand
from mllama.errors import MllamaError
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch


@click.command(cls=SectionedCommand)
@options_of("explain")
def explain(
    prompt: str | None,
    images: tuple[str, ...],
    system: str | None,
    max_new_tokens: int,
    layers: str,
    heads: str,
    with_prompt: bool,
    output: str,
    model_path: str | None,
    **settings: Any,
) -> None:
    """Answer a question about images, and show where each word of the answer looked.

    \b
    mllama explain --image scene.png --prompt "What is here?" --output where.html

    The answer goes to stdout. Only on a CPU: --devices cpu.
    """
    disable_telemetry()  # The hub's client reads the environment when imported.
    if not settings["trust_remote_code"]:
        block_torch()
    if prompt is None:
        raise click.UsageError("--prompt is needed", click.get_current_context())
    if not images:
        raise click.UsageError(
            "--image is needed: words look at images", click.get_current_context()
        )

    from mllama.engine.attention.files import check_file_name
    from mllama.requests.attention import AttentionOptions
    from mllama.requests.messages import load_images, prompt_messages
    from mllama.requests.request import check_answer_fields

    check_file_name(Path(output))
    attention = AttentionOptions(
        layers=_named_layers(layers), heads=_named_heads(heads), prompt=with_prompt
    )
    check_answer_fields({"max_new_tokens": max_new_tokens})
    messages = load_images(prompt_messages(prompt, images, system))
    stream = reserve_stdout()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    model_path = model_or_demo(model_path)

    from mllama.llm import LLM

    with LLM(model_path, **settings) as llm:
        answer = llm.chat(messages, max_new_tokens=max_new_tokens, attention=attention)
    assert answer.attention is not None
    print(answer.text, file=stream, flush=True)
    answer.attention.save(output)
    shown = ", ".join(f"{layer}.{head}" for layer, head in answer.attention.heads)
    print(f"mllama: {output} shows head {shown} (LAYER.HEAD)", file=sys.stderr)


def _named_layers(text: str) -> str | list[int]:
    """Returns the layers that the option names.

    Raises:
        MllamaError: If it is no list of numbers.
    """
    if text in ("all", "last"):
        return text
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise MllamaError(
            f"--layers must be all, last or numbers separated by commas, not {text!r}"
        ) from None


def _named_heads(text: str) -> str | list[int] | list[tuple[int, int]]:
    """Returns the heads that the option names.

    Raises:
        MllamaError: If it is no list of numbers or of pairs.
    """
    if text in ("all", "localizing"):
        return text
    try:
        numbers = [[int(part) for part in each.split(".")] for each in text.split(",")]
        if all(len(parts) == 1 for parts in numbers):
            return [head for (head,) in numbers]
        return [(layer, head) for layer, head in numbers]
    except ValueError:
        raise MllamaError(
            "--heads must be localizing, all, numbers, or LAYER.HEAD, separated by "
            f"commas, not {text!r}"
        ) from None
