"""Writes quantized copies of a checkpoint, in the forms that libraries publish.

bitsandbytes and compressed-tensors are no dependencies; torch repeats their formulas.
"""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.reference.checkpoints import checkpoint

Tensors = dict[str, torch.Tensor]
Quantizer = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]
"""Returns the tensors by the end of their names after the module's, and the values."""

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)

FP4 = (
    *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5),
    *(0.1666666716337204, 0.25, -0.0, -0.0052083334885537624, -0.6666666865348816),
    *(-1.0, -0.3333333432674408, -0.5, -0.1666666716337204, -0.25),
)


def is_linear(name: str) -> bool:
    return name.endswith(
        (
            "language_model.model.layers.0.self_attn.q_proj.weight",
            "language_model.model.layers.1.cross_attn.k_proj.weight",
            "language_model.model.layers.2.mlp.down_proj.weight",
            "vision_model.transformer.layers.0.mlp.fc1.weight",
        )
    )


QUANTIZED = "model-2.safetensors"


@functools.cache
def _unquantized_part(base: Path) -> Path:
    """Returns a file with the tensors that no test quantizes."""
    file = Path(tempfile.mkdtemp(prefix="mllama-")) / "model-1.safetensors"
    tensors = load_file(base / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not is_linear(n)}, file)
    return file


def write_quantized(
    folder: Path,
    quantize: Quantizer,
    settings: Mapping[str, Any] | None = None,
    base: Path | None = None,
) -> dict[str, torch.Tensor]:
    """Writes a copy of a checkpoint with its linear layers quantized.

    Returns the values of the quantized tensors, by their names in the file.
    """
    base = base or checkpoint()
    shutil.copytree(
        base,
        folder,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("model.safetensors"),
    )
    tensors: Tensors = {}
    values: Tensors = {}
    with safe_open(base / "model.safetensors", "pt") as file:
        for name in filter(is_linear, file.keys()):
            parts, values[name] = quantize(file.get_tensor(name).float())
            module = name.removesuffix("weight")
            tensors |= {module + ending: part for ending, part in parts.items()}
    assert values
    rest = _unquantized_part(base)
    (folder / rest.name).symlink_to(rest)
    _save(folder, tensors)
    if settings is not None:
        edit_config(folder, quantization_config=dict(settings))
    return values


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Rewrites the quantized tensors after ``change`` has edited their dictionary."""
    tensors = load_file(folder / QUANTIZED)
    change(tensors)
    _save(folder, tensors)


def _save(folder: Path, tensors: Tensors) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / QUANTIZED, metadata={"format": "pt"})
    names = {"first": "model-1.safetensors", "second": QUANTIZED}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))


def float8_per_row(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """llm-compressor's FP8_DYNAMIC."""
    scale = (weights.abs().amax(1, keepdim=True) / 448).to(torch.bfloat16)
    elements = (weights / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    return (
        {"weight": elements, "weight_scale": scale},
        elements.float() * scale.float(),
    )


def four_bits(
    kind: str,
    dtype: str,
    *,
    blocksize: int = 64,
    nested: bool = False,
    storage: torch.dtype = torch.uint8,
) -> Quantizer:
    """bitsandbytes' nf4 and fp4."""
    code = torch.tensor(NF4 if kind == "nf4" else FP4)

    def quantize(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        flat = weights.flatten()
        padded = torch.nn.functional.pad(flat, (0, -len(flat) % blocksize))
        blocks = padded.reshape(-1, blocksize)
        absmax = blocks.abs().amax(1)
        state: dict[str, Any] = {
            "quant_type": kind,
            "blocksize": blocksize,
            "dtype": dtype,
            "shape": list(weights.shape),
        }
        parts: Tensors = {"weight.absmax": absmax, "weight.quant_map": code.clone()}
        if nested:
            offset, table = absmax.mean(), torch.linspace(-1, 1, 256)
            padded = torch.nn.functional.pad(absmax - offset, (0, -len(absmax) % 256))
            tops = padded.reshape(-1, 256).abs().amax(1)
            shares = (padded.reshape(-1, 256) / tops[:, None]).flatten()[: len(absmax)]
            indexes = (shares[:, None] - table).abs().argmin(1).to(torch.uint8)
            of_block = tops.repeat_interleave(256)[: len(absmax)]
            absmax = table[indexes.int()] * of_block
            absmax += offset
            parts |= {
                "weight.absmax": indexes,
                "weight.nested_absmax": tops,
                "weight.nested_quant_map": table,
            }
            state |= {
                "nested_blocksize": 256,
                "nested_dtype": "float32",
                "nested_offset": offset.item(),
            }
        index = (blocks / absmax[:, None])[..., None].sub(code).abs().argmin(-1)
        values = (code[index] * absmax[:, None]).flatten()[: len(flat)]
        nibbles = index.flatten()[: len(flat)].to(torch.uint8)
        nibbles = torch.nn.functional.pad(nibbles, (0, len(flat) % 2))
        packed = ((nibbles[0::2] << 4) | nibbles[1::2]).view(storage)[:, None]
        text = json.dumps(state).encode()
        parts |= {
            "weight": packed,
            f"weight.quant_state.bitsandbytes__{kind}": torch.tensor(
                list(text), dtype=torch.uint8
            ),
        }
        rounded = values.to(getattr(torch, dtype)).float()
        return parts, rounded.reshape(weights.shape)

    return quantize


def int8_row_maxima(weights: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """bitsandbytes' LLM.int8."""
    maxima = weights.abs().amax(1)
    elements = (weights / maxima[:, None] * 127).round().to(torch.int8)
    values = elements * maxima.view(-1, 1) * 7.874015718698502e-3
    return (
        {
            "weight": elements,
            "SCB": maxima,
            "weight_format": torch.tensor(0, dtype=torch.uint8),
        },
        values,
    )
