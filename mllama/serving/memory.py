"""How much memory the image pool takes, reserved beside weights and KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from max.driver import Device, load_devices
from max.pipelines.kv_cache.memory_planner import PagedMemoryPlanner

from mllama.network.image_pool import PAGE_SIZE
from mllama.serving.arch_config import MllamaArchConfig

POOL_SHARE = 0.1
"""Share of the device's memory that the image pool takes at most, unless a single
image per row of a batch needs more."""

IMAGES_PER_REQUEST = 4
"""Images of full size per row of a batch that the pool has room for if it can."""


def pool_pages(
    config: MllamaArchConfig, max_batch_size: int, devices: Sequence[Device]
) -> int:
    """Pages of the image pool, the page of zeros included.

    Args:
        config: The model.
        max_batch_size: Rows of a batch.
        devices: Where the pool lives; their memory bounds it.
    """
    vision = config.model.vision_config
    per_image = -(-vision.max_num_tiles * vision.num_patches // PAGE_SIZE)
    wanted = max_batch_size * IMAGES_PER_REQUEST * per_image
    memory = sum(int(device.stats["total_memory"]) for device in devices)
    share = int(memory * POOL_SHARE) // config.pool.bytes_per_block
    return 1 + max(max_batch_size * per_image, min(wanted, share))


class MllamaMemoryPlanner(PagedMemoryPlanner):
    """Reserves the image pool before the KV cache takes the rest."""

    def estimate_activation_memory(
        self, pipeline_config: Any, huggingface_config: Any
    ) -> int:
        """Bytes of the image pool."""
        del huggingface_config
        config: MllamaArchConfig = self._config
        pages = pool_pages(
            config,
            pipeline_config.runtime.max_batch_size or 1,
            load_devices(pipeline_config.model.device_specs),
        )
        return pages * config.pool.bytes_per_block
