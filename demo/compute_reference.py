"""Computes the results of the demo model on a CPU, with which GPUs are compared.

    python -m demo.compute_reference

They ship with the demo model, and ``mllama doctor --devices gpu`` compares a GPU's with
them.  They change only with the demo model's weights or the pictures of noise.
"""

from __future__ import annotations

from pathlib import Path

from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig

from mllama.demo_model import REFERENCE_PATH
from mllama.engine.device_check import demo_results, save_reference
from mllama.launch.options import EngineOptions
from mllama.runtime.pipeline import load_pipeline


def main(path: Path = REFERENCE_PATH) -> None:
    """Computes the results in float32 and writes them to ``path``."""
    options = EngineOptions(devices="cpu", quantization_encoding="float32")
    config = PipelineConfig.from_args(options.pipeline_args(options.resolve()))
    factory = PIPELINE_REGISTRY.retrieve_factory(config).factory
    loaded = load_pipeline(factory, options.max_ce_batch_size, overlaps=False)
    save_reference(demo_results(loaded.self_check), path)


if __name__ == "__main__":
    main()
