"""``mllama serve``: MAX Serve with this model, and all of its options."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from mllama.cli.options import (
    adapter_option,
    compiled_options,
    image_options,
    model_or_demo,
)
from mllama.engine.defaults import DEFAULT_CE_BATCH_SIZE
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.imports import leave_torch_out
from mllama.max_cli_api import WithLazyPipelineOptions
from mllama.privacy import turn_telemetry_off
from mllama.serving.early_worker import start_early

_MAIN_OPTIONS = (
    "model_path",
    "weight_path",
    "lora_path",
    "devices",
    "quantization_encoding",
    "max_length",
    "max_batch_size",
    "max_ce_batch_size",
    "serialized_model_path",
    "save_to_serialized_model_path",
    "image_cache_size",
    "max_images_per_request",
    "huggingface_model_revision",
    "huggingface_weight_revision",
    "force_download",
    "top_k",
    "served_model_name",
    "host",
    "port",
    "max_queue_size",
    "max_pending_requests",
    "log_prefix",
    "help",
)

_SETTINGS = {
    "host": "MAX_SERVE_HOST",
    "port": "MAX_SERVE_PORT",
    "max_queue_size": "MAX_SERVE_MAX_QUEUE_SIZE",
    "max_pending_requests": "MAX_SERVE_MAX_PENDING_REQUESTS",
    "log_prefix": "MAX_SERVE_LOG_PREFIX",
}
"""Options of the server, and MAX's names for them."""

_OTHER_MODELS_OPTIONS = {
    ("enable_lora", "lora_paths", "max_lora_rank", "max_num_loras"): "takes one "
    "adapter with --lora-path, which is merged into the weights",
    ("export_mefs",): "has --save-to-serialized-model-path",
    ("precompiled_mefs",): "has --serialized-model-path",
    ("vision_config_overrides",): "has --image-cache-size and --max-images-per-request",
}
"""MAX's options that this model doesn't take, and what it has instead."""

_OF_THE_FILES = (
    "lora_path",
    "serialized_model_path",
    "save_to_serialized_model_path",
)
"""Options that say what is loaded, and are none of MAX's."""

_IN_FLIGHT = "enable_in_flight_batching"
"""Running requests get their next token with every step that reads another's prompt
or encodes its images: on, unless the user says otherwise."""

_HELP = {
    "model_path": "Checkpoint: a directory in Hugging Face layout, a GGUF file, "
    "ollama:NAME from Ollama's store, or a repository of the hub, owner/name, which is "
    "downloaded.  Default: the demo model that ships with this package.",
    "weight_path": "Read the weights from this file instead of the checkpoint's: a "
    "path, a file of the model's repository, or owner/name/FILE.  Repeatable.",
    "huggingface_model_revision": "Branch, tag or commit of a repository of the hub.  "
    "Default: main.",
    "huggingface_weight_revision": "That of weights, if it is another one.",
    "force_download": "Download from the hub what its cache has already.",
    "devices": "cpu, gpu or gpu:N.  Default: the first GPU, or the CPU.",
    "quantization_encoding": "float32, bfloat16, q4_0, q4_k or q6_k on a CPU, bfloat16 "
    "or float32 on a GPU.  Default: bfloat16 on a GPU; on a CPU a GGUF file's own, "
    "q4_k for a checkpoint of bfloat16, float32 for one of float32.",
    "max_length": "Longest sequence, prompt and answer, in tokens.  Default: the "
    "model's limit.",
    "max_batch_size": "Requests worked on together; others wait.  Default: 1.",
    "top_k": "How many of the likeliest tokens a request chooses from that asks for "
    "no sampling of its own.  Default: 1, which is greedy.",
    "served_model_name": "The model's name in requests.  Default: the --model-path.",
}
"""Where this command's defaults are not MAX's."""


class ServeCommand(WithLazyPipelineOptions):
    """MAX's options under their own names, ours first in the help."""

    def _ensure_options_loaded(self) -> None:
        turn_telemetry_off(server=True)  # MAX reads the environment as it is imported.
        leave_torch_out()
        super()._ensure_options_loaded()
        for param in self.params:
            if isinstance(param, click.Option) and param.name in _HELP:
                param.help = _HELP[param.name]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, which loads MAX's options and so most of MAX."""
        if not any(option in args for option in ctx.help_option_names):
            _prepare_environment()
            start_early()
        try:
            return list(super().parse_args(ctx, args))
        except ValueError as error:
            raise MllamaError(str(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; MAX checks devices and values with ``ValueError``."""
        try:
            return super().invoke(ctx)
        except MllamaError:
            raise
        except ValueError as error:
            raise MllamaError(str(error)) from error

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the options that matter here before MAX's many others."""
        records = {
            str(param.name): record
            for param in self.get_params(ctx)
            if (record := param.get_help_record(ctx)) is not None
        }
        for names in _OTHER_MODELS_OPTIONS:
            for name in names:
                records.pop(name, None)
        main = [records.pop(name) for name in _MAIN_OPTIONS if name in records]
        with formatter.section("Options"):
            formatter.write_dl(main)
        with formatter.section("Options of MAX Serve"):
            formatter.write_dl(list(records.values()))


def _prepare_environment() -> None:
    """Sets what MAX reads from the environment, in this process and the model's."""
    turn_telemetry_off(server=True)
    # Lines of the log that are this package's own.
    os.environ.setdefault("MAX_SERVE_LOGS_ENABLE_COMPONENTS", "mllama")
    os.environ.setdefault("MAX_SERVE_HOST", "127.0.0.1")
    # In the server's own process: /metrics on its port, and no third process.
    os.environ.setdefault("MAX_SERVE_METRIC_RECORDING_METHOD", "ASYNCIO")


def _hub_options(options: dict[str, Any]) -> HubOptions:
    """Takes what is said about the hub out of MAX's options: MAX finds files."""
    context = click.get_current_context()
    said = {
        name: value
        for name in (
            "huggingface_model_revision",
            "huggingface_weight_revision",
            "force_download",
        )
        if (value := options.pop(name, None)) is not None
        and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return HubOptions(
        said.get("huggingface_model_revision"),
        said.get("huggingface_weight_revision"),
        said.get("force_download", False),
    )


@click.command(cls=ServeCommand)
@click.option("--host", help="Interface to listen on.  Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on.  Default: 8000.")
@click.option(
    "--max-queue-size",
    type=int,
    help="Requests that may wait for the model before others get a 429.",
)
@click.option(
    "--max-pending-requests",
    type=int,
    help="Requests that the scheduler takes in before their prompt is worked on.",
)
@click.option("--log-prefix", help="Text before every line of the log.")
@click.option(
    "--max-ce-batch-size",
    type=click.IntRange(min=1),
    default=DEFAULT_CE_BATCH_SIZE,
    show_default=True,
    metavar="N",
    help="Most requests whose prompts are read in one step; never more than "
    "--max-batch-size.",
)
@adapter_option
@compiled_options
@image_options
def serve(**options: Any) -> None:
    """Serve an OpenAI-compatible endpoint with MAX Serve.

    \b
    mllama serve
    mllama serve --model-path DIR --max-batch-size 8
    """
    from mllama.engine.options import ARCHITECTURES
    from mllama.images.settings import image_settings

    _refuse_other_models_options(click.get_current_context())
    server = {
        alias: value
        for name, alias in _SETTINGS.items()
        if (value := options.pop(name)) is not None
    }
    ours = {name: options.pop(name) for name in _OF_THE_FILES}
    model_settings: dict[str, Any] = {}
    if not options.get("config_file"):
        model_settings = _find_model(options, **ours)
    for name, value in ours.items():
        if value is not None and options.get("config_file"):
            raise MllamaError(
                f"--{name.replace('_', '-')} goes with --model-path, not with "
                "--config-file; name the model on the command line"
            )
    source = click.get_current_context().get_parameter_source(_IN_FLIGHT)
    if source is None or source is ParameterSource.DEFAULT:
        options[_IN_FLIGHT] = True
    options["vision_config_overrides"] = {
        **image_settings(
            options.pop("image_cache_size"), options.pop("max_images_per_request")
        ),
        **model_settings,
    }
    max_ce_batch_size = options.pop("max_ce_batch_size")
    options["custom_architectures"] = [
        ARCHITECTURES,
        *options.get("custom_architectures", ()),
    ]

    from max.pipelines.lib import PipelineArgs

    from mllama.max_serve_api import (
        Settings,
        configure_logging,
        configure_metrics,
        configure_tracing,
    )
    from mllama.serving.server import serve as run

    settings = Settings(**server)
    configure_logging(settings)
    configure_metrics(settings)
    configure_tracing(settings)
    run(settings, PipelineArgs.from_flat_kwargs(**options), max_ce_batch_size)


def _find_model(
    options: dict[str, Any],
    *,
    lora_path: str | None,
    serialized_model_path: str | None,
    save_to_serialized_model_path: str | None,
) -> dict[str, Any]:
    """Puts the model's files and this package's defaults into MAX's options.

    Returns:
        What the model is told beside them.
    """
    from mllama.engine.model_files import find_model_files
    from mllama.engine.options import DEMO_MODEL_NAME, find_device

    if not options["model_path"]:
        options["model_path"] = model_or_demo(None)
        options["served_model_name"] = options["served_model_name"] or DEMO_MODEL_NAME
    options["served_model_name"] = options["served_model_name"] or options["model_path"]
    devices = options.setdefault("device_specs", [find_device(None)])
    files = find_model_files(
        options["model_path"],
        weight_path=options["weight_path"],
        encoding=options["quantization_encoding"],
        lora_path=lora_path,
        device_type=devices[0].device_type,
        max_length=options["max_length"],
        hub=_hub_options(options),
        quiet=False,
    )
    options["max_batch_size"] = options["max_batch_size"] or 1
    files = files.compiled_for(
        devices,
        max_length=options["max_length"],
        max_batch_size=options["max_batch_size"],
        max_ce_batch_size=options["max_ce_batch_size"],
        saved=serialized_model_path,
        save_to=save_to_serialized_model_path,
    )
    click.echo(f"mllama: {files.described()}", err=True)
    files = files.quantised(quiet=False)
    options["model_path"] = str(files.model)
    options["weight_path"] = list(files.weight_path)
    options["quantization_encoding"] = files.encoding.max_name
    if options["top_k"] is None:
        options["top_k"] = 1
    return files.settings


def _refuse_other_models_options(context: click.Context) -> None:
    """Refuses options of MAX's that would be ignored, and names ours."""
    for names, ours in _OTHER_MODELS_OPTIONS.items():
        for name in names:
            source = context.get_parameter_source(name)
            if source not in (
                None,
                ParameterSource.DEFAULT,
                ParameterSource.DEFAULT_MAP,
            ):
                raise MllamaError(
                    f"--{name.replace('_', '-')} is for other models; this one {ours}"
                )
