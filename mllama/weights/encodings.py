"""Encodings of the weights: which devices run which, and which one is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.kernels.dispatch import MAX, chosen_kernels
from mllama.weights.quantization_plan import GGUF_ENCODINGS

RUNNABLE: Final = {
    "cpu": ("float32", "bfloat16", *GGUF_ENCODINGS),
    "gpu": ("bfloat16", "float32"),
}
"""Encodings by device type."""

_BYTES: Final = "int8"
_TILE = 16
"""What the widths of matrices of bytes must be multiples of."""


@dataclass(frozen=True)
class Encoding:
    """A choice.

    Attributes:
        name: ``float32``, ``bfloat16`` or one of ``GGUF_ENCODINGS``.
        device_type: ``cpu`` or ``gpu``.
        reason: Why it is not the user's, or None if it is.
        int8_vision: Whether the vision side's matrices are bytes.
    """

    name: str
    device_type: str
    reason: str | None = None
    int8_vision: bool = False

    @property
    def full_name(self) -> str:
        """With the vision side's."""
        return self.name + self.vision_suffix

    @property
    def vision_suffix(self) -> str:
        """What is said of the vision side, if it isn't what the rest is."""
        return f", vision in {_BYTES}" if self.int8_vision else ""

    @property
    def bytes_per_float(self) -> int:
        """Bytes of a weight that is no block; blocks are multiplied with float32."""
        return 2 if self.name == "bfloat16" else 4

    @property
    def max_name(self) -> str:
        """Returns the encoding that MAX is told: its options allow bfloat16 on GPUs
        alone."""
        return "float32" if self.is_bfloat16_on_cpu else self.name

    @property
    def is_bfloat16_on_cpu(self) -> bool:
        """Returns True if the weights are bfloat16 and a CPU runs them."""
        return self.name == "bfloat16" and self.device_type == "cpu"


def choose_encoding(
    asked: str | None, device_type: str, dtype: str, config: MllamaConfig
) -> Encoding:
    """The encoding to serve a checkpoint of floats with.

    Args:
        asked: The user's wish.
        device_type: ``cpu`` or ``gpu``.
        dtype: Element type of most of the checkpoint's weights.
        config: The checkpoint's.

    Raises:
        MllamaError: If the device can't run what was asked for.
    """
    if asked is not None:
        check_runnable(asked, device_type)
        return Encoding(asked, device_type)
    if device_type == "gpu":
        return Encoding("bfloat16", device_type, "the default on a GPU")
    if dtype == "float32":
        return Encoding("float32", device_type, "as in the checkpoint")
    if not _can_quantize(config, "q4_k"):
        return Encoding(
            "float32", device_type, "since its widths are no multiples of 256"
        )
    return Encoding("q4_k", device_type, f"the default for {dtype} on a CPU")


def check_runnable(name: str, device_type: str) -> None:
    """Refuses an encoding that a device can't run.

    Raises:
        MllamaError: Naming those that it runs.
    """
    runnable = RUNNABLE[device_type]
    if name not in runnable:
        raise MllamaError(
            f"the {device_type} can't run the encoding {name!r}; "
            f"it runs {', '.join(runnable)}"
        )


def with_vision_encoding(
    encoding: Encoding, asked: str | None, config: MllamaConfig
) -> Encoding:
    """An encoding with the vision side's.

    Args:
        encoding: Of the weights.
        asked: ``int8``, or None to leave the vision side in floats.
        config: The checkpoint's.

    Raises:
        MllamaError: If it is something else, or bytes can't be had.
    """
    if asked is None:
        return encoding
    if asked != _BYTES:
        raise MllamaError(
            f"the vision side is to be had in {_BYTES}, not {asked!r}; leave "
            "--vision-encoding out for floats"
        )
    vision = config.vision_config
    widths = (
        vision.hidden_size,
        vision.intermediate_size,
        config.text_config.hidden_size,
    )
    lacking = None
    if encoding.device_type != "cpu":
        lacking = "runs on a CPU only"
    elif encoding.name == "bfloat16":
        lacking = "goes with float32 or blocks, not with bfloat16"
    elif chosen_kernels() == MAX:
        lacking = "needs this package's own kernels, which don't run here"
    elif any(width % _TILE for width in widths):
        lacking = f"needs widths that are multiples of {_TILE}"
    if lacking is not None:
        raise MllamaError(f"--vision-encoding {_BYTES} {lacking}; leave it out")
    return replace(encoding, int8_vision=True)


def _can_quantize(config: MllamaConfig, encoding: str) -> bool:
    """Whether the text side's matrices can be cut into blocks of an encoding."""
    length, _ = GGML_QUANT_SIZES[GGMLQuantizationType[encoding.upper()]]
    text = config.text_config
    return text.hidden_size % length == text.intermediate_size % length == 0
