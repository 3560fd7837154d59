"""The files of a model that MAX loads, their encoding and their compiled graphs."""

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
from mllama.max_model.draft.settings import DraftSettings
from mllama.max_model.settings import ModelSettings
from mllama.utils.sizes import format_bytes
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.encodings import Encoding
from mllama.weights.memory_estimate import served_bytes

if TYPE_CHECKING:
    from max.driver import DeviceSpec


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model that MAX loads.

    Attributes:
        model: Directory with configuration and tokenizer.
        weight_path: Files of the weights; empty while ``unquantized`` is set.
        config: The model's configuration.
        encoding: Encoding that the weights are served in.
        formats: Format of each tensor that is served as GGUF blocks, by canonical name.
        lora_path: LoRA adapter to merge while the weights are loaded; None if there is
            none, or if it is merged already.
        unquantized: Checkpoint that has to be quantized before MAX can load it.
        compiled: Directories of the compiled graphs.
        draft: Files of the draft model, whose ``model`` may be a GGUF file; None if
            there is none.
        notes: Lines about files that are left out.
    """

    model: Path
    weight_path: tuple[Path, ...]
    config: MllamaConfig
    encoding: Encoding
    formats: Mapping[str, GGMLQuantizationType]
    lora_path: Path | None = None
    unquantized: Checkpoint | None = None
    compiled: CompiledSettings | None = None
    draft: ModelFiles | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def weights_bytes(self) -> int:
        """Returns the bytes of memory that the weights take when they are served."""
        return served_bytes(
            self.config,
            self.formats,
            self.encoding.bytes_per_float,
            int8_vision=self.encoding.int8_vision,
        )

    @property
    def settings(self) -> ModelSettings:
        """Returns the settings of these files that MAX has no options for."""
        return ModelSettings(
            bfloat16_on_cpu=self.encoding.is_bfloat16_on_cpu,
            int8_vision=self.encoding.int8_vision,
            image_cache_encoding=self.encoding.image_cache,
            kv_cache_encoding=self.encoding.kv_cache,
            lora_path=self.lora_path.resolve() if self.lora_path else None,
            compiled=self.compiled,
            draft=self.draft.draft_settings if self.draft else None,
        )

    @property
    def draft_settings(self) -> DraftSettings:
        """Returns the settings of these files if they are a draft model's."""
        return DraftSettings(
            directory=self.model if self.model.is_dir() else None,
            weight_path=self.weight_path,
            encoding=self.encoding.name,
        )

    def lines(self) -> list[str]:
        """Returns what the user is told: the summaries, then the notes."""
        draft = [f"draft model: {self.draft.summary()}"] if self.draft else []
        return [self.summary(), *draft, *self.notes]

    def summary(self) -> str:
        """Returns a line that names the encoding and its memory."""
        reason = f" ({self.encoding.reason})" if self.encoding.reason else ""
        return (
            f"weights in {self.encoding.name}{reason}"
            f"{self.encoding.vision_suffix}: "
            f"{format_bytes(self.weights_bytes)} of memory"
        )

    def with_compiled_graphs(
        self,
        devices: Sequence[DeviceSpec],
        *,
        start_from: str | Path | None = None,
        save_to: str | Path | None = None,
        compile_in_background: bool = False,
    ) -> ModelFiles:
        """Returns these files with the directories of their compiled graphs.

        Args:
            devices: Devices that the model runs on.
            start_from: Directory of a compiled model to start from.
            save_to: Directory to save the compiled graphs to.
            compile_in_background: Whether graphs for this CPU are compiled in the
                background if graphs for any CPU are in use.

        Raises:
            CompiledModelError: If the compiled model is for other options, or the
                directory to save to can't be used.
        """
        manifest = Manifest.for_this_machine(
            self.config,
            encoding=self.encoding.full_name,
            formats=self.formats,
            devices=tuple(_device_name(device) for device in devices),
        )
        compiled = CompiledSettings.create(
            manifest,
            saved=start_from,
            save_to=save_to,
            compile_in_background=compile_in_background,
        )
        return replace(self, compiled=compiled)

    def ensure_quantized(self, quiet: bool) -> ModelFiles:
        """Returns these files, with the checkpoint quantized if it has to be.

        Quantizes a checkpoint once, and caches the result.

        Args:
            quiet: Whether to hide the progress.

        Raises:
            CheckpointError: If the result can't be written.
        """
        draft = self.draft.ensure_quantized(quiet) if self.draft else None
        if self.unquantized is None:
            return replace(self, draft=draft)
        file = quantized_file(self.unquantized, self.encoding.name, quiet)
        return replace(self, weight_path=(file,), unquantized=None, draft=draft)


def _device_name(device: DeviceSpec) -> str:
    """Returns the kind of a device, which its compiled graphs depend on."""
    if device.device_type == "cpu":
        return "cpu"
    from max.driver import Accelerator

    gpu = Accelerator(device.id)
    return gpu_name(gpu.api, gpu.architecture_name)
