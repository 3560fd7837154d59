"""Admission: a request enters a batch when its images fit, few new ones at a time.

MAX's scheduler asks its KV cache for blocks before a request enters a batch, and lets
the request wait if there are none.  Images are reserved at the same point.  A request
whose images don't fit waits in the same queue and reserves nothing meanwhile.  A
preempted request returns the same way.

A request reserves all of its images and keeps them until it ends.  Requests that ran
together therefore fit together, and a preempted request, which goes to the head of the
queue, fits again: two requests never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from max.pipelines.kv_cache import InsufficientBlocksError

from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.image_cache.encoder_runner import MAX_IMAGES_PER_CALL
from mllama.image_cache.manager import ImageCacheManager


class Admission:
    """Replaces the allocation of KV-cache blocks for a request.

    Args:
        image_cache: The image cache.
        alloc: MAX's own allocation.
        max_ce_batch_size: Requests that one step prefills at most.
    """

    def __init__(
        self,
        image_cache: ImageCacheManager,
        alloc: Callable[[Any], Any],
        max_ce_batch_size: int,
    ) -> None:
        self._image_cache = image_cache
        self._alloc = alloc
        self._max_ce_batch_size = max_ce_batch_size
        # New images of each request that the next batch prefills.
        self._prefilling: dict[Any, int] = {}

    def alloc(self, context: Any) -> Any:
        """Reserves a request's images and KV-cache blocks for the next batch.

        Raises:
            InsufficientBlocksError: If the request has to wait; nothing is reserved.
        """
        is_prefill = context.tokens.generated_length == 0
        # A request that is prefilled in part would lose that part, and comes first.
        if is_prefill and not context.tokens.processed_length:
            self._check_batch(context)
        try:
            self._image_cache.reserve(context)
        except ImageCacheFullError as error:
            raise InsufficientBlocksError(str(error)) from error
        transfer = self._alloc(context)
        if is_prefill:
            budget = max(1, self._image_budget(context))
            new_images = self._image_cache.limit_chunk(context, budget)
            self._prefilling[context.request_id] = new_images
        return transfer

    def clearing_before(self, execute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wraps ``execute`` to clear the counts of the batch that it computes."""

        def execute_batch(inputs: Any) -> Any:
            self._prefilling.clear()
            return execute(inputs)

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
        return MAX_IMAGES_PER_CALL - sum(others)
