"""Which files of a repository make up a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from mllama.errors import HubError, listed
from mllama.weights.checkpoint import (
    INDEX_FILE,
    PICKLE_SUFFIXES,
    SINGLE_FILE,
    only_pickles,
)
from mllama.weights.gguf.writing import SMALL_FILES

SMALL: Final = (*SMALL_FILES, "added_tokens.json")
"""Configuration, tokenizer, image processor and chat template, as far as they exist."""

SAFETENSORS: Final = ".safetensors"
GGUF: Final = ".gguf"
WEIGHT_SUFFIXES: Final = (SAFETENSORS, GGUF)
"""Of the weights that are read."""


def choose_weights(
    repository: str,
    names: Sequence[str],
    read_index: Callable[[], Iterable[str]],
    *,
    gguf: bool = True,
) -> list[str]:
    """The weights to fetch, in the order in which transformers looks for them.

    Only files at the top are a checkpoint's own: Meta's repositories keep other forms
    of the same weights in folders.

    Args:
        repository: For messages.
        names: The repository's files.
        read_index: Fetches the index and gives the files that it names.
        gguf: Whether a GGUF file will do.

    Raises:
        HubError: If there are none, only pickles, or a choice that isn't ours.
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
            f"{repository} holds {len(tensors)} safetensors files but no {INDEX_FILE} "
            "that says which belong together; choose with --weight-path: "
            f"{listed(tensors)}"
        )
    files = gguf_files(names)
    if files and not gguf:
        raise HubError(
            f"{repository} holds GGUF files only, which are quantized already; use the "
            "original checkpoint"
        )
    if len(files) > 1:
        raise HubError(
            f"{repository} holds {len(files)} GGUF files; choose one with "
            f"--weight-path: {listed(files)}"
        )
    if files:
        return files
    pickles = [name for name in top if name.endswith(PICKLE_SUFFIXES)]
    if pickles:
        raise HubError(only_pickles(repository, pickles[0]))
    raise HubError(f"{repository} holds no weights: no safetensors and no GGUF file")


def gguf_files(names: Iterable[str]) -> list[str]:
    """The GGUF files among a repository's files, those in folders too."""
    return sorted(name for name in names if name.endswith(GGUF))


def check_weight_name(repository: str, name: str, names: Sequence[str]) -> None:
    """Checks that a file that the user named is there and can be read.

    Raises:
        HubError: If not.
    """
    known = [each for each in names if each.endswith(WEIGHT_SUFFIXES)]
    if name not in names:
        raise HubError(
            f"there is no weight file {name}, neither here nor in {repository}, which "
            f"has {listed(sorted(known)) if known else 'no weights'}"
        )
    if name not in known:
        raise HubError(
            f"{name} of {repository} is neither safetensors nor GGUF, the weights that "
            "are read"
        )
