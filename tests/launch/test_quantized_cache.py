"""Checkpoints that this package has quantized are kept in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.demo_model import MODEL_PATH
from mllama.errors import CheckpointError
from mllama.launch.quantized_cache import quantized_file
from mllama.weights.checkpoint import open_checkpoint


def test_a_cache_that_cannot_be_written_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError) as failure:
        quantized_file(open_checkpoint(MODEL_PATH), "q4_k", quiet=True)
    assert str(failure.value) == (
        f"{tmp_path}/file/cache/quantised can't be written: Not a directory; "
        "MLLAMA_CACHE names another directory for the cache"
    )
