"""Which requests enter a batch: those whose images fit, few new ones at a time.

MAX's scheduler asks its KV cache for blocks before a request enters a batch, and lets
the request wait when there are none.  Images are reserved at the same place, so a
request that lacks room for them waits in the same queue, holds nothing while it does
so, and a preempted one comes back the same way.

A request reserves all of its images and keeps them until it ends.  So whatever runs
fitted together, and a preempted request, which goes to the head of the queue, fits
again: no two requests wait for each other.
"""

from __future__ import annotations

from typing import Any

from max.pipelines.kv_cache import InsufficientBlocksError

from mllama.image_cache.block_manager import ImageCacheFullError
from mllama.image_cache.encoder_runner import MAX_IMAGES_PER_CALL


class Admission:
    """Takes the place of a pipeline's ``kv_manager.alloc``.

    Args:
        pipeline: MAX's ``TextGenerationPipeline`` of an ``MllamaModel``.
        max_ce_batch_size: Most requests whose prompts are read in one step.
    """

    def __init__(self, pipeline: Any, max_ce_batch_size: int) -> None:
        self._images = pipeline._pipeline_model.images
        self._max_ce_batch_size = max_ce_batch_size
        # New images of the prompts that the batch being made up reads, by request.
        self._reading: dict[Any, int] = {}
        self._alloc = pipeline.kv_manager.alloc
        self._execute = pipeline.execute
        pipeline.kv_manager.alloc = self.alloc
        pipeline.execute = self.execute
        self._images.admits = True

    def alloc(self, context: Any) -> Any:
        """Reserves a request's images and KV blocks for the batch being made up.

        Raises:
            InsufficientBlocksError: If it has to wait; nothing is reserved then.
        """
        reads = context.tokens.generated_length == 0
        # One that is half read would lose what was read, and comes first anyway.
        if reads and not context.tokens.processed_length:
            self._check_step(context)
        try:
            self._images.reserve(context)
        except ImageCacheFullError as error:
            raise InsufficientBlocksError(str(error)) from error
        transfer = self._alloc(context)
        if reads:
            left = max(1, self._images_left(context))
            self._reading[context.request_id] = self._images.limit_chunk(context, left)
        return transfer

    def _check_step(self, context: Any) -> None:
        """Lets a prompt wait for another step if this one has enough to read."""
        others = len(self._reading.keys() - {context.request_id})
        if others >= self._max_ce_batch_size:
            raise InsufficientBlocksError("enough prompts are read in this step")
        if self._images_left(context) < 1 and self._images.new_places(context):
            raise InsufficientBlocksError("enough images are encoded in this step")

    def _images_left(self, context: Any) -> int:
        """New images that this step may encode for a request."""
        others = (n for key, n in self._reading.items() if key != context.request_id)
        return MAX_IMAGES_PER_CALL - sum(others)

    def execute(self, inputs: Any) -> Any:
        """Computes the batch that was made up."""
        self._reading.clear()
        return self._execute(inputs)
