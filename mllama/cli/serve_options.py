"""Options of ``mllama serve``, but for those of access and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mllama.cli.option_sections import SERVER
from mllama.launch.defaults import DEFAULT_QUEUE_SIZE, DEFAULT_SHUTDOWN_TIMEOUT
from mllama.launch.option import COMPUTE, Option
from mllama.launch.sampling_options import SAMPLING_OPTIONS

OLLAMA_PORT: Final = 11434
"""The port on which Ollama's clients expect it."""


def _for_requests(option: Option, default: int) -> Option:
    return replace(
        option,
        takers=("serve", "cluster serve"),
        default=default,
        default_text=None,
        request_field=None,
        details="",
        description=f"For requests that don't set {option.request_field}: "
        f"{option.description[0].lower()}{option.description[1:]}",
    )


_SAMPLING_BY_NAME: Final = {option.name: option for option in SAMPLING_OPTIONS}

DEFAULT_OPTIONS: Final = (
    _for_requests(_SAMPLING_BY_NAME["max_new_tokens"], default=-1),
    replace(
        _for_requests(_SAMPLING_BY_NAME["top_k"], default=1),
        details="With the default, a request that sets temperature, top_p, min_p or "
        "seed samples from all tokens.",
    ),
)

SERVE_OPTIONS: Final = (
    Option(
        name="no_background_compilation",
        section=COMPUTE,
        takers=("serve",),
        kind="flag",
        description="Don't compile faster graphs for this CPU in the background, at "
        "the lowest priority and for the next run, while the server uses graphs that "
        "ship for any CPU.",
    ),
    Option(
        name="served_model_name",
        section=SERVER,
        takers=("serve", "cluster serve", "batch"),
        kind="text",
        metavar="NAME",
        description="Name of the model in requests.",
        default_text="the repository's id, or the folder's name",
    ),
    Option(
        name="host",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="text",
        description="Interface to listen on.",
        default_text="127.0.0.1",
    ),
    Option(
        name="port",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="integer",
        description="Port to listen on.",
        default_text="8000",
    ),
    Option(
        name="uds",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="FILE",
        description="Unix socket to listen on, instead of --host and --port.",
    ),
    Option(
        name="ollama",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="flag",
        description=f"Listen on port {OLLAMA_PORT}, where clients of Ollama expect it, "
        "unless --port names another.",
        details="Ollama's API is served on any port.",
    ),
    Option(
        name="max_queue_size",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="integer",
        metavar="N",
        description="Requests that may wait for the model. The server answers 429 to "
        "further ones. 0 takes no more than --max-batch-size at a time.",
        default_text=str(DEFAULT_QUEUE_SIZE),
    ),
    Option(
        name="max_pending_requests",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="integer",
        metavar="N",
        description="MAX's other name of --max-queue-size.",
        default_text="that of --max-queue-size",
    ),
    Option(
        name="metrics_port",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="integer",
        metavar="PORT",
        description="Further port, of --host, that has only /metrics and needs no key; "
        "0 is any that is free.",
        default_text="/metrics is on --port only",
    ),
    Option(
        name="max_worker_restarts",
        section=SERVER,
        takers=("serve",),
        kind="integer",
        metavar="N",
        description="Restarts of the model worker in a row, with less than a minute "
        "of service in between, before the server ends with exit code 1.",
        details="A worker that dies is replaced at once, and then after 1, 2, 4 ... 60 "
        "seconds.",
        default_text="no limit",
    ),
    Option(
        name="no_standby_worker",
        section=SERVER,
        takers=("serve",),
        kind="flag",
        description="Keep no process ready to replace the model worker: that saves "
        "about 165 MB of memory, and takes ten seconds more when the worker has died.",
    ),
    Option(
        name="attention",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="flag",
        description="Offer attention maps: a chat's field attention asks where in the "
        "images each word of its answer looked. Only on a CPU.",
        details="The graph is compiled once, for minutes, unless it ships as the demo "
        "model's does; of float weights, it takes more than half of the language "
        "model's memory again.",
    ),
    Option(
        name="log_format",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="text",
        choices=("text", "json"),
        description="json makes each line of the log a JSON object.",
        default_text="text, or json if MODULAR_STRUCTURED_LOGGING is set",
    ),
    Option(
        name="no_page",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="flag",
        description="Serve no page for browsers at /.",
    ),
    Option(
        name="no_access_log",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="flag",
        description="Log no line for each request.",
    ),
    Option(
        name="max_time_to_first_token",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="number",
        metavar="SECONDS",
        description="Refuse a request with 429 before any work on it if its first "
        "token is expected later, by the progress that has been measured. It bounds "
        "the wait for memory, too.",
        default_text="no limit",
    ),
    Option(
        name="shutdown_timeout",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="integer",
        metavar="SECONDS",
        description="How long requests in progress may go on after SIGTERM or Ctrl-C. "
        "The rest ends with an error.",
        default_text=str(DEFAULT_SHUTDOWN_TIMEOUT),
    ),
    Option(
        name="log_prefix",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="text",
        description="Text before every line of the log.",
    ),
    Option(
        name="config_file",
        section=SERVER,
        takers=("serve", "cluster serve"),
        kind="path",
        metavar="FILE",
        description="YAML file with further options. Those of the command line win.",
    ),
)
