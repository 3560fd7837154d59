"""Attention maps between a server and its worker process.

The server puts what it asks for into a context's ``extra_model_args``, which reach the
worker.  The worker writes the maps to a file that the server has made.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from mllama.errors import EngineError, RequestError
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import (
    AttentionMaps,
    AttentionOptions,
    HeadScore,
    ImageMaps,
)
from mllama.requests.map_task import MapTask

_TASK: Final = "attention_task"
"""Key of ``extra_model_args``: uint8 ``[bytes]``, a task as JSON."""

_HOLDS_IMAGES: Final = "attention_follows"
"""Key of ``extra_model_args``: present if the images of an answer are needed after it,
for its maps."""

_TASK_OF: Final = "answer_id"


def hold_images(context: Any) -> None:
    """Asks for the images of an answer to stay in the image cache for its maps."""
    context.extra_model_args[_HOLDS_IMAGES] = np.ones(1, np.uint8)


def holds_images(context: Any) -> bool:
    """Returns True if the images of an answer are to stay in the image cache."""
    return _HOLDS_IMAGES in context.extra_model_args


def set_task(context: Any, task: MapTask, answer_id: str) -> None:
    """Asks for maps of a context's tokens.

    Args:
        context: MAX's context of prompt and answer.
        task: The maps.
        answer_id: The id of the answer's own request, whose images are held.
    """
    content = json.dumps({**asdict(task), _TASK_OF: answer_id})
    context.extra_model_args[_TASK] = np.frombuffer(content.encode(), np.uint8)


def task_of(context: Any) -> tuple[MapTask, str] | None:
    """Returns the maps that are asked for, and the id of the answer's own request."""
    content = context.extra_model_args.get(_TASK)
    if content is None:
        return None
    fields = json.loads(content.tobytes())
    task = MapTask(
        [PatchGrid(**grid) for grid in fields["grids"]],
        fields["first"],
        fields["answer"],
        AttentionOptions(**fields["options"]),
    )
    return task, fields[_TASK_OF]


def write_maps(path: Path, maps: AttentionMaps | Exception) -> None:
    """Writes maps, or why there are none, to a file that exists.

    Raises:
        FileNotFoundError: If the file doesn't exist: nobody waits for it any more.
    """
    head: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    if isinstance(maps, Exception):
        head["error"] = " ".join(str(maps).split())
        head["is_request_error"] = isinstance(maps, RequestError)
    else:
        head["first"] = maps.first
        head["heads"] = [list(head) for head in maps.heads]
        head["scores"] = [asdict(score) for score in maps.scores]
        head["grids"] = [asdict(image.grid) for image in maps.images]
        for index, image in enumerate(maps.images):
            arrays[f"maps{index}"] = image.maps
            arrays[f"class{index}"] = image.class_mass
            arrays[f"padding{index}"] = image.padding_mass
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    # Not "wb", which would make a file that nobody removes.
    with path.open("r+b") as file:
        np.savez(file, **arrays)


def read_maps(path: Path) -> AttentionMaps:
    """Returns the maps in a file.

    Raises:
        RequestError: If they can't be computed.
        EngineError: If the worker failed on them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        head = json.loads(arrays["head"].tobytes())
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise EngineError("the worker wrote no attention maps") from error
    if "error" in head:
        raise (RequestError if head["is_request_error"] else EngineError)(head["error"])
    images = [
        ImageMaps(
            PatchGrid(**grid),
            arrays[f"maps{index}"],
            arrays[f"class{index}"],
            arrays[f"padding{index}"],
        )
        for index, grid in enumerate(head["grids"])
    ]
    return AttentionMaps(
        head["first"],
        images,
        [(layer, number) for layer, number in head["heads"]],
        [
            HeadScore(tuple(each["head"]), each["entropy"], each["image_mass"])
            for each in head["scores"]
        ],
    )
