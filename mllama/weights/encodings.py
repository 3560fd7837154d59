"""Encodings of the weights: those that a device runs, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.kernels.dispatch import HEAD_DIM_MULTIPLE, MAX, chosen_kernels
from mllama.weights.quantization_plan import GGUF_ENCODINGS

RUNNABLE: Final = {
    "cpu": ("float32", "bfloat16", *GGUF_ENCODINGS),
    "gpu": ("bfloat16", "float32"),
}
"""The encodings that a type of device runs."""

_INT8: Final = "int8"
_INT8_MULTIPLE = 16
"""The width of an int8 matrix must be a multiple of this."""
_BLOCKS_MULTIPLE = 256
"""A custom op multiplies GGUF blocks of rows whose width is a multiple of this."""

CACHE_ENCODINGS: Final = ("auto", "float32", "bfloat16", "int8")
"""Encodings of the image cache and of the KV cache that a user may request."""


@dataclass(frozen=True)
class Encoding:
    """The encoding that a model is served in.

    Attributes:
        name: ``float32``, ``bfloat16`` or one of ``GGUF_ENCODINGS``.
        device_type: ``cpu`` or ``gpu``.
        reason: Why it was chosen; None if the user requested it.
        int8_vision: True if the vision encoder and projector are in int8 (W8A8).
        image_cache: Encoding of the image cache, if it isn't the default of the others.
        kv_cache: The same of the KV cache.
    """

    name: str
    device_type: str
    reason: str | None = None
    int8_vision: bool = False
    image_cache: str | None = None
    kv_cache: str | None = None

    @property
    def full_name(self) -> str:
        """Returns the name, with the encodings of the vision side and of the caches if
        they differ."""
        image_cache = f", image cache in {self.image_cache}" if self.image_cache else ""
        kv_cache = f", KV cache in {self.kv_cache}" if self.kv_cache else ""
        return self.name + self.vision_suffix + image_cache + kv_cache

    @property
    def vision_suffix(self) -> str:
        """Returns the end of :attr:`full_name`; empty if the vision side is floats."""
        return f", vision in {_INT8}" if self.int8_vision else ""

    @property
    def bytes_per_float(self) -> int:
        """Returns the size of a weight that isn't quantized.

        In a quantized model these are float32.
        """
        return 2 if self.name == "bfloat16" else 4

    @property
    def max_name(self) -> str:
        """Returns the encoding to pass to MAX, whose options allow bfloat16 on GPUs
        only."""
        return "float32" if self.is_bfloat16_on_cpu else self.name

    @property
    def is_bfloat16_on_cpu(self) -> bool:
        """Returns True if the weights are bfloat16 and a CPU runs them."""
        return self.name == "bfloat16" and self.device_type == "cpu"


def choose_encoding(
    requested: str | None, device_type: str, dtype: str, config: MllamaConfig
) -> Encoding:
    """Chooses the encoding to serve a checkpoint in that isn't quantized.

    Args:
        requested: The encoding that the user requested; None chooses.
        device_type: ``cpu`` or ``gpu``.
        dtype: Data type of most of the checkpoint's weights.
        config: The checkpoint's config.

    Raises:
        MllamaError: If the device can't run the requested encoding.
    """
    if requested is not None:
        check_runnable(requested, device_type)
        return Encoding(requested, device_type)
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
    """Checks that a device runs an encoding.

    Raises:
        MllamaError: If it doesn't; names those that it runs.
    """
    runnable = RUNNABLE[device_type]
    if name not in runnable:
        raise MllamaError(
            f"the {device_type} can't run the encoding {name!r}; "
            f"it runs {', '.join(runnable)}"
        )


def with_vision_encoding(
    encoding: Encoding, requested: str | None, config: MllamaConfig
) -> Encoding:
    """Returns an encoding with the vision side in the requested encoding.

    Args:
        encoding: The encoding of the weights.
        requested: ``int8``, or None to leave the vision side in floats.
        config: The checkpoint's config.

    Raises:
        MllamaError: If another encoding was requested, or int8 isn't possible here.
    """
    if requested is None:
        return encoding
    if requested != _INT8:
        raise MllamaError(
            f"the vision side can be in {_INT8}, not {requested!r}; leave "
            "--vision-encoding out for floats"
        )
    vision = config.vision_config
    widths = (
        vision.hidden_size,
        vision.intermediate_size,
        config.text_config.hidden_size,
    )
    obstacle = None
    if encoding.device_type != "cpu":
        obstacle = "runs on a CPU only"
    elif encoding.name == "bfloat16":
        obstacle = "goes with float32 or quantized weights, not with bfloat16"
    elif chosen_kernels() == MAX:
        obstacle = "needs this package's custom ops, which don't run here"
    elif any(width % _INT8_MULTIPLE for width in widths):
        obstacle = f"needs widths that are multiples of {_INT8_MULTIPLE}"
    if obstacle is not None:
        raise MllamaError(f"--vision-encoding {_INT8} {obstacle}; leave it out")
    return replace(encoding, int8_vision=True)


def with_image_cache_encoding(
    encoding: Encoding, requested: str, config: MllamaConfig
) -> Encoding:
    """Returns an encoding with the image cache in the requested encoding.

    Args:
        encoding: The encoding of the weights.
        requested: One of :data:`CACHE_ENCODINGS`.
        config: The checkpoint's config.

    Raises:
        MllamaError: If the image cache can't be in the requested encoding here.
    """
    if requested == "auto":
        return encoding
    obstacle = _cache_obstacle(encoding, config)
    is_quantized = obstacle is None and encoding.name in GGUF_ENCODINGS
    default = "bfloat16" if is_quantized else _activations(encoding)
    if _is_other("image cache", requested, default, obstacle):
        return replace(encoding, image_cache=requested)
    return encoding


def with_kv_cache_encoding(
    encoding: Encoding, requested: str, config: MllamaConfig
) -> Encoding:
    """Returns an encoding with the KV cache of text in the requested encoding.

    Args:
        encoding: The encoding of the weights.
        requested: One of :data:`CACHE_ENCODINGS`.
        config: The checkpoint's config.

    Raises:
        MllamaError: If the KV cache can't be in the requested encoding here.
    """
    if requested == "auto":
        return encoding
    obstacle = _cache_obstacle(encoding, config)
    width = config.text_config.hidden_size
    if encoding.name in GGUF_ENCODINGS and width % _BLOCKS_MULTIPLE:
        # MAX's op multiplies such blocks, and its layer stores what it computes.
        obstacle = obstacle or (
            f"needs a width that is a multiple of {_BLOCKS_MULTIPLE}; with {width}"
        )
    if _is_other("KV cache", requested, _activations(encoding), obstacle):
        return replace(encoding, kv_cache=requested)
    return encoding


def _activations(encoding: Encoding) -> str:
    """Returns the data type of activations."""
    return "bfloat16" if encoding.name == "bfloat16" else "float32"


def _cache_obstacle(encoding: Encoding, config: MllamaConfig) -> str | None:
    """Returns what keeps this package's custom ops from keys and values in another data
    type than the activations', as a part of a sentence, or None."""
    head_dim = config.text_config.head_dim
    if encoding.device_type != "cpu":
        return f"is for CPUs; on a GPU with {encoding.name} weights"
    if _activations(encoding) == "bfloat16":
        return "goes with float32 or quantized weights; with bfloat16 ones"
    if chosen_kernels() == MAX:
        return "needs this package's custom ops; with MAX's"
    if head_dim % HEAD_DIM_MULTIPLE:
        return (
            f"needs heads whose width is a multiple of {HEAD_DIM_MULTIPLE}; with "
            f"{head_dim}"
        )
    return None


def _is_other(cache: str, requested: str, default: str, obstacle: str | None) -> bool:
    """Returns True if the requested encoding of a cache isn't the default.

    Raises:
        MllamaError: If there is no such encoding, or an obstacle to it.
    """
    if requested not in CACHE_ENCODINGS:
        raise MllamaError(
            f"the {cache} can be in {', '.join(CACHE_ENCODINGS)}, not {requested!r}"
        )
    if requested == default:
        return False
    if obstacle is not None:
        option = f"--{cache.lower().replace(' ', '-')}-encoding"
        raise MllamaError(
            f"{option} {requested} {obstacle}, the {cache} is in {default}; leave it "
            "out"
        )
    return True


def _can_quantize(config: MllamaConfig, encoding: str) -> bool:
    """Returns True if rows of the text side are whole blocks of an encoding."""
    length, _ = GGML_QUANT_SIZES[GGMLQuantizationType[encoding.upper()]]
    text = config.text_config
    return text.hidden_size % length == text.intermediate_size % length == 0
