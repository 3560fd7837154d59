"""The small files of a checkpoint, which MAX names by a directory or a repository."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download


def local_directory(model_path: str, revision: str | None) -> Path:
    """Returns the directory of a checkpoint's small files.

    Those of a repository are in the hub's cache, and downloaded if need be.

    Args:
        model_path: A directory, or a repository of the Hugging Face hub.
        revision: Revision of the repository.
    """
    if Path(model_path).is_dir():
        return Path(model_path)
    return Path(
        snapshot_download(
            model_path, revision=revision, allow_patterns=["*.json", "*.jinja"]
        )
    )
