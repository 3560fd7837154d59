"""Limits on a request's images, checked before the request is queued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from max.pipelines.context.exceptions import InputError
from max.pipelines.lib import PipelineConfig

from mllama.image_cache.segments import image_runs
from mllama.image_cache.verdict import ImageVerdict
from mllama.max_model.memory_planner import image_cache_pages, run_pages
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes


class ImageLimits:
    """Checks how many images a request has, and how much memory they take.

    Args:
        pipeline_config: MAX's configuration of the pipeline.
    """

    def __init__(self, pipeline_config: PipelineConfig) -> None:
        self._pipeline_config = pipeline_config
        self._gpu_verdict: Callable[[], ImageVerdict] = ImageVerdict
        self._count = ModelSettings.from_max(pipeline_config.model).image_limit
        self._is_on_gpu = any(
            spec.device_type != "cpu" for spec in pipeline_config.model.device_specs
        )

    def set_gpu_verdict(self, read: Callable[[], ImageVerdict]) -> None:
        """Sets how images are served on a GPU, which is unknown at first.

        Args:
            read: Returns the verdict at the time of a request.
        """
        self._gpu_verdict = read

    def check_count(self, images: int) -> None:
        """Checks a request's number of images.

        Raises:
            InputError: If it is too large, or if the model runs on a GPU whose
                self-check images have not passed.
        """
        if images and self._is_on_gpu:
            refusal = self._gpu_verdict().refusal
            if refusal is not None:
                raise InputError(refusal)
        if images > self._count:
            raise InputError(
                f"the request has {images} images, but at most {self._count} are "
                "allowed (--max-images-per-request)"
            )

    def check_room(
        self, positions: Sequence[int], hashes: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """Checks that a request's images fit the image cache together.

        Args:
            positions: Positions of the images in the request's tokens.
            hashes: Content hashes of the images.
            tokens: Image tokens of the images.

        Raises:
            InputError: If they don't.
        """
        if not positions:
            return
        pages = {
            tuple(hashes[i] for i in run): run_pages([tokens[i] for i in run])
            for run in image_runs(positions)
        }
        needed, (capacity, page_bytes) = sum(pages.values()), self._capacity
        if needed > capacity:
            raise InputError(
                f"the request's {len(positions)} image(s) take "
                f"{format_bytes(needed * page_bytes)} of the image cache, which has "
                f"room for {format_bytes(capacity * page_bytes)} (--image-cache-size)"
            )

    @cached_property
    def _capacity(self) -> tuple[int, int]:
        """Returns the number of pages for images, and the bytes of a page."""
        # Computed late: MAX resolves its configuration after it makes the tokenizer.
        config = MllamaArchConfig.initialize(self._pipeline_config, max_seq_len=1)
        pages = image_cache_pages(config, self._pipeline_config) - 1
        return pages, config.image_cache_params.bytes_per_block
