"""``mllama serve``: serves the model with MAX Serve, and takes all of its options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from pydantic import ByteSize, TypeAdapter, ValidationError

from mllama.cli.config_file import use_config_file
from mllama.cli.options import model_or_demo, options_of
from mllama.cli.refused_options import (
    OPTIONS_FOR_OTHER_MODELS,
    refuse_options_for_other_models,
    refuse_options_without_effect,
)
from mllama.cli.sections import SectionedCommand
from mllama.cli.serve_options import OLLAMA_PORT
from mllama.demo_model import MODEL_NAME
from mllama.errors import MllamaError
from mllama.max_compat.cli import WithLazyPipelineOptions
from mllama.server.worker_prespawn import end_prespawned_worker, prespawn_worker
from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import are_traces_configured, disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from mllama.launch.options import EngineOptions
    from mllama.max_compat.server import Settings
    from mllama.server.batches.options import BatchOptions
    from mllama.server.options import ServerOptions
    from mllama.server.scheduling.options import OverloadOptions
    from mllama.server.supervisor.restart_options import RestartOptions

_API_KEY = "MLLAMA_API_KEY"
_ADMIN_KEY = "MLLAMA_ADMIN_KEY"
"""Variables with keys, which a command line would show to every user of the machine."""

_SERVER_SETTINGS = {
    "host": "MAX_SERVE_HOST",
    "port": "MAX_SERVE_PORT",
    "max_queue_size": "MAX_SERVE_MAX_QUEUE_SIZE",
    "max_pending_requests": "MAX_SERVE_MAX_PENDING_REQUESTS",
    "log_prefix": "MAX_SERVE_LOG_PREFIX",
    "shutdown_timeout": "MAX_SERVE_GRACEFUL_SHUTDOWN_TIMEOUT_S",
}
"""MAX Serve's settings that the server's options set."""

_STRUCTURED_LOGGING = "MODULAR_STRUCTURED_LOGGING"
"""MAX's setting for logs in JSON."""

_PHOTOS_BYTES = 256 * 2**20
"""The default limit for a request's body, and for the files of its images together."""

_CONFIG_FILE = "--config-file"
"""Option whose file may set any other option."""

_IN_FLIGHT = "enable_in_flight_batching"
"""Option of MAX that lets running requests decode a token in each step that prefills
another request or encodes its images.  Here it is on by default."""


class ServeCommand(WithLazyPipelineOptions, SectionedCommand):
    """A command that also takes MAX's options, which its help lists last."""

    last_section = "Other MAX Serve options"

    def _ensure_options_loaded(self) -> None:
        disable_telemetry(server=True)  # MAX reads the environment when imported.
        super()._ensure_options_loaded()
        # This package's options come first and replace MAX's of the same name.
        by_name: dict[str | None, click.Parameter] = {}
        for param in self.params:
            by_name.setdefault(param.name, param)
        self.params = list(by_name.values())
        for names in OPTIONS_FOR_OTHER_MODELS:
            for name in names:
                by_name[name].hidden = True  # type: ignore[attr-defined]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, which loads most of MAX."""
        if not ctx.resilient_parsing and "--help" not in args:
            _prepare_environment()
            with_torch = _may_be_given("--trust-remote-code", args)
            if not with_torch:
                block_torch()
            # The worker creates MAX's threads before their number is parsed.
            threads_given = _may_be_given("--num-threads", args)
            if not threads_given:
                prespawn_worker(with_torch=with_torch)
        try:
            with _value_errors_as_bad_input():
                return list(super().parse_args(ctx, args))
        except BaseException:
            end_prespawned_worker()
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        # MAX would parse the devices by its own rules.
        ctx.params["device_names"] = ctx.params["devices"]
        ctx.params["devices"] = None
        try:
            with _value_errors_as_bad_input():
                return super().invoke(ctx)
        finally:
            end_prespawned_worker()  # Does nothing if the server has taken it.


@contextlib.contextmanager
def _value_errors_as_bad_input() -> Iterator[None]:
    """Turns ``ValueError``, by which MAX reports bad options, into ``MllamaError``."""
    try:
        yield
    except MllamaError:
        raise
    except ValueError as error:
        raise MllamaError(str(error)) from error


def _may_be_given(option: str, args: list[str]) -> bool:
    """Returns True if unparsed arguments contain an option, or a file that may."""
    return any(arg.startswith((option, _CONFIG_FILE)) for arg in args)


def _prepare_environment() -> None:
    """Sets the variables that MAX reads, in this process and in the model's."""
    disable_telemetry(server=True)
    limit_spinning()
    # Shows this package's own lines in the log.
    os.environ.setdefault("MAX_SERVE_LOGS_ENABLE_COMPONENTS", "mllama")
    os.environ.setdefault("MAX_SERVE_HOST", "127.0.0.1")
    # /metrics has this package's metrics: MAX's would take time in each step, and in
    # the worker nothing reads them.
    os.environ.setdefault("MAX_SERVE_METRIC_RECORDING_METHOD", "NOOP")


@click.command(cls=ServeCommand)
@options_of(
    "serve",
    config_file={
        "type": click.Path(dir_okay=False),
        "is_eager": True,
        "expose_value": False,
        "callback": use_config_file,
    },
)
def serve(**options: Any) -> None:
    """Serve the APIs of OpenAI, Anthropic and Ollama with MAX Serve.

    \b
    mllama serve
    mllama serve --model-path DIR --max-batch-size 8
    """
    from mllama.requests.sampling_params import Sampling
    from mllama.utils.cpu_affinity import limited_to_cores

    refuse_options_for_other_models(click.get_current_context())
    refuse_options_without_effect(options)
    max_new_tokens = options.pop("max_new_tokens")
    # Values out of range are refused before the model is loaded.
    if max_new_tokens < -1 or max_new_tokens == 0:
        raise MllamaError(
            f"--max-new-tokens must be -1 or at least 1, not {max_new_tokens}"
        )
    Sampling(top_k=options["top_k"])
    with limited_to_cores(options.pop("num_threads")):
        _serve(options, None if max_new_tokens == -1 else max_new_tokens)


def _serve(options: dict[str, Any], max_new_tokens: int | None) -> None:
    from mllama.max_compat.server import Settings
    from mllama.server.scheduling.options import overload_options

    server_settings = {
        alias: value
        for name, alias in _SERVER_SETTINGS.items()
        if (value := options.pop(name)) is not None
    }
    if options.pop("ollama"):
        if options["uds"] is not None:
            raise MllamaError("--uds and --ollama can't be combined")
        server_settings.setdefault(_SERVER_SETTINGS["port"], OLLAMA_PORT)
    log_format = options.pop("log_format")
    if log_format is not None:
        # MAX's worker logs its first lines by itself.
        server_settings[_STRUCTURED_LOGGING] = log_format == "json"
    settings = Settings(**server_settings)
    # 32 photos of a phone are more than MAX's limits, unless somebody has set those.
    for name in {"max_request_bytes", "max_media_bytes"} - settings.model_fields_set:
        settings = settings.model_copy(update={name: _PHOTOS_BYTES})
    overload = overload_options(settings, options.pop("max_time_to_first_token"))
    # The bound is this package's: MAX's queues behind it never fill.
    settings = settings.model_copy(
        update={"max_queue_size": None, "max_pending_requests": None}
    )
    server_options = _take_server_options(options, settings)
    server_options.log_style.apply_to_stderr()
    # A port that can't be used is refused before anything is downloaded or loaded.
    with server_options.bound() as sockets, server_options.metrics_bound() as others:
        _serve_on(
            sockets,
            others,
            settings,
            server_options,
            overload,
            options,
            max_new_tokens,
        )


def _serve_on(
    sockets: Sequence[socket.socket],
    metrics_sockets: Sequence[socket.socket],
    settings: Settings,
    server_options: ServerOptions,
    overload: OverloadOptions,
    options: dict[str, Any],
    max_new_tokens: int | None,
) -> None:
    restarts = _take_restart_options(options)
    model_name = options.pop("served_model_name")
    if not options["model_path"]:
        options["model_path"] = model_or_demo(None)
        model_name = model_name or MODEL_NAME
    compile_in_background = not options.pop("no_background_compilation")
    engine_options = _take_engine_options(options)
    files = engine_options.resolve(
        compile_in_background=compile_in_background, quiet=False
    )
    for line in files.lines():
        click.echo(f"mllama: {line}", err=True)
    files = files.ensure_quantized(quiet=False)

    from mllama.max_compat.server import (
        configure_logging,
        configure_metrics,
    )
    from mllama.max_compat.tracing import start_tracing
    from mllama.server.app import serve as run
    from mllama.server.model_description import describe_model
    from mllama.server.model_names import default_name

    configure_logging(settings)
    server_options.log_style.apply()
    configure_metrics(settings)
    if are_traces_configured():
        start_tracing(settings)
    run(
        settings,
        engine_options.pipeline_args(
            files,
            served_model_name=model_name or default_name(engine_options.model),
            **options,
        ),
        description=describe_model(files, engine_options.model),
        options=server_options,
        overload=overload,
        sockets=sockets,
        metrics_sockets=metrics_sockets,
        max_ce_batch_size=engine_options.max_ce_batch_size,
        max_new_tokens=max_new_tokens,
        tool_parser=engine_options.tool_form,
        restarts=restarts,
    )


def _take_restart_options(options: dict[str, Any]) -> RestartOptions:
    """Removes the options of ``RestartOptions`` from the command's and returns them."""
    from mllama.server.supervisor.restart_options import RestartOptions

    return RestartOptions(
        keeps_standby=not options.pop("no_standby_worker"),
        most_restarts=options.pop("max_worker_restarts"),
    )


def _take_server_options(options: dict[str, Any], settings: Settings) -> ServerOptions:
    """Removes the options of ``ServerOptions`` from the command's and returns them."""
    from mllama.server.access.keys import read_keys
    from mllama.server.http_server import TlsFiles
    from mllama.server.observability.log_format import LogStyle
    from mllama.server.options import ServerOptions

    uds, certificate = options.pop("uds"), options.pop("ssl_certfile")
    key, password = options.pop("ssl_keyfile"), options.pop("ssl_keyfile_password")
    context = click.get_current_context()
    if uds is not None:
        for name in ("host", "port"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise MllamaError(f"--uds and --{name} can't be combined")
    if certificate is None and (key is not None or password is not None):
        raise MllamaError("--ssl-keyfile has no effect without --ssl-certfile")
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        uds=uds,
        api_keys=read_keys(
            options.pop("api_key"),
            options.pop("api_key_file"),
            os.environ.get(_API_KEY),
        ),
        admin_keys=read_keys(
            options.pop("admin_key"), None, os.environ.get(_ADMIN_KEY)
        ),
        origins=options.pop("cors_origin"),
        allowed_hosts=options.pop("allowed_host"),
        root_path=options.pop("root_path"),
        metrics_port=options.pop("metrics_port"),
        logs_requests=not options.pop("no_access_log"),
        log_style=LogStyle(
            "json" if settings.structured_logging else "text", settings.log_prefix
        ),
        tls=None
        if certificate is None
        else TlsFiles(certificate=certificate, key=key, password=password),
        batches=_take_batch_options(options),
    )


def _take_batch_options(options: dict[str, Any]) -> BatchOptions | None:
    """Removes the options of ``BatchOptions`` and returns them, if there is a folder.

    Raises:
        MllamaError: If a value is wrong, or there is a limit and no folder.
    """
    from mllama.server.batches.options import BatchOptions

    directory = options.pop("batch_dir")
    limits = {
        field: value
        for name, field in (
            ("batch_max_file_size", "max_file_bytes"),
            ("batch_max_lines", "max_lines"),
            ("batch_max_files", "max_files"),
            ("batch_max_disk", "max_disk_bytes"),
        )
        if (value := options.pop(name)) is not None
    }
    for field, option in (
        ("max_file_bytes", "--batch-max-file-size"),
        ("max_disk_bytes", "--batch-max-disk"),
    ):
        if field in limits:
            limits[field] = _bytes_of(limits[field], option)
    if directory is None:
        if limits:
            raise MllamaError("limits of batches have no effect without --batch-dir")
        return None
    return BatchOptions(directory=Path(directory), **limits)


def _bytes_of(text: str, option: str) -> int:
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size < 1:
        raise MllamaError(f"{option} must be a size such as 200MiB, not {text!r}")
    return size


def _take_engine_options(options: dict[str, Any]) -> EngineOptions:
    """Removes the options of ``EngineOptions`` from the command's and returns them.

    MAX's own options stay, except those whose values this package chooses.
    """
    from mllama.launch.options import EngineOptions

    values = {
        field.name: options.pop(field.name)
        for field in fields(EngineOptions)
        if field.name in options
    }
    values["devices"] = options.pop("device_names")
    for name in ("device_specs", "vision_config_overrides"):
        options.pop(name, None)
    source = click.get_current_context().get_parameter_source(_IN_FLIGHT)
    if source in (None, ParameterSource.DEFAULT):
        options.pop(_IN_FLIGHT, None)
    return EngineOptions(**values)
