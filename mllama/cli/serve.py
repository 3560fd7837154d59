"""``mllama serve``: MAX Serve with this model, and all of its options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mllama.cli.config_file import use_config_file
from mllama.cli.options import model_options, model_or_demo
from mllama.cli.sections import ANSWER, MODEL, SERVER, SectionedCommand, option
from mllama.demo_model import MODEL_NAME
from mllama.errors import MllamaError
from mllama.hub.options import HubOptions
from mllama.max_compat.cli import WithLazyPipelineOptions
from mllama.max_compat.mojo_modules import compiles_at_import
from mllama.server.worker_prespawn import end_prespawned_worker, prespawn_worker
from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.max_model.settings import ModelSettings

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
    ("section_name",): "reads the whole --config-file",
    ("vision_config_overrides",): "has --image-cache-size and --max-images-per-request",
}
"""MAX's options that this model doesn't take, and what it has instead."""

_ANYTHING = ("--config-file",)
"""What may hold any other option."""

_IN_FLIGHT = "enable_in_flight_batching"
"""Running requests get their next token with every step that reads another's prompt
or encodes its images: on, unless the user says otherwise."""


class ServeCommand(WithLazyPipelineOptions, SectionedCommand):
    """MAX's options under their own names, after ours in the help."""

    others = "Others of MAX Serve"

    def _ensure_options_loaded(self) -> None:
        disable_telemetry(server=True)  # MAX reads the environment as it is imported.
        super()._ensure_options_loaded()
        # Ours come first, and stand for MAX's of the same name.
        kept: dict[str | None, click.Parameter] = {}
        for param in self.params:
            kept.setdefault(param.name, param)
        self.params = list(kept.values())
        for names in _OTHER_MODELS_OPTIONS:
            for name in names:
                kept[name].hidden = True  # type: ignore[attr-defined]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, for which most of MAX is loaded."""
        if not ctx.resilient_parsing and "--help" not in args:
            _prepare_environment()
            with_torch = _is_given(("--trust-remote-code", *_ANYTHING), args)
            if not with_torch:
                block_torch()
            # MAX's threads are made as it is imported.
            threads_given = _is_given(("--num-threads", *_ANYTHING), args)
            # Two processes that import MAX would both compile its module.
            if not threads_given and not compiles_at_import():
                prespawn_worker(with_torch=with_torch)
        try:
            with _refusals_of_max():
                return list(super().parse_args(ctx, args))
        except BaseException:
            end_prespawned_worker()
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        # MAX would read the devices in its own way, if it saw them.
        ctx.params["device_names"] = ctx.params["devices"]
        ctx.params["devices"] = None
        try:
            with _refusals_of_max():
                return super().invoke(ctx)
        finally:
            end_prespawned_worker()  # If MAX has not come to start the model.


@contextlib.contextmanager
def _refusals_of_max() -> Iterator[None]:
    """MAX checks values with ``ValueError``; here such an error is the user's."""
    try:
        yield
    except MllamaError:
        raise
    except ValueError as error:
        raise MllamaError(str(error)) from error


def _is_given(options: tuple[str, ...], args: list[str]) -> bool:
    """Whether one of the options is among arguments that aren't parsed yet."""
    return any(arg.startswith(options) for arg in args)


def _prepare_environment() -> None:
    """Sets what MAX reads from the environment, in this process and the model's."""
    disable_telemetry(server=True)
    limit_spinning()
    # Lines of the log that are this package's own.
    os.environ.setdefault("MAX_SERVE_LOGS_ENABLE_COMPONENTS", "mllama")
    os.environ.setdefault("MAX_SERVE_HOST", "127.0.0.1")
    # In the server's own process: /metrics on its port, and no third process.
    os.environ.setdefault("MAX_SERVE_METRIC_RECORDING_METHOD", "ASYNCIO")


@click.command(cls=ServeCommand)
@model_options
@option(
    "--huggingface-weight-revision",
    section=MODEL,
    metavar="REVISION",
    help="That of weights, if it is another one.",
)
@option(
    "--max-new-tokens",
    section=ANSWER,
    type=int,
    default=-1,
    show_default=True,
    metavar="N",
    help="Longest answer to a request that sets no limit of its own; -1 goes on until "
    "the context is full.",
)
@option(
    "--top-k",
    section=ANSWER,
    type=int,
    default=1,
    show_default=True,
    metavar="K",
    help="How many of the likeliest tokens a request chooses from that asks for no "
    "sampling of its own; 1 is greedy, -1 is all.",
)
@option(
    "--served-model-name",
    section=SERVER,
    metavar="NAME",
    help="The model's name in requests.  Default: the --model-path.",
)
@option(
    "--host",
    section=SERVER,
    help="Interface to listen on.  Default: 127.0.0.1.",
)
@option("--port", section=SERVER, type=int, help="Port to listen on.  Default: 8000.")
@option(
    "--max-queue-size",
    section=SERVER,
    type=int,
    metavar="N",
    help="Requests that may wait for the model before others get a 429.  Default: no "
    "limit.",
)
@option(
    "--max-pending-requests",
    section=SERVER,
    type=int,
    metavar="N",
    help="Requests that the scheduler takes in before their prompt is worked on.  "
    "Default: no limit.",
)
@option("--log-prefix", section=SERVER, help="Text before every line of the log.")
@option(
    "--config-file",
    section=SERVER,
    type=click.Path(dir_okay=False),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=use_config_file,
    help="Read options that aren't given here from this YAML file.",
)
def serve(**options: Any) -> None:
    """Serve an OpenAI-compatible endpoint with MAX Serve.

    \b
    mllama serve
    mllama serve --model-path DIR --max-batch-size 8
    """
    from mllama.requests.sampling_params import Sampling
    from mllama.utils.cpu_affinity import limited_to_cores

    _refuse_other_models_options(click.get_current_context())
    max_new_tokens = options.pop("max_new_tokens")
    Sampling(max_new_tokens=max_new_tokens, top_k=options["top_k"])
    with limited_to_cores(options.pop("num_threads")):
        _serve(options, None if max_new_tokens == -1 else max_new_tokens)


def _serve(options: dict[str, Any], max_new_tokens: int | None) -> None:
    from mllama.launch.options import ARCHITECTURES
    from mllama.max_model.settings import ModelSettings

    server = {
        alias: value
        for name, alias in _SETTINGS.items()
        if (value := options.pop(name)) is not None
    }
    images = {
        name: options.pop(name)
        for name in ("image_cache_size", "max_images_per_request")
    }
    ModelSettings(**images)  # Checks them before anything is downloaded.
    max_ce_batch_size = options.pop("max_ce_batch_size")
    settings_of_model = _find_model(options, max_ce_batch_size)
    options["vision_config_overrides"] = replace(settings_of_model, **images).to_max()
    source = click.get_current_context().get_parameter_source(_IN_FLIGHT)
    if source is None or source is ParameterSource.DEFAULT:
        options[_IN_FLIGHT] = True
    options["custom_architectures"] = [
        ARCHITECTURES,
        *options.get("custom_architectures", ()),
    ]

    from max.pipelines.lib import PipelineArgs

    from mllama.max_compat.server import (
        Settings,
        configure_logging,
        configure_metrics,
        configure_tracing,
    )
    from mllama.server.app import serve as run

    settings = Settings(**server)
    configure_logging(settings)
    configure_metrics(settings)
    configure_tracing(settings)
    run(
        settings,
        PipelineArgs.from_flat_kwargs(**options),
        max_ce_batch_size=max_ce_batch_size,
        max_new_tokens=max_new_tokens,
    )


def _find_model(options: dict[str, Any], max_ce_batch_size: int) -> ModelSettings:
    """Puts the model's files and this package's defaults into MAX's options.

    Returns:
        What the model is told beside them.
    """
    from mllama.launch.devices import find_devices
    from mllama.launch.resolve import resolve_model_files

    if not options["model_path"]:
        options["model_path"] = model_or_demo(None)
        options["served_model_name"] = options["served_model_name"] or MODEL_NAME
    options["served_model_name"] = options["served_model_name"] or options["model_path"]
    options["device_specs"] = find_devices(options.pop("device_names"))
    files = resolve_model_files(
        options["model_path"],
        weight_path=options["weight_path"],
        encoding=options["quantization_encoding"],
        vision_encoding=options.pop("vision_encoding"),
        lora_path=options.pop("lora_path"),
        device_type=options["device_specs"][0].device_type,
        max_length=options["max_length"],
        hub=HubOptions(
            options.pop("huggingface_model_revision"),
            options.pop("huggingface_weight_revision"),
            force_download=options.pop("force_download"),
            trust_remote_code=options["trust_remote_code"],
        ),
        quiet=False,
    ).compiled_for(
        options["device_specs"],
        max_length=options["max_length"],
        max_batch_size=options["max_batch_size"],
        max_ce_batch_size=max_ce_batch_size,
        saved=options.pop("serialized_model_path"),
        save_to=options.pop("save_to_serialized_model_path"),
    )
    click.echo(f"mllama: {files.described()}", err=True)
    files = files.quantized(quiet=False)
    options["model_path"] = str(files.model)
    options["weight_path"] = list(files.weight_path)
    options["quantization_encoding"] = files.encoding.max_name
    return files.settings


def _refuse_other_models_options(context: click.Context) -> None:
    """Refuses options of MAX's that would be ignored, and names ours."""
    for names, ours in _OTHER_MODELS_OPTIONS.items():
        for name in names:
            source = context.get_parameter_source(name)
            if source not in (None, ParameterSource.DEFAULT):
                raise MllamaError(
                    f"--{name.replace('_', '-')} is for other models; this one {ours}"
                )
