"""How much memory the image pool takes, reserved beside weights and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.driver import load_devices
from max.pipelines.lib import PipelineConfig

from mllama.errors import MllamaError
from mllama.kernels.ops.attention import PAGE_SIZE
from mllama.max_compat.model import PagedMemoryPlanner
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes, parse_size
from mllama.weights.gguf.checkpoint import open_gguf, served_formats
from mllama.weights.memory_estimate import served_bytes

_DEFAULT_SHARE = 0.1
"""Share of the device's memory that the pool takes unless a size is asked for or a
single image per row of a batch needs more."""

_DEFAULT_IMAGES_PER_ROW = 4
"""Images of full size per row of a batch that the pool has room for if it can; and for
as many as one request may show."""


def image_cache_pages(config: MllamaArchConfig, pipeline_config: PipelineConfig) -> int:
    """Pages of the image pool, the page of zeros included.

    Raises:
        MllamaError: If the size asked for can't hold an image of full size.
    """
    devices = load_devices(pipeline_config.model.device_specs)
    memory = sum(int(device.stats["total_memory"]) for device in devices)
    page_bytes = config.pool.bytes_per_block
    per_image = pages_per_image(config)
    settings = ModelSettings.from_max(pipeline_config.model)
    if settings.image_cache_size is None:
        rows = pipeline_config.runtime.max_batch_size or 1
        wanted = max(settings.image_limit, rows * _DEFAULT_IMAGES_PER_ROW) * per_image
        share = int(memory * _DEFAULT_SHARE) // page_bytes
        return 1 + max(rows * per_image, min(wanted, share))
    size_bytes = parse_size(str(settings.image_cache_size), memory)
    pages = size_bytes // page_bytes
    if pages < 1 + per_image:
        raise MllamaError(
            f"an image cache of {format_bytes(size_bytes)} can't hold an image of "
            f"{config.model.vision_config.max_num_tiles} tiles, which takes "
            f"{format_bytes((1 + per_image) * page_bytes)}"
        )
    return pages


def pages_per_image(config: MllamaArchConfig) -> int:
    """Pages that an image with all its tiles takes."""
    vision = config.model.vision_config
    return run_pages([vision.max_num_tiles * vision.num_patches])


def run_pages(rows: Sequence[int]) -> int:
    """Pages that a run of images of these rows takes."""
    return -(-sum(rows) // PAGE_SIZE)


def described(config: MllamaArchConfig, pages: int) -> str:
    """A line about the pool for the log."""
    images = (pages - 1) // pages_per_image(config)
    return (
        f"image cache: {format_bytes(pages * config.pool.bytes_per_block)}, "
        f"{images} image(s) of {config.model.vision_config.max_num_tiles} tiles"
    )


class MllamaMemoryPlanner(PagedMemoryPlanner):
    """Reserves weights and image pool before the KV cache takes the rest."""

    def estimate_weights_size(self, pipeline_config: Any) -> int:
        """Bytes of the weights as they are served, whatever their files hold."""
        config: MllamaArchConfig = self._config
        file = pipeline_config.model.resolved_weight_paths()[0]
        formats = {}
        if file.suffix == ".gguf":
            formats = served_formats(open_gguf(file), config.model)
        return served_bytes(
            config.model,
            formats,
            config.dtype.size_in_bytes,
            int8_vision=config.int8_vision,
        )

    def estimate_activation_memory(
        self, pipeline_config: Any, huggingface_config: Any
    ) -> int:
        """Bytes of the image pool."""
        del huggingface_config
        config: MllamaArchConfig = self._config
        return image_cache_pages(config, pipeline_config) * config.pool.bytes_per_block
