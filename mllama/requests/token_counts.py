"""The tokens of prompts that nobody has to answer: clients ask for them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from max.pipelines.context.exceptions import InputError

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.prompt_tokens import MAX_TOKENIZED_CHARACTERS, tokenize

if TYPE_CHECKING:
    from mllama.images.preprocess import ImageTiles


async def prompt_tokens(
    prompt: ChatPrompt | str, tokenizer: Any, max_length: int
) -> list[int]:
    """Returns a prompt's tokens, also if they are somewhat too many to answer.

    Args:
        prompt: The prompt.
        tokenizer: The model's tokenizer.
        max_length: The longest sequence in tokens.

    Raises:
        RequestError: If the chat template rejects the messages.
    """
    tokens = await tokenize(
        prompt, tokenizer, max_length, fitting=MAX_TOKENIZED_CHARACTERS
    )
    ids: list[int] = tokens.tolist()
    return ids


async def count_tokens(
    prompt: ChatPrompt | str,
    images: Sequence[ImageTiles],
    tokenizer: Any,
    max_length: int,
) -> int:
    """Returns the number of tokens that usage would count for a prompt.

    Args:
        prompt: The prompt.
        images: Its images in order.
        tokenizer: The model's tokenizer.
        max_length: The longest sequence in tokens.

    Raises:
        RequestError: If the chat template rejects the messages, or the images don't
            match the prompt or can't fit.
    """
    tokens = await tokenize(
        prompt, tokenizer, max_length, fitting=MAX_TOKENIZED_CHARACTERS
    )
    try:
        tokenizer.check_placeholders(tokens, len(images))
        return len(tokens) + sum(tokenizer.image_tokens(tokens, images))
    except InputError as error:
        raise RequestError(" ".join(str(error).split())) from error
