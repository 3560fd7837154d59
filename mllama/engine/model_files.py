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
from mllama.hub.content import content_key
from mllama.hub.options import Fetched, HubOptions
from mllama.weights.quantisation_plan import BLOCK_ENCODINGS


@dataclass(frozen=True)
class ModelFiles:
    """What MAX is to load.

    Attributes:
        model: A directory with configuration and tokenizer.
        weight_path: The weights' files; none are the directory's own.
        encoding: MAX's name of the encoding, or None to follow the files.
    """

    model: str
    weight_path: tuple[Path, ...]
    encoding: str | None


def find_model_files(
    model: str,
    *,
    weight_path: Sequence[Any] = (),
    encoding: str | None = None,
    device_type: str,
    max_length: int | None = None,
    hub: HubOptions | None = None,
    quantise: bool = True,
    quiet: bool = True,
) -> ModelFiles:
    """Checks a model's files and says what to load.

    What is on the hub is downloaded first, see :func:`fetch_checked`.

    Args:
        model: A directory in Hugging Face layout, a GGUF file, or a repository.
        weight_path: Files to read the weights from instead, or such of the hub.
        encoding: The encoding asked for.
        device_type: ``cpu`` or ``gpu``.
        max_length: The context asked for.
        hub: How to ask the hub.
        quantise: Whether to quantise a checkpoint of floats if ``encoding`` asks for it
            and it has not been done before; else the answer names no weights.
        quiet: Whether to show no progress of that.

    Raises:
        MllamaError: If the checkpoint can't be served, an encoding is not to be had on
            the device, or a limit is out of range.
    """
    if max_length is not None and max_length < 1:
        raise MllamaError(f"the context must hold at least 1 token, not {max_length}")
    fetched = fetch_checked(
        model,
        weight_path,
        hub,
        encoding=encoding,
        device_type=device_type,
        max_length=max_length,
        quiet=quiet,
    )
    model = fetched.model
    weights = tuple(Path(path) for path in fetched.weight_path)
    if Path(model).is_file():
        from mllama.weights.gguf_checkpoint import unpack_small_files

        weights = weights or (Path(model),)
        model = str(unpack_small_files(Path(model)))
    if not Path(model).is_dir():
        raise MllamaError(
            f"{model} is neither a directory, a GGUF file, nor a repository of the hub"
        )
    config = MllamaConfig.from_path(Path(model))
    _check_length(config, max_length)
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
        return ModelFiles(model, weights, chosen)

    from mllama.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(Path(model))
    if chosen in BLOCK_ENCODINGS and quantise:
        weights = (_quantised(checkpoint, chosen, quiet),)
    return ModelFiles(model, weights, chosen)


def fetch_checked(
    model: str,
    weight_path: Sequence[Any],
    hub: HubOptions | None,
    *,
    encoding: str | None,
    device_type: str,
    max_length: int | None,
    quiet: bool,
) -> Fetched:
    """Downloads what is named on the hub; see :func:`find_model_files` for the rest.

    Raises:
        MllamaError: If it can't be had, or its configuration can't be served as asked
            for, which is found out before its weights are fetched.
    """
    from mllama.hub.fetch import fetch_model

    def check(config: MllamaConfig) -> None:
        _check_length(config, max_length)
        choose_encoding(encoding, device_type)

    return fetch_model(model, weight_path, hub, check=check, quiet=quiet)


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
        digest.update(f"{content_key(file)}\0".encode())
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

    def __enter__(self) -> QuantisingBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, name: str, written: int, total: int) -> None:
        """Shows how much is written, and what is being worked on."""
        self._bar.total = total
        self._bar.set_postfix_str(name, refresh=False)
        self._bar.update(written - self._bar.n)
