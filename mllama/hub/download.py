"""Downloads of models from the hub into the hub's cache.

Configuration and tokenizer come first and are checked, then the headers of the weights,
so that a model that can't be served is refused before gigabytes are downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama.config import MllamaConfig
from mllama.errors import ConfigError, HubError, MllamaError
from mllama.hub.file_selection import (
    GGUF,
    SMALL,
    WEIGHT_SUFFIXES,
    check_weight_name,
    choose_weights,
)
from mllama.hub.options import DownloadedModel, HubOptions
from mllama.hub.remote_headers import check_headers
from mllama.hub.repository import Repository
from mllama.weights.checkpoint import INDEX_FILE, read_weight_map
from mllama.weights.lora.adapter_config import CONFIG_FILE as ADAPTER_CONFIG
from mllama.weights.lora.surroundings import check_is_not_adapter
from mllama.weights.remote_code import code_files

DEFAULT_REVISION = "main"

CONFIG = "config.json"

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
    download = _ModelDownload(model, options, gguf, quiet)
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
        _check_is_not_adapter(repository)
        raise _no_config(model)
    repository.download([CONFIG], small=True)
    return MllamaConfig.from_path(repository.directory)


def _check_is_not_adapter(repository: Repository) -> None:
    """Checks that a repository without a model's configuration isn't an adapter.

    Raises:
        CheckpointError: If it is one.
    """
    if ADAPTER_CONFIG in repository.names:
        repository.download([ADAPTER_CONFIG], small=True)
        check_is_not_adapter(repository.directory, repository.name)


def _no_config(name: str) -> ConfigError:
    return ConfigError(f"{name} has no {CONFIG}; it is not a model's checkpoint")


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


@dataclass(frozen=True)
class _WeightSelection:
    """Selected weights: files of a repository, or a local file.

    Attributes:
        names: Names in the repository, or the path of the local file.
        repository: The repository; None for a local file.
        whole: Whether these files are all weights of a checkpoint.
    """

    names: list[str]
    repository: Repository | None = None
    whole: bool = False

    def download(self, config: Path | None) -> list[Path]:
        """Checks the files' headers, downloads the files and returns their paths."""
        if self.repository is None:
            return [Path(name) for name in self.names]
        check_headers(self.repository, self.names, config if self.whole else None)
        return self.repository.download(self.names)


class _ModelDownload:
    """The download of one model, whose files may be in several repositories."""

    def __init__(
        self, model: str, options: HubOptions, gguf: bool, quiet: bool
    ) -> None:
        self._model = model
        self._options = options
        self._gguf = gguf
        self._quiet = quiet

    def weights_for_local_model(self, weight_path: list[str]) -> DownloadedModel:
        """Downloads weights from the hub for a model in a local directory."""
        config = Path(self._model) / CONFIG
        weights = [self._select(path, None) for path in weight_path]
        return DownloadedModel(
            self._model,
            tuple(file for each in weights for file in each.download(config)),
        )

    def repository(
        self,
        weight_path: list[str],
        check: Callable[[MllamaConfig], None],
        check_files: Callable[[Path], None],
    ) -> DownloadedModel:
        """Downloads the model's repository, or the files that are needed of it.

        Args:
            weight_path: Weights to use instead of the repository's.
            check: As in :func:`download_model`.
            check_files: As in :func:`download_model`.
        """
        own = self._open(self._model, self._options.revision)
        small = [name for name in SMALL if name in own.names]
        if self._options.trust_remote_code:
            small += code_files(own.names)
        if CONFIG in small:
            own.download([CONFIG], small=True)
            check(MllamaConfig.from_path(own.directory))
        elif not weight_path:
            _check_is_not_adapter(own)
        weights = [self._select(path, own) for path in weight_path]
        weights = weights or [self._select_all(self._weight_repository(own))]
        first = weights[0]
        # A GGUF file is expected to contain the configuration and the tokenizer if its
        # repository lacks them.
        is_standalone = (
            first.repository is not None
            and first.names[0].endswith(GGUF)
            and not {CONFIG, "tokenizer.json"} <= set(small)
        )
        if not is_standalone:
            if CONFIG not in small:
                raise own.selection_error(_no_config(own.name))
            own.download(small, small=True)
            check_files(own.directory)
        config = own.directory / CONFIG if CONFIG in small else None
        files = [file for each in weights for file in each.download(config)]
        if is_standalone:
            return DownloadedModel(str(files[0]), tuple(files[1:]))
        has_own_weights = (
            not weight_path
            and first.repository is own
            and not first.names[0].endswith(GGUF)
        )
        return DownloadedModel(
            str(own.directory), () if has_own_weights else tuple(files)
        )

    def _open(self, name: str, revision: str | None) -> Repository:
        return Repository(
            name,
            revision or DEFAULT_REVISION,
            force=self._options.force_download,
            quiet=self._quiet,
        )

    def _weight_repository(self, own: Repository) -> Repository:
        revision = self._options.weight_revision
        if revision in (None, own.revision):
            return own
        return self._open(own.name, revision)

    def _select_all(self, repository: Repository) -> _WeightSelection:
        def read_index() -> list[str]:
            (index,) = repository.download([INDEX_FILE], small=True)
            return list(read_weight_map(index).values())

        try:
            names = choose_weights(
                repository.name, repository.names, read_index, gguf=self._gguf
            )
        except HubError as error:
            raise repository.selection_error(error) from error
        return _WeightSelection(names, repository, whole=True)

    def _select(self, path: str, own: Repository | None) -> _WeightSelection:
        """Returns the weights that a ``--weight-path`` names."""
        if Path(path).exists():
            return _WeightSelection([path])
        owner, _, rest = path.partition("/")
        name, _, file = rest.partition("/")
        if own is not None and (
            path in own.names or not (file or _is_repository_name(path))
        ):
            file = path
        if own is not None and (file == path or f"{owner}/{name}" == own.name):
            repository = self._weight_repository(own)
        else:
            try:
                repository = self._open(
                    f"{owner}/{name}", self._options.weight_revision
                )
            except HubError as error:
                raise HubError(f"there is no weight file {path} here; {error}") from (
                    error
                )
        if not file:
            return self._select_all(repository)
        try:
            check_weight_name(repository.name, file, repository.names)
        except HubError as error:
            raise repository.selection_error(error) from error
        return _WeightSelection([file], repository)


def _is_repository_name(path: str) -> bool:
    """Returns True if a path of at most two parts is a repository and not a file."""
    return "/" in path and not path.endswith(WEIGHT_SUFFIXES)
