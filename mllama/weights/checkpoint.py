"""A safetensors checkpoint: the tensors in its files, checked before use.

Only headers are read here, so that a wrong or incomplete download is reported within
seconds instead of after the graphs are compiled.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.utils.bfloat16 import as_floats
from mllama.weights.names import canonical_name, expected_tensors
from mllama.weights.safetensors_header import (
    ITEM_BYTES,
    MAX_HEADER_BYTES,
    read_header,
)

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
PICKLE_SUFFIXES: Final = (".bin", ".pth", ".pt")

DTYPE_NAMES: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The data types of config.json by their names in safetensors files."""

_ITEM_BYTES = {DTYPE_NAMES[code]: size for code, size in ITEM_BYTES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file.

    Attributes:
        file: The file.
        source_name: The tensor's name in the file.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        shape: Its dimensions, as the model needs them.
        offset: Position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    file: Path
    source_name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def part_dtype(self) -> np.dtype[Any]:
        """Returns NumPy's data type of the arrays that :meth:`parts` yields."""
        return self._stored_type

    @property
    def _stored_type(self) -> np.dtype[Any]:
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    def mapped(self) -> npt.NDArray[Any]:
        """Returns the values, memory-mapped; bfloat16 as its bits, in uint16."""
        return np.memmap(self.file, self._stored_type, "r", self.offset, self.shape)

    def parts(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """Yields the values as in :meth:`mapped`, some rows at a time.

        Each part is mapped separately, so that its pages are freed once it is
        processed.  The mappings are writable private copies (copy-on-write), because
        MAX copies read-only arrays.  The file never changes.

        Args:
            rows: Maximum number of rows of a part.
        """
        row_bytes = self.nbytes // self.shape[0]
        for start in range(0, self.shape[0], rows):
            shape = (min(rows, self.shape[0] - start), *self.shape[1:])
            offset = self.offset + start * row_bytes
            yield np.memmap(self.file, self._stored_type, "c", offset, shape)

    def floats(self) -> npt.NDArray[np.float32]:
        """Returns the values as float32; float32 files are mapped, not copied."""
        return as_floats(self.mapped())


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with every tensor that its model needs.

    Attributes:
        path: The directory.
        config: Its configuration.
        files: The weight files, in order.
        tensors: The model's tensors by canonical name (see
            :mod:`mllama.weights.names`).
        unused: The files' names of tensors that the model doesn't have.
    """

    path: Path
    config: MllamaConfig
    files: list[Path]
    tensors: dict[str, TensorInfo]
    unused: list[str]

    @property
    def dtype(self) -> str:
        """Returns the data type of most of the weights."""
        elements: Counter[str] = Counter()
        for tensor in self.tensors.values():
            elements[tensor.dtype] += tensor.nbytes // _ITEM_BYTES[tensor.dtype]
        return elements.most_common(1)[0][0]

    @property
    def nbytes(self) -> int:
        """Returns the size of the model's tensors in the files, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_checkpoint(path: Path, files: Sequence[Path] = ()) -> Checkpoint:
    """Reads the config of a checkpoint and the headers of its weight files.

    Args:
        path: A directory with ``config.json`` and ``model.safetensors``, or an index
            and its shards, or a single ``*.safetensors`` file of another name.
        files: Weight files to read instead of those in the directory.

    Raises:
        ConfigError: If the config can't be used.
        CheckpointError: If a file or tensor is missing or damaged, or a tensor has
            another data type or shape than the model needs.
    """
    config = MllamaConfig.from_path(path)
    expected = expected_tensors(config)
    files = list(files) or _weight_files(path)
    tensors: dict[str, TensorInfo] = {}
    unused: list[str] = []
    for file in files:
        for source_name, entry in read_header(file).items():
            name = canonical_name(source_name)
            if name is None or name not in expected:
                unused.append(source_name)
                continue
            if entry.dtype not in DTYPE_NAMES:
                raise CheckpointError(
                    f"{source_name} has elements of type {entry.dtype}, but only "
                    f"{', '.join(DTYPE_NAMES)} are supported; use a checkpoint that "
                    "is not quantized"
                )
            if entry.shape != expected[name]:
                raise CheckpointError(
                    f"{source_name} has shape {list(entry.shape)}, but config.json "
                    f"requires {list(expected[name])}; they belong to different models"
                )
            if name in tensors:
                raise CheckpointError(
                    f"{tensors[name].file.name} and {file.name} both contain {name}; "
                    "remove the file that doesn't belong to the model"
                )
            tensors[name] = TensorInfo(
                file,
                source_name,
                DTYPE_NAMES[entry.dtype],
                entry.shape,
                entry.offset,
                entry.nbytes,
            )
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{path} lacks the tensor {_and_more(missing)}; it is incomplete or of "
            "another model, so download it again"
        )
    return Checkpoint(path, config, files, tensors, unused)


def _weight_files(path: Path) -> list[Path]:
    """Returns the files to read; looks for them in the same order as transformers."""
    if (path / SINGLE_FILE).is_file():
        return [path / SINGLE_FILE]
    if (path / INDEX_FILE).is_file():
        names = sorted(set(read_weight_map(path / INDEX_FILE).values()))
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{path} lacks {_and_more(missing)}, which {INDEX_FILE} names; "
                "download it again"
            )
        return [path / name for name in names]
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise CheckpointError(
            f"{path} has {len(found)} safetensors files but no {INDEX_FILE} that "
            "says which of them belong together; download it again"
        )
    pickles = sorted(
        file.name for suffix in PICKLE_SUFFIXES for file in path.glob(f"*{suffix}")
    )
    if pickles:
        raise CheckpointError(pickles_only_message(str(path), pickles[0]))
    raise CheckpointError(f"{path} has no {SINGLE_FILE} and no {INDEX_FILE}")


def pickles_only_message(place: str, name: str) -> str:
    """Returns the error message for weights that exist only as pickles.

    Args:
        place: The directory or repository.
        name: One of the pickles.
    """
    return (
        f"{place} has only PyTorch pickles ({name}), which run code when read; load "
        "them where you trust them with transformers and write safetensors with "
        "save_pretrained"
    )


def read_weight_map(index: Path) -> Mapping[str, str]:
    """Returns the file of each tensor, from an index; the files lie next to the index.

    Raises:
        CheckpointError: If the index is damaged or names a file elsewhere.
    """
    try:
        size = index.stat().st_size
        content = json.loads(
            index.read_text(encoding="utf-8") if size <= MAX_HEADER_BYTES else ""
        )
    except OSError as error:
        raise CheckpointError(
            f"{index} can't be read: {error.strerror or error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is not JSON; download it again") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or any(mark in name for mark in ("/", "\\", "\0"))
        ):
            raise CheckpointError(
                f"{index} names the file {name!r}; only safetensors files next to "
                "the index are read"
            )
    return weight_map


def _and_more(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} (and {len(others)} more)" if others else first
