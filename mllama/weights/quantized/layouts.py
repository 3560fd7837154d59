"""Finds how a weight is quantized, by the names of the tensors that go with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from mllama.errors import CheckpointError
from mllama.weights.quantized.four_bits import STATE, FourBitLayout
from mllama.weights.quantized.scaled import RowMaximaLayout, ScaledLayout
from mllama.weights.quantized.stored import StoredTensor
from mllama.weights.quantized.tensor import Layout

_SCALE = "weight_scale"
_INVERSE_SCALE = "weight_scale_inv"
"""DeepSeek's name; the weights are multiplied by it all the same."""

_COMPANIONS: Final = (
    _SCALE,
    _INVERSE_SCALE,
    "weight_zero_point",
    "weight_g_idx",
    "SCB",
    "weight_format",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    f"weight.{STATE}nf4",
    f"weight.{STATE}fp4",
)
"""Names of the tensors that go with a module's quantized ``weight``."""

_ACTIVATIONS: Final = (
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "q_scale",
    "k_scale",
    "v_scale",
)
"""Tensors for activations, which aren't quantized here."""

_OTHER_METHODS: Final = {
    "qweight": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors in a packed format",
    "W_q": "HQQ",
    "codes": "AQLM",
    "weight._data": "Quanto",
    "weight_qdata": "torchao",
    "q_weight": "EXL2",
    "trellis": "EXL3",
}
"""Methods by what they have instead of a module's ``weight``."""


def companion_names(name: str) -> list[str]:
    """Returns the canonical names that tensors of a quantized weight may have."""
    if not name.endswith(".weight"):
        return []
    return [name.removesuffix("weight") + ending for ending in _COMPANIONS]


def companions(
    name: str, stored: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Returns the tensors that go with a quantized weight, by the end of their names.

    Args:
        name: The weight's canonical name.
        stored: All tensors of the checkpoint by canonical name.
    """
    module = name.removesuffix("weight")
    return {
        part.removeprefix(module): stored[part]
        for part in companion_names(name)
        if part in stored
    }


def other_method(name: str, stored: Mapping[str, StoredTensor]) -> str | None:
    """Returns the method that a weight which isn't there was quantized by, if any."""
    module = name.removesuffix("weight")
    for ending, method in _OTHER_METHODS.items():
        if module + ending in stored:
            return method
    return None


def check_unused(
    unused: Mapping[str, StoredTensor], quantized: Collection[str]
) -> None:
    """Checks that nothing that belongs to a quantized weight is left out.

    Args:
        unused: Tensors that nothing has asked for, by canonical name.
        quantized: Canonical names of the quantized weights.

    Raises:
        CheckpointError: If one is, such as a second scale.
    """
    modules = {name.removesuffix(".weight") for name in quantized}
    for name, tensor in unused.items():
        module, _, ending = name.rpartition(".")
        inner = module.removesuffix(".weight")
        if ending not in _ACTIVATIONS and (module in modules or inner in modules):
            raise tensor.error("belongs to a form of quantized weights that is unknown")


def find_layout(
    weight: StoredTensor,
    parts: Mapping[str, StoredTensor],
    shape: tuple[int, ...],
    block: tuple[int, int] | None,
) -> Layout:
    """Returns how a quantized weight is stored.

    Args:
        weight: The weight.
        parts: The tensors that go with it.
        shape: The shape that the model needs.
        block: Rows and columns that share a scale, if ``config.json`` says so.

    Raises:
        CheckpointError: If a part is missing, unknown or of another shape.
    """
    rest = dict(parts)
    states = [rest.pop(key) for key in list(rest) if STATE in key]
    if not states and any(key.startswith("weight.") for key in rest):
        raise weight.error(
            f"lacks the {STATE}* beside it; the checkpoint is incomplete"
        )
    if states:
        prefix = "weight."
        layout: Layout = FourBitLayout(
            weight,
            shape,
            states[0],
            _take(weight, rest, f"{prefix}absmax"),
            _take(weight, rest, f"{prefix}quant_map"),
            rest.pop(f"{prefix}nested_absmax", None),
            rest.pop(f"{prefix}nested_quant_map", None),
        )
        _check_rest(weight, rest)
        return layout
    if weight.shape != shape:
        raise CheckpointError(
            f"{weight.source_name} has shape {list(weight.shape)}, but config.json "
            f"requires {list(shape)}; they belong to different models"
        )
    if "SCB" in rest:
        layout = RowMaximaLayout(
            weight, rest.pop("SCB"), rest.pop("weight_format", None)
        )
        _check_rest(weight, rest)
        return layout
    key = _INVERSE_SCALE if _INVERSE_SCALE in rest else _SCALE
    layout = ScaledLayout(
        weight,
        _take(weight, rest, key),
        rest.pop("weight_zero_point", None),
        rest.pop("weight_g_idx", None),
        block,
    )
    _check_rest(weight, rest)
    return layout


def _take(
    weight: StoredTensor, parts: dict[str, StoredTensor], key: str
) -> StoredTensor:
    if key not in parts:
        raise weight.error(
            f"has elements of type {weight.dtype}, but no {key} beside it; the "
            "checkpoint is incomplete, or quantized in a form that is unknown"
        )
    return parts.pop(key)


def _check_rest(weight: StoredTensor, rest: Mapping[str, StoredTensor]) -> None:
    for tensor in rest.values():
        raise tensor.error(f"doesn't belong to the form of {weight.source_name}")
