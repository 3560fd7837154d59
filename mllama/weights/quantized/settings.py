"""How a checkpoint says that it is quantized: ``quantization_config``.

The tensors themselves say how they are dequantized (see
:mod:`mllama.weights.quantized.layouts`).  Here the methods that can't be read are
refused by name, before any file of weights is opened or downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mllama.errors import CheckpointError, quoted, shortened

METHODS: Final = (
    "compressed-tensors",
    "bitsandbytes",
    "fp8",
    "fbgemm-fp8",
    "modelopt",
)
"""Methods that can be read, with ``-`` for ``_``."""

_FORMATS: Final = ("dense", "float-quantized", "int-quantized", "naive-quantized")
"""Formats of compressed-tensors that can be read."""

WAY_OUT: Final = (
    "use the original checkpoint, which `mllama quantize` makes smaller, or one in fp8 "
    "or int8 of compressed-tensors, or of bitsandbytes"
)


def check_quantization(directory: Path) -> None:
    """Checks that a checkpoint isn't quantized in a way that can't be read.

    Args:
        directory: Directory with ``config.json``; a damaged one is reported elsewhere.

    Raises:
        CheckpointError: If it is, with the method's name.
    """
    settings = _settings(directory / "config.json")
    if not settings:
        return
    method = settings.get("quant_method")
    if method is None and any(settings.get(f"load_in_{bits}bit") for bits in (4, 8)):
        method = "bitsandbytes"
    if not isinstance(method, str):
        raise unsupported_method(directory, "a method that config.json doesn't name")
    known = method.lower().replace("_", "-")
    if known not in METHODS:
        raise unsupported_method(directory, shortened(method))
    if known == "compressed-tensors":
        _check_compressed_tensors(directory, settings)


def block_shape(directory: Path) -> tuple[int, int] | None:
    """Returns the rows and columns that share a scale, if ``config.json`` says so."""
    settings = _settings(directory / "config.json")
    shapes = [settings.get("weight_block_size")]
    for group in _groups(settings):
        shapes.append(_mapping(group.get("weights")).get("block_structure"))
    for shape in shapes:
        if (
            isinstance(shape, list)
            and len(shape) == 2
            and all(type(size) is int and 0 < size < 2**31 for size in shape)
        ):
            return shape[0], shape[1]
    return None


def _check_compressed_tensors(directory: Path, settings: Mapping[str, Any]) -> None:
    formats = [settings.get("format")]
    formats += [group.get("format") for group in _groups(settings)]
    for each in formats:
        if each not in (None, "mixed-precision", *_FORMATS):
            raise unsupported_method(
                directory,
                f"compressed-tensors in the format {quoted(each)}",
            )
    sparsity = _mapping(settings.get("sparsity_config")).get("format")
    if sparsity not in (None, "dense"):
        raise unsupported_method(
            directory, f"compressed-tensors with the sparsity {quoted(sparsity)}"
        )
    if _mapping(settings.get("transform_config")).get("config_groups"):
        method = "compressed-tensors with a transform_config"
        raise unsupported_method(directory, method)


def unsupported_method(directory: Path, method: str) -> CheckpointError:
    """Returns the error for a method that can't be read."""
    return CheckpointError(
        f"{directory} is quantized by {method}, which isn't supported; {WAY_OUT}"
    )


def _groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = _mapping(settings.get("config_groups")).values()
    return [_mapping(group) for group in groups]


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        values = _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}
    for place in (values, _mapping(values.get("text_config"))):
        for key in ("quantization_config", "compression_config"):
            if settings := _mapping(place.get(key)):
                return settings
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
