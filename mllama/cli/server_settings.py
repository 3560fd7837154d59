"""The server's options and settings, from those of ``mllama serve``.

This module loads MAX's server, so that the command imports it when it runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic import ByteSize, TypeAdapter, ValidationError

from mllama.cli.serve_options import OLLAMA_PORT
from mllama.errors import MllamaError
from mllama.max_compat.server import Settings
from mllama.server.access.keys import read_keys
from mllama.server.batches.options import BatchOptions
from mllama.server.http_server import TlsFiles
from mllama.server.observability.log_format import LogStyle
from mllama.server.options import ServerOptions
from mllama.server.scheduling.options import overload_options
from mllama.server.settings import settings_of
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


def take_settings(options: dict[str, Any]) -> Settings:
    """Removes the options of MAX Serve's settings from the command's, and returns all.

    Args:
        options: The command's options by name.

    Raises:
        MllamaError: If options contradict each other.
    """
    values = {
        alias: value
        for name, alias in _SERVER_SETTINGS.items()
        if (value := options.pop(name)) is not None
    }
    if options.pop("ollama"):
        if options["uds"] is not None:
            raise MllamaError("--uds and --ollama can't be combined")
        values.setdefault(_SERVER_SETTINGS["port"], OLLAMA_PORT)
    log_format = options.pop("log_format")
    if log_format is not None:
        # MAX's worker logs its first lines by itself.
        values[_STRUCTURED_LOGGING] = log_format == "json"
    return settings_of(values)


def take_server_options(options: dict[str, Any], settings: Settings) -> ServerOptions:
    """Removes the options of ``ServerOptions`` from the command's and returns them.

    Args:
        options: The command's options by name.
        settings: What :func:`take_settings` returned.

    Raises:
        MllamaError: If a value is wrong, or options contradict each other.
    """
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
        attention=options.pop("attention"),
        page=not options.pop("no_page"),
        overload=overload_options(settings, options.pop("max_time_to_first_token")),
        restarts=RestartOptions(
            keeps_standby=not options.pop("no_standby_worker"),
            most_restarts=options.pop("max_worker_restarts"),
        ),
    )


def _take_batch_options(options: dict[str, Any]) -> BatchOptions | None:
    """Removes the options of ``BatchOptions`` and returns them, if there is a folder.

    Raises:
        MllamaError: If a value is wrong, or there is a limit and no folder.
    """
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
