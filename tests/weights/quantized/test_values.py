"""Dequantized values are those of the libraries' formulas, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.lora.adapter import open_adapter
from mllama.weights.names import canonical_name
from mllama.weights.quantized.scaled import _FLOAT8
from tests.reference.adapters import write_adapter
from tests.reference.checkpoints import checkpoint
from tests.weights.quantized.quantizing import (
    Quantizer,
    Tensors,
    edit_config,
    float8_per_row,
    four_bits,
    int8_row_maxima,
    write_quantized,
)

COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def check_values(folder: Path, wanted: dict[str, torch.Tensor]) -> None:
    opened = open_checkpoint(folder)
    opened.check_quantized()
    assert opened.unused == []
    names = {canonical_name(name): values.numpy() for name, values in wanted.items()}
    assert opened.quantized.keys() == names.keys()
    for name, tensor in opened.quantized.items():
        found = tensor.floats()
        assert found.dtype == np.float32
        assert found.tobytes() == np.ascontiguousarray(names[name]).tobytes(), name
        for rows in (1, 7):
            parts = list(tensor.parts(rows))
            assert max(len(part) for part in parts) == rows
            assert np.concatenate(parts).tobytes() == found.tobytes()


def scaled(
    *,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scale_dtype: torch.dtype = torch.float32,
    blocks: tuple[int, int] | None = None,
    shape: tuple[int, ...] | None = None,
    with_zero: bool = False,
    name: str = "weight_scale",
) -> Quantizer:
    """Scales for blocks of so many rows and columns; None is the whole matrix."""

    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        rows, columns = weights.shape
        height, width = blocks or (rows, columns)
        height, width = min(height, rows), min(width, columns)
        counts = (-(-rows // height), -(-columns // width))
        scale = torch.rand(counts, generator=torch.Generator().manual_seed(rows))
        scale = (scale * 1e-3 + 1e-4).to(scale_dtype)

        def spread(values: torch.Tensor) -> torch.Tensor:
            values = values.float().repeat_interleave(height, 0)[:rows]
            return values.repeat_interleave(width, 1)[:, :columns]

        zero = torch.arange(scale.numel()).reshape(counts) % 5 - 2
        zero = zero * with_zero
        if dtype == torch.int8:
            elements = (weights / spread(scale)).round().clamp(-128, 127).to(dtype)
        else:
            limit = torch.finfo(dtype).max
            elements = (weights / spread(scale)).clamp(-limit, limit).to(dtype)
        values = (elements.float() - spread(zero)) * spread(scale)
        stored = scale.reshape(shape) if shape is not None else scale
        parts = {"weight": elements, name: stored}
        if with_zero:
            parts["weight_zero_point"] = zero.to(torch.int8).reshape(stored.shape)
        return parts, values

    return quantize


@pytest.mark.parametrize(
    "quantize",
    [
        float8_per_row,
        scaled(shape=()),
        scaled(shape=(1,)),
        scaled(scale_dtype=torch.bfloat16, shape=(1,)),
        scaled(dtype=torch.float8_e5m2),
        scaled(blocks=(1, 1 << 20)),
        scaled(blocks=(1, 1 << 20), shape=(-1,)),
        scaled(blocks=(1, 1 << 20), scale_dtype=torch.float16),
        scaled(blocks=(1, 8)),
        scaled(dtype=torch.int8),
        scaled(dtype=torch.int8, blocks=(1, 1 << 20), with_zero=True),
        scaled(dtype=torch.int8, blocks=(1, 16), with_zero=True),
    ],
)
def test_scaled_elements(quantize: Quantizer, tmp_path: Path) -> None:
    check_values(tmp_path, write_quantized(tmp_path, quantize, COMPRESSED))


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "fp8", "weight_block_size": [24, 40]},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"block_structure": [24, 40]}}},
        },
    ],
)
def test_blocks_that_do_not_divide_the_matrix(
    settings: dict[str, object], tmp_path: Path
) -> None:
    quantize = scaled(blocks=(24, 40), name="weight_scale_inv")
    check_values(tmp_path, write_quantized(tmp_path, quantize, settings))


def test_columns_in_an_order_of_their_own(tmp_path: Path) -> None:
    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts, _ = scaled(dtype=torch.int8, blocks=(1, 8))(weights)
        columns = weights.shape[1]
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(1))
        groups = (torch.arange(columns) // 8)[order].to(torch.int32)
        values = parts["weight"].float() * parts["weight_scale"][:, groups]
        return parts | {"weight_g_idx": groups}, values

    check_values(tmp_path, write_quantized(tmp_path, quantize, COMPRESSED))


@pytest.mark.parametrize("method", ["modelopt", "fbgemm_fp8", None])
def test_the_tensors_say_how_and_scales_of_activations_do_not_matter(
    method: str | None, tmp_path: Path
) -> None:
    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts, values = float8_per_row(weights)
        return parts | {"input_scale": torch.ones(1)}, values

    settings = {"quant_method": method} if method else None
    wanted = write_quantized(tmp_path, quantize, settings)
    opened = open_checkpoint(tmp_path)
    assert len(opened.unused) == len(wanted) == len(opened.quantized)
    for name, tensor in opened.quantized.items():
        (source,) = [each for each in wanted if canonical_name(each) == name]
        assert np.array_equal(tensor.floats(), wanted[source].numpy())


@pytest.mark.parametrize(
    ("code", "dtype"),
    [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)],
)
def test_every_float_of_8_bits_is_torchs(code: str, dtype: torch.dtype) -> None:
    wanted = torch.arange(256).to(torch.uint8).view(dtype).float().numpy()
    assert np.array_equal(_FLOAT8[code], wanted, equal_nan=True)
    assert np.array_equal(np.signbit(_FLOAT8[code][:128]), np.signbit(wanted[:128]))
    zeros = wanted == 0
    assert np.array_equal(np.signbit(_FLOAT8[code][zeros]), np.signbit(wanted[zeros]))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_4_bits(
    kind: str, dtype: str, nested: bool, tmp_path: Path
) -> None:
    quantize = four_bits(kind, dtype, nested=nested)
    check_values(tmp_path, write_quantized(tmp_path, quantize, BITSANDBYTES))


@pytest.mark.parametrize("blocksize", [128, 192])
def test_blocks_that_begin_within_a_row(blocksize: int, tmp_path: Path) -> None:
    quantize = four_bits("nf4", "float32", blocksize=blocksize, nested=True)
    check_values(tmp_path, write_quantized(tmp_path, quantize, BITSANDBYTES))


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32, torch.int8])
def test_bytes_stored_as_another_type(storage: torch.dtype, tmp_path: Path) -> None:
    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts, values = four_bits("nf4", "bfloat16")(weights)
        parts["weight"] = parts["weight"].flatten().view(storage)[:, None]
        return parts, values

    check_values(tmp_path, write_quantized(tmp_path, quantize, BITSANDBYTES))


def test_bitsandbytes_int8(tmp_path: Path) -> None:
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    check_values(tmp_path, write_quantized(tmp_path, int8_row_maxima, settings))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_the_model_counts_as_what_it_was_before(
    dtype: str | None, tmp_path: Path
) -> None:
    write_quantized(tmp_path, float8_per_row, COMPRESSED)
    edit_config(tmp_path, dtype=dtype, torch_dtype=None)
    tensors = open_checkpoint(tmp_path).quantized.values()
    assert {tensor.dtype for tensor in tensors} == {dtype or "bfloat16"}


def test_an_adapter_is_merged_into_dequantized_values(tmp_path: Path) -> None:
    write_quantized(tmp_path / "model", float8_per_row, COMPRESSED)
    write_adapter(tmp_path / "adapter", checkpoint(), r=4, target_modules=["q_proj"])
    base = open_checkpoint(tmp_path / "model")
    adapter = open_adapter(tmp_path / "adapter", base.config)
    merged = adapter.merged_into(base)
    for name, change in adapter.changes.items():
        wanted = change.apply(name, base.tensors[name].floats())
        assert np.array_equal(merged.tensors[name].floats(), wanted)
        assert not np.array_equal(wanted, base.tensors[name].floats())
