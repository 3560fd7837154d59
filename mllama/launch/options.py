"""What a user may ask of the engine, checked before MAX is started.

Starting MAX takes seconds and compiling takes minutes, so whatever can be refused is
refused here, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.launch.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CE_BATCH_SIZE
from mllama.launch.devices import find_devices
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from mllama.max_model.settings import ModelSettings

if TYPE_CHECKING:
    from max.driver import DeviceSpec
    from max.pipelines.lib import PipelineArgs

ARCHITECTURES = f"{Path(__file__).resolve().parents[2]}:mllama"
"""This package, in the form of MAX's ``--custom-architectures``."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a model is to be loaded.

    Attributes:
        model_path: A directory in Hugging Face layout, a GGUF file, ``ollama:NAME`` of
            Ollama's store, or a repository of the hub; None is the demo model that
            ships with the package.
        weight_path: Files to read the weights from instead of the checkpoint's own.
        lora_path: Directory of a LoRA adapter in PEFT's files, which is merged into the
            weights.
        quantization_encoding: Element type or block format of the weights; None takes
            bfloat16 on a GPU; on a CPU a GGUF file's own, q4_k for a checkpoint of
            bfloat16, float32 for one of float32.
        vision_encoding: ``int8`` has the vision side multiply in bytes and, on a CPU
            with AVX512-BF16, attend in bfloat16; None leaves it in floats.
        devices: "cpu", "gpu" or "gpu:N", see :func:`find_devices`; None takes the
            first GPU, or the CPU.
        max_batch_size: Requests worked on together; None chooses by device.
        max_ce_batch_size: Most requests whose prompts are read in one step.
        serialized_model_path: Directory of a compiled model to start from.
        save_to_serialized_model_path: Directory to save the compiled model to.
        max_length: Longest sequence, prompt and answer, in tokens; None is the
            model's own limit.
        image_cache_size: Memory for the keys and values of images, such as "4GiB" or
            "0.2" of the device's; None chooses.
        max_images_per_request: Most images of one request; None is 32.
        huggingface_model_revision: Branch, tag or commit of a repository of the hub;
            None is its main branch.
        force_download: Whether to download what the hub's cache has already.
        trust_remote_code: Whether the checkpoint's own tokenizer code may run.
        num_threads: Threads of the CPU's computation; None is one for each core.
    """

    model_path: str | Path | None = None
    weight_path: Sequence[str | Path] = ()
    lora_path: str | Path | None = None
    quantization_encoding: str | None = None
    vision_encoding: str | None = None
    devices: str | None = None
    max_batch_size: int | None = None
    max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE
    max_length: int | None = None
    serialized_model_path: str | Path | None = None
    save_to_serialized_model_path: str | Path | None = None
    image_cache_size: str | int | None = None
    max_images_per_request: int | None = None
    huggingface_model_revision: str | None = None
    force_download: bool = False
    trust_remote_code: bool = False
    num_threads: int | None = None

    @property
    def model(self) -> str:
        """The path or repository that MAX is given."""
        return str(MODEL_PATH if self.model_path is None else self.model_path)

    def check(self, *, quiet: bool = True) -> ModelFiles:
        """Checks what can be checked before MAX is started, and finds the files.

        What is on the hub is downloaded.

        Args:
            quiet: Whether to show no progress of that.

        Raises:
            MllamaError: If the checkpoint can't be served, a limit is out of range, or
                there is no such device.
        """
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise MllamaError(
                f"the batch size must be at least 1, not {self.max_batch_size}"
            )
        if self.max_ce_batch_size < 1:
            raise MllamaError(
                "at least 1 prompt must be read at a time, not "
                f"{self.max_ce_batch_size}"
            )
        ModelSettings(  # Checks the two before anything is downloaded.
            image_cache_size=self.image_cache_size,
            max_images_per_request=self.max_images_per_request,
        )
        devices = find_devices(self.devices)
        files = resolve_model_files(
            self.model,
            weight_path=self.weight_path,
            encoding=self.quantization_encoding,
            vision_encoding=self.vision_encoding,
            lora_path=self.lora_path,
            device_type=devices[0].device_type,
            max_length=self.max_length,
            hub=HubOptions(
                self.huggingface_model_revision,
                force_download=self.force_download,
                trust_remote_code=self.trust_remote_code,
            ),
            quiet=quiet,
        )
        return files.compiled_for(
            devices,
            max_length=self.max_length,
            max_batch_size=self._batch_size(devices),
            max_ce_batch_size=self.max_ce_batch_size,
            saved=self.serialized_model_path,
            save_to=self.save_to_serialized_model_path,
        )

    def _batch_size(self, devices: Sequence[DeviceSpec]) -> int:
        return self.max_batch_size or DEFAULT_BATCH_SIZE[devices[0].device_type]

    def pipeline_args(self, files: ModelFiles) -> PipelineArgs:
        """MAX's arguments for these options.

        Args:
            files: The model's, quantized if they are to be.

        Raises:
            MllamaError: If a device is not to be had.
        """
        from max.pipelines.lib import PipelineArgs

        devices = find_devices(self.devices)
        return PipelineArgs.from_flat_kwargs(
            model_path=str(files.model),
            weight_path=list(files.weight_path),
            device_specs=devices,
            quantization_encoding=files.encoding.max_name,
            max_batch_size=self._batch_size(devices),
            max_length=self.max_length,
            trust_remote_code=self.trust_remote_code,
            enable_in_flight_batching=True,
            vision_config_overrides=replace(
                files.settings,
                image_cache_size=self.image_cache_size,
                max_images_per_request=self.max_images_per_request,
            ).to_max(),
            custom_architectures=[ARCHITECTURES],
        )
