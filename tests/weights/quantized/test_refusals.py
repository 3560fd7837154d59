"""Quantized checkpoints that can't be read are refused in one line, by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mllama.errors import CheckpointError, MllamaError
from mllama.launch.resolve import resolve_model_files
from mllama.weights.checkpoint import open_checkpoint
from tests.reference.checkpoints import checkpoint
from tests.weights.quantized.quantizing import (
    Quantizer,
    Tensors,
    edit_config,
    edit_tensors,
    float8_per_row,
    four_bits,
    int8_row_maxima,
    is_linear,
    write_quantized,
)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).check_quantized()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "quanto"}, "quanto"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "exl2"}, "exl2"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "some\nthing" * 100}, "some?thing"),
        ({"bits": 4}, "a method that config.json doesn't name"),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "compressed-tensors in the format 'pack-quantized'",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"format": "nvfp4-pack-quantized"}},
            },
            "compressed-tensors in the format 'nvfp4-pack-quantized'",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "sparsity_config": {"format": "sparse-24-bitmask"},
            },
            "compressed-tensors with the sparsity 'sparse-24-bitmask'",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "transform_config": {"config_groups": {"u": {"type": "hadamard"}}},
            },
            "compressed-tensors with a transform_config",
        ),
    ],
)
@pytest.mark.parametrize("place", ["top", "text", "old"])
def test_methods_are_refused_by_name(
    settings: dict[str, Any], name: str, place: str, tmp_path: Path
) -> None:
    shutil.copy(checkpoint() / "config.json", tmp_path)
    if place == "top":
        edit_config(tmp_path, quantization_config=settings)
    elif place == "old":
        edit_config(tmp_path, compression_config=settings)
    else:
        config = json.loads((tmp_path / "config.json").read_text())
        text = config["text_config"] | {"quantization_config": settings}
        edit_config(tmp_path, text_config=text)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is quantized by {name}")
    assert "which isn't supported; use the original checkpoint" in message
    with pytest.raises(MllamaError, match="is quantized by"):
        resolve_model_files(str(tmp_path), device_type="cpu")


@pytest.mark.parametrize(
    ("endings", "name"),
    [
        (("qweight", "qzeros", "scales"), "GPTQ or AWQ"),
        (
            ("weight_packed", "weight_scale", "weight_shape"),
            "compressed-tensors in a",
        ),
        (("W_q", "meta"), "HQQ"),
        (("codes", "codebooks"), "AQLM"),
        (("weight._data", "weight._scale"), "Quanto"),
        (("q_weight", "q_scale"), "EXL2"),
        (("trellis", "suh"), "EXL3"),
    ],
)
def test_without_settings_the_tensors_name_the_method(
    endings: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    write_quantized(
        tmp_path, lambda w: ({each: torch.zeros(3).int() for each in endings}, w)
    )
    assert f"is quantized by {name}" in refusal(tmp_path)


def first(tensors: Tensors, ending: str) -> str:
    return min(name for name in tensors if name.endswith(ending))


def replaced(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def edit(tensors: Tensors) -> None:
        name = first(tensors, ending)
        tensors[name] = change(tensors[name]).contiguous()

    return edit


def dropped(ending: str) -> Any:
    return lambda tensors: tensors.pop(first(tensors, ending))


def added(ending: str, value: torch.Tensor) -> Any:
    def edit(tensors: Tensors) -> None:
        module = next(n for n in tensors if is_linear(n)).removesuffix("weight")
        tensors[module + ending] = value

    return edit


def state(**changes: Any) -> Any:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        values = json.loads(bytes(tensor.tolist())) | changes
        return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)

    return replaced("bitsandbytes__nf4", change)


NF4 = four_bits("nf4", "float32")
NESTED = four_bits("nf4", "float32", nested=True)


@pytest.mark.parametrize(
    ("quantize", "change", "complaint"),
    [
        (float8_per_row, dropped("weight_scale"), "without scales beside them"),
        (
            float8_per_row,
            replaced("weight_scale", lambda scale: scale[:-1]),
            "doesn't fit weights of shape",
        ),
        (
            float8_per_row,
            replaced("weight_scale", lambda scale: scale.to(torch.float8_e4m3fn)),
            "which scales of such weights don't have",
        ),
        (
            float8_per_row,
            replaced("q_proj.weight", lambda weight: weight[:-1]),
            "has shape",
        ),
        (
            float8_per_row,
            replaced("q_proj.weight", lambda weight: weight.float()),
            "has elements of type F32 with a scale",
        ),
        (
            float8_per_row,
            replaced("q_proj.weight", lambda weight: weight.view(torch.uint8)),
            "has elements of type U8 with a scale",
        ),
        (
            float8_per_row,
            added("weight_scale_2", torch.ones(1)),
            "weight_scale_2 of",
        ),
        (
            float8_per_row,
            added("weight_zero_point", torch.ones(3).char()),
            "has another shape than the scale",
        ),
        (
            float8_per_row,
            added("weight_g_idx", torch.ones(3).int()),
            "has no whole number for each column",
        ),
        (float8_per_row, added("SCB", torch.ones(3)), "SCB"),
        (int8_row_maxima, replaced("SCB", lambda scale: scale[:-1]), "doesn't fit"),
        (
            int8_row_maxima,
            replaced("weight_format", lambda order: order + 1),
            "ordered for a kind of GPU",
        ),
        (NF4, dropped("absmax"), "no weight.absmax beside it"),
        (NF4, dropped("quant_map"), "no weight.quant_map beside it"),
        (NF4, dropped("bitsandbytes__nf4"), "lacks the quant_state"),
        (NF4, replaced("quant_map", lambda table: table[:8]), "has no 16 values"),
        (NF4, replaced("absmax", lambda scale: scale[:-1]), "blocks"),
        (NF4, replaced("q_proj.weight", lambda w: w[:-1]), "weights of 4 bits"),
        (NF4, state(shape=[1, 2]), "says the shape [1, 2], but config.json requires"),
        (NF4, state(blocksize=0), "is damaged"),
        (NF4, state(blocksize="64"), "is damaged"),
        (NF4, state(blocksize=32), "blocks"),
        (NF4, state(quant_type="nf5"), "is damaged"),
        (NF4, state(dtype="int8"), "is damaged"),
        (
            NF4,
            replaced("bitsandbytes__nf4", lambda text: text[:-1]),
            "is damaged; download it again",
        ),
        (
            NF4,
            replaced("bitsandbytes__nf4", lambda text: text.repeat(2000)),
            "is too long",
        ),
        (NESTED, dropped("nested_absmax"), "lacks a part of its scales"),
        (NESTED, dropped("nested_quant_map"), "lacks a part of its scales"),
        (NESTED, replaced("nested_quant_map", lambda t: t[:9]), "index of 256"),
        (NESTED, state(nested_offset=float("nan")), "is damaged"),
        (NESTED, state(nested_offset=None), "lacks nested_blocksize or nested_off"),
        (NESTED, state(nested_blocksize=1), "blocks"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    quantize: Quantizer, change: Any, complaint: str, tmp_path: Path
) -> None:
    write_quantized(tmp_path, quantize)
    edit_tensors(tmp_path, change)
    assert complaint in refusal(tmp_path)


def test_blocks_of_unknown_size_are_refused(tmp_path: Path) -> None:
    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts, values = float8_per_row(weights)
        return parts | {"weight_scale": torch.ones(2, 2)}, values

    write_quantized(tmp_path, quantize)
    assert "has shape [2, 2], which doesn't fit weights" in refusal(tmp_path)


def test_a_group_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts, values = float8_per_row(weights)
        groups = torch.full((weights.shape[1],), 5, dtype=torch.int32)
        return parts | {"weight_g_idx": groups}, values

    write_quantized(tmp_path, quantize)
    assert "names a group that doesn't exist" in refusal(tmp_path)


def test_scales_in_another_file_are_found(tmp_path: Path) -> None:
    write_quantized(tmp_path, float8_per_row)
    scales: Tensors = {}

    def take_scales(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("_scale")]:
            scales[name] = tensors.pop(name)

    edit_tensors(tmp_path, take_scales)
    save_file(scales, tmp_path / "model-3.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map["third"] = "model-3.safetensors"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert len(open_checkpoint(tmp_path).quantized) == len(scales) > 1
