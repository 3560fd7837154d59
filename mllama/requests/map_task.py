"""The attention maps that an answer is to have, once it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import AttentionOptions, check_size
from mllama.requests.sampling_params import Sampling

if TYPE_CHECKING:
    from mllama.config import MllamaVisionConfig
    from mllama.requests.preparation import PreparedRequest
    from mllama.requests.request import GenerationRequest


@dataclass(frozen=True)
class MapTask:
    """The maps of one answer.

    Attributes:
        grids: The patches of each image.
        first: The position of the first token that gets maps.
        answer: The position of the answer's first token.
        options: The layers and heads.
    """

    grids: Sequence[PatchGrid]
    first: int
    answer: int
    options: AttentionOptions


def map_task(
    prepared: PreparedRequest, answer: Sequence[int], config: MllamaVisionConfig
) -> tuple[MapTask, GenerationRequest] | None:
    """Returns the maps of an answer, and a request of prompt and answer for them.

    Args:
        prepared: The answer's request.
        answer: The answer's tokens.
        config: The vision encoder's configuration.

    Returns:
        None if there is nothing to compute.

    Raises:
        RequestError: If the maps would be too large.
    """
    request = prepared.request
    assert request.attention is not None
    tokens = [*prepared.token_ids, *answer]
    first = first_position(prepared)
    if not prepared.tiles or first >= len(tokens):
        return None
    grids = [PatchGrid.of(image, config) for image in prepared.tiles]
    check_size(len(tokens) - first, grids)
    # Nothing of it is generated: only its tokens and images are used.
    whole = replace(
        request,
        prompt=tokens,
        images=prepared.tiles,
        sampling=Sampling(max_new_tokens=0),
        choices=1,
        output_format=None,
        attention=None,
    )
    return MapTask(grids, first, len(prepared.token_ids), request.attention), whole


def first_position(prepared: PreparedRequest) -> int:
    """Returns the position of the first token that gets maps."""
    asked = prepared.request.attention
    if asked is not None and asked.prompt:
        return 1
    return max(1, len(prepared.token_ids))


def check_longest(prepared: PreparedRequest, config: MllamaVisionConfig) -> None:
    """Checks before the answer that the maps of a request can't become too large.

    An answer without a limit is expected to be short.

    Args:
        prepared: The request.
        config: The vision encoder's configuration.

    Raises:
        RequestError: If they can.
    """
    request = prepared.request
    grids = [PatchGrid.of(image, config) for image in prepared.tiles]
    of_prompt = max(0, len(prepared.token_ids) - first_position(prepared))
    longest = 1
    if request.sampling.max_new_tokens > 0:
        # It isn't more than there is room for.
        longest = prepared.contexts[0].max_length - len(prepared.token_ids)
    check_size(request.choices * (of_prompt + longest), grids)
