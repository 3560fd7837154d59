"""Ray on this machine, or a cluster that runs already, with errors in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from mllama.cluster.ray_import import import_ray
from mllama.errors import MllamaError, shortened
from mllama.utils.cpu import usable_cores

logger = logging.getLogger("mllama")

_CONNECT_SECONDS: Final = 5.0
"""How long an address may take to accept a connection."""

_START_TRIES: Final = 4
"""How often a start of Ray on this machine is tried."""

_LOOPBACK: Final = "127.0.0.1"

_OBJECT_STORE_BYTES: Final = 200 * 2**20
"""Memory for what Ray passes on, if this machine's Ray is started here.

Requests don't pass through it.
"""

_HEAD: Final = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Connects this process to a cluster, and disconnects it on exit.

    Args:
        address: The address of the head node, ``HOST:PORT``, or ``auto`` for the
            cluster that this machine belongs to; None starts one of this machine alone,
            on loopback, and ends it on exit.
        cpus: CPUs that the machine has for Ray, if it is started; None is its cores.

    Yields:
        The module ``ray``.

    Raises:
        MllamaError: If Ray isn't installed, there is no cluster at the address, or its
            versions are others.
    """
    ray = import_ray(one_machine=address is None)
    if address is not None:
        if cpus is not None:
            raise MllamaError(
                "--ray-cpus is for a cluster that is started here, and can't be "
                "combined with --address"
            )
        _check_address(address)
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if address is None:
        # Ray's processes share what this one prints on a terminal, but not Ctrl-C.
        os.environ.setdefault("RAY_DEDUP_LOGS", "1")
        options |= {
            "address": "local",
            "num_cpus": cpus or usable_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": _LOOPBACK,
        }
    else:
        options["address"] = address
    _connect(ray, options, address)
    try:
        yield ray
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _connect(ray: Any, options: dict[str, Any], address: str | None) -> None:
    """Calls ``ray.init``.

    On a busy machine, Ray gives up a start after fifteen seconds, in which its
    processes read their files for the first time: the next try is faster.

    Raises:
        MllamaError: If it fails.
    """
    for attempt in range(1, _START_TRIES + 1):
        try:
            ray.init(**options)
        # Of any kind, the base class included.
        except Exception as error:
            with contextlib.suppress(Exception):
                ray.shutdown()
            if "timed out during startup" in str(error) and attempt < _START_TRIES:
                logger.warning("Ray has not started in time; trying again")
                continue
            raise MllamaError(_reason(error, address)) from error
        return


def _check_address(address: str) -> None:
    """Checks that something listens at an address, where Ray would try for a minute.

    Raises:
        MllamaError: If nothing does, or it is no address of a head node.
    """
    if address == "auto":
        return
    match = _HEAD.fullmatch(address)
    if match is None:
        raise MllamaError(
            f"--address must be HOST:PORT of Ray's head node or auto, not {address!r}"
            + (
                ": through Ray's client, answers can't be streamed"
                if address.startswith("ray://")
                else ""
            )
        )
    host, port = match["host"].strip("[]"), int(match["port"])
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MllamaError(
            f"there is no Ray cluster at {address} ({reason}): start one with `ray "
            "start --head` there, or leave --address out"
        ) from None


def _reason(error: Exception, address: str | None) -> str:
    text = shortened(" ".join(str(error).split()), 400)
    if "ersion mismatch" in text:
        return (
            f"the cluster at {address} has other versions than this node: {text}; "
            "install the same on all nodes"
        )
    if address is None:
        return f"Ray can't be started on this machine: {text}"
    if address == "auto":
        return (
            "this machine belongs to no Ray cluster: start one with `ray start --head`,"
            " or leave --address out"
        )
    return f"the Ray cluster at {address} can't be joined: {text}"
