"""Selection of the files of a repository that make up a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mllama.errors import HubError, listed
from mllama.weights.checkpoint import (
    INDEX_FILE,
    PICKLE_SUFFIXES,
    SINGLE_FILE,
    pickles_only_message,
)
from mllama.weights.gguf.writing import SMALL_FILES

SMALL: Final = (*SMALL_FILES, "added_tokens.json")
"""Configuration, tokenizer, image processor and chat template; not all exist."""

SAFETENSORS: Final = ".safetensors"
GGUF: Final = ".gguf"
WEIGHT_SUFFIXES: Final = (SAFETENSORS, GGUF)
"""The formats of weights that are supported."""


def choose_weights(
    repository: str,
    names: Sequence[str],
    read_index: Callable[[], Iterable[str]],
    *,
    gguf: bool = True,
) -> list[str]:
    """Returns the names of the weight files, looked up in transformers' order.

    Only safetensors files at the top level count: Meta's repositories keep other forms
    of the same weights in folders.

    Args:
        repository: The repository's name, for messages.
        names: The repository's files.
        read_index: Downloads the index and returns the files that it names.
        gguf: Whether a GGUF file is acceptable.

    Raises:
        HubError: If there are no weights, only pickles, or several candidates.
        CheckpointError: If the index is damaged.
    """
    top = sorted(name for name in names if "/" not in name)
    tensors = [name for name in top if name.endswith(SAFETENSORS)]
    if SINGLE_FILE in tensors:
        return [SINGLE_FILE]
    if INDEX_FILE in top:
        shards = sorted(set(read_index()))
        if missing := [name for name in shards if name not in names]:
            raise HubError(
                f"{repository} lacks {listed(missing)}, which its {INDEX_FILE} names; "
                "it is incomplete on the hub"
            )
        return shards
    if len(tensors) == 1:
        return tensors
    if tensors:
        raise HubError(
            f"{repository} has {len(tensors)} safetensors files but no {INDEX_FILE} "
            "to say which belong together; choose with --weight-path: "
            f"{listed(tensors)}"
        )
    files = gguf_files(names)
    if files and not gguf:
        raise HubError(
            f"{repository} has only GGUF files, which are quantized already; use the "
            "original checkpoint"
        )
    if len(files) > 1:
        raise HubError(
            f"{repository} has {len(files)} GGUF files; choose one with "
            f"--weight-path: {listed(files)}"
        )
    if files:
        return files
    pickles = [name for name in top if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise HubError(pickles_only_message(repository, pickles[0]))
    raise HubError(f"{repository} has no weights: no safetensors and no GGUF file")


def gguf_files(names: Iterable[str]) -> list[str]:
    """Returns the GGUF files of a repository, including those in folders."""
    return sorted(name for name in names if name.endswith(GGUF))


def check_weight_name(repository: str, name: str, names: Sequence[str]) -> None:
    """Checks that a weight file named by the user exists in a supported format.

    Raises:
        HubError: If it doesn't.
    """
    known = [each for each in names if each.endswith(WEIGHT_SUFFIXES)]
    if name not in names:
        raise HubError(
            f"there is no weight file {name}, neither here nor in {repository}, which "
            f"has {listed(sorted(known)) if known else 'no weights'}"
        )
    if name not in known:
        raise HubError(
            f"{name} of {repository} is neither safetensors nor GGUF, the formats that "
            "are supported"
        )
