"""What a user may ask of the engine, checked before MAX is started.

Starting MAX takes seconds and compiling takes minutes, so whatever can be refused is
refused here, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllama.demo import MODEL_PATH
from mllama.engine.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CE_BATCH_SIZE
from mllama.engine.model_files import ModelFiles, find_model_files
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.images.settings import image_settings

if TYPE_CHECKING:
    from max.driver import DeviceSpec
    from max.pipelines.lib import PipelineArgs

DEMO_MODEL_NAME = "mllama-demo"
"""What the server calls the model that ships with the package."""

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
        devices: "cpu", "gpu" or "gpu:N"; None takes the first GPU, or the CPU.
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
    """

    model_path: str | Path | None = None
    weight_path: Sequence[str | Path] = ()
    lora_path: str | Path | None = None
    quantization_encoding: str | None = None
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
        image_settings(self.image_cache_size, self.max_images_per_request)
        device = find_device(self.devices)
        files = find_model_files(
            self.model,
            weight_path=self.weight_path,
            encoding=self.quantization_encoding,
            lora_path=self.lora_path,
            device_type=device.device_type,
            max_length=self.max_length,
            hub=HubOptions(
                self.huggingface_model_revision, force_download=self.force_download
            ),
            quiet=quiet,
        )
        return files.compiled_for(
            [device],
            max_length=self.max_length,
            max_batch_size=self._batch_size(device),
            max_ce_batch_size=self.max_ce_batch_size,
            saved=self.serialized_model_path,
            save_to=self.save_to_serialized_model_path,
        )

    def _batch_size(self, device: DeviceSpec) -> int:
        return self.max_batch_size or DEFAULT_BATCH_SIZE[device.device_type]

    def pipeline_args(self, files: ModelFiles) -> PipelineArgs:
        """MAX's arguments for these options.

        Args:
            files: The model's, quantised if they are to be.

        Raises:
            MllamaError: If a device is not to be had.
        """
        from max.pipelines.lib import PipelineArgs

        device = find_device(self.devices)
        return PipelineArgs.from_flat_kwargs(
            model_path=str(files.model),
            weight_path=list(files.weight_path),
            device_specs=[device],
            quantization_encoding=files.encoding.max_name,
            max_batch_size=self._batch_size(device),
            max_length=self.max_length,
            enable_in_flight_batching=True,
            vision_config_overrides={
                **image_settings(self.image_cache_size, self.max_images_per_request),
                **files.settings,
            },
            custom_architectures=[ARCHITECTURES],
        )


def find_device(devices: str | None) -> DeviceSpec:
    """The device that was asked for.

    Args:
        devices: "cpu", "gpu" or "gpu:N"; None takes the first GPU, or the CPU.

    Raises:
        MllamaError: If there is no such device, or several are named.
    """
    from max.driver import DeviceSpec, scan_available_devices

    gpus = [spec for spec in scan_available_devices() if spec.device_type == "gpu"]
    name = (devices or ("gpu" if gpus else "cpu")).lower()
    if name == "cpu":
        return DeviceSpec.cpu()
    kind, _, number = name.partition(":")
    if kind == "gpu" and ("," in number or number == "all"):
        raise MllamaError(
            f"this model runs on one device, but {devices!r} names several"
        )
    if kind != "gpu" or not (number or "0").isdecimal():
        raise MllamaError(f"{devices!r} is no device: use cpu, gpu or gpu:N")
    if not gpus:
        raise MllamaError(
            f"{devices!r} was asked for, but MAX finds no GPU on this machine; use cpu"
        )
    for spec in gpus:
        if spec.id == int(number or gpus[0].id):
            return spec
    raise MllamaError(
        f"there is no GPU {number}; the machine has "
        + ", ".join(f"gpu:{spec.id}" for spec in gpus)
    )
