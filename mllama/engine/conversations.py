"""Conversations as requests of the engine: one at a time, or a list together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from mllama.engine.engine import Engine
from mllama.engine.generation import Generation
from mllama.engine.outputs import Output
from mllama.errors import MllamaError
from mllama.images.load import ImageFile, ImageSource
from mllama.requests.attention import AttentionOptions
from mllama.requests.chat_prompt import ChatPrompt, ChatPromptOptions
from mllama.requests.messages import Message, prompt_messages, read_conversation
from mllama.requests.output_format import OutputFormat
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

if TYPE_CHECKING:
    # It loads transformers.
    from mllama.images.preprocess import ImageTiles

_PREPARED_PER_SLOT: Final = 2
"""Requests prepared for each slot of a batch.

A prepared request takes a free slot at once.  There are only a few, since each keeps
its images' tiles in memory.
"""


def submit_conversation(
    engine: Engine,
    messages: Sequence[Message],
    options: ChatPromptOptions,
    sampling: Sampling,
    choices: int = 1,
    output_format: OutputFormat | None = None,
    attention: AttentionOptions | None = None,
) -> Generation:
    """Submits a conversation to the engine.

    Args:
        engine: The engine.
        messages: OpenAI-style messages.
        options: What shapes the prompt beside the messages.
        sampling: Settings of the answer.
        choices: Number of answers.
        output_format: The answers' format; None is any.
        attention: The attention maps that the answers come with.

    Raises:
        MllamaError: If a message or an image can't be used, or it isn't clear where
            the answer begins.
        RuntimeError: If the engine is closed or has failed.
    """
    files: list[ImageFile] = []
    conversation = read_conversation(messages, prepare=_preparing(engine, files))
    prompt = ChatPrompt(messages=conversation.messages, **vars(options))
    prompt.check_turn(engine.continues_messages)
    return engine.submit(
        GenerationRequest(
            prompt=prompt,
            images=conversation.images,
            sampling=sampling,
            choices=choices,
            output_format=output_format,
            attention=attention,
        ),
        files,
    )


def submit_prompt(
    engine: Engine,
    prompt: str | Sequence[int],
    images: ImageSource | Iterable[ImageSource],
    sampling: Sampling,
    choices: int = 1,
    output_format: OutputFormat | None = None,
    attention: AttentionOptions | None = None,
) -> Generation:
    """Submits a raw prompt to the engine.

    Args:
        engine: The engine.
        prompt: A text, or ids of tokens; it has a placeholder for each image.
        images: An image, or several in order.
        sampling: Settings of the answer.
        choices: Number of answers.
        output_format: The answers' format; None is any.
        attention: The attention maps that the answers come with.

    Raises:
        MllamaError: If the prompt or an image can't be used.
        RuntimeError: If the engine is closed or has failed.
    """
    files: list[ImageFile] = []
    read = read_conversation(
        prompt_messages("", images), prepare=_preparing(engine, files)
    )
    return engine.submit(
        GenerationRequest(
            prompt=prompt,
            images=read.images,
            sampling=sampling,
            choices=choices,
            output_format=output_format,
            attention=attention,
        ),
        files,
    )


def _preparing(
    engine: Engine, files: list[ImageFile]
) -> Callable[[ImageFile], Future[ImageTiles]]:
    """Returns a function that starts to prepare images and appends them to a list."""

    def prepare(file: ImageFile) -> Future[ImageTiles]:
        files.append(file)
        return engine.prepare_image(file)

    return prepare


def answer_conversations(
    engine: Engine,
    conversations: Sequence[Sequence[Message]],
    options: ChatPromptOptions,
    sampling: Sampling,
    choices: int = 1,
    output_format: OutputFormat | None = None,
    attention: AttentionOptions | None = None,
) -> Iterator[Output]:
    """Yields the answers to conversations in their order, while others are generated.

    Closing the iterator, or an error, cancels what is running.

    Args:
        engine: The engine.
        conversations: Lists of OpenAI-style messages.
        options: What shapes each prompt beside its messages.
        sampling: Settings of each answer.
        choices: Number of answers to each conversation.
        output_format: The answers' format; None is any.
        attention: The attention maps that each answer comes with.

    Raises:
        MllamaError: If a conversation can't be used; the message has its number, from
            1.
        RuntimeError: If the engine is closed or has failed.
    """
    running: list[Generation] = []

    def answer(number: int, messages: Any) -> Output:
        try:
            generation = submit_conversation(
                engine,
                messages,
                options,
                sampling,
                choices,
                output_format,
                attention,
            )
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
