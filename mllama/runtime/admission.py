"""Admission: a request enters a batch when its images fit, few new ones at a time.

MAX's scheduler asks its KV cache for blocks before a request enters a batch, and lets
the request wait if there are none.  Images are reserved at the same point.  A request
whose images don't fit waits in the same queue and reserves nothing meanwhile.  A
preempted request returns the same way.

A request reserves all of its images and keeps them until it ends.  Requests that ran
together therefore fit together, and a preempted request, which goes to the head of the
queue, fits again: two requests never wait for each other.

The log probabilities of a prompt take a row of logits for each token, half a megabyte
with the published vocabulary.  A step therefore prefills few tokens of such prompts,
and none of them is taken from the prefix cache, which has no logits.

A request for which this raises an exception ends with the next step, which leaves it
out: an exception while MAX makes a batch would end all requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

from max.pipelines.kv_cache import InsufficientBlocksError

from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.image_cache.encoder_runner import MAX_IMAGES_PER_CALL
from mllama.image_cache.manager import ImageCacheManager
from mllama.max_compat import patches
from mllama.max_model.sampling_context import pending_prompt_count
from mllama.runtime.fault_isolation import failed_output

logger = logging.getLogger("mllama")

IMAGES_BESIDE_DECODE: Final = 1
"""New images in a step in which other requests decode: their next tokens wait."""


class _NoTransfer:
    """What MAX waits for before it computes a request for which nothing is copied."""

    def is_complete(self) -> bool:
        return True


class Admission:
    """Replaces the allocation of KV-cache blocks for a request.

    Args:
        image_cache: The image cache.
        kv_manager: MAX's KV cache, whose ``alloc`` is replaced.
        max_ce_batch_size: Requests that one step prefills at most.
        max_prompt_logits: Tokens of prompts whose log probabilities are asked for that
            one step prefills at most.
    """

    def __init__(
        self,
        image_cache: ImageCacheManager,
        kv_manager: Any,
        max_ce_batch_size: int,
        max_prompt_logits: int,
    ) -> None:
        self._image_cache = image_cache
        self._kv_manager = kv_manager
        self._alloc: Callable[[Any], Any] = kv_manager.alloc
        self._max_ce_batch_size = max_ce_batch_size
        self.max_prompt_logits = max_prompt_logits
        # Of each request that the next batch prefills: its new images, and its tokens
        # whose logits are wanted.
        self._prefilling: dict[Any, int] = {}
        self._prompt_logits: dict[Any, int] = {}
        # Requests that the next batch leaves out.
        self._failed: set[Any] = set()
        # MAX adds the requests that decode to a batch before those that it prefills.
        self._decodes = False

    @property
    def new_images(self) -> int:
        """Returns the number of images that the next batch encodes."""
        return sum(self._prefilling.values())

    def alloc(self, context: Any) -> Any:
        """Reserves a request's images and KV-cache blocks for the next batch.

        Raises:
            InsufficientBlocksError: If the request has to wait; nothing is reserved.
        """
        request_id = context.request_id
        self._failed.discard(request_id)
        try:
            return self._reserved(context)
        except InsufficientBlocksError:
            raise
        except Exception:
            logger.exception("request %s can't enter a batch", request_id)
            self._prefilling.pop(request_id, None)
            self._prompt_logits.pop(request_id, None)
            self._failed.add(request_id)
            return _NoTransfer()

    def _reserved(self, context: Any) -> Any:
        is_prefill = context.tokens.generated_length == 0
        wants_logits = is_prefill and pending_prompt_count(context) is not None
        # A request that is prefilled in part would lose that part, and comes first.
        if is_prefill and not context.tokens.processed_length:
            self._check_batch(context)
            if wants_logits and self._logit_budget(context) < 1:
                raise InsufficientBlocksError("this step returns enough logits")
        try:
            self._image_cache.reserve(context)
        except ImageCacheFullError as error:
            raise InsufficientBlocksError(str(error)) from error
        with (
            patches.without_prefix_lookup(self._kv_manager)
            if wants_logits
            else nullcontext()
        ):
            transfer = self._alloc(context)
        if is_prefill:
            budget = max(1, self._image_budget(context))
            new_images = self._image_cache.limit_chunk(context, budget)
            self._prefilling[context.request_id] = new_images
        else:
            self._decodes = True
        if wants_logits:
            self._limit_logits(context)
        return transfer

    def clearing_before(self, execute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wraps ``execute`` to forget the batch, and to end requests that failed."""

        def execute_batch(inputs: Any) -> Any:
            self._prefilling.clear()
            self._prompt_logits.clear()
            self._decodes = False
            failed, self._failed = self._failed, set()
            if not failed:
                return execute(inputs)
            results = {
                context.request_id: failed_output(context.request_id)
                for context in inputs.flat_batch
                if context.request_id in failed
            }
            batches = [
                [context for context in batch if context.request_id not in failed]
                for batch in inputs.batches
            ]
            if any(batches):
                results |= execute(replace(inputs, batches=batches))
            return results

        return execute_batch

    def _check_batch(self, context: Any) -> None:
        """Lets a request wait for another step if this one prefills enough."""
        others = len(self._prefilling.keys() - {context.request_id})
        if others >= self._max_ce_batch_size:
            raise InsufficientBlocksError("this step prefills enough requests")
        if self._image_budget(context) < 1 and self._image_cache.new_positions(context):
            raise InsufficientBlocksError("this step encodes enough images")

    def _image_budget(self, context: Any) -> int:
        """Returns the number of new images that this step may encode for a request."""
        others = (n for key, n in self._prefilling.items() if key != context.request_id)
        most = IMAGES_BESIDE_DECODE if self._decodes else MAX_IMAGES_PER_CALL
        return most - sum(others)

    def _limit_logits(self, context: Any) -> None:
        """Ends a prefill step before it returns too many logits."""
        budget = max(1, self._logit_budget(context))
        if context.tokens.active_length > budget:
            context.tokens.chunk(budget)
        self._prompt_logits[context.request_id] = context.tokens.active_length

    def _logit_budget(self, context: Any) -> int:
        """Returns the number of logits that this step may return for a request."""
        counts = self._prompt_logits.items()
        others = (n for key, n in counts if key != context.request_id)
        return self.max_prompt_logits - sum(others)
