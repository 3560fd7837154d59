"""Plans the memory of the image cache, next to weights and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.driver import load_devices
from max.pipelines.lib import PipelineConfig

from mllama.errors import MllamaError
from mllama.kernels.ops.attention import PAGE_SIZE
from mllama.max_compat import patches
from mllama.max_compat.host_memory import host_memory_limit
from mllama.max_compat.model import PagedMemoryPlanner
from mllama.max_model.draft.memory import draft_bytes, draft_cache_pages
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.model_config import MllamaArchConfig
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes, parse_size
from mllama.weights.gguf.checkpoint import open_gguf, quantized_formats
from mllama.weights.memory_estimate import served_bytes

_DEFAULT_SHARE = 0.1
"""Share of the device's memory that the image cache takes at most, unless the user
gives a size, or one image for each request of a batch needs more."""

_DEFAULT_IMAGES_PER_REQUEST = 4
"""Full-size images per request of a batch that the default size has room for.

It also has room for as many as one request may contain.  The share above limits both.
"""


def plan_within_memory_limit() -> None:
    """Has MAX plan caches from the memory that this process may use.

    Call it before MAX plans a pipeline.
    """
    patches.replace_free_memory(_free_memory)


def _free_memory(devices: Sequence[Any]) -> int:
    # Like MAX where the driver doesn't know what is free.
    return _within_limit(devices, "free_memory") or _within_limit(
        devices, "total_memory"
    )


def _within_limit(devices: Sequence[Any], figure: str) -> int:
    """Returns the memory of devices together in bytes, a CPU's within its limit.

    Args:
        devices: MAX's devices.
        figure: The name of the figure among the devices' statistics.
    """
    memory = sum(int(device.stats[figure]) for device in devices)
    limit = host_memory_limit()
    if limit is None or not devices[0].is_host:
        return memory
    return min(memory, limit)


def image_cache_pages(config: MllamaArchConfig, pipeline_config: PipelineConfig) -> int:
    """Returns the number of pages of the image cache, the zero page included.

    On a GPU, :func:`scratch_pages` come in addition.

    Raises:
        MllamaError: If the size that the user gave can't hold an image of full size, or
            on a GPU the pictures of the self-check.
    """
    devices = load_devices(pipeline_config.model.device_specs)
    memory = _within_limit(devices, "total_memory")
    page_bytes = config.image_cache_params.bytes_per_block
    per_image, scratch = pages_per_image(config), scratch_pages(config)
    fewest = 1 + per_image if not scratch else self_check_pages(per_image)
    settings = ModelSettings.from_max(pipeline_config.model)
    if settings.image_cache_size is None:
        batch = pipeline_config.runtime.max_batch_size or 1
        wanted = (
            max(settings.image_limit, batch * _DEFAULT_IMAGES_PER_REQUEST) * per_image
        )
        share = int(memory * _DEFAULT_SHARE) // page_bytes
        return max(fewest, 1 + max(batch * per_image, min(wanted, share)))
    size_bytes = parse_size(str(settings.image_cache_size), memory)
    pages = size_bytes // page_bytes - scratch
    if pages < fewest:
        use = "the pictures of the self-check" if scratch else "an image"
        raise MllamaError(
            f"an image cache of {format_bytes(size_bytes)} can't hold {use} of "
            f"{config.model.vision_config.max_num_tiles} tiles, which takes "
            f"{format_bytes((fewest + scratch) * page_bytes)}"
        )
    return pages


def draft_pages(
    draft: DraftSettings, config: MllamaArchConfig, pipeline_config: PipelineConfig
) -> int:
    """Returns the number of pages of the draft model's KV cache."""
    devices = load_devices(pipeline_config.model.device_specs)
    return draft_cache_pages(
        draft,
        batch_size=pipeline_config.runtime.max_batch_size or 1,
        max_length=config.max_seq_len,
        memory=_within_limit(devices[:1], "total_memory"),
    )


def scratch_pages(config: MllamaArchConfig) -> int:
    """Returns the number of pages for the sacrificial first image of a run.

    A CPU needs none.  Whether a GPU does is known only after the model is loaded.
    """
    # One stays unused, so that the self-check sees what is written behind the image.
    return 0 if config.devices[0].is_cpu() else pages_per_image(config) + 1


def self_check_pages(per_image: int) -> int:
    """Returns the number of pages that the self-check of a GPU needs.

    Args:
        per_image: Pages of an image with the maximum number of tiles.
    """
    # The page of zeros, three images, and an unused page around each.
    return 1 + 3 * per_image + 4


def pages_per_image(config: MllamaArchConfig) -> int:
    """Returns the number of pages of an image with the maximum number of tiles."""
    vision = config.model.vision_config
    return run_pages([vision.max_num_tiles * vision.num_patches])


def image_tokens_per_request(
    config: MllamaArchConfig, max_images: int, pages: int
) -> int:
    """Returns the number of image tokens that one request may have, at most.

    Args:
        config: The model's resolved configuration.
        max_images: Images that one request may contain.
        pages: Pages of the image cache, the zero page included.
    """
    vision = config.model.vision_config
    tokens = max_images * vision.max_num_tiles * vision.num_patches
    return min(tokens, (pages - 1) * PAGE_SIZE)


def run_pages(tokens: Sequence[int]) -> int:
    """Returns the number of pages of a run of images.

    Args:
        tokens: Image tokens of each image.
    """
    return -(-sum(tokens) // PAGE_SIZE)


def image_cache_summary(config: MllamaArchConfig, pages: int) -> str:
    """Returns a line about the image cache for the log."""
    images = (pages - 1) // pages_per_image(config)
    size = pages * config.image_cache_params.bytes_per_block
    return (
        f"image cache: {format_bytes(size)} in {config.image_cache_params.dtype.name}, "
        f"{images} image(s) of {config.model.vision_config.max_num_tiles} tiles"
    )


class MllamaMemoryPlanner(PagedMemoryPlanner):
    """Reserves weights and image cache before the KV cache takes the rest."""

    def estimate_weights_size(self, pipeline_config: Any) -> int:
        """Returns the bytes of the weights as served, whatever the files contain."""
        config: MllamaArchConfig = self._config
        file = pipeline_config.model.resolved_weight_paths()[0]
        formats = {}
        if file.suffix == ".gguf":
            formats = quantized_formats(open_gguf(file), config.model)
        return served_bytes(
            config.model,
            formats,
            config.dtype.size_in_bytes,
            int8_vision=config.int8_vision,
        )

    def estimate_activation_memory(
        self, pipeline_config: Any, huggingface_config: Any
    ) -> int:
        """Returns the bytes of the image cache, and of the draft model."""
        del huggingface_config
        config: MllamaArchConfig = self._config
        pages = image_cache_pages(config, pipeline_config) + scratch_pages(config)
        draft = ModelSettings.from_max(pipeline_config.model).draft
        draft_size = 0
        if draft is not None:
            draft_size = draft_bytes(draft, draft_pages(draft, config, pipeline_config))
        return pages * config.image_cache_params.bytes_per_block + draft_size
