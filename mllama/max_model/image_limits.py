"""What a request may show: checked where it comes in, before it could wait in vain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

from max.pipelines.context.exceptions import InputError
from max.pipelines.lib import PipelineConfig

from mllama.image_cache.segments import image_runs
from mllama.max_model.memory_planner import image_cache_pages, run_pages
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes

GPU_IMAGES = "MLLAMA_GPU_IMAGES"
"""Environment variable: ``1`` accepts images on a GPU, to look for the fault there
(``docs/gpu.md``)."""


class ImageLimits:
    """How many images a request may have, and how much room they may take.

    Args:
        pipeline_config: MAX's configuration of the pipeline.
    """

    def __init__(self, pipeline_config: PipelineConfig) -> None:
        self._pipeline_config = pipeline_config
        self._count = ModelSettings.from_max(pipeline_config.model).image_limit
        self._is_on_gpu = any(
            spec.device_type != "cpu" for spec in pipeline_config.model.device_specs
        )

    def check_count(self, images: int) -> None:
        """Checks a request's number of images.

        Raises:
            InputError: If it is too large, or the model is on a GPU, where images don't
                come out right.
        """
        if images and self._is_on_gpu and os.environ.get(GPU_IMAGES) != "1":
            raise InputError(
                "images come out wrong on a GPU with MAX 26.7: start with "
                f"--devices cpu, or with {GPU_IMAGES}=1 in the environment to try it"
            )
        if images > self._count:
            raise InputError(
                f"the request has {images} images, but at most {self._count} are "
                "allowed (--max-images-per-request)"
            )

    def check_room(
        self, places: Sequence[int], hashes: Sequence[int], rows: Sequence[int]
    ) -> None:
        """Checks that a request's images fit the image pool together.

        Args:
            places: The images' places in the request's tokens.
            hashes: Their content hashes.
            rows: Their vision tokens.

        Raises:
            InputError: If they don't.
        """
        if not places:
            return
        pages = {
            tuple(hashes[i] for i in run): run_pages([rows[i] for i in run])
            for run in image_runs(places)
        }
        needed, (held, page_bytes) = sum(pages.values()), self._pool
        if needed > held:
            raise InputError(
                f"the request's {len(places)} image(s) take "
                f"{format_bytes(needed * page_bytes)} of the image cache, which holds "
                f"{format_bytes(held * page_bytes)} (--image-cache-size)"
            )

    @cached_property
    def _pool(self) -> tuple[int, int]:
        """Pages for images, and the bytes of one."""
        # Late: MAX resolves its configuration after it has made the tokenizer.
        config = MllamaArchConfig.initialize(self._pipeline_config, max_seq_len=1)
        pages = image_cache_pages(config, self._pipeline_config) - 1
        return pages, config.pool.bytes_per_block
