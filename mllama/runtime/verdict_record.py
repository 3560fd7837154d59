"""The last self-check of a GPU, kept in the cache for ``mllama doctor``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mllama.image_cache.verdict import ImageVerdict
from mllama.utils.atomic_file import write_small_file
from mllama.utils.cache_dir import cache_root

logger = logging.getLogger("mllama")

_FIELDS: Final = ("time", "model", "devices", "verdict")


def _path() -> Path:
    return cache_root() / "gpu-self-check.json"


def record_verdict(verdict: ImageVerdict, devices: Sequence[Any], model: str) -> None:
    """Records a verdict; a cache that can't be written is no reason to fail.

    Args:
        verdict: The verdict.
        devices: MAX's devices.
        model: The model that was checked with them.
    """
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "model": model,
        "devices": ", ".join(
            f"{device.label}:{device.id} {device.model_name}" for device in devices
        ),
        "verdict": str(verdict),
    }
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_small_file(_path(), json.dumps(record).encode())
    except OSError as error:
        logger.debug("the self-check can't be recorded: %s", error)


def recorded_verdict() -> str:
    """Returns the last self-check of this machine's GPUs as a line.

    Raises:
        OSError: If the record can't be read.
        ValueError: If it is damaged.
    """
    try:
        record = json.loads(_path().read_bytes())
    except FileNotFoundError:
        return "none yet"
    if not isinstance(record, dict) or not all(
        isinstance(record.get(name), str) for name in _FIELDS
    ):
        raise ValueError(f"{_path()} is damaged; it can be removed")
    return "{verdict} ({devices}, {model}, {time})".format(**record)
