"""Conversations as requests of the engine: one at a time, or a list together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from mllama.engine.engine import Engine
from mllama.engine.generation import Generation, Output
from mllama.errors import MllamaError
from mllama.requests.messages import Message, read_conversation
from mllama.requests.sampling_params import Sampling

_PREPARED_PER_SLOT: Final = 2
"""Requests prepared for each slot of a batch.

A prepared request takes a free slot at once.  There are only a few, since each keeps
its images' tiles in memory.
"""


def submit_conversation(
    engine: Engine, messages: Sequence[Message], sampling: Sampling, stop: list[str]
) -> Generation:
    """Submits a conversation to the engine.

    Args:
        engine: The engine.
        messages: OpenAI-style messages.
        sampling: Settings of the answer.
        stop: Strings that end the answer.

    Raises:
        MllamaError: If a message or an image can't be used.
        RuntimeError: If the engine is closed or has failed.
    """
    from max.pipelines.modeling.types import RequestID, TextGenerationRequest

    conversation = read_conversation(messages, prepare=engine.prepare_image)
    request = TextGenerationRequest(
        request_id=RequestID(),
        model_name="mllama",
        messages=conversation.messages,
        # The tokenizer takes tiles as well; MAX checks that there are as many images.
        images=[b""] * len(conversation.images),
        decoded_images=cast(Any, conversation.images),
        sampling_params=engine.sampling_params(sampling),
    )
    return engine.submit(request, stop)


def answer_conversations(
    engine: Engine,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    stop: list[str],
) -> Iterator[Output]:
    """Yields the answers to conversations in their order, while others are generated.

    Closing the iterator, or an error, cancels what is running.

    Args:
        engine: The engine.
        conversations: Lists of OpenAI-style messages.
        sampling: Settings of each answer.
        stop: Strings that end an answer.

    Raises:
        MllamaError: If a conversation can't be used; the message has its number, from
            1.
        RuntimeError: If the engine is closed or has failed.
    """
    running: list[Generation] = []

    def answer(number: int, messages: Any) -> Output:
        try:
            generation = submit_conversation(engine, messages, sampling, stop)
        except MllamaError as error:
            raise type(error)(f"conversation {number}: {error}") from error
        running.append(generation)
        return generation.wait()

    workers = _PREPARED_PER_SLOT * engine.max_batch_size
    with ThreadPoolExecutor(workers, thread_name_prefix="mllama-batch") as pool:
        answers = [
            pool.submit(answer, number, messages)
            for number, messages in enumerate(conversations, 1)
        ]
        try:
            for each in answers:
                yield each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for generation in running:
                generation.close()
            raise


def is_batch(messages: Any) -> bool:
    """Returns True if this is a list of conversations rather than one conversation."""
    return (
        isinstance(messages, Sequence)
        and bool(messages)
        and all(
            isinstance(entry, Sequence) and not isinstance(entry, (str, bytes))
            for entry in messages
        )
    )
