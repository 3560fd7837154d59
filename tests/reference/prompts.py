"""Encodes prompts with a chat template given as text."""

from __future__ import annotations

from typing import Any

from mllama.max_model.chat_template import ChatTemplate
from mllama.max_model.prompt_encoding import PromptEncoder

from .text_files import IMAGE


def prompt_encoder(tokenizer: Any, template: str, **named: str) -> PromptEncoder:
    """Returns an encoder of prompts with a template, and others by name."""
    return PromptEncoder(
        tokenizer,
        ChatTemplate({"default": template, **named}, tokenizer.special_tokens_map),
        tokenizer.convert_tokens_to_ids(IMAGE),
    )


def prompt_text(
    tokenizer: Any,
    template: str,
    messages: Any,
    *,
    tools: Any = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """Returns the text of the prompt that a template makes of messages."""
    tokens = prompt_encoder(tokenizer, template).encode_chat(
        messages,
        tools=tools,
        template_variables=variables,
        add_generation_prompt=add_generation_prompt,
    )
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
