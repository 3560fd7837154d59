"""Compares GGUF blocks of every format, and mixed formats, with their float values."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

from mllama.config import MllamaConfig
from mllama.kernels.ops.gguf_quantize import FORMATS
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf import tensor_encoding
from mllama.weights.gguf.checkpoint import main_encoding, open_gguf, read_tensors
from mllama.weights.gguf.writing import write_gguf
from mllama.weights.quantization_plan import GGUF_ENCODINGS, quantization_plan
from tests.parity.pipeline import STEPS, Pipeline
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import spread_error
from tests.reference.oracle import Reference

TOLERANCE = 0.06
"""Relative to the standard deviation of the logits.

The kernels round activations to 8 bits, block by block."""

CASES = ("four_tiles", "text_only", "text_between_images")


def mixed_plan(config: MllamaConfig, encoding: str) -> dict[str, GGMLQuantizationType]:
    """Varies the format by layer, and keeps one matrix of each kind in floats."""
    plan = quantization_plan(config, encoding)
    for name in list(plan):
        parts = name.split(".")
        if parts[1] == "layers":
            plan[name] = FORMATS[(int(parts[2]) + len(parts[-2])) % 3]
    for name in (
        "language_model.layers.0.self_attn.k_proj.weight",
        "language_model.layers.1.cross_attn.q_proj.weight",
        "language_model.layers.2.mlp.up_proj.weight",
    ):
        del plan[name]
    return plan


@pytest.fixture(scope="module", params=["mixed", *GGUF_ENCODINGS])
def encoded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A GGUF file with one encoding, or with mixed formats."""
    path = tmp_path_factory.mktemp(request.param) / f"{request.param}.gguf"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "mixed":
            patch.setattr(tensor_encoding, "quantization_plan", mixed_plan)
            kinds = {"F32", "F16", "Q4_0", "Q4_K", "Q6_K"}
        else:
            # In every encoding, the head is in q6_k.
            kinds = {"F32", "F16", request.param.upper(), "Q6_K"}
        encoding = "q4_k" if request.param == "mixed" else request.param
        write_gguf(open_checkpoint(checkpoint()), path, encoding, lambda *_: None)
    assert {t.kind.name for t in open_gguf(path).tensors.values()} == kinds
    return path


@pytest.fixture(scope="module")
def oracle(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """transformers with the dequantized values of the file's blocks."""
    folder = tmp_path_factory.mktemp("dequantized")
    shutil.copytree(checkpoint(), folder, dirs_exist_ok=True)
    tensors = {}
    for name, matrix in read_tensors(
        open_gguf(encoded), MllamaConfig.from_path(checkpoint())
    ):
        values = matrix.values
        if matrix.format is not None:
            values = dequantize(values, GGMLQuantizationType[matrix.format])
        spelled = name if name.startswith("lm_head") else f"model.{name}"
        tensors[spelled] = np.ascontiguousarray(values)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Reference(folder)


@pytest.fixture(scope="module")
def pipeline(encoded: Path) -> Pipeline:
    return Pipeline(
        checkpoint(),
        weight_path=[encoded],
        quantization_encoding=main_encoding(open_gguf(encoded)),
        max_batch_size=4,
    )


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_dequantized_weights(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case(name, tile)
    (answer,) = pipeline.decode([sample])
    expected = oracle.decode(sample.messages, STEPS)
    # Greedy tokens of a random model diverge eventually; compare those before.
    same = 0
    for ours, theirs in zip(answer.token_ids, expected.token_ids, strict=True):
        if ours != theirs:
            break
        same += 1
    compared = min(same + 1, len(answer.logits))
    assert compared >= 1
    error = spread_error(np.stack(answer.logits[:compared]), expected.logits[:compared])
    assert error.max() < TOLERANCE, error
