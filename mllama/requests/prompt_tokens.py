"""The tokens of a prompt: whether they can fit is checked before it is rendered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.errors import PromptTooLongError, RequestError
from mllama.max_model.chat_template import ChatTemplateError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.utils.fair_threads import FairThreads

_SHORT: Final = 2000
"""Characters of a prompt that are rendered and tokenized at once, in less time than it
takes to hand them to another thread."""

_FITTING: Final = 4
"""Characters per token of a context.  Texts of so many are tokenized without further
ado: they may fit, and take no time to speak of if they don't."""

_TOO_MANY: Final = 2
"""Contexts that texts may fill before they are refused by their pieces, whose tokens
aren't quite those of the whole."""

MAX_TOKENIZED_CHARACTERS: Final = 1 << 20
"""Texts of so many characters are tokenized for a client that only asks for tokens."""

_FIELDS: Final = frozenset({"role", "content", "type", "text"})
"""Keys of each message, which a prompt doesn't have.  It has others, such as the names
of a tool's arguments, which a client chooses."""

_THREADS: Final = 2
"""Prompts that are rendered and tokenized at a time.  More would wait for the GIL,
and an event loop with them."""

Prompt = ChatPrompt | str | Sequence[int]


async def tokenize(
    prompt: Prompt, tokenizer: Any, max_length: int, *, fitting: int = 0
) -> npt.NDArray[np.int64]:
    """Returns the tokens of a prompt ``[tokens]``, in which each image is one.

    A long prompt is rendered and tokenized in a thread.

    Args:
        prompt: The prompt.
        tokenizer: The model's tokenizer.
        max_length: The longest sequence in tokens.
        fitting: Characters that are tokenized whether they fit or not.

    Raises:
        RequestError: If the chat template rejects the messages.
        PromptTooLongError: If it has far more tokens than a sequence.
        EngineOverloadedError: If its client waits too long for a thread.
    """
    encoder = tokenizer.prompt_encoder
    size = text_size(prompt) if isinstance(prompt, (str, ChatPrompt)) else 0

    def encode() -> Any:
        if size > max(_FITTING * max_length, fitting):
            most = _TOO_MANY * max_length
            if encoder.has_more_tokens(_texts(prompt), most):
                raise PromptTooLongError(
                    f"the prompt is too long: it has more than {most} tokens, and "
                    f"prompt and answer together may have {max_length}",
                    "messages" if isinstance(prompt, ChatPrompt) else "prompt",
                )
        if isinstance(prompt, ChatPrompt):
            return encoder.encode_chat(
                prompt.messages,
                tools=prompt.callable_tools.tools or None,
                template_variables=prompt.chat_template_kwargs,
                add_generation_prompt=prompt.begins_turn,
                continue_final_message=prompt.continue_final_message,
            )
        return encoder.encode_prompt(prompt) if isinstance(prompt, str) else prompt

    try:
        if size > _SHORT:
            ids = await asyncio.wrap_future(_threads().submit(encode))
        else:
            ids = encode()
    except ChatTemplateError as error:
        raise RequestError(str(error), error.param) from error
    except BaseException as error:
        # What the tokenizer's Rust code raises is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise RequestError(f"the tokenizer can't read the prompt: {reason}") from error
    return np.array(ids, np.int64)


@cache
def _threads() -> FairThreads:
    return FairThreads(_THREADS, "mllama-prompts")


def text_size(value: Any) -> int:
    """Returns about how many characters plain data has."""
    if isinstance(value, ChatPrompt):
        return sum(
            map(text_size, (value.messages, value.tools, value.chat_template_kwargs))
        )
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        own = (key for key in value if key not in _FIELDS)
        return sum(map(text_size, own)) + sum(map(text_size, value.values()))
    if isinstance(value, Sequence):
        return sum(map(text_size, value))
    return 1


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts of a prompt."""
    if isinstance(value, ChatPrompt):
        value = (value.messages, value.tools, value.chat_template_kwargs)
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in _FIELDS:
                yield from _texts(key)
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)
