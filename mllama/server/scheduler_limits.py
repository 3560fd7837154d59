"""Options of MAX's scheduler that would have a request wait for ever."""

from __future__ import annotations

from typing import Any

from max.pipelines.lib import MemoryPlan

from mllama.errors import MllamaError
from mllama.max_compat.server import TokenGenerationSchedulerConfig


def check_scheduler(config: Any, plan: MemoryPlan) -> None:
    """Refuses settings of the scheduler with which it can't run every request.

    The worker would end with a traceback, or keep a long request, and all behind it, in
    its queue.

    Args:
        config: MAX's ``PipelineConfig``.
        plan: MAX's plan of the memory.

    Raises:
        MllamaError: If there are such settings.
    """
    try:
        TokenGenerationSchedulerConfig.from_pipeline_config(
            config, plan.planned_max_batch_size, plan
        )
    except ValueError as error:
        raise MllamaError(str(error)) from error
    check_total_tokens(
        plan.planned_max_batch_total_tokens,
        plan.planned_max_length,
        config.model.kv_cache.kv_cache_page_size,
    )


def check_total_tokens(
    total_tokens: int | None, max_length: int | None, page_size: int
) -> None:
    """Refuses a limit for a batch's tokens that a single sequence exceeds.

    Args:
        total_tokens: The limit, or None.
        max_length: Longest sequence in tokens; None if it isn't known.
        page_size: Tokens of a page of the KV cache, of which a sequence takes whole
            ones.

    Raises:
        MllamaError: If the limit is too low.
    """
    if total_tokens is None or max_length is None:
        return
    needed = -(-max_length // page_size) * page_size
    if total_tokens < needed:
        raise MllamaError(
            f"--max-batch-total-tokens must be at least {needed}, the context "
            f"(--max-length {max_length}) in pages of {page_size} tokens, not "
            f"{total_tokens}"
        )
