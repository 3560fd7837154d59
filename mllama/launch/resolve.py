"""Finds and checks the files of the model that a user names, before MAX starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllama.config import MllamaConfig
from mllama.errors import ConfigError, MllamaError
from mllama.hub.download import download_model
from mllama.hub.options import HubOptions
from mllama.launch.model_files import ModelFiles
from mllama.max_compat.host_memory import host_memory_limit
from mllama.utils.sizes import format_bytes
from mllama.weights.checkpoint import Checkpoint, open_checkpoint
from mllama.weights.encodings import (
    Encoding,
    check_runnable,
    choose_encoding,
    with_image_cache_encoding,
    with_kv_cache_encoding,
    with_vision_encoding,
)
from mllama.weights.gguf.checkpoint import (
    check_tensors,
    encoding_reason,
    main_encoding,
    open_gguf,
    quantized_formats,
)
from mllama.weights.lora.adapter import Adapter, check_values, open_adapter
from mllama.weights.lora.surroundings import (
    check_is_not_adapter,
    has_adapter,
    unused_adapter_note,
)
from mllama.weights.ollama.links import is_readable_file, with_gguf_suffix
from mllama.weights.ollama.small_files import unpack_small_files
from mllama.weights.ollama.store import PREFIX, find_blob
from mllama.weights.quantization_plan import GGUF_ENCODINGS, quantization_plan
from mllama.weights.quantized.settings import check_quantization
from mllama.weights.remote_code import check_remote_code


def resolve_model_files(
    model: str,
    *,
    weight_path: Sequence[Any] = (),
    encoding: str | None = None,
    vision_encoding: str | None = None,
    image_cache_encoding: str = "auto",
    kv_cache_encoding: str = "auto",
    lora_path: str | Path | None = None,
    device_type: str,
    max_length: int | None = None,
    hub: HubOptions | None = None,
    quiet: bool = True,
) -> ModelFiles:
    """Returns the files of a model, checked.

    Downloads a model of the hub, whose configuration is checked before its weights are
    downloaded.

    Args:
        model: A directory in Hugging Face layout, a GGUF file, ``ollama:NAME`` from
            Ollama's store, or a repository of the hub.
        weight_path: Files to read the weights from instead of the model's own, here or
            on the hub.
        encoding: Requested encoding of the weights; None chooses.
        vision_encoding: ``int8`` to run the vision side in int8; None leaves it in
            floats.
        image_cache_encoding: Requested encoding of the image cache, one of
            :data:`~mllama.weights.encodings.CACHE_ENCODINGS`.
        kv_cache_encoding: The same of the KV cache.
        lora_path: Directory of a LoRA adapter to merge into the weights.
        device_type: ``cpu`` or ``gpu``.
        max_length: Requested context in tokens; None is the model's limit.
        hub: Options for downloads, and whether a model's custom code may run.
        quiet: Whether to hide the progress of downloads.

    Raises:
        MllamaError: If the checkpoint can't be served, the device doesn't run the
            encoding, the machine lacks memory, or a limit is out of range.
    """
    if max_length is not None and max_length < 1:
        raise MllamaError(f"the context must be at least 1 token, not {max_length}")

    def check_config(config: MllamaConfig) -> None:
        _check_length(config, max_length)
        if encoding is not None:
            check_runnable(encoding, device_type)

    hub = hub or HubOptions()

    def check_files(directory: Path) -> None:
        check_quantization(directory)
        check_remote_code(directory, trusted=hub.trust_remote_code)

    if model.startswith(PREFIX):
        model = str(find_blob(model))
    downloaded = download_model(
        model,
        weight_path,
        hub,
        check=check_config,
        check_files=check_files,
        quiet=quiet,
    )
    # MAX looks for relative paths of weights in the model's directory.
    directory = Path(downloaded.model).absolute()
    weights = tuple(
        with_gguf_suffix(Path(path).absolute()) for path in downloaded.weight_path
    )
    if is_readable_file(directory):
        weights = weights or (with_gguf_suffix(directory),)
        directory = unpack_small_files(directory)
    if not directory.is_dir():
        raise MllamaError(
            f"{model} is neither a directory, a GGUF file, nor a repository of the hub"
        )
    check_is_not_adapter(directory)
    config = MllamaConfig.from_path(directory)
    check_files(directory)
    _check_length(config, max_length)
    adapter = None
    if lora_path is not None:
        adapter = _open_adapter(Path(lora_path), config, weights)
    if any(path.suffix == ".gguf" for path in weights):
        files = _gguf_files(directory, weights, config, encoding, device_type)
    else:
        checkpoint = open_checkpoint(directory, weights)
        checkpoint.check_quantized()
        files = _safetensors_files(checkpoint, adapter, encoding, device_type)
    notes = downloaded.notes if lora_path is None else ()
    if has_adapter(directory) and not _is_directory(lora_path, directory):
        notes = (unused_adapter_note(directory),)
    served = with_vision_encoding(files.encoding, vision_encoding, config)
    served = with_image_cache_encoding(served, image_cache_encoding, config)
    served = with_kv_cache_encoding(served, kv_cache_encoding, config)
    files = replace(files, encoding=served, notes=notes)
    check_memory(files)
    return files


def _gguf_files(
    directory: Path,
    weights: tuple[Path, ...],
    config: MllamaConfig,
    requested: str | None,
    device_type: str,
) -> ModelFiles:
    """Returns the files of a model whose weights are a GGUF file.

    Raises:
        MllamaError: If the file doesn't fit the configuration or the request.
    """
    if len(weights) > 1:
        raise MllamaError("a GGUF file contains all weights: give --weight-path once")
    file = open_gguf(weights[0])
    check_tensors(file, config)
    file_format = main_encoding(file)
    is_floats = file_format not in GGUF_ENCODINGS
    served_as_is = requested in (None, file_format)
    if not served_as_is and not (is_floats and requested == "bfloat16"):
        raise MllamaError(
            f"{weights[0]} is in {file_format}, not {requested}; leave "
            "--quantization-encoding out, or quantize the original checkpoint again"
        )
    if is_floats:
        encoding = choose_encoding(requested, device_type, "float32", config)
    else:
        check_runnable(file_format, device_type)
        reason = None if requested else encoding_reason(file)
        encoding = Encoding(file_format, device_type, reason)
    return ModelFiles(
        directory, weights, config, encoding, quantized_formats(file, config)
    )


def _safetensors_files(
    checkpoint: Checkpoint,
    adapter: Adapter | None,
    requested: str | None,
    device_type: str,
) -> ModelFiles:
    """Returns the files of a checkpoint, marked for quantization if its encoding needs
    it."""
    config = checkpoint.config
    encoding = choose_encoding(requested, device_type, checkpoint.dtype, config)
    files = ModelFiles(
        checkpoint.path,
        tuple(checkpoint.files),
        config,
        encoding,
        quantization_plan(config, encoding.name),
        lora_path=adapter.path if adapter else None,
    )
    if encoding.name not in GGUF_ENCODINGS:
        return files
    return replace(
        files,
        weight_path=(),
        lora_path=None,
        unquantized=adapter.merged_into(checkpoint) if adapter else checkpoint,
    )


def _open_adapter(path: Path, config: MllamaConfig, weights: Sequence[Path]) -> Adapter:
    """Returns an adapter whose tensors are checked, values included.

    Raises:
        MllamaError: If it can't be merged into the weights.
    """
    quantized = [file for file in weights if file.suffix == ".gguf"]
    if quantized:
        raise MllamaError(
            f"{quantized[0]} is quantized, and an adapter is merged into floats only: "
            f"`mllama quantize SRC DST --lora-path {path}` makes a GGUF file of the "
            "original checkpoint with the adapter in it"
        )
    adapter = open_adapter(path, config)
    check_values(adapter)
    return adapter


def _is_directory(path: str | Path | None, directory: Path) -> bool:
    return path is not None and Path(path).resolve() == directory.resolve()


def _check_length(config: MllamaConfig, max_length: int | None) -> None:
    limit = config.text_config.max_position_embeddings
    if max_length is not None and max_length > limit:
        raise ConfigError(
            f"a context of {max_length} tokens was requested, but the model's limit is "
            f"{limit}"
        )


def check_memory(files: ModelFiles) -> None:
    """Refuses weights that don't fit: Linux would kill the process without a message.

    Args:
        files: The files, those of the draft model included.

    Raises:
        MllamaError: If the weights are larger than the memory of the CPU, or of the
            container.
    """
    if files.encoding.device_type != "cpu":
        return
    memory = host_memory_limit()
    needed = files.weights_bytes + (files.draft.weights_bytes if files.draft else 0)
    if memory is not None and needed > memory:
        if files.draft is not None:
            way_out = "leave --draft-model-path out"
        elif files.encoding.name in GGUF_ENCODINGS:
            way_out = "a machine or container with more memory is needed"
        elif files.weight_path[0].suffix == ".gguf":
            way_out = "make a smaller file from the original with `mllama quantize`"
        else:
            way_out = "use --quantization-encoding q4_k"
        raise MllamaError(
            f"the weights take {format_bytes(needed)} in "
            f"{files.encoding.name}, but this process may use {format_bytes(memory)} "
            f"of memory; {way_out}"
        )
