"""This package's settings, on their way through MAX to the model's process.

MAX accepts only its own options, but passes ``vision_config_overrides`` through unread.
The settings travel there under one key, packed and unpacked here alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mllama.compilation.settings import CompiledSettings
from mllama.errors import MllamaError
from mllama.max_model.draft.settings import DraftSettings
from mllama.utils.sizes import parse_size

if TYPE_CHECKING:
    from max.pipelines.lib import MAXModelConfig

DEFAULT_MAX_IMAGES: Final = 32
"""Default of the number of images that one request may contain."""

_KEY: Final = "mllama"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model's settings that MAX has no option for.

    Attributes:
        image_cache_size: Memory for the keys and values of images, see
            :func:`~mllama.utils.sizes.parse_size`; None chooses a size.
        max_images_per_request: Images that one request may contain; None is
            :data:`DEFAULT_MAX_IMAGES`.
        bfloat16_on_cpu: Whether the weights are served in bfloat16 on a CPU.  MAX's
            kernels can do so, but its options allow bfloat16 on GPUs alone, so that MAX
            is given float32.
        int8_vision: Whether the vision encoder and projector run in int8.
        image_cache_encoding: ``float32``, ``bfloat16`` or ``int8`` for the image cache;
            None chooses by the weights.
        kv_cache_encoding: The same for the KV cache of text; None is the data type of
            the activations.
        lora_path: Directory of a LoRA adapter to merge into the weights.
        compiled: Directories of compiled graphs; None uses MAX's own cache.
        greedy_on_gpu: Whether a GPU chooses the tokens of greedy batches with a graph
            of this package instead of MAX's sampler.
        speculate: What guesses the next tokens of answers: off, lookup or draft.
        draft: The files of the draft model; None without one.

    Raises:
        MllamaError: If a value can't be used.
    """

    image_cache_size: str | int | None = None
    max_images_per_request: int | None = None
    bfloat16_on_cpu: bool = False
    int8_vision: bool = False
    image_cache_encoding: str | None = None
    kv_cache_encoding: str | None = None
    lora_path: Path | None = None
    compiled: CompiledSettings | None = None
    greedy_on_gpu: bool = False
    speculate: str = "off"
    draft: DraftSettings | None = None

    def __post_init__(self) -> None:
        if self.image_cache_size is not None:
            parse_size(str(self.image_cache_size), memory=1)
        if self.max_images_per_request is not None and self.max_images_per_request < 1:
            raise MllamaError(
                "a request must be allowed at least 1 image, not "
                f"{self.max_images_per_request}"
            )

    @property
    def image_limit(self) -> int:
        """Returns the number of images that one request may contain."""
        return self.max_images_per_request or DEFAULT_MAX_IMAGES

    def to_max(self) -> dict[str, Any]:
        """Packs the settings into MAX's ``vision_config_overrides``, as JSON values."""
        packed: dict[str, Any] = {
            "image_cache_size": self.image_cache_size,
            "max_images_per_request": self.max_images_per_request,
            "bfloat16_on_cpu": self.bfloat16_on_cpu,
            "int8_vision": self.int8_vision,
            "image_cache_encoding": self.image_cache_encoding,
            "kv_cache_encoding": self.kv_cache_encoding,
            "lora_path": None if self.lora_path is None else str(self.lora_path),
            "compiled": None if self.compiled is None else self.compiled.to_dict(),
            "greedy_on_gpu": self.greedy_on_gpu,
            "speculate": self.speculate,
            "draft": None if self.draft is None else self.draft.to_dict(),
        }
        return {_KEY: packed}

    @classmethod
    def from_max(cls, config: MAXModelConfig) -> ModelSettings:
        """Unpacks the settings of a model; MAX's own commands set none."""
        packed = dict(config.vision_config_overrides.get(_KEY, {}))
        if packed.get("lora_path") is not None:
            packed["lora_path"] = Path(packed["lora_path"])
        if packed.get("compiled") is not None:
            packed["compiled"] = CompiledSettings.from_dict(packed["compiled"])
        if packed.get("draft") is not None:
            packed["draft"] = DraftSettings.from_dict(packed["draft"])
        return cls(**packed)
