"""The options for running a model, checked before MAX is loaded.

Loading MAX takes seconds and compiling takes minutes, so every option that can be
refused is refused here, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mllama.demo_model import MODEL_PATH
from mllama.errors import MllamaError, quoted
from mllama.hub.download import is_repository
from mllama.hub.options import HubOptions
from mllama.launch.defaults import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_CE_BATCH_SIZE,
    DEFAULT_SPECULATE,
    SPECULATE_CHOICES,
)
from mllama.launch.devices import find_devices
from mllama.launch.draft_files import is_on_hub, resolve_draft_files
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import check_memory, resolve_model_files
from mllama.max_model.chat_template_files import check_chat_template
from mllama.max_model.settings import ModelSettings
from mllama.requests.tool_calls.parser import ToolForm

if TYPE_CHECKING:
    from max.driver import DeviceSpec
    from max.pipelines.lib import PipelineArgs

ARCHITECTURES = f"{Path(__file__).resolve().parents[2]}:mllama"
"""This package, in the form of MAX's ``--custom-architectures``."""

TOOL_PARSERS: Final[dict[str, ToolForm]] = {
    "auto": "auto",
    "llama3_json": "llama3_json",
    "pythonic": "pythonic",
    "llama": "llama3_json",
}
"""Forms of calls by the names of ``--tool-parser``, the last of which is MAX's."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options for running a model.

    :data:`mllama.launch.model_options.MODEL_OPTIONS` describes each attribute under its
    name.  A ``model_path`` of None is the demo model, and a ``max_batch_size`` of None
    takes the device's :data:`~mllama.launch.defaults.DEFAULT_BATCH_SIZE`, as does a
    ``speculate`` of None.
    """

    model_path: str | Path | None = None
    weight_path: Sequence[str | Path] = ()
    lora_path: str | Path | None = None
    draft_model_path: str | Path | None = None
    draft_model_revision: str | None = None
    chat_template: str | Path | None = None
    tool_parser: str = "auto"
    huggingface_model_revision: str | None = None
    huggingface_weight_revision: str | None = None
    force_download: bool = False
    trust_remote_code: bool = False
    devices: str | None = None
    quantization_encoding: str | None = None
    vision_encoding: str | None = None
    image_cache_encoding: str = "auto"
    kv_cache_encoding: str = "auto"
    max_length: int | None = None
    max_batch_size: int | None = None
    max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE
    num_threads: int | None = None
    serialized_model_path: str | Path | None = None
    save_to_serialized_model_path: str | Path | None = None
    image_cache_size: str | int | None = None
    max_images_per_request: int | None = None
    enable_overlap_scheduler: bool = False
    device_graph_capture: bool = False
    greedy_on_gpu: bool = False
    speculate: str | None = None

    @property
    def tool_form(self) -> ToolForm:
        """Returns the form in which the model calls tools."""
        return TOOL_PARSERS[self.tool_parser]

    @property
    def model(self) -> str:
        """Returns the model as the user names it, or the path of the demo model."""
        return str(MODEL_PATH if self.model_path is None else self.model_path)

    def resolve(
        self, *, compile_in_background: bool = False, quiet: bool = True
    ) -> ModelFiles:
        """Checks the options and finds the model's files, without starting MAX.

        Downloads a model of the hub first.

        Args:
            compile_in_background: Whether graphs for this CPU are compiled in the
                background while graphs that ship for any CPU are in use.
            quiet: Whether to hide the progress of downloads.

        Raises:
            MllamaError: If the checkpoint can't be served, a limit is out of range, or
                the machine lacks a device.
        """
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise MllamaError(
                f"the batch size must be at least 1, not {self.max_batch_size}"
            )
        if self.max_ce_batch_size < 1:
            raise MllamaError(
                "at least 1 prompt must be prefilled in a step, not "
                f"{self.max_ce_batch_size}"
            )
        if self.tool_parser not in TOOL_PARSERS:
            raise MllamaError(
                f"tool_parser must be one of {', '.join(TOOL_PARSERS)}, not "
                f"{quoted(self.tool_parser)}"
            )
        if self.speculate not in (None, *SPECULATE_CHOICES):
            raise MllamaError(
                f"speculate must be one of {', '.join(SPECULATE_CHOICES)}, not "
                f"{quoted(self.speculate)}"
            )
        self._check_draft()
        ModelSettings(  # Checks the two before anything is downloaded.
            image_cache_size=self.image_cache_size,
            max_images_per_request=self.max_images_per_request,
        )
        if self.chat_template is not None:
            check_chat_template(Path(self.chat_template))
        devices = find_devices(self.devices)
        if devices[0].device_type == "cpu":
            self._refuse_options_for_gpus()
        elif self.speculate not in (None, "off"):
            raise MllamaError(
                f"--speculate {self.speculate} is for CPUs, and the model would run on "
                "a GPU; leave it out, or use --devices cpu"
            )
        files = resolve_model_files(
            self.model,
            weight_path=self.weight_path,
            encoding=self.quantization_encoding,
            vision_encoding=self.vision_encoding,
            image_cache_encoding=self.image_cache_encoding,
            kv_cache_encoding=self.kv_cache_encoding,
            lora_path=self.lora_path,
            device_type=devices[0].device_type,
            max_length=self.max_length,
            hub=HubOptions(
                self.huggingface_model_revision,
                self.huggingface_weight_revision,
                # It may be meant for the draft model alone.
                force_download=self.force_download
                and (
                    is_repository(self.model)
                    or self.draft_model_path is None
                    or not is_on_hub(str(self.draft_model_path))
                ),
                trust_remote_code=self.trust_remote_code,
            ),
            quiet=quiet,
        )
        if self.draft_model_path is not None:
            draft = resolve_draft_files(
                str(self.draft_model_path),
                files,
                device_type=devices[0].device_type,
                revision=self.draft_model_revision,
                force_download=self.force_download,
                quiet=quiet,
            )
            files = replace(files, draft=draft)
            check_memory(files)
        return files.with_compiled_graphs(
            devices,
            start_from=self.serialized_model_path,
            save_to=self.save_to_serialized_model_path,
            compile_in_background=compile_in_background,
        )

    def _check_draft(self) -> None:
        """Refuses options of a draft model that do nothing, and guesses without one."""
        if self.speculate == "draft" and self.draft_model_path is None:
            raise MllamaError(
                "--speculate draft needs --draft-model-path: a text-only Llama with "
                "the model's own tokenizer, such as Llama 3.2 1B"
            )
        if self.draft_model_path is not None and self.speculate != "draft":
            raise MllamaError(
                "--draft-model-path is for --speculate draft, and nothing else loads "
                "it; give both or neither"
            )
        if self.draft_model_revision is None:
            return
        if self.draft_model_path is None:
            raise MllamaError(
                "--draft-model-revision is for a draft model of the hub, and there is "
                "no --draft-model-path: leave it out"
            )
        if not is_on_hub(str(self.draft_model_path)):
            raise MllamaError(
                f"{self.draft_model_path} is on this machine; --draft-model-revision "
                "is for repositories of the hub: leave it out"
            )

    def _refuse_options_for_gpus(self) -> None:
        for option, is_given in (
            ("--enable-overlap-scheduler", self.enable_overlap_scheduler),
            ("--device-graph-capture", self.device_graph_capture),
            ("--greedy-on-gpu", self.greedy_on_gpu),
        ):
            if is_given:
                raise MllamaError(
                    f"{option} is for GPUs, and the model would run on the CPU; leave "
                    "it out, or use --devices gpu on a machine that has one"
                )

    def _batch_size(self, devices: Sequence[DeviceSpec]) -> int:
        return self.max_batch_size or DEFAULT_BATCH_SIZE[devices[0].device_type]

    def pipeline_args(
        self,
        files: ModelFiles,
        *,
        custom_architectures: Iterable[str] = (),
        enable_in_flight_batching: bool = True,
        **max_options: Any,
    ) -> PipelineArgs:
        """Returns MAX's arguments for these options.

        Args:
            files: The model's files, quantized if they need to be.
            custom_architectures: Further architectures for MAX to load.
            enable_in_flight_batching: Whether running requests decode a token in each
                step that prefills another request.
            max_options: Further options of MAX.

        Raises:
            MllamaError: If the machine lacks a device.
        """
        from max.pipelines.lib import PipelineArgs

        devices = find_devices(self.devices)
        settings = replace(
            files.settings,
            image_cache_size=self.image_cache_size,
            max_images_per_request=self.max_images_per_request,
            greedy_on_gpu=self.greedy_on_gpu,
            speculate=self.speculate or DEFAULT_SPECULATE[devices[0].device_type],
        )
        return PipelineArgs.from_flat_kwargs(
            model_path=str(files.model),
            weight_path=list(files.weight_path),
            device_specs=devices,
            quantization_encoding=files.encoding.max_name,
            chat_template=self.chat_template and Path(self.chat_template),
            max_batch_size=self._batch_size(devices),
            max_length=self.max_length,
            trust_remote_code=self.trust_remote_code,
            enable_in_flight_batching=enable_in_flight_batching,
            enable_overlap_scheduler=self.enable_overlap_scheduler,
            device_graph_capture=self.device_graph_capture,
            vision_config_overrides=settings.to_max(),
            custom_architectures=[ARCHITECTURES, *custom_architectures],
            **max_options,
        )
