"""A safetensors checkpoint: the tensors in its files, checked before use.

Only headers are read here, so that a wrong or incomplete download is reported within
seconds instead of after the graphs are compiled.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.weights.llama_config import LlamaConfig
from mllama.weights.names import (
    canonical_llama_name,
    canonical_name,
    expected_tensors,
)
from mllama.weights.quantized.layouts import (
    check_unused,
    companion_names,
    companions,
    find_layout,
    other_method,
)
from mllama.weights.quantized.settings import (
    block_shape,
    check_quantization,
    unsupported_method,
)
from mllama.weights.quantized.stored import StoredTensor
from mllama.weights.quantized.tensor import DequantizedTensor
from mllama.weights.safetensors_header import (
    MAX_HEADER_BYTES,
    read_header,
)
from mllama.weights.tensor_info import DTYPE_NAMES, TensorInfo

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
PICKLE_SUFFIXES: Final = (".bin", ".pth", ".pt")


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
            elements[tensor.dtype] += math.prod(tensor.shape)
        return elements.most_common(1)[0][0]

    @property
    def quantized(self) -> dict[str, DequantizedTensor]:
        """Returns the tensors that are dequantized as they are read, by name."""
        return {
            name: tensor
            for name, tensor in self.tensors.items()
            if isinstance(tensor, DequantizedTensor)
        }

    def check_quantized(self) -> None:
        """Checks what only the data of quantized tensors says, such as block sizes.

        Raises:
            CheckpointError: If it is damaged or of an unknown kind.
        """
        for tensor in self.quantized.values():
            tensor.layout.check()

    @property
    def nbytes(self) -> int:
        """Returns the size of the model's tensors in the files, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_checkpoint(
    path: Path,
    files: Sequence[Path] = (),
    *,
    read_config: Callable[[Path], MllamaConfig] = MllamaConfig.from_path,
) -> Checkpoint:
    """Reads the config of a checkpoint and the headers of its weight files.

    Args:
        path: A directory with ``config.json`` and ``model.safetensors``, or an index
            and its shards, or a single ``*.safetensors`` file of another name.
        files: Weight files to read instead of those in the directory.
        read_config: Reads the directory's config; that of
            :class:`~mllama.weights.llama_config.LlamaConfig` for a text-only Llama.

    Raises:
        ConfigError: If the config can't be used.
        CheckpointError: If a file or tensor is missing or damaged, or a tensor has
            another data type or shape than the model needs.
    """
    config = read_config(path)
    check_quantization(path)
    expected = expected_tensors(config)
    files = list(files) or _weight_files(path)
    is_llama = isinstance(config, LlamaConfig)
    stored, unused = _read_headers(
        files, expected, canonical_llama_name if is_llama else canonical_name
    )
    tensors: dict[str, TensorInfo] = {}
    for name in [name for name in stored if name in expected]:
        tensors[name] = _tensor(path, config, stored, name, expected[name])
    missing = [name for name in expected if name not in tensors]
    if missing:
        method = other_method(missing[0], stored)
        if method is not None:
            raise unsupported_method(path, method)
        raise CheckpointError(
            f"{path} lacks the tensor {_and_more(missing)}; it is incomplete or of "
            "another model, so download it again"
        )
    unused += _unused(stored, tensors)
    return Checkpoint(path, config, files, tensors, unused)


def _read_headers(
    files: Iterable[Path],
    expected: Container[str],
    canonical: Callable[[str], str | None],
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Reads the headers of files.

    Returns:
        The tensors by canonical name, and the names of those that have none.

    Raises:
        CheckpointError: If a file is damaged, or two have the same tensor.
    """
    stored: dict[str, StoredTensor] = {}
    unused: list[str] = []
    for file in files:
        for source_name, entry in read_header(file).items():
            name = canonical(source_name)
            if name is None:
                unused.append(source_name)
                continue
            if name in stored and name in expected:
                raise CheckpointError(
                    f"{stored[name].file.name} and {file.name} both contain {name}; "
                    "remove the file that doesn't belong to the model"
                )
            stored[name] = StoredTensor(file, source_name, entry)
    return stored, unused


def _tensor(
    path: Path,
    config: MllamaConfig,
    stored: Mapping[str, StoredTensor],
    name: str,
    shape: tuple[int, ...],
) -> TensorInfo:
    """Returns one of the model's tensors, dequantized if it is quantized.

    Raises:
        CheckpointError: If its type or shape doesn't fit.
    """
    found = stored[name]
    file, source_name, entry = found.file, found.source_name, found.entry
    parts = companions(name, stored)
    if parts:
        layout = find_layout(found, parts, shape, block_shape(path))
        dtype = config.dtype if config.dtype in DTYPE_NAMES.values() else "bfloat16"
        nbytes = entry.nbytes + sum(part.entry.nbytes for part in parts.values())
        return DequantizedTensor(
            file, source_name, str(dtype), shape, entry.offset, nbytes, layout
        )
    if entry.dtype not in DTYPE_NAMES:
        raise CheckpointError(
            f"{source_name} has elements of type {entry.dtype}, but only "
            f"{', '.join(DTYPE_NAMES)} are supported without scales beside them; use "
            "a checkpoint that is not quantized"
        )
    if entry.shape != shape:
        raise CheckpointError(
            f"{source_name} has shape {list(entry.shape)}, but config.json "
            f"requires {list(shape)}; they belong to different models"
        )
    return TensorInfo(
        file, source_name, DTYPE_NAMES[entry.dtype], shape, entry.offset, entry.nbytes
    )


def _unused(
    stored: Mapping[str, StoredTensor], tensors: Mapping[str, TensorInfo]
) -> list[str]:
    """Returns the files' names of tensors that the model doesn't have.

    Raises:
        CheckpointError: If one belongs to a quantized weight.
    """
    quantized = [n for n, t in tensors.items() if isinstance(t, DequantizedTensor)]
    used = {part for name in quantized for part in companion_names(name)}
    rest = {n: t for n, t in stored.items() if n not in tensors and n not in used}
    check_unused(rest, quantized)
    return [tensor.source_name for tensor in rest.values()]


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
