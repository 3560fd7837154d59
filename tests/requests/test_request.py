"""A request is checked when it is made."""

from __future__ import annotations

from typing import Any

import pytest

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import PromptRead
from mllama.requests.request import GenerationRequest

CHAT = ChatPrompt(messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("choices", [0, -1, 129, True, 1.0, "2", None])
def test_a_number_of_choices_out_of_range_is_refused(choices: Any) -> None:
    with pytest.raises(RequestError, match="number of answers") as caught:
        GenerationRequest(prompt=CHAT, choices=choices)
    assert caught.value.param == "choices"


@pytest.mark.parametrize("prompt", ["", [], b"text", None, 5])
def test_a_prompt_must_not_be_empty_or_of_another_type(prompt: Any) -> None:
    with pytest.raises(RequestError, match=r"^prompt must") as caught:
        GenerationRequest(prompt=prompt)
    assert caught.value.param == "prompt"


def test_messages_text_and_tokens_are_prompts() -> None:
    for prompt in (CHAT, "Hi", [1, 2], (1, 2)):
        assert GenerationRequest(prompt=prompt, choices=128).prompt == prompt


def test_usage_counts_text_and_image_tokens() -> None:
    assert PromptRead(token_ids=[1, 2, 3], image_tokens=40).prompt_tokens == 43
