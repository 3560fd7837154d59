"""From what a user names to the files that MAX loads, checked before it is started."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllama.cache import cache_directory
from mllama.config import MllamaConfig
from mllama.errors import ConfigError, MllamaError
from mllama.weights.quantisation_plan import BLOCK_ENCODINGS


@dataclass(frozen=True)
class ModelFiles:
    """What MAX is to load.

    Attributes:
        model: A directory with configuration and tokenizer, or a repository of the hub.
        weight_path: The weights' files; none are the directory's own.
        encoding: MAX's name of the encoding, or None to follow the files.
        lora_path: An adapter to be merged into the weights as they are loaded; None if
            there is none, or if it is in the weights already.
    """

    model: str
    weight_path: tuple[Path, ...]
    encoding: str | None
    lora_path: Path | None = None


def find_model_files(
    model: str,
    *,
    weight_path: Sequence[Any] = (),
    encoding: str | None = None,
    lora_path: str | Path | None = None,
    device_type: str,
    max_length: int | None = None,
    quantise: bool = True,
    quiet: bool = True,
) -> ModelFiles:
    """Checks a model's files and says what to load.

    A repository of the hub is left for MAX to download.

    Args:
        model: A directory in Hugging Face layout, a GGUF file, or a repository.
        weight_path: Files to read the weights from instead.
        encoding: The encoding asked for.
        lora_path: A LoRA adapter in PEFT's files to merge into the weights.
        device_type: ``cpu`` or ``gpu``.
        max_length: The context asked for.
        quantise: Whether to quantise a checkpoint of floats if ``encoding`` asks for it
            and it has not been done before; else the answer names no weights.
        quiet: Whether to show no progress of that.

    Raises:
        MllamaError: If the checkpoint can't be served, an encoding is not to be had on
            the device, or a limit is out of range.
    """
    for path in weight_path:
        if not Path(path).exists() and _is_local(str(path)):
            raise MllamaError(f"there is no weight file {path}")
    if max_length is not None and max_length < 1:
        raise MllamaError(f"the context must hold at least 1 token, not {max_length}")
    weights = tuple(Path(path) for path in weight_path)
    if Path(model).is_file():
        from mllama.weights.gguf_checkpoint import unpack_small_files

        weights = weights or (Path(model),)
        model = str(unpack_small_files(Path(model)))
    if not Path(model).is_dir():
        if _is_local(model):
            raise MllamaError(
                f"{model} is neither a directory, a GGUF file, nor a repository of the "
                "hub"
            )
        if encoding in BLOCK_ENCODINGS and not weights:
            raise MllamaError(
                f"{model} is quantised from a directory only: download it with "
                f"`hf download {model}` and give the directory that it prints"
            )
        if lora_path is not None:
            raise MllamaError(
                f"an adapter is merged into a directory's weights only: download with "
                f"`hf download {model}` and give the directory that it prints"
            )
        return ModelFiles(model, weights, choose_encoding(encoding, device_type))
    config = MllamaConfig.from_path(Path(model))
    _check_length(config, max_length)
    adapter = None
    if lora_path is not None:
        adapter = _adapter(Path(lora_path), config, weights)
    if any(path.suffix == ".gguf" for path in weights):
        return ModelFiles(
            model, weights, _gguf_encoding(weights, config, encoding, device_type)
        )
    chosen = choose_encoding(encoding, device_type)
    if weights:
        if chosen in BLOCK_ENCODINGS:
            raise MllamaError(
                f"{weights[0]} holds floats; `mllama quantize` makes {chosen} of them"
            )
        return ModelFiles(model, weights, chosen, adapter and adapter.path)

    from mllama.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(Path(model))
    if chosen not in BLOCK_ENCODINGS:
        return ModelFiles(model, weights, chosen, adapter and adapter.path)
    if quantise:
        if adapter is not None:
            checkpoint = adapter.merged_into(checkpoint)
        weights = (_quantised(checkpoint, chosen, quiet),)
    return ModelFiles(model, weights, chosen)


def choose_encoding(encoding: str | None, device_type: str) -> str | None:
    """The encoding to load floats with, or None to follow the files.

    Raises:
        MllamaError: If the model or the device can't run the encoding.
    """
    from mllama.max_api import supported_encoding_supported_devices
    from mllama.serving.arch_config import MllamaArchConfig

    if encoding is None:
        # A CPU multiplies float32 several times faster than bfloat16.
        return "float32" if device_type == "cpu" else None
    runnable = [
        name
        for name in sorted(MllamaArchConfig.SUPPORTED_ENCODINGS)
        if device_type in supported_encoding_supported_devices(name)
    ]
    if encoding not in runnable:
        raise MllamaError(
            f"the {device_type} can't run the encoding {encoding!r}; "
            f"it runs {', '.join(runnable)}"
        )
    return encoding


def _gguf_encoding(
    weights: tuple[Path, ...],
    config: MllamaConfig,
    encoding: str | None,
    device_type: str,
) -> str:
    """Checks a GGUF file against the configuration; its main encoding."""
    from mllama.weights.gguf_checkpoint import check_tensors, main_format, open_gguf

    if len(weights) > 1:
        raise MllamaError("a GGUF file is a whole model: give one --weight-path")
    file = open_gguf(weights[0])
    check_tensors(file, config)
    held = main_format(file)
    if encoding not in (None, held):
        raise MllamaError(
            f"{weights[0]} holds {held}, not {encoding}; leave --quantization-encoding "
            "out, or quantise the original checkpoint anew"
        )
    choose_encoding(held, device_type)
    return held


def _adapter(path: Path, config: MllamaConfig, weights: Sequence[Path]) -> Any:
    """An adapter that can be merged into the weights, checked to the last number."""
    from mllama.weights.adapter import check_values, open_adapter

    quantised = [file for file in weights if file.suffix == ".gguf"]
    if quantised:
        raise MllamaError(
            f"{quantised[0]} is quantised, and an adapter is merged into floats only: "
            f"`mllama quantize SRC DST --lora-path {path}` makes a GGUF file of the "
            "original checkpoint with the adapter in it"
        )
    adapter = open_adapter(path, config)
    check_values(adapter)
    return adapter


def _check_length(config: MllamaConfig, max_length: int | None) -> None:
    limit = config.text_config.max_position_embeddings
    if max_length is not None and max_length > limit:
        raise ConfigError(
            f"a context of {max_length} tokens was asked for, but the model was made "
            f"for at most {limit}"
        )


def _quantised(checkpoint: Any, encoding: str, quiet: bool) -> Path:
    """The checkpoint's weights in an encoding, from the cache if they are there."""
    from mllama.weights.gguf_writing import write_gguf

    digest = hashlib.sha256(encoding.encode())
    for file in [checkpoint.path / "config.json", *checkpoint.files]:
        status = file.stat()
        digest.update(
            f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode()
        )
    directory = cache_directory("quantised")
    target = directory / f"{digest.hexdigest()[:32]}-{encoding}.gguf"
    if not target.is_file():
        with QuantisingBar(f"mllama: quantising to {encoding}", quiet) as bar:
            write_gguf(checkpoint, target, encoding, bar.show)
    return target


class QuantisingBar:
    """A progress bar on stderr, as :func:`write_gguf` tells its progress.

    Args:
        title: What is being done.
        quiet: Whether to show nothing.
    """

    def __init__(self, title: str, quiet: bool) -> None:
        self._bar: tqdm[Any] = tqdm(
            desc=title, unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True
        )
        self._name = ""

    def __enter__(self) -> QuantisingBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, name: str, written: int, total: int) -> None:
        """Shows how much is written, and what is being worked on."""
        self._bar.total = total
        # What takes long is named at once, at a time at which nothing is written.
        self._bar.set_postfix_str(name, refresh=name != self._name)
        self._name = name
        self._bar.update(written - self._bar.n)


def _is_local(path: str) -> bool:
    """Whether a path can't be a repository's name, which is ``owner/name``."""
    return path.count("/") != 1 or path.startswith((".", "/", "~"))
