"""A quantized checkpoint answers as the same values in float32 do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mllama.demo_model import MODEL_PATH
from tests.weights.quantized.quantizing import (
    Quantizer,
    Tensors,
    edit_config,
    float8_per_row,
    four_bits,
)

pytestmark = pytest.mark.compiles

PICTURE = MODEL_PATH.parent / "pictures" / "shapes.png"


def write_demo(folder: Path, quantize: Quantizer, method: str) -> None:
    """Writes the demo model quantized into ``quantized`` and as it then is into
    ``floats``."""
    quantized: Tensors = {}
    floats: Tensors = {}
    for name, tensor in load_file(MODEL_PATH / "model.safetensors").items():
        if not (name.startswith("language_model") and name.endswith("_proj.weight")):
            quantized[name] = floats[name] = tensor.float()
            continue
        parts, values = quantize(tensor.float())
        module = name.removesuffix("weight")
        quantized |= {module + ending: part for ending, part in parts.items()}
        floats[name] = values
    for place, tensors in (("quantized", quantized), ("floats", floats)):
        shutil.copytree(MODEL_PATH, folder / place)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / place / "model.safetensors")
    settings = {"quant_method": method}
    edit_config(folder / "quantized", quantization_config=settings)


def answer(model: Path) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mllama", "generate", "--devices", "cpu"),
            *("--model-path", str(model), "--quantization-encoding", "float32"),
            *("--image", str(PICTURE), "--prompt", "What is in this picture?"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("quantize", "method"),
    [
        (float8_per_row, "compressed-tensors"),
        (four_bits("nf4", "float32", nested=True), "bitsandbytes"),
    ],
    ids=["fp8", "nf4"],
)
def test_the_answer_is_that_of_the_same_values(
    quantize: Quantizer, method: str, tmp_path: Path
) -> None:
    write_demo(tmp_path, quantize, method)
    found = answer(tmp_path / "quantized")
    assert found == answer(tmp_path / "floats")
    assert len(found.split()) > 2
