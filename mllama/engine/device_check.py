"""Checks a device with the demo model, whose results on a CPU are known.

The self-check at start finds errors that depend on an image's place.  An error that all
images share needs a reference: keys, values and logits of the demo model for pictures
of noise, computed on a CPU in float32 by ``demo/compute_reference.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mllama.demo_model import REFERENCE_PATH
from mllama.launch.options import EngineOptions
from mllama.runtime.gpu_self_check import GpuSelfCheck, logits_difference
from mllama.runtime.image_probe import noise_picture, worst_token_difference

Results = dict[str, npt.NDArray[np.float32]]
"""Results of the demo model, by name."""

TOKENS_KEPT = 4
"""Tokens of each picture that the reference has, from the first to the last."""

TOLERANCE = 0.1
"""Allowed difference from the reference, in units of its spread.

In bfloat16 on a CPU, keys and values of a token differ by 0.035 at most and logits by
0.02."""


@dataclass(frozen=True)
class DeviceReport:
    """What a device does with the demo model.

    Attributes:
        verdict: How images are served there; None if it needs no self-check.
        differences: Differences from the reference by the results' names.
    """

    verdict: str | None
    differences: Mapping[str, float]

    @property
    def is_right(self) -> bool:
        """Returns True if all results are those of the reference."""
        return all(value <= TOLERANCE for value in self.differences.values())

    def facts(self) -> dict[str, str]:
        """Returns lines for ``mllama doctor`` by name."""
        facts = {"self-check": self.verdict or "not needed on a CPU"}
        for name, difference in self.differences.items():
            word = "right" if difference <= TOLERANCE else "WRONG"
            facts[name] = (
                f"{word}: {difference:.3g} of the spread from the reference, "
                f"{TOLERANCE} allowed"
            )
        return facts


def check_device(
    devices: str, serialized_model_path: str | Path | None = None
) -> DeviceReport:
    """Loads the demo model, which may compile for minutes, and checks its results.

    Args:
        devices: The devices, as ``--devices`` names them.
        serialized_model_path: Directory of the demo model's compiled graphs.

    Raises:
        MllamaError: If the machine lacks a device, or the self-check can't run.
    """
    from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

    from mllama.runtime.pipeline import load_pipeline

    options = EngineOptions(
        devices=devices, serialized_model_path=serialized_model_path
    )
    config = PipelineConfig.from_args(options.pipeline_args(options.resolve()))
    factory = PIPELINE_REGISTRY.retrieve_factory(config).factory
    loaded = load_pipeline(factory, options.max_ce_batch_size, overlaps=False)
    verdict = loaded.gpu_verdict
    return DeviceReport(
        None if verdict is None else str(verdict),
        differences(demo_results(loaded.self_check), load_reference()),
    )


def demo_results(check: GpuSelfCheck) -> Results:
    """Returns keys and values of pictures, and logits of prompts.

    Args:
        check: That of the demo model, whose image cache no request may use.
    """
    images, most = check.images, check.images.config.max_num_tiles
    is_sacrificial = images.runner.is_sacrificial
    results: Results = {}
    for num_tiles in (1, most):
        pictures = [noise_picture(images.config, num_tiles, seed) for seed in (0, 1)]
        run = images.run(pictures, is_sacrificial=is_sacrificial)
        for number, image in enumerate(run.images, 1):
            kept = (
                np.linspace(0, len(image.tokens) - 1, TOKENS_KEPT).round().astype(int)
            )
            name = f"picture {number} of {num_tiles} tile{'s' * (num_tiles > 1)}"
            results[name] = image.values[:, :, kept]
    first, _ = images.entries(most, 2)
    results["text"], results["text about picture 1"] = check.text.run([None, first])
    images.clear()
    return results


def load_reference() -> Results:
    """Returns the results of a CPU in float32, which ship with the demo model."""
    with np.load(REFERENCE_PATH, allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}


def save_reference(results: Results, path: Path) -> None:
    """Writes results; float16 is more precise than the tolerance needs."""
    arrays: dict[str, Any] = {
        name: values.astype(np.float16) for name, values in results.items()
    }
    np.savez_compressed(path, **arrays)


def differences(actual: Results, reference: Results) -> dict[str, float]:
    """Returns the differences from the reference, in units of its spread."""
    return {
        name: _difference(actual[name], expected)
        for name, expected in reference.items()
    }


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(actual).all():
        return float("inf")
    if expected.ndim == 1:
        return logits_difference(actual, expected)
    return worst_token_difference(actual, expected)
