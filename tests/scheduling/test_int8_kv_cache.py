"""A KV cache in int8 gives the same answers alone, in batches, in chunks, after shared
prefixes and with guesses."""

from __future__ import annotations

import pytest
from max.dtype import DType
from max.graph import DeviceRef
from PIL import Image

from mllama.kernels.dispatch import uses_custom_ops

from .conftest import BATCH, ask
from .harness import WHOLE, Scheduled
from .proposers import Oracle, always_guess

pytestmark = pytest.mark.skipif(
    not uses_custom_ops(DeviceRef.CPU()),
    reason="this CPU doesn't support the custom ops",
)


@pytest.fixture(scope="module")
def plain() -> Scheduled:
    """The reference, which prefills each prompt from its start."""
    return Scheduled(
        max_batch_size=BATCH,
        image_cache_size="16MiB",
        kv_cache_encoding="int8",
        prefix_caching=False,
        overlaps=False,
    )


@pytest.fixture(scope="module")
def sharing() -> Scheduled:
    return Scheduled(
        max_batch_size=BATCH,
        image_cache_size="16MiB",
        kv_cache_encoding="int8",
        speculate="lookup",
    )


def test_a_page_is_little_more_than_a_quarter_of_one_in_float32(
    plain: Scheduled, roomy: Scheduled
) -> None:
    int8, floats = (s.pipeline.kv_manager.params for s in (plain, roomy))
    assert int8.dtype is DType.int8
    assert int8.bytes_per_block * 4 * floats.head_dim == floats.bytes_per_block * (
        floats.head_dim + 4
    )


def test_batches_chunks_prefixes_and_guesses_change_no_answer(
    plain: Scheduled, sharing: Scheduled, pictures: list[Image.Image]
) -> None:
    oracle = Oracle(wrong=0.3, vocabulary=len(sharing.tokenizer.delegate))
    speculation = always_guess(sharing, oracle, 4)
    what = "What is in the picture? " * 25
    conversations = [ask(picture, what) for picture in pictures]
    conversations += [ask(pictures[0], what + "And where?"), ask(what + "No picture.")]
    expected = [plain.alone(messages) for messages in conversations]
    for chunk in (WHOLE, 100):
        sharing.chunk_size(chunk)
        requests = [sharing.submit(messages) for messages in conversations]
        for request, answer in zip(requests, expected, strict=True):
            oracle.answers[request.id] = answer
        sharing.run()
        assert [request.token_ids for request in requests] == expected
    assert speculation.counts.accepted > 0
    # The second round finds the first one's prompts.
    assert all(request.context.cached_prefix_length > 0 for request in requests)


def test_answers_are_those_of_floats(
    plain: Scheduled, roomy: Scheduled, pictures: list[Image.Image]
) -> None:
    """The demo model knows the pictures' shapes too well for rounding to matter."""
    conversations = [ask(picture, "What is in the picture?") for picture in pictures]
    same = [plain.alone(each) == roomy.alone(each) for each in conversations]
    assert sum(same) >= 10
