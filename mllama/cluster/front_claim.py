"""The claim of a front to an application of Ray Serve, which ends with its process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from mllama.errors import MllamaError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

_NAMESPACE: Final = "mllama"
"""Ray's namespace of the claims, which fronts of all drivers share."""


class _Claim:
    """An actor that does nothing: Ray ends it with the front that has started it."""


def checked_name(name: str) -> str:
    """Returns the name of an application.

    Raises:
        MllamaError: If it can't be one.
    """
    if _NAME.fullmatch(name) is None:
        raise MllamaError(
            "--name must be 1 to 63 letters, digits, dots, hyphens and underscores, "
            f"and begin with one of the first two, not {name!r}"
        )
    return name


@contextmanager
def claimed(ray: Any, name: str, deployment: str) -> Iterator[None]:
    """Has the application for this process alone, within a ``with`` block.

    An application whose front was killed is claimed by nobody.

    Args:
        ray: The module ``ray``, which is connected.
        name: The application's name.
        deployment: Its only deployment.

    Raises:
        MllamaError: If another front has it, or it is none of a front's.
    """
    from ray import serve
    from ray.exceptions import ActorAlreadyExistsError

    try:
        # It is not detached: Ray ends it when this process is gone, however it ends.
        claim = ray.remote(_Claim).options(
            name=f"front-of-{name}", namespace=_NAMESPACE, num_cpus=0, max_restarts=0
        )
        actor = claim.remote()
    except ActorAlreadyExistsError as error:
        raise MllamaError(
            f"the cluster has an application {name!r} already, of a `mllama cluster "
            "serve` that runs: end that one, or give this one another --name"
        ) from error
    try:
        found = serve.status().applications.get(name)
        others = sorted({*(found.deployments if found else ())} - {deployment})
        if others:
            raise MllamaError(
                f"the cluster has an application {name!r} already, which `mllama "
                f"cluster serve` has not started (it has a deployment {others[0]!r}): "
                "give this one another --name"
            )
        yield
    finally:
        ray.kill(actor)
