"""``mllama serve``: serves the model with MAX Serve, and takes all of its options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mllama.cli.config_file import CONFIG_FILE_SETTINGS
from mllama.cli.options import model_or_demo, options_of
from mllama.cli.refused_options import (
    OPTIONS_FOR_OTHER_MODELS,
    refuse_options_for_other_models,
    refuse_options_without_effect,
)
from mllama.cli.sections import SectionedCommand
from mllama.demo_model import MODEL_NAME
from mllama.errors import MllamaError
from mllama.max_compat.cli import WithLazyPipelineOptions
from mllama.server.environment import prepare_environment
from mllama.server.worker_prespawn import end_prespawned_worker, prespawn_worker
from mllama.utils.open_files import check_open_files
from mllama.utils.telemetry import are_traces_configured, disable_telemetry
from mllama.utils.torch_blocker import block_torch

if TYPE_CHECKING:
    from mllama.launch.options import EngineOptions
    from mllama.max_compat.server import Settings
    from mllama.server.options import BoundSockets, ServerOptions

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
            prepare_environment()
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


@click.command(cls=ServeCommand)
@options_of(
    "serve",
    config_file=CONFIG_FILE_SETTINGS,
)
def serve(**options: Any) -> None:
    """Serve the APIs of OpenAI, Anthropic and Ollama with MAX Serve.

    \b
    mllama serve
    mllama serve --model-path DIR --max-batch-size 8
    """
    from mllama.engine.serving import ServingOptions
    from mllama.utils.cpu_affinity import limited_to_cores

    refuse_options_for_other_models(click.get_current_context())
    refuse_options_without_effect(options)
    max_new_tokens = options.pop("max_new_tokens")
    # Values out of range are refused before the model is loaded.
    ServingOptions(max_new_tokens=max_new_tokens, top_k=options["top_k"])
    with limited_to_cores(options.pop("num_threads")):
        _serve(options, None if max_new_tokens == -1 else max_new_tokens)


def _serve(options: dict[str, Any], max_new_tokens: int | None) -> None:
    from mllama.cli.server_settings import take_server_options, take_settings
    from mllama.server.settings import without_queue_bounds

    settings = take_settings(options)
    server_options = take_server_options(options, settings)
    server_options.log_style.apply_to_stderr()
    check_open_files()
    # A port that can't be used is refused before anything is downloaded or loaded.
    with server_options.bound() as sockets:
        _serve_on(
            sockets,
            without_queue_bounds(settings),
            server_options,
            options,
            max_new_tokens,
        )


def _serve_on(
    sockets: BoundSockets,
    settings: Settings,
    server_options: ServerOptions,
    options: dict[str, Any],
    max_new_tokens: int | None,
) -> None:
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
        sockets=sockets,
        max_ce_batch_size=engine_options.max_ce_batch_size,
        max_new_tokens=max_new_tokens,
        tool_parser=engine_options.tool_form,
    )


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
