"""Attention maps pass between a server and its worker as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllama.errors import EngineError, RequestError
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import (
    AttentionMaps,
    AttentionOptions,
    HeadScore,
    ImageMaps,
)
from mllama.requests.map_exchange import (
    hold_images,
    holds_images,
    read_maps,
    set_task,
    task_of,
    write_maps,
)
from mllama.requests.map_task import MapTask

GRID = PatchGrid(1, 2, 4, 3, 8, 100, 60, 100.5, 75.0)


def context() -> Any:
    return SimpleNamespace(extra_model_args={})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "maps"
    path.touch()
    return path


@pytest.mark.parametrize(
    "options",
    [
        AttentionOptions(),
        AttentionOptions(layers=[3], heads=[0, 1], prompt=True),
        AttentionOptions(heads=[[3, 2]]),
    ],
)
def test_a_task_travels_in_a_context(options: AttentionOptions) -> None:
    asked = context()
    assert task_of(asked) is None
    task = MapTask([GRID, GRID], 1, 7, options)
    set_task(asked, task, "one")
    assert task_of(asked) == (task, "one")


def test_an_answer_may_hold_its_images() -> None:
    asked = context()
    assert not holds_images(asked)
    hold_images(asked)
    assert holds_images(asked)


def test_maps_travel_in_a_file(path: Path) -> None:
    random = np.random.default_rng(0)
    images = [
        ImageMaps(
            GRID,
            random.random((5, 3, 8), np.float32),
            random.random(5, np.float32),
            random.random(5, np.float32),
        )
        for _ in range(2)
    ]
    written = AttentionMaps(7, images, [(3, 2)], [HeadScore((3, 2), 1.25, 0.5)])
    write_maps(path, written)
    found = read_maps(path)
    assert (found.first, found.heads, found.scores) == (7, [(3, 2)], written.scores)
    for mine, theirs in zip(found.images, images, strict=True):
        assert mine.grid == GRID
        for name in ("maps", "class_mass", "padding_mass"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


@pytest.mark.parametrize(
    "error", [RequestError("too\nlarge"), EngineError("too large")]
)
def test_an_error_travels_with_its_kind(path: Path, error: Exception) -> None:
    write_maps(path, error)
    with pytest.raises(type(error), match=r"^too large$"):
        read_maps(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"no maps"])
def test_a_file_without_maps_is_an_error_of_the_engine(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(EngineError, match="wrote no attention maps"):
        read_maps(path)


def test_maps_that_nobody_waits_for_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_maps(tmp_path / "maps", RequestError("too large"))
    assert not list(tmp_path.iterdir())
