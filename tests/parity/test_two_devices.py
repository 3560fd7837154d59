"""A model on two devices equals the reference.

Both devices are this machine's CPU.  As on two GPUs, each has half of the heads, the
inner widths, the vocabulary, the KV cache and the image cache, and tokens without an
image are masked with a factor.  In place of a GPU's collectives, tensors are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import DeviceSpec

from mllama.errors import ConfigError
from mllama.image_cache import storage
from mllama.nn.layers import image_cache_inputs
from mllama.nn.layers.image_cache_inputs import selects_tokens
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.writing import write_gguf
from tests.parity.pipeline import Pipeline
from tests.parity.test_decoding import MIXED_BATCH, check
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import reference

pytestmark = pytest.mark.long
"""The graphs that GPUs get take a CPU minutes to compile."""


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (image_cache_inputs, storage):
            patch.setattr(
                module, "selects_tokens", lambda **_: selects_tokens(is_host=False)
            )
        yield Pipeline(
            checkpoint(), max_batch_size=4, device_specs=[DeviceSpec.cpu()] * 2
        )


def test_a_mixed_batch_equals_the_reference(
    pipeline: Pipeline,
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    cases = [case(name, tile) for name in MIXED_BATCH]
    for answer, sample in zip(pipeline.decode(cases), cases, strict=True):
        check(answer, sample, reference(checkpoint()))


def test_each_device_caches_images_for_its_own_heads(pipeline: Pipeline) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    pipeline.decode([case("one_tile", tile)])
    cache_storage = pipeline.model.image_cache.storage
    entry, _ = cache_storage.blocks.find(
        pipeline.context(case("one_tile", tile)).images[0].image_hash
    )
    first, second = (
        write.pages.kv_blocks.to_numpy()[entry.pages[0]]
        for write in cache_storage.write_inputs([(entry, 0)], entry.token_ends[0])
    )
    assert first.shape == second.shape == tuple(cache_storage.params.shape_per_block)
    assert first.any()
    assert second.any()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        (4, {}, "4 devices can't share text_config.num_key_value_heads 2 evenly"),
        (2, {"data_parallel_degree": 2}, "leave --data-parallel-degree out"),
    ],
)
def test_number_of_devices_that_cannot_share_the_model_is_refused(
    devices: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(checkpoint(), device_specs=[DeviceSpec.cpu()] * devices, **options)


def test_gguf_blocks_on_several_devices_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(open_checkpoint(checkpoint()), file, "q4_k", lambda *_: None)
    with pytest.raises(ConfigError, match="weights in q4_k run on one device, not on"):
        Pipeline(
            checkpoint(),
            device_specs=[DeviceSpec.cpu()] * 2,
            weight_path=[file],
            quantization_encoding="q4_k",
        )
