"""What a user may ask of the engine, checked before MAX is started.

Starting MAX takes seconds and compiling takes minutes, so whatever can be refused is
refused here, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mllama.demo import MODEL_PATH
from mllama.engine.model_files import ModelFiles, fetch_checked, find_model_files
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.images.settings import image_settings

if TYPE_CHECKING:
    from max.driver import DeviceSpec
    from max.pipelines.lib import PipelineArgs

DEMO_MODEL_NAME = "mllama-demo"
"""What the server calls the model that ships with the package."""

DEFAULT_BATCH_SIZE = {"cpu": 4, "gpu": 16}
"""Requests worked on together, by device.  Beyond a few a CPU gains nothing."""

DEFAULT_CE_BATCH_SIZE = 32
"""Prompts read in one step."""

ARCHITECTURES = f"{Path(__file__).resolve().parents[2]}:mllama"
"""This package, in the form of MAX's ``--custom-architectures``."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a model is to be loaded.

    Attributes:
        model_path: A directory in Hugging Face layout or a repository of the hub;
            None is the demo model that ships with the package.
        weight_path: Files to read the weights from instead of the checkpoint's own.
        quantization_encoding: Element type or block format of the weights; None takes
            float32 on a CPU and the checkpoint's own on a GPU.
        devices: "cpu", "gpu" or "gpu:N"; None takes the first GPU, or the CPU.
        max_batch_size: Requests worked on together; None chooses by device.
        max_ce_batch_size: Most requests whose prompts are read in one step.
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
    quantization_encoding: str | None = None
    devices: str | None = None
    max_batch_size: int | None = None
    max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE
    max_length: int | None = None
    image_cache_size: str | int | None = None
    max_images_per_request: int | None = None
    huggingface_model_revision: str | None = None
    force_download: bool = False

    @property
    def model(self) -> str:
        """The path or repository of the model."""
        return str(MODEL_PATH if self.model_path is None else self.model_path)

    def check(self) -> None:
        """Checks what can be checked before MAX is started.

        Raises:
            MllamaError: If the checkpoint can't be served, a limit is out of range, or
                there is no such device.
        """
        self._check_limits()
        self.find_files(quiet=True, quantise=False)

    def fetched(self, *, quiet: bool) -> EngineOptions:
        """These options, with files on this machine for what is on the hub.

        Args:
            quiet: Whether to show no progress.

        Raises:
            MllamaError: If it can't be had, or can't be served as asked for.
        """
        self._check_limits()
        files = fetch_checked(
            self.model,
            self.weight_path,
            self._hub,
            encoding=self.quantization_encoding,
            device_type=find_device(self.devices).device_type,
            max_length=self.max_length,
            quiet=quiet,
        )
        return replace(
            self,
            model_path=files.model,
            weight_path=files.weight_path,
            huggingface_model_revision=None,
            force_download=False,
        )

    @property
    def _hub(self) -> HubOptions:
        return HubOptions(
            self.huggingface_model_revision, force_download=self.force_download
        )

    def _check_limits(self) -> None:
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

    def find_files(self, *, quiet: bool, quantise: bool = True) -> ModelFiles:
        """The files to load; see :func:`find_model_files`."""
        return find_model_files(
            self.model,
            weight_path=self.weight_path,
            encoding=self.quantization_encoding,
            device_type=find_device(self.devices).device_type,
            max_length=self.max_length,
            hub=self._hub,
            quantise=quantise,
            quiet=quiet,
        )

    def pipeline_args(self, *, quiet: bool = True) -> PipelineArgs:
        """MAX's arguments for these options.

        A checkpoint of floats is quantised first if that was asked for and has not been
        done before.

        Args:
            quiet: Whether to keep silent about that.

        Raises:
            MllamaError: If a device or an encoding is not to be had.
        """
        from max.pipelines.lib import PipelineArgs

        device = find_device(self.devices)
        files = self.find_files(quiet=quiet)
        return PipelineArgs.from_flat_kwargs(
            model_path=files.model,
            weight_path=list(files.weight_path),
            device_specs=[device],
            quantization_encoding=files.encoding,
            max_batch_size=self.max_batch_size
            or DEFAULT_BATCH_SIZE[device.device_type],
            max_length=self.max_length,
            enable_in_flight_batching=True,
            vision_config_overrides=image_settings(
                self.image_cache_size, self.max_images_per_request
            ),
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
