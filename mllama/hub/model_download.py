"""The download of one model, whose files may be in several repositories of the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllama.config import MllamaConfig
from mllama.errors import ConfigError, HubError
from mllama.hub.file_selection import (
    GGUF,
    SMALL,
    WEIGHT_SUFFIXES,
    check_weight_name,
    choose_weights,
)
from mllama.hub.model_kind import VISION_MODEL, ModelKind
from mllama.hub.options import DownloadedModel, HubOptions
from mllama.hub.remote_headers import check_headers
from mllama.hub.repository import Repository
from mllama.weights.checkpoint import INDEX_FILE, read_weight_map
from mllama.weights.lora.adapter_config import CONFIG_FILE as ADAPTER_CONFIG
from mllama.weights.lora.surroundings import (
    check_is_not_adapter,
    has_adapter,
    unused_hub_adapter_note,
)
from mllama.weights.remote_code import code_files

DEFAULT_REVISION: Final = "main"

CONFIG: Final = "config.json"


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

    def download(self, config: Path | None, kind: ModelKind) -> list[Path]:
        """Checks the files' headers, downloads the files and returns their paths."""
        if self.repository is None:
            return [Path(name) for name in self.names]
        check_headers(self.repository, self.names, config if self.whole else None, kind)
        return self.repository.download(self.names)


class ModelDownload:
    """The download of one model, whose files may be in several repositories.

    Args:
        model: A repository, or a directory whose weights are on the hub.
        options: Options for the hub.
        gguf: Whether the model's own weights may be a GGUF file.
        quiet: Whether to hide the progress.
        kind: The kind of the model.
    """

    def __init__(
        self,
        model: str,
        options: HubOptions,
        gguf: bool,
        quiet: bool,
        kind: ModelKind = VISION_MODEL,
    ) -> None:
        self._kind = kind
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
            tuple(
                file for each in weights for file in each.download(config, self._kind)
            ),
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
            check: Called with the configuration before anything else is downloaded;
                raises an error to refuse it.
            check_files: Called with the directory of the small files before the weights
                are downloaded; raises an error to refuse them.
        """
        own = self._open(self._model, self._options.revision)
        small = [name for name in SMALL if name in own.names]
        if self._options.trust_remote_code:
            small += code_files(own.names)
        if CONFIG in small:
            own.download([CONFIG], small=True)
            check(self._kind.read_config(own.directory))
        elif not weight_path:
            check_is_not_hub_adapter(own)
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
                raise own.selection_error(no_config_error(own.name))
            own.download(small, small=True)
            check_files(own.directory)
        config = own.directory / CONFIG if CONFIG in small else None
        files = [file for each in weights for file in each.download(config, self._kind)]
        notes: tuple[str, ...] = ()
        if ADAPTER_CONFIG in own.names and not has_adapter(own.directory):
            notes = (unused_hub_adapter_note(own.name),)
        if is_standalone:
            return DownloadedModel(str(files[0]), tuple(files[1:]), notes)
        has_own_weights = (
            not weight_path
            and first.repository is own
            and not first.names[0].endswith(GGUF)
        )
        return DownloadedModel(
            str(own.directory), () if has_own_weights else tuple(files), notes
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


def check_is_not_hub_adapter(repository: Repository) -> None:
    """Checks that a repository without a model's configuration isn't an adapter.

    Raises:
        CheckpointError: If it is one.
    """
    if ADAPTER_CONFIG in repository.names:
        repository.download([ADAPTER_CONFIG], small=True)
        check_is_not_adapter(repository.directory, repository.name)


def no_config_error(name: str) -> ConfigError:
    """Returns the error of a repository without a model's configuration."""
    return ConfigError(f"{name} has no {CONFIG}; it is not a model's checkpoint")
