"""The settings of answers, as functions take them, and the parts that engines take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from mllama.requests.attention import AttentionOptions
from mllama.requests.chat_prompt import ChatPromptFields, ChatPromptOptions
from mllama.requests.format_settings import FormatFields, output_format_from_settings
from mllama.requests.output_format import OutputFormat
from mllama.requests.request import ChatFields
from mllama.requests.sampling_params import AnswerFields, Sampling


class AttentionFields(TypedDict, total=False):
    """What asks for attention maps, for functions that pass settings on."""

    attention: bool | AttentionOptions | Mapping[str, Any]


class ChatSettings(ChatFields, AttentionFields, total=False):
    """The settings of a chat."""


class CompletionSettings(AnswerFields, AttentionFields, total=False):
    """The settings of a completion."""


def split_settings(
    settings: Mapping[str, Any], fields: Any
) -> tuple[
    ChatPromptOptions, Sampling, int, OutputFormat | None, AttentionOptions | None
]:
    """Returns what shapes a prompt, each answer, their number, their format, and the
    attention maps that they come with.

    Args:
        settings: The settings.
        fields: The ``TypedDict`` of possible ones.

    Raises:
        TypeError: If there is no such setting.
        MllamaError: If a value can't be used.
    """
    for name in settings.keys() - fields.__optional_keys__:
        raise TypeError(f"got an unexpected keyword argument {name!r}")
    given = dict(settings)
    prompt, formats = (
        {name: given.pop(name) for name in names.__optional_keys__ if name in given}
        for names in (ChatPromptFields, FormatFields)
    )
    choices = given.pop("n", 1)
    attention = AttentionOptions.of(given.pop("attention", None))
    return (
        ChatPromptOptions(**prompt),
        Sampling(**given),
        choices,
        output_format_from_settings(**formats),
        attention,
    )
