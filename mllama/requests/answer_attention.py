"""Makes the event with an answer's attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mllama.requests.attention_words import tokens_and_words, with_clearest_maps
from mllama.requests.events import AnswerAttention
from mllama.requests.map_task import first_position

if TYPE_CHECKING:
    from mllama.requests.attention import AttentionMaps
    from mllama.requests.preparation import PreparedRequest


def answer_attention(
    prepared: PreparedRequest,
    choice: int,
    answer: Sequence[int],
    maps: AttentionMaps,
    tokenizer: Any,
) -> AnswerAttention:
    """Returns where the words of an answer looked.

    Args:
        prepared: The answer's request.
        choice: The answer, from 0.
        answer: Its tokens.
        maps: Their maps.
        tokenizer: The model's fast tokenizer.
    """
    first = first_position(prepared)
    tokens, words = tokens_and_words(
        [*prepared.token_ids, *answer][first:],
        len(prepared.token_ids) - first,
        tokenizer,
    )
    words = with_clearest_maps(words, maps.images)
    return AnswerAttention(choice, tokens, words, maps)
