"""A completion's body to requests of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from mllama.requests.sampling_params import Sampling
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.dialects.openai.completion_body import CompletionBody
from mllama.server.dialects.openai.sampling_translation import (
    check_shared,
    check_tokens,
    sampling_of,
)
from mllama.server.token_text import TokenBytes

DEFAULT_MAX_TOKENS: Final = 16
"""The longest answer where neither the request nor the server says otherwise, as in
OpenAI's API."""

Prompt = str | Sequence[int]
"""A text, or the ids of its tokens."""


def prompts_of(body: CompletionBody) -> list[Prompt]:
    """Returns the prompts of a body, one or several."""
    prompt: Any = body.prompt
    return [prompt] if _is_single(prompt) else list(prompt)


def _is_single(prompt: Any) -> bool:
    """Returns True for a text or the ids of its tokens."""
    return isinstance(prompt, str) or isinstance(prompt[0], int)


def check_completion(body: CompletionBody, capabilities: ServerCapabilities) -> None:
    """Checks what the model of a body alone can't know.

    Raises:
        RequestRejected: If fields contradict each other, or exceed the vocabulary.
    """
    check_shared(body, capabilities)
    prompts = prompts_of(body)
    for number, prompt in enumerate(prompts):
        path = "prompt" if _is_single(body.prompt) else f"prompt[{number}]"
        if not prompt:
            raise RequestRejected(
                f"`{path}` must not be empty.", path, code="invalid_value"
            )
        if not isinstance(prompt, str):
            check_tokens(path, prompt, capabilities)
    choices = body.n or 1
    if body.best_of is not None and body.best_of < choices:
        raise RequestRejected(
            f"`best_of` must be at least `n`, {choices}, not {body.best_of}.",
            "best_of",
            code="invalid_value",
        )
    if body.stream and (body.best_of or choices) > choices:
        raise RequestRejected(
            "`best_of` above `n` is not possible in a stream: the best answers are "
            "known at the end only.",
            "best_of",
            code="unsupported_parameter",
        )


def check_log_probabilities(
    body: CompletionBody, sampling: Sampling, capabilities: ServerCapabilities
) -> None:
    """Checks that an answer which is no stream has few enough log probabilities.

    The tokens of texts are counted when they are known.

    Raises:
        RequestRejected: If it may have too many.
    """
    if body.stream:
        return
    prompts, choices = prompts_of(body), body.n or 1
    longest = min(sampling.max_new_tokens, capabilities.max_length or math.inf)
    known = choices * sum(len(each) for each in prompts if not isinstance(each, str))
    answers = len(prompts) * max(choices, body.best_of or 1)
    budget = LogProbabilityBudget()
    budget.foresee(answers * int(longest), sampling.logprobs)
    budget.foresee(known, body.prompt_logprobs)
    if body.echo:
        budget.foresee(known, body.logprobs)


def completion_sampling(
    body: CompletionBody, capabilities: ServerCapabilities
) -> Sampling:
    """Returns how the tokens of a completion's answers are chosen.

    Raises:
        RequestError: If values are wrong together.
    """
    longest = body.max_tokens
    if longest is None:
        default = capabilities.max_new_tokens or DEFAULT_MAX_TOKENS
        longest = max(default, body.min_tokens or 0)
    logprobs = body.logprobs
    if logprobs is None and (body.best_of or 1) > (body.n or 1):
        # The answers are compared by them.
        logprobs = 0
    echoed = body.logprobs if body.echo else None
    counts = [each for each in (body.prompt_logprobs, echoed) if each is not None]
    return sampling_of(
        body,
        capabilities,
        max_new_tokens=longest,
        logprobs=logprobs,
        prompt_logprobs=max(counts, default=None),
    )


def echoed_texts(body: CompletionBody, token_bytes: TokenBytes) -> list[str]:
    """Returns what answers begin with: the text of each prompt, or nothing."""
    return [
        ""
        if not body.echo
        else prompt
        if isinstance(prompt, str)
        else b"".join(map(token_bytes, prompt)).decode(errors="replace")
        for prompt in prompts_of(body)
    ]
