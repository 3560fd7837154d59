"""The checkpoint's chat template: where it is kept, and how it is rendered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from mllama.errors import CheckpointError, MllamaError

_SYSTEM_REJECTION = "incompatible with system messages"
"""What Meta's template says when a system message meets an image."""

Message = dict[str, Any]
"""A message with ``role`` and ``content``, a string or a list of parts."""


class ChatTemplateError(MllamaError):
    """The template rejects the messages."""


class _Tokenizer(Protocol):
    bos_token: str

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any:
        """transformers' own."""


def render_chat(tokenizer: _Tokenizer, messages: list[Message], **options: Any) -> str:
    """Renders messages with the tokenizer's template.

    Meta's template refuses a system message together with an image, though the model
    takes it; the system turn is then put where the template puts it without images,
    right after the begin-of-text token.

    Args:
        tokenizer: Its ``chat_template`` is used.
        messages: In order; a system message may come first.
        options: Passed to the template; ``tools`` and ``add_generation_prompt``
            among them.

    Raises:
        ChatTemplateError: If the template rejects the messages.
    """
    messages = [_with_plain_system(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:
        # Templates raise what they like, and Jinja has errors of its own.
        if _SYSTEM_REJECTION not in str(error) or messages[0]["role"] != "system":
            raise ChatTemplateError(
                f"the chat template rejects the messages: {error}"
            ) from error
    system, *others = messages
    rendered = str(tokenizer.apply_chat_template(others, tokenize=False, **options))
    begin = tokenizer.bos_token if rendered.startswith(tokenizer.bos_token) else ""
    return (
        f"{begin}<|start_header_id|>system<|end_header_id|>\n\n"
        f"{system['content'].strip()}<|eot_id|>{rendered.removeprefix(begin)}"
    )


def _with_plain_system(message: Message) -> Message:
    """Meta's template takes a system message's content as a string only."""
    content = message.get("content")
    if message.get("role") != "system" or not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(p["text"] for p in content if "text" in p)}


def find_chat_template(directory: Path) -> str:
    """The Jinja source of the template.

    Looked for where transformers does, in its order: ``chat_template.jinja``,
    ``chat_template.json``, ``processor_config.json``, ``tokenizer_config.json``.

    Raises:
        CheckpointError: If there is none, or a file is no JSON.
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
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    template: Any = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):
        # Several templates by name, as some tokenizers keep them.
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
