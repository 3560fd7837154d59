"""The self-check finds injected faults, and chooses how images are served."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer

from mllama.errors import MllamaError
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.gpu_self_check import GpuSelfCheck
from mllama.runtime.image_probe import (
    SENTINEL,
    noise_picture,
    spread_difference,
    worst_token_difference,
)
from tests.runtime import gpu_faults
from tests.runtime.gpu_faults import give_scratch_pages, inject
from tests.scheduling.harness import Scheduled

BATCH = 8


@pytest.fixture(scope="module")
def served() -> Iterator[Scheduled]:
    """The demo model, with scratch pages as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        give_scratch_pages(patch)
        yield Scheduled(max_batch_size=BATCH, overlaps=False)


@pytest.fixture
def check(served: Scheduled) -> Iterator[GpuSelfCheck]:
    self_check = served.self_check
    yield self_check
    self_check.images.runner.is_sacrificial = False


@pytest.mark.parametrize(
    ("fault", "mode", "stage"),
    [
        ("none", ImageMode.DIRECT, CheckStage.NONE),
        ("rounding", ImageMode.DIRECT, CheckStage.NONE),
        ("first_place", ImageMode.SACRIFICIAL, CheckStage.PLACES),
        ("first_place_alone", ImageMode.SACRIFICIAL, CheckStage.RUNS),
        ("not_a_number_first", ImageMode.SACRIFICIAL, CheckStage.FINITE),
        ("first_image", ImageMode.REFUSED, CheckStage.PLACES),
        ("every_image", ImageMode.REFUSED, CheckStage.PLACES),
        ("same_for_all", ImageMode.REFUSED, CheckStage.CONTENT),
        ("stray_write", ImageMode.REFUSED, CheckStage.NEIGHBORS),
        ("stray_write_in_page", ImageMode.REFUSED, CheckStage.NEIGHBORS),
        ("stray_write_of_first_place", ImageMode.REFUSED, CheckStage.NEIGHBORS),
        ("write_to_zero_page", ImageMode.REFUSED, CheckStage.ZERO_PAGE),
        ("not_a_number", ImageMode.REFUSED, CheckStage.FINITE),
        ("nothing_stored", ImageMode.REFUSED, CheckStage.WRITTEN),
        ("one_token", ImageMode.SACRIFICIAL, CheckStage.PLACES),
        ("by_length", ImageMode.REFUSED, CheckStage.RUNS),
    ],
)
def test_a_fault_gives_its_verdict(
    check: GpuSelfCheck,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    mode: ImageMode,
    stage: CheckStage,
) -> None:
    before = check.images.storage.blocks
    counts = before.encoded, before.free_pages, len(before)
    inject(monkeypatch, check, getattr(gpu_faults, fault))
    with caplog.at_level(logging.INFO, "mllama"):
        verdict = check.run()
    assert (verdict.mode, verdict.stage) == (mode, stage)
    assert check.images.runner.is_sacrificial == (mode is ImageMode.SACRIFICIAL)
    assert (before.encoded, before.free_pages, len(before)) == counts
    last = caplog.records[-1].getMessage()
    assert last == f"self-check of the GPU: {verdict}"
    assert (verdict.refusal is None) == (mode is not ImageMode.REFUSED)
    assert not any(np.any(p.to_numpy()[:20]) for p in check.images.storage.pages)
    assert not any(np.any(p.to_numpy()[-3:]) for p in check.images.storage.pages)


def test_a_fault_at_the_most_tiles_alone_is_found(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong aspect ratio id changes nothing that a picture of one tile has."""

    def wrong_first_id(ids: np.ndarray) -> None:
        ids[0] = 5 if ids[0] != 1 else 1

    inject(monkeypatch, check, gpu_faults.none, change_ids=wrong_first_id)
    most = check.images.config.max_num_tiles
    assert check.run() == ImageVerdict(ImageMode.SACRIFICIAL, CheckStage.PLACES, most)


@pytest.mark.parametrize(
    "fault",
    ["none", "first_place", "first_image", "by_length", "same_for_all", "not_a_number"],
)
def test_the_check_takes_at_most_twelve_pictures_of_the_largest_size(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    faulty = inject(monkeypatch, check, getattr(gpu_faults, fault))
    verdict = check.run()
    most = check.images.config.max_num_tiles
    runs = [(2, 1), (4, 1), (2, most), (4, most)]
    # A picture of one tile takes no longer than one of the most.
    assert sum(images for images, _ in faulty.images) <= 12
    # Nothing is left to decide once a sacrificial image doesn't help.
    stopped = len(runs) if verdict.mode is not ImageMode.REFUSED else 2
    assert faulty.images == runs[:stopped]


class Replaced:
    """A compiled graph whose first output a function changes."""

    def __init__(self, graph: Any, change: Any) -> None:
        self.graph, self.change = graph, change

    def execute(self, *inputs: Any) -> Any:
        first, *others = self.graph.execute(*inputs)
        return [Buffer.from_numpy(self.change(first.to_numpy().copy())), *others]


def replace_logits(patch: pytest.MonkeyPatch, check: GpuSelfCheck, change: Any) -> None:
    model = check.text._model
    patch.setattr(model, "_text_decoder", Replaced(model._text_decoder, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros_like, "all logits are equal"),
        (lambda logits: logits * np.nan, "logits are not finite"),
        (
            lambda logits: logits * np.arange(1, 1 + len(logits))[:, None].astype("f4"),
            "of the spread",
        ),
    ],
)
def test_wrong_text_ends_the_start(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    replace_logits(monkeypatch, check, change)
    with pytest.raises(MllamaError, match=message) as raised:
        check.run()
    assert str(raised.value).endswith("use --devices cpu")
    assert "\n" not in str(raised.value)


def test_images_that_text_reads_wrongly_are_refused(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_of_many(logits: np.ndarray) -> np.ndarray:
        if len(logits) > 2:
            logits[0] = logits[0, ::-1]
        return logits

    replace_logits(monkeypatch, check, first_of_many)
    verdict = check.run()
    assert (verdict.mode, verdict.stage) == (ImageMode.REFUSED, CheckStage.READING)


def test_images_that_text_does_not_see_are_refused(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(logits: np.ndarray) -> np.ndarray:
        logits[:] = logits[0]
        return logits

    replace_logits(monkeypatch, check, same)
    assert check.run().stage is CheckStage.READING


def test_a_check_that_cannot_run_ends_the_start(
    check: GpuSelfCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, check, gpu_faults.out_of_memory)
    with pytest.raises(MllamaError, match="could not run") as raised:
        check.run()
    message = str(raised.value)
    assert "CUDA_ERROR_OUT_OF_MEMORY at kernel 7" in message
    assert "--devices cpu" in message
    assert "smaller --image-cache-size" in message
    assert "\n" not in message


def test_one_request_at_a_time_is_enough(served: Scheduled) -> None:
    """A server with --max-batch-size 1 has a KV cache for one request."""
    check = served.self_check
    size, check.text._max_batch_size = check.text._max_batch_size, 1
    try:
        assert check.run().mode is ImageMode.DIRECT
    finally:
        check.text._max_batch_size = size


def test_noise_pictures_are_the_same_everywhere(check: GpuSelfCheck) -> None:
    config = check.images.config
    a, b = (noise_picture(config, 4, seed) for seed in (0, 1))
    assert a.aspect_ratio_id != b.aspect_ratio_id
    assert a.pixel_values.shape == (4, 3, config.image_size, config.image_size)
    assert a.pixel_values[0, 0, 0, :4].tolist() == [174, 185, 166, 152]
    assert not np.shares_memory(
        a.pixel_values, noise_picture(config, 4, 0).pixel_values
    )


def test_a_difference_in_one_token_of_one_layer_counts() -> None:
    expected = np.random.default_rng(0).normal(0, 3, (2, 4, 50, 2, 8)).astype("f4")
    actual = expected.copy()
    actual[1, 2, 33] += 3
    assert worst_token_difference(actual, expected) == pytest.approx(1, rel=0.1)
    assert spread_difference(actual, expected) == pytest.approx(50**-0.5, rel=0.1)
    assert np.float32(SENTINEL) == SENTINEL
