"""Finds the devices that ``--devices`` names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mllama.errors import MllamaError

if TYPE_CHECKING:
    from max.driver import DeviceSpec

_SPELLINGS = "cpu, gpu, gpu:N, or gpu:0,1 (also gpu-0,gpu-1, and gpu:all)"

_GPU = re.compile(r"gpu[:-](\d{1,4})")
_LIST = re.compile(r"gpu:(\d{1,4}(?:,\d{1,4})+)")


def find_devices(devices: str | None) -> list[DeviceSpec]:
    """Returns the devices that a text names.

    Args:
        devices: ``cpu``, ``gpu``, ``gpu:N`` or ``gpu-N``, a list of the latter two,
            MAX's ``gpu:0,1``, or ``gpu:all``; None is the first GPU, or the CPU if
            there is none.

    Raises:
        MllamaError: If the text names no device, or one that this machine lacks.
    """
    from max.driver import DeviceSpec, scan_available_devices

    gpus = [spec for spec in scan_available_devices() if spec.device_type == "gpu"]
    name = "".join((devices or ("gpu" if gpus else "cpu")).lower().split())
    if name == "cpu":
        return [DeviceSpec.cpu()]
    ids = _gpu_ids(name, [spec.id for spec in gpus])
    if not gpus:
        raise MllamaError(
            f"{devices!r} was requested, but MAX finds no GPU on this machine; "
            "use --devices cpu"
        )
    for number in ids:
        if ids.count(number) > 1:
            raise MllamaError(f"{devices!r} names GPU {number} twice")
        if number not in {spec.id for spec in gpus}:
            raise MllamaError(
                f"there is no GPU {number}; this machine has "
                + ", ".join(f"gpu:{spec.id}" for spec in gpus)
            )
    return [spec for number in ids for spec in gpus if spec.id == number]


def count_gpus(devices: str | None) -> int:
    """Returns the number of GPUs that a text names, which this machine may lack.

    Args:
        devices: ``gpu``, ``gpu:N``, ``gpu-N``, a list of the latter two, or
            ``gpu:0,1``; None is one GPU.

    Raises:
        MllamaError: If it names no GPU, a GPU twice, or ``gpu:all``.
    """
    name = "".join((devices or "gpu").lower().split())
    if name in ("cpu", "gpu:all"):
        raise MllamaError(
            f"{devices!r} doesn't say for how many GPUs to compile: use gpu, or "
            "gpu-0,gpu-1 for two"
        )
    ids = _gpu_ids(name, [0])
    if len(set(ids)) != len(ids):
        raise MllamaError(f"{devices!r} names a GPU twice")
    return len(ids)


def _gpu_ids(name: str, present: list[int]) -> list[int]:
    """Returns the ids of the GPUs that a text names, which this machine may lack.

    Args:
        name: The text, in lower case and without spaces.
        present: Ids of the GPUs that ``gpu`` and ``gpu:all`` choose from.

    Raises:
        MllamaError: If the text names no GPU.
    """
    if name == "gpu":
        return present[:1]
    if name == "gpu:all":
        return present
    if match := _LIST.fullmatch(name):
        return [int(number) for number in match[1].split(",")]
    parts = name.split(",")
    if "cpu" in parts and len(parts) > 1:
        raise MllamaError(
            f"{name!r} names the CPU and GPUs; a model runs on one or the other"
        )
    matches = [_GPU.fullmatch(part) for part in parts]
    if not all(matches):
        raise MllamaError(f"{name!r} is not a device: use {_SPELLINGS}")
    return [int(match[1]) for match in matches if match]
