"""Imports Ray, which is an extra, with its usage reports off."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Final

from mllama.errors import MllamaError

_ENVIRONMENT: Final = {
    # Ray reports to its makers unless it is told not to.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    # Otherwise a future version's default is announced in each log.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_ONE_MACHINE: Final = {
    # Has the node's address be that of loopback, where its processes listen then.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of the machine need a token, which Ray keeps in the home folder.
    "RAY_AUTH_MODE": "token",
}
"""Variables of a cluster that is started for this machine alone."""


def import_ray(*, one_machine: bool = False) -> ModuleType:
    """Returns the module ``ray``, whose parts ``serve`` and ``data`` may be imported.

    Args:
        one_machine: Whether a cluster of this machine alone is to be started.  It
            counts for the first import only.

    Raises:
        MllamaError: If it isn't installed.
    """
    if "ray" not in sys.modules:
        # Ray reads them as it is imported: its processes would differ from this one.
        variables = _ENVIRONMENT | (_ONE_MACHINE if one_machine else {})
        for name, value in variables.items():
            os.environ.setdefault(name, value)
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise MllamaError(
            f"a cluster needs Ray, and {error.name or 'a part of it'} is not "
            "installed: pip install 'mllama[cluster]'"
        ) from None
    return ray
