"""Turns a request into the contexts that MAX's scheduler takes, one for each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.context import EOSTracker, TextContext, TokenBuffer
from max.pipelines.context.exceptions import InputError
from max.pipelines.modeling.types import RequestID

from mllama.errors import ImageError, PromptTooLongError, RequestError
from mllama.image_cache.context import image_tokens_of
from mllama.images.preprocess import ImageTiles
from mllama.max_model.sampling_context import (
    LogProbabilityCounts,
    max_logprobs,
    set_grammar,
    set_log_probabilities,
    set_logit_bias,
)
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.max_sampling_params import max_sampling_params
from mllama.requests.output_format import OutputFormat
from mllama.requests.prompt_tokens import tokenize
from mllama.requests.request import GenerationRequest, load_images
from mllama.requests.tool_use import ToolUse, answer_format, tool_use_of


@dataclass(frozen=True)
class PreparedRequest:
    """A valid request, with its tokens and the tiles of its images.

    Attributes:
        request: The request.
        contexts: A context of MAX for each answer, in order.
        token_ids: The prompt's tokens, in which each image is one.
        image_tokens: Tokens of the images.
        image_positions: Where the images are among ``token_ids``.
        tool_use: The calls of tools that answers may have; None is none.
        tiles: The images, if attention maps are asked for.
        format_failure: Returns why an answer's format can't go on after these tokens of
            it, or None; itself None if there is no format.
    """

    request: GenerationRequest
    contexts: Sequence[Any]
    token_ids: Sequence[int]
    image_tokens: int
    image_positions: Sequence[int] = ()
    tool_use: ToolUse | None = None
    tiles: Sequence[ImageTiles] = ()
    format_failure: Callable[[Sequence[int]], str | None] | None = None


async def prepare_request(
    request: GenerationRequest,
    tokenizer: Any,
    settings: EngineSettings,
    request_id: str | None = None,
    *,
    grammars: FormatGrammars | None = None,
) -> PreparedRequest:
    """Checks a request, tokenizes its prompt, and waits for its images and grammar.

    Args:
        request: The request.
        tokenizer: The model's tokenizer.
        settings: The engine's limits and defaults.
        request_id: Id of the first answer in the engine; None makes one.
        grammars: Makes the grammars of formats; needed if the request has one.

    Raises:
        RequestError: If the request can't be answered as it is.
        ImageError: If one of its images can't be used.
    """
    given = request.images if isinstance(request.images, Sequence) else ()
    pending = [image for image in given if isinstance(image, Future)]
    try:
        settings.check(request.sampling)
        grammar = await _grammar(answer_format(request), settings, grammars)
        tokens = await tokenize(request.prompt, tokenizer, settings.max_length)
        _check_tokens(request, tokens, settings)
        try:
            tokenizer.check_placeholders(tokens, len(request.images))
            _check_room(request, len(tokens), settings)
            tiles = [
                await _tiles(image, number)
                for number, image in enumerate(await load_images(request.images), 1)
            ]
            first = RequestID() if request_id is None else RequestID(request_id)
            contexts = [
                _context(
                    request, choice, first, tokens, tiles, tokenizer, settings, grammar
                )
                for choice in range(request.choices)
            ]
        except InputError as error:
            raise RequestError(
                " ".join(str(error).split()), request.prompt_field
            ) from error
    except BaseException:
        # Images that have not begun are not needed.
        for image in pending:
            image.cancel()
        raise
    return PreparedRequest(
        request,
        contexts,
        tokens.tolist(),
        image_tokens_of(contexts[0]),
        [image.start_idx for image in contexts[0].images],
        tool_use_of(request.prompt, settings.tool_parser),
        () if request.attention is None else tiles,
        None
        if grammar is None or grammars is None
        else partial(grammars.failure, grammar),
    )


async def _grammar(
    output_format: OutputFormat | None,
    settings: EngineSettings,
    grammars: FormatGrammars | None,
) -> str | None:
    """Returns the grammar of a format, if there is one."""
    if output_format is None:
        return None
    settings.check_format(output_format)
    assert grammars is not None
    return await grammars.grammar(output_format)


def _check_tokens(
    request: GenerationRequest, tokens: npt.NDArray[np.int64], settings: EngineSettings
) -> None:
    if tokens.ndim != 1 or not tokens.size:
        raise RequestError("the prompt has no tokens", request.prompt_field)
    wrong = tokens[(tokens < 0) | (tokens >= settings.vocabulary)]
    if wrong.size:
        raise RequestError(
            f"the prompt must have token ids from 0 to {settings.vocabulary - 1}, "
            f"not {wrong[0]}",
            request.prompt_field,
        )


def _check_room(
    request: GenerationRequest, prompt_tokens: int, settings: EngineSettings
) -> None:
    """Checks that the prompt leaves room for an answer."""
    room = settings.max_length - prompt_tokens
    if room < (request.sampling.max_new_tokens != 0):
        raise PromptTooLongError(
            f"the prompt is too long: it has {prompt_tokens} tokens, and prompt and "
            f"answer together may have {settings.max_length}",
            request.prompt_field,
        )
    if request.sampling.min_tokens > room:
        raise RequestError(
            f"min_tokens must be at most {room} after a prompt of {prompt_tokens} "
            f"tokens, not {request.sampling.min_tokens}",
            "min_tokens",
        )


async def _tiles(image: ImageTiles | Future[ImageTiles], number: int) -> ImageTiles:
    if isinstance(image, ImageTiles):
        return image
    try:
        return await asyncio.wrap_future(image)
    except ImageError as error:
        raise type(error)(f"image {number}: {error}") from error


def _context(
    request: GenerationRequest,
    choice: int,
    first: RequestID,
    tokens: npt.NDArray[np.int64],
    tiles: Sequence[ImageTiles],
    tokenizer: Any,
    settings: EngineSettings,
    grammar: str | None,
) -> Any:
    """Returns the context of one of a request's answers."""
    sampling = request.sampling
    params = max_sampling_params(
        sampling,
        settings.defaults,
        vocabulary=settings.vocabulary,
        choice=choice,
        choices=request.choices,
    )
    ends = frozenset() if sampling.ignore_eos else settings.end_tokens
    counts = LogProbabilityCounts(
        sampling.logprobs, None if choice else sampling.prompt_logprobs
    )
    room = settings.max_length - len(tokens)
    limit = room if params.max_new_tokens is None else min(params.max_new_tokens, room)
    context = tokenizer.with_images(
        TextContext(
            request_id=RequestID(f"{first}.{choice}") if choice else first,
            # Stop strings are found in the text, whatever tokens it is made of.
            eos_tracker=EOSTracker(eos_token_ids={*ends, *sampling.stop_token_ids}),
            # MAX generates a token in any case.
            max_length=len(tokens) + max(1, limit),
            tokens=TokenBuffer(tokens.copy()),
            vocab_size=tokenizer.tokenizer_vocab_size,
            log_probabilities=max_logprobs(counts),
            sampling_params=params,
        ),
        tiles,
    )
    set_log_probabilities(context, counts, settings.vocabulary)
    if sampling.biases:
        set_logit_bias(context, sampling.biases)
    if grammar is not None:
        set_grammar(context, grammar)
    return context
