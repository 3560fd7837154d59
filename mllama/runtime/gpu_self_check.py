"""The self-check of a GPU: whether images come out right, before the first request.

MAX 26.7 stored a wrong first image in each run of the vision graph on an H200, and the
cause is not known (``docs/gpu.md``).  The check needs no reference: it runs the graph
on fixed pictures of noise and requires that what it stores doesn't depend on the place
in a run.  It encodes twelve pictures, whatever the verdict, of which six have one tile.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllama.errors import MllamaError
from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.runtime.image_probe import (
    SENTINEL,
    ImageProbe,
    ProbedRun,
    StoredImage,
    noise_picture,
    spread_difference,
    worst_token_difference,
)
from mllama.runtime.text_probe import TextProbe

logger = logging.getLogger("mllama")

TOLERANCE = 0.02
"""Largest ``spread_difference`` of equal pictures.

Bit-equal values are expected; kernels may add up in another order.  The demo model's
keys and values differ by as much between bfloat16 and float32, and by 1 to 2 between
different pictures."""

TOKEN_TOLERANCE = 0.2
"""Largest ``worst_token_difference`` of equal pictures."""

LOGITS_TOLERANCE = 0.1
"""Largest difference between equal prompts' logits, in units of their spread."""


class CheckFailure(Exception):
    """A check that failed.

    Args:
        stage: What is wrong.
        num_tiles: Tiles of the pictures; 0 if there are none.
        detail: Figures for the log.
    """

    def __init__(self, stage: CheckStage, num_tiles: int, detail: str) -> None:
        super().__init__(f"{stage.description} ({num_tiles} tiles, {detail})")
        self.stage = stage
        self.num_tiles = num_tiles
        self.detail = detail


class GpuSelfCheck:
    """Checks a loaded model, and makes it serve images as they come out right.

    Args:
        model: The ``MllamaModel``.
        kv_manager: MAX's KV cache of the pipeline, unchanged yet.
        max_batch_size: The largest number of requests in a step.

    Attributes:
        images: Runs the vision graph.
        text: Runs the text graph.
    """

    def __init__(self, model: Any, kv_manager: Any, max_batch_size: int) -> None:
        self.images = ImageProbe(
            model.image_encoder,
            model.image_cache.storage,
            model.arch_config.model.vision_config,
        )
        self.text = TextProbe(model, kv_manager, max_batch_size)

    def run(self) -> ImageVerdict:
        """Runs the check; no request may use the image cache yet.

        Raises:
            MllamaError: If the check can't run, or if text without images is wrong.
        """
        try:
            verdict = check_images(self.images)
            if verdict.mode is not ImageMode.REFUSED:
                verdict = check_reading(self.images, self.text, verdict)
            check_text(self.text)
            self.images.clear()
        except CheckFailure as failure:
            raise MllamaError(
                f"{failure.stage.description} on this GPU ({failure.detail}): "
                "use --devices cpu"
            ) from failure
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise MllamaError(
                f"the self-check of the GPU could not run ({reason}): use --devices "
                "cpu, or a smaller --image-cache-size if memory is short"
            ) from error
        is_sacrificial = verdict.mode is ImageMode.SACRIFICIAL
        self.images.runner.is_sacrificial = is_sacrificial
        level = logging.INFO if verdict.mode is ImageMode.DIRECT else logging.WARNING
        logger.log(level, "self-check of the GPU: %s", verdict)
        return verdict


def check_images(probe: ImageProbe) -> ImageVerdict:
    """Checks pictures of one tile and of the most tiles.

    The first failure without a sacrificial image doesn't end the check: the same runs
    show whether one helps.
    """
    needed_for: CheckFailure | None = None
    for num_tiles in dict.fromkeys((1, probe.config.max_num_tiles)):
        runs = CheckedRuns.of(probe, num_tiles)
        try:
            runs.check_behind_first()
        except CheckFailure as failure:
            logger.warning("images behind a sacrificial one: %s", failure)
            return ImageVerdict(ImageMode.REFUSED, failure.stage, num_tiles)
        try:
            runs.check_first()
        except CheckFailure as failure:
            logger.warning("images as they are: %s", failure)
            needed_for = needed_for or failure
    if needed_for is None:
        return ImageVerdict(ImageMode.DIRECT)
    return ImageVerdict(ImageMode.SACRIFICIAL, needed_for.stage, needed_for.num_tiles)


@dataclass(frozen=True)
class CheckedRuns:
    """Two runs of pictures A and B, which decide about images with and without a
    sacrificial one.

    Attributes:
        num_tiles: Tiles of the pictures.
        direct: The run ``[B, A]``.
        sacrificial: The run ``[A, A, B]`` behind a sacrificial A.
    """

    num_tiles: int
    direct: ProbedRun
    sacrificial: ProbedRun

    @classmethod
    def of(cls, probe: ImageProbe, num_tiles: int) -> CheckedRuns:
        """Runs the vision graph twice, which leaves A, A and B in the cache."""
        # Separate arrays, so that equal pictures don't share memory.
        a, also_a, b = (
            noise_picture(probe.config, num_tiles, seed) for seed in (0, 0, 1)
        )
        return cls(
            num_tiles,
            probe.run([b, a], is_sacrificial=False),
            probe.run([a, also_a, b], is_sacrificial=True),
        )

    def check_behind_first(self) -> None:
        """Checks all but the images at the first place of each run.

        Raises:
            CheckFailure: At the first check that fails.
        """
        run = self.sacrificial
        for place, image in enumerate(run.images, 1):
            self._check_written(image, f"image {place} of 4")
        self._check_around(run)
        again = self.direct.images[1]
        self._check_written(again, "image 1 of 2")
        first, second, other = (image.values for image in run.images)
        self._require_equal(first, second, CheckStage.PLACES)
        if (difference := spread_difference(other, second)) <= TOLERANCE:
            raise _failure(CheckStage.CONTENT, self.num_tiles, difference)
        self._require_equal(again.values, second, CheckStage.RUNS)

    def check_first(self) -> None:
        """Checks the images at the first place of each run, and what they may spoil.

        Raises:
            CheckFailure: At the first check that fails.
        """
        sacrificed, first = self.sacrificial.sacrificed, self.direct.images[0]
        assert sacrificed is not None
        self._check_written(sacrificed, "image 0 of 4")
        self._check_written(first, "image 0 of 2")
        self._check_around(self.direct)
        a, _, b = (image.values for image in self.sacrificial.images)
        self._require_equal(sacrificed.values, a, CheckStage.PLACES)
        self._require_equal(first.values, b, CheckStage.RUNS)

    def _check_written(self, image: StoredImage, place: str) -> None:
        """Checks that each token of an image has finite keys and values."""
        if np.any(np.all(image.values == SENTINEL, axis=-1)):
            raise CheckFailure(CheckStage.WRITTEN, self.num_tiles, place)
        if not np.isfinite(image.values).all():
            raise CheckFailure(CheckStage.FINITE, self.num_tiles, place)

    def _check_around(self, run: ProbedRun) -> None:
        """Checks that a run wrote nowhere else."""
        outside = [run.neighbors, *(image.page_rest for image in run.images)]
        changed = sum(np.count_nonzero(values != SENTINEL) for values in outside)
        if changed:
            raise CheckFailure(
                CheckStage.NEIGHBORS, self.num_tiles, f"{changed} values"
            )
        changed = np.count_nonzero(run.zero_page)
        if changed:
            raise CheckFailure(
                CheckStage.ZERO_PAGE, self.num_tiles, f"{changed} values"
            )

    def _require_equal(
        self, actual: np.ndarray, expected: np.ndarray, stage: CheckStage
    ) -> None:
        difference = spread_difference(actual, expected)
        if difference > TOLERANCE:
            raise _failure(stage, self.num_tiles, difference)
        difference = worst_token_difference(actual, expected)
        if difference > TOKEN_TOLERANCE:
            raise _failure(stage, self.num_tiles, difference)


def _failure(stage: CheckStage, num_tiles: int, difference: float) -> CheckFailure:
    return CheckFailure(stage, num_tiles, f"{difference:.3g} of the spread")


def check_reading(
    probe: ImageProbe, text: TextProbe, verdict: ImageVerdict
) -> ImageVerdict:
    """Checks that text reads an image equally at different places of a batch.

    The images are those that :class:`CheckedRuns` has left in the cache.

    Returns:
        The verdict, or that images are refused.
    """
    num_tiles = probe.config.max_num_tiles
    a, _, b = probe.entries(num_tiles, 3)
    logits = text.run([a, None, a, b])
    difference = logits_difference(logits[0], logits[2])
    if np.isfinite(logits).all() and difference <= LOGITS_TOLERANCE:
        without, with_b = logits[1], logits[3]
        if not np.array_equal(logits[2], without) and np.any(logits[2] != with_b):
            return verdict
    failure = _failure(CheckStage.READING, num_tiles, difference)
    logger.warning("cached images: %s", failure)
    return ImageVerdict(ImageMode.REFUSED, failure.stage, num_tiles)


def check_text(text: TextProbe) -> None:
    """Checks text without images: that it comes out, and equally at different places.

    A fault of MAX 26.7 zeroed the tokens without an image, so that all logits were 0.

    Raises:
        CheckFailure: If it doesn't.
    """
    logits = text.run([None, None])
    if not np.isfinite(logits).all():
        raise CheckFailure(CheckStage.TEXT, 0, "logits are not finite")
    if (logits.std(axis=-1) == 0).any():
        raise CheckFailure(CheckStage.TEXT, 0, "all logits are equal")
    difference = logits_difference(logits[0], logits[1])
    if difference > LOGITS_TOLERANCE:
        raise _failure(CheckStage.TEXT, 0, difference)


def logits_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Returns the root mean squared difference of logits over their spread."""
    error = float(np.sqrt(((actual - expected) ** 2).mean()))
    return error / max(float(expected.std()), float(np.finfo(np.float32).tiny))
