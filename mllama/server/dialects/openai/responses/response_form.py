"""What a response repeats of its request, and its usage."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from mllama.server.dialects.openai.responses.body import ResponsesBody
from mllama.server.token_text import TokenBytes
from mllama.server.usage import UsageCounter


@dataclass(frozen=True, kw_only=True)
class ResponseForm:
    """What a response contains beside its items.

    Attributes:
        body: The request.
        model: The served model's name.
        token_bytes: Returns what a token stands for.
        id: The response's own name.
        created: When it began, in seconds since 1970.
    """

    body: ResponsesBody
    model: str
    token_bytes: TokenBytes
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self) -> dict[str, Any]:
        """Returns the fields that stay the same while a response is made."""
        body = self.body
        text = {} if body.text is None else _plain(body.text)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self.model,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": "auto"
            if body.tool_choice is None
            else _plain(body.tool_choice),
            "tools": [
                {"parameters": None, "strict": None, **_plain(tool)}
                for tool in body.tools or ()
            ],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
            "user": body.user,
        }


def _plain(value: Any) -> Any:
    """Returns a part of a body as the request had it."""
    if isinstance(value, str):
        return value
    return value.model_dump(exclude_unset=True, by_alias=True)


def usage_object(usage: UsageCounter) -> dict[str, Any]:
    """Returns the usage so far, as responses have it."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": usage.image_tokens,
        },
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
