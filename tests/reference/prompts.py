"""Chat templates, and prompts that they make of messages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mllama.demo_model import MODEL_PATH
from mllama.max_model.chat_template import ChatTemplate
from mllama.max_model.prompt_encoding import PromptEncoder

from .text_files import IMAGE

# As Llama Guard 3 Vision's: content is a list of parts, there is one placeholder for
# any number of images, and the last message is the one to judge.
GUARD = """\
{%- if messages[-1].role == 'user' %}{% set who = 'User' %}
{%- else %}{% set who = 'Agent' %}{% endif %}
{%- if categories is not defined %}
    {%- set categories = {'S1': 'Violence.', 'S2': 'Theft.'} %}
{%- endif %}
{%- if excluded_category_keys is not defined %}
    {%- set excluded_category_keys = [] %}
{%- endif %}
{{- '<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n' }}
{%- set seen = namespace(image=false) %}
{%- for message in messages %}
    {%- for part in message.content | selectattr('type', 'equalto', 'image') %}
        {%- set seen.image = true %}
    {%- endfor %}
{%- endfor %}
{{- '<|image|> ' if seen.image }}
{%- for key in categories if key not in excluded_category_keys %}
    {{- key + ': ' + categories[key] + '\n' }}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- for part in message.content | selectattr('type', 'equalto', 'text') %}
        {{- message.role + ': ' + part.text | trim + '\n\n' }}
    {%- endfor %}
{%- endfor %}
{{- 'Judge the last message of ' + who + '.' }}
{{- '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n' }}"""


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


def base_model(folder: Path) -> Path:
    """Copies the demo model without its chat template, and returns the copy."""
    base = folder / "base"
    shutil.copytree(MODEL_PATH, base)
    (base / "chat_template.jinja").unlink()
    return base
