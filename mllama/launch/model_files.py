"""What MAX is to load: a model's files, encoding and compiled graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gguf import GGMLQuantizationType

from mllama.compilation.host import gpu_name
from mllama.compilation.manifest import Manifest
from mllama.compilation.settings import CompiledSettings
from mllama.config import MllamaConfig
from mllama.launch.quantized_cache import quantized_file
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.encodings import Encoding
from mllama.weights.memory_estimate import served_bytes

if TYPE_CHECKING:
    from max.driver import DeviceSpec


@dataclass(frozen=True)
class ModelFiles:
    """What MAX is to load.

    Attributes:
        model: A directory with configuration and tokenizer.
        weight_path: The weights' files.
        config: The model's configuration.
        encoding: What the weights are served in.
        formats: Format of each tensor that is served in blocks, by canonical name.
        lora_path: An adapter to be merged into the weights as they are loaded; None if
            there is none, or if it is in the weights already.
        floats: A checkpoint that is yet to be quantized into ``weight_path``.
        compiled: Where its graphs are kept.
    """

    model: Path
    weight_path: tuple[Path, ...]
    config: MllamaConfig
    encoding: Encoding
    formats: Mapping[str, GGMLQuantizationType]
    lora_path: Path | None = None
    floats: Checkpoint | None = None
    compiled: CompiledSettings | None = None

    @cached_property
    def weights_bytes(self) -> int:
        """Memory that the weights take as they are served."""
        return served_bytes(
            self.config,
            self.formats,
            self.encoding.item_bytes,
            int8_vision=self.encoding.int8_vision,
        )

    @property
    def settings(self) -> ModelSettings:
        """Returns what the model is told of its files, beside MAX's options."""
        return ModelSettings(
            bfloat16_on_cpu=self.encoding.is_bfloat16_on_cpu,
            int8_vision=self.encoding.int8_vision,
            lora_path=self.lora_path.resolve() if self.lora_path else None,
            compiled=self.compiled,
        )

    def described(self) -> str:
        """A line about the choice and its memory."""
        reason = f" ({self.encoding.reason})" if self.encoding.reason else ""
        return (
            f"weights in {self.encoding.name}{reason}"
            f"{self.encoding.vision_part}: "
            f"{format_bytes(self.weights_bytes)} of memory"
        )

    def compiled_for(
        self,
        devices: Sequence[DeviceSpec],
        *,
        max_length: int | None,
        max_batch_size: int,
        max_ce_batch_size: int,
        saved: str | Path | None = None,
        save_to: str | Path | None = None,
    ) -> ModelFiles:
        """The files with where the graphs of a start are kept.

        Args:
            devices: Where the model is to run.
            max_length: The context asked for; None is the model's limit.
            max_batch_size: Requests worked on together.
            max_ce_batch_size: Of these, most whose prompts are read in one step.
            saved: A directory of compiled graphs to start from.
            save_to: A directory to save them to.

        Raises:
            CompiledModelError: If the saved model doesn't fit the start, or the place
                to save to can't be used.
        """
        limit = self.config.text_config.max_position_embeddings
        manifest = Manifest.of_this_machine(
            self.config,
            encoding=self.encoding.whole_name,
            formats={name: kind.name for name, kind in self.formats.items()},
            max_length=max_length or limit,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            devices=tuple(_device_name(device) for device in devices),
        )
        compiled = CompiledSettings.checked(manifest, saved=saved, save_to=save_to)
        return replace(self, compiled=compiled)

    def quantized(self, quiet: bool) -> ModelFiles:
        """The files with the checkpoint of floats quantized, if it is to be.

        It is done once; the result is kept in the cache.

        Raises:
            CheckpointError: If it can't be written.
        """
        if self.floats is None:
            return self
        file = quantized_file(self.floats, self.encoding.name, quiet)
        return replace(self, weight_path=(file,), floats=None)


def _device_name(device: DeviceSpec) -> str:
    """What a compiled graph depends on: not which of several equal GPUs it is."""
    if device.device_type == "cpu":
        return "cpu"
    from max.driver import Accelerator

    gpu = Accelerator(device.id)
    return gpu_name(gpu.api, gpu.architecture_name)
