"""Finds and renders the checkpoint's chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from mllama.errors import CheckpointError, MllamaError

_SYSTEM_REJECTION = "incompatible with system messages"
"""Part of Meta's template, which refuses a system message together with an image."""

Message = dict[str, Any]
"""A message with ``role`` and ``content``, a string or a list of parts."""


class ChatTemplateError(MllamaError):
    """The template rejects the messages."""


class _Tokenizer(Protocol):
    chat_template: str

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any:
        """Renders messages, as transformers' tokenizers do."""


def render_chat(
    tokenizer: _Tokenizer,
    messages: list[Message],
    *,
    image_token: str,
    tools: list[Any] | None = None,
    **options: Any,
) -> str:
    """Renders messages with the tokenizer's template.

    Args:
        tokenizer: The tokenizer, whose ``chat_template`` is rendered.
        messages: The messages in order; a system message may come first.
        image_token: The text that stands for an image.
        tools: Tools that the template describes to the model.
        options: Variables of the template, such as ``add_generation_prompt``.

    Raises:
        ChatTemplateError: If the template rejects the messages.
    """
    if _SYSTEM_REJECTION in tokenizer.chat_template:
        messages = _for_metas_template(messages, image_token, bool(tools))
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, tools=tools, **options
        )
    except Exception as error:
        # A template can raise anything, and so can Jinja.
        raise ChatTemplateError(
            f"the chat template rejects the messages: {error}"
        ) from error
    return str(rendered)


def _for_metas_template(
    messages: list[Message], image_token: str, has_tools: bool
) -> list[Message]:
    """Returns messages in the form that Meta's template accepts.

    The template takes the text of system messages, and of the first user message with
    tools, as a string only.  It refuses a system message together with an image part,
    and leaves out the tools then, although the model handles both.  Images written as
    text give such prompts the template's ordinary system turn.
    """
    has_header = has_tools or any(m.get("role") == "system" for m in messages)
    plain: list[Message] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and (
            has_header or all(part["type"] == "text" for part in content)
        ):
            text = "".join(
                part["text"] if part["type"] == "text" else image_token
                for part in content
            )
            message = {**message, "content": text}
        plain.append(message)
    return plain


def find_chat_template(directory: Path) -> str:
    """Returns the Jinja source of a checkpoint's chat template.

    The files are those that transformers' processors read, in the same order:
    ``chat_template.jinja``, ``chat_template.json``, ``processor_config.json``,
    ``tokenizer_config.json``.

    Raises:
        CheckpointError: If there is no template, or a file is not JSON.
    """
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in (
        "chat_template.json",
        "processor_config.json",
        "tokenizer_config.json",
    ):
        template = _template_in(directory / name)
        if template is not None:
            return template
    raise CheckpointError(
        f"{directory} has no chat template; give one with --chat-template FILE"
    )


def _template_in(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    template: Any = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):
        # Some tokenizers keep several templates by name.
        named = {
            item.get("name"): item.get("template")
            for item in template
            if isinstance(item, dict)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None
