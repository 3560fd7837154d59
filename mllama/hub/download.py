"""What a user names on the hub becomes files in the hub's cache.

Configuration and tokenizer come first and are checked, then the headers of the weights,
so that a model that can't be served is refused before gigabytes have come.
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
from mllama.weights.checkpoint import INDEX_FILE, weight_map
from mllama.weights.remote_code import code_files

DEFAULT_REVISION = "main"

CONFIG = "config.json"

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_repository(model: str) -> bool:
    """Whether a path names a repository of the hub: it is ``owner/name``, and there is
    nothing of this name here."""
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
    """Downloads what is named on the hub and isn't in its cache yet.

    Weights are a file here, ``owner/name/FILE`` of the hub, a file of the model's
    repository, or ``owner/name`` for all of a repository's.

    Args:
        model: A directory, a GGUF file or a repository.
        weight_path: Weights to use instead of the model's own.
        options: How to ask the hub.
        check: Refuses a configuration before its weights are fetched.
        check_files: Refuses small files, all in one directory, before that.
        gguf: Whether GGUF files will do as the model's own weights.
        quiet: Whether to show no progress.

    Raises:
        MllamaError: If something can't be had, or can't be served.
    """
    options = options or HubOptions()
    distant = [str(path) for path in weight_path if not Path(path).exists()]
    for path in distant:
        if not _may_be_on_the_hub(path, model):
            raise MllamaError(f"there is no weight file {path}")
    if not is_repository(model) and not distant:
        _refuse_what_does_nothing(model, options)
        return DownloadedModel(model, tuple(weight_path))
    fetching = _Fetching(model, options, gguf, quiet)
    if is_repository(model):
        return fetching.repository(list(map(str, weight_path)), check, check_files)
    if options.revision is not None:
        _refuse_what_does_nothing(model, options)
    return fetching.beside_local_files(list(map(str, weight_path)))


def download_config(model: str, options: HubOptions) -> MllamaConfig:
    """The configuration alone, of a directory or of a repository.

    Raises:
        MllamaError: If it can't be had, or is of another model.
    """
    if not is_repository(model):
        _refuse_what_does_nothing(model, options)
        return MllamaConfig.from_path(model)
    repository = Repository(
        model,
        options.revision or DEFAULT_REVISION,
        force=options.force_download,
        quiet=True,
    )
    if CONFIG not in repository.names:
        raise ConfigError(f"{model} holds no {CONFIG}; it is no checkpoint of a model")
    repository.fetch([CONFIG], small=True)
    return MllamaConfig.from_path(repository.directory)


def _may_be_on_the_hub(path: str, model: str) -> bool:
    parts = path.split("/")
    if is_repository(model) and len(parts) < 3:
        return path[:1] not in ("", ".", "/", "~")
    is_file = path.endswith(WEIGHT_SUFFIXES)
    return (
        len(parts) > (2 if is_file else 1)
        and _NAME.fullmatch("/".join(parts[:2])) is not None
    )


def _refuse_what_does_nothing(model: str, options: HubOptions) -> None:
    if options != HubOptions():
        raise MllamaError(
            f"{model} is on this machine; --force-download and the revisions of "
            "--huggingface-model-revision and --huggingface-weight-revision are for "
            "repositories of the hub: leave them out"
        )


@dataclass(frozen=True)
class _Chosen:
    """Weights: files of a repository, or one that is here.

    Attributes:
        names: In the repository, or the path.
        repository: Where they are; None is here.
        whole: Whether they are all of a checkpoint's weights.
    """

    names: list[str]
    repository: Repository | None = None
    whole: bool = False

    def fetch(self, config: Path | None) -> list[Path]:
        """The files, downloaded after their headers were checked."""
        if self.repository is None:
            return [Path(name) for name in self.names]
        check_headers(self.repository, self.names, config if self.whole else None)
        return self.repository.fetch(self.names)


class _Fetching:
    """One model's repositories."""

    def __init__(
        self, model: str, options: HubOptions, gguf: bool, quiet: bool
    ) -> None:
        self._model = model
        self._options = options
        self._gguf = gguf
        self._quiet = quiet

    def beside_local_files(self, weight_path: list[str]) -> DownloadedModel:
        """Weights of the hub for a model that is here."""
        config = Path(self._model) / "config.json"
        weights = [self._named(path, None) for path in weight_path]
        return DownloadedModel(
            self._model, tuple(file for each in weights for file in each.fetch(config))
        )

    def repository(
        self,
        weight_path: list[str],
        check: Callable[[MllamaConfig], None],
        check_files: Callable[[Path], None],
    ) -> DownloadedModel:
        """A model of the hub."""
        own = self._open(self._model, self._options.revision)
        small = [name for name in SMALL if name in own.names]
        if self._options.trust_remote_code:
            small += code_files(own.names)
        if CONFIG in small:
            own.fetch([CONFIG], small=True)
            check(MllamaConfig.from_path(own.directory))
        weights = [self._named(path, own) for path in weight_path]
        weights = weights or [self._all_of(self._weights_repository(own))]
        first = weights[0]
        # Of a GGUF file without these, it is hoped that it holds them itself.
        alone = (
            first.repository is not None
            and first.names[0].endswith(GGUF)
            and not {CONFIG, "tokenizer.json"} <= set(small)
        )
        if not alone:
            if CONFIG not in small:
                raise own.incomplete(
                    ConfigError(
                        f"{own.name} holds no {CONFIG}; it is no checkpoint of a model"
                    )
                )
            own.fetch(small, small=True)
            check_files(own.directory)
        config = own.directory / CONFIG if CONFIG in small else None
        files = [file for each in weights for file in each.fetch(config)]
        if alone:
            return DownloadedModel(str(files[0]), tuple(files[1:]))
        are_the_directorys = (
            not weight_path
            and first.repository is own
            and not first.names[0].endswith(GGUF)
        )
        return DownloadedModel(
            str(own.directory), () if are_the_directorys else tuple(files)
        )

    def _open(self, name: str, revision: str | None) -> Repository:
        return Repository(
            name,
            revision or DEFAULT_REVISION,
            force=self._options.force_download,
            quiet=self._quiet,
        )

    def _weights_repository(self, own: Repository) -> Repository:
        revision = self._options.weight_revision
        if revision in (None, own.revision):
            return own
        return self._open(own.name, revision)

    def _all_of(self, repository: Repository) -> _Chosen:
        def read_index() -> list[str]:
            (index,) = repository.fetch([INDEX_FILE], small=True)
            return list(weight_map(index).values())

        try:
            names = choose_weights(
                repository.name, repository.names, read_index, gguf=self._gguf
            )
        except HubError as error:
            raise repository.incomplete(error) from error
        return _Chosen(names, repository, whole=True)

    def _named(self, path: str, own: Repository | None) -> _Chosen:
        """What a ``--weight-path`` stands for."""
        if Path(path).exists():
            return _Chosen([path])
        owner, _, rest = path.partition("/")
        name, _, file = rest.partition("/")
        if own is not None and (path in own.names or not (file or _is_name(path))):
            file = path
        if own is not None and (file == path or f"{owner}/{name}" == own.name):
            repository = self._weights_repository(own)
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
            return self._all_of(repository)
        try:
            check_weight_name(repository.name, file, repository.names)
        except HubError as error:
            raise repository.incomplete(error) from error
        return _Chosen([file], repository)


def _is_name(path: str) -> bool:
    """Whether a path of at most two parts is a repository rather than a file in one."""
    return "/" in path and not path.endswith(WEIGHT_SUFFIXES)
