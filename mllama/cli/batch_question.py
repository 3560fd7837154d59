"""What ``mllama batch`` asks and reads, from its options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mllama.errors import MllamaError
from mllama.launch.sampling_options import SAMPLING_OPTIONS

if TYPE_CHECKING:
    from mllama.batch.inputs.question import Question
    from mllama.batch.inputs.reader import InputReader

_SAMPLING: Final = {
    option.name: option for option in SAMPLING_OPTIONS if "batch" in option.takers
}
_QUESTION: Final = ("prompt", "system", "image_column", "prompt_column", "id_column")

QUESTION_SETTINGS: Final = (*_QUESTION, *_SAMPLING)
"""The options that make the question, and say where it and its pictures are."""


def question_of(settings: dict[str, Any]) -> Question:
    """Returns what is asked about each picture, checked.

    Args:
        settings: The options of the running command.

    Raises:
        MllamaError: If a value can't be used.
    """
    from mllama.batch.inputs.question import Question
    from mllama.server.batches.questions import check_question

    if settings["prompt"] is not None and settings["prompt_column"] is not None:
        raise MllamaError(
            "--prompt and --prompt-column can't be combined: either is the question"
        )
    question = Question(settings["prompt"], settings["system"], _fields(settings))
    check_question(question)
    return question


def _fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of requests that the options for answers make."""
    fields: dict[str, Any] = {}
    for name, option in _SAMPLING.items():
        if not _is_given(name):
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


def input_reader(
    source: str, question: Question, settings: dict[str, Any], output: Path
) -> InputReader:
    """Returns what reads the input.

    Args:
        source: The input.
        question: What is asked about each picture.
        settings: The options of the running command.
        output: Where the answers go.

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
    given = next(filter(_is_given, QUESTION_SETTINGS), None)
    if given is not None and reader.has_only_requests:
        flag = f"--{given.replace('_', '-')}"
        if given in _SAMPLING:
            flag = _SAMPLING[given].option_name
        raise MllamaError(
            f"{source} has whole requests, in OpenAI's format: {flag} can't be "
            "combined with it"
        )
    return reader


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE
