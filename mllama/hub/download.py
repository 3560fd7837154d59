"""Downloads of models from the hub into the hub's cache.

Configuration and tokenizer come first and are checked, then the headers of the weights,
so that a model that can't be served is refused before gigabytes are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.hub.file_selection import WEIGHT_SUFFIXES
from mllama.hub.model_download import (
    CONFIG,
    DEFAULT_REVISION,
    ModelDownload,
    check_is_not_hub_adapter,
    no_config_error,
)
from mllama.hub.model_kind import VISION_MODEL, ModelKind
from mllama.hub.options import DownloadedModel, HubOptions
from mllama.hub.repository import Repository
from mllama.weights.lora.surroundings import check_is_not_adapter

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_repository(model: str) -> bool:
    """Returns True if a path names a repository of the hub.

    It does if it has the form ``owner/name`` and no local file has this name.
    """
    return _NAME.fullmatch(model) is not None and not Path(model).exists()


def download_model(
    model: str,
    weight_path: Sequence[Any] = (),
    options: HubOptions | None = None,
    *,
    check: Callable[[MllamaConfig], None] = lambda config: None,
    check_files: Callable[[Path], None] = lambda directory: None,
    gguf: bool = True,
    quiet: bool = True,
    kind: ModelKind = VISION_MODEL,
) -> DownloadedModel:
    """Downloads the files of a model that are on the hub and not yet in its cache.

    A weight path is a local file, ``owner/name/FILE`` for a file of the hub, ``FILE``
    for one of the model's repository, or ``owner/name`` for all weights of a
    repository.

    Args:
        model: A directory, a GGUF file or a repository.
        weight_path: Weights to use instead of the model's own.
        options: Options for the hub.
        check: Called with the configuration before anything else is downloaded; raises
            an error to refuse it.
        check_files: Called with the directory of the small files before the weights are
            downloaded; raises an error to refuse them.
        gguf: Whether the model's own weights may be a GGUF file.
        quiet: Whether to hide the progress.
        kind: The kind of the model.

    Raises:
        MllamaError: If a file can't be downloaded, or the model can't be served.
    """
    options = options or HubOptions()
    remote = [str(path) for path in weight_path if not Path(path).exists()]
    for path in remote:
        if not _may_be_on_hub(path, model):
            raise MllamaError(f"there is no weight file {path}")
    if not is_repository(model) and not remote:
        _refuse_unused_options(model, options)
        return DownloadedModel(model, tuple(weight_path))
    download = ModelDownload(model, options, gguf, quiet, kind)
    if is_repository(model):
        return download.repository(list(map(str, weight_path)), check, check_files)
    if options.revision is not None:
        _refuse_unused_options(model, options)
    return download.weights_for_local_model(list(map(str, weight_path)))


def download_config(model: str, options: HubOptions) -> MllamaConfig:
    """Returns the configuration of a directory or of a repository.

    Raises:
        MllamaError: If it can't be downloaded, or belongs to another kind of model.
    """
    if not is_repository(model):
        _refuse_unused_options(model, options)
        check_is_not_adapter(Path(model))
        return MllamaConfig.from_path(model)
    repository = Repository(
        model,
        options.revision or DEFAULT_REVISION,
        force=options.force_download,
        quiet=True,
    )
    if CONFIG not in repository.names:
        check_is_not_hub_adapter(repository)
        raise no_config_error(model)
    repository.download([CONFIG], small=True)
    return MllamaConfig.from_path(repository.directory)


def _may_be_on_hub(path: str, model: str) -> bool:
    parts = path.split("/")
    if is_repository(model) and len(parts) < 3:
        return path[:1] not in ("", ".", "/", "~")
    is_file = path.endswith(WEIGHT_SUFFIXES)
    return (
        len(parts) > (2 if is_file else 1)
        and _NAME.fullmatch("/".join(parts[:2])) is not None
    )


def _refuse_unused_options(model: str, options: HubOptions) -> None:
    if options != HubOptions():
        raise MllamaError(
            f"{model} is on this machine; --force-download, "
            "--huggingface-model-revision and --huggingface-weight-revision are for "
            "repositories of the hub: leave them out"
        )
