"""A model that two devices share gives the reference's answers.

Both devices are this machine's CPU.  Each has half of the heads, of the inner widths,
of the vocabulary, of the KV cache and of the image pool, as on two GPUs, and rows that
see no image are taken out as there; only that sums stand where MAX's collectives are on
GPUs.
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
from mllama.nn.layers.image_cache_inputs import image_mask_dtype
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.writing import write_gguf
from tests.parity.pipeline import Pipeline
from tests.parity.test_decoding import TOGETHER, check
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.oracle import reference


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (image_cache_inputs, storage):
            patch.setattr(
                module, "image_mask_dtype", lambda **_: image_mask_dtype(is_host=False)
            )
        yield Pipeline(
            checkpoint(), max_batch_size=4, device_specs=[DeviceSpec.cpu()] * 2
        )


def test_requests_of_all_kinds_in_one_batch_equal_the_reference(
    pipeline: Pipeline,
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    cases = [case(name, tile) for name in TOGETHER]
    for answer, one in zip(pipeline.decode(cases), cases, strict=True):
        check(answer, one, reference(checkpoint()))


def test_each_device_keeps_the_images_of_its_own_heads(pipeline: Pipeline) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    pipeline.decode([case("one_tile", tile)])
    store = pipeline.model.images.storage
    entry, _ = store.blocks.find(
        pipeline.context(case("one_tile", tile)).images[0].image_hash
    )
    first, second = (
        write.pages.kv_blocks.to_numpy()[entry.pages[0]]
        for write in store.write_inputs([(entry, 0)], entry.token_ends[0])
    )
    assert first.shape == second.shape == tuple(store.params.shape_per_block)
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
def test_devices_that_cannot_share_the_model_are_refused(
    devices: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(checkpoint(), device_specs=[DeviceSpec.cpu()] * devices, **options)


def test_blocks_on_several_devices_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(open_checkpoint(checkpoint()), file, "q4_k", lambda *_: None)
    with pytest.raises(ConfigError, match="weights in q4_k run on one device, not on"):
        Pipeline(
            checkpoint(),
            device_specs=[DeviceSpec.cpu()] * 2,
            weight_path=[file],
            quantization_encoding="q4_k",
        )
