"""Options of ``mllama serve`` that ``mllama cluster serve`` refuses, and why."""

from __future__ import annotations

from typing import Final

import click

from mllama.cli.refused_options import OPTIONS_FOR_OTHER_MODELS

OPTIONS_OF_ONE_WORKER: Final = {
    "no_background_compilation": "replicas compile nothing in the background: make "
    "graphs with `mllama compile`, and name them with --serialized-model-path",
    "save_to_serialized_model_path": "each replica would write it: make it once with "
    "`mllama compile`, and name it with --serialized-model-path",
    "max_worker_restarts": "Ray Serve replaces replicas that die, without a limit",
    "no_standby_worker": "replicas have no processes that stand by for them",
}
"""This package's options among them; the others are MAX's."""


def refusal_by_a_cluster(option: str) -> str | None:
    """Returns why ``mllama cluster serve`` refuses an option of ``mllama serve``.

    It loads MAX, whose options ``mllama serve`` takes too.

    Args:
        option: The option as it is typed.

    Returns:
        One line; None if ``mllama serve`` has no such option either.
    """
    from mllama.cli.serve import serve

    name = option.lstrip("-").replace("-", "_")
    if name in OPTIONS_OF_ONE_WORKER:
        return f"{option} is for `mllama serve` alone: {OPTIONS_OF_ONE_WORKER[name]}"
    for names, alternative in OPTIONS_FOR_OTHER_MODELS.items():
        if name in names:
            return f"{option} is for other models; this one {alternative}"
    params = serve.get_params(click.Context(serve))
    if not any(option in (*each.opts, *each.secondary_opts) for each in params):
        return None
    return (
        f"{option} is for `mllama serve` alone, which runs MAX's worker: replicas "
        "have the options that `mllama cluster serve --help` lists"
    )
