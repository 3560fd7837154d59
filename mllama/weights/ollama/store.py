"""Finds models in Ollama's local store by the names that its users type.

The store is a directory of manifests, JSON files whose path is the model's name, and of
blobs, files that are named by their digest.  A manifest lists the blobs of a model by
media type.  Names, defaults and layout are Ollama's (``types/model/name.go``,
``manifest/``).  The model's blob is used where it lies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mllama.errors import CheckpointError, MllamaError, listed, quoted
from mllama.weights.gguf.file import OLD_LAYOUT

PREFIX: Final = "ollama:"
"""Marks a name of the store on the command line."""

STORE_VARIABLE: Final = "OLLAMA_MODELS"
"""Ollama's environment variable that moves the store."""

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")
"""The store of the service that Ollama's installer sets up on Linux."""

_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"
_MEDIA_TYPE = "application/vnd.ollama.image."
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_LISTED_NAMES = 8
"""Names that an error message lists."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL_OR_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

_Digest = Annotated[StrictStr, Field(pattern=r"^sha256[:-][0-9a-fA-F]{64}$")]


class _UnreadableError(CheckpointError):
    """This user may not read a part of a store."""


@checked_dataclass(frozen=True)
class _Layer:
    """A blob in a manifest."""

    digest: _Digest
    size: StrictInt
    media_type: StrictStr = Field(validation_alias="mediaType")

    @property
    def kind(self) -> str:
        """Returns the media type without Ollama's prefix."""
        return self.media_type.removeprefix(_MEDIA_TYPE)


@checked_dataclass(frozen=True)
class _Manifest:
    layers: list[_Layer]


@dataclass(frozen=True)
class ModelName:
    """A model's full name, in parts that are safe as names of files."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Returns the parts in the order of the manifest's path."""
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """Returns the name as short as Ollama shows it."""
        if self.host != _DEFAULT_HOST:
            prefix = f"{self.host}/{self.namespace}/"
        elif self.namespace != _DEFAULT_NAMESPACE:
            prefix = f"{self.namespace}/"
        else:
            prefix = ""
        return f"{prefix}{self.model}:{self.tag}"


def parse_name(name: str) -> ModelName:
    """Reads ``[[HOST/]NAMESPACE/]MODEL[:TAG]``.

    Raises:
        MllamaError: If a part is missing or has a character that names don't have.
    """
    path, tag = name, _DEFAULT_TAG
    if name.rfind(":") > name.rfind("/"):
        path, _, tag = name.rpartition(":")
    given = path.split("/")
    defaults = (_DEFAULT_HOST, _DEFAULT_NAMESPACE)[: max(0, 3 - len(given))]
    parts = [*defaults, *given, tag]
    patterns = (_HOST, _NAMESPACE, _MODEL_OR_TAG, _MODEL_OR_TAG)
    if len(parts) != 4 or not all(
        pattern.fullmatch(part) for pattern, part in zip(patterns, parts, strict=True)
    ):
        raise MllamaError(
            f"{quoted(name)} is not a name of a model in Ollama's store; write "
            f"{PREFIX}NAME[:TAG], such as {PREFIX}llama3.2-vision"
        )
    return ModelName(*parts)


@dataclass(frozen=True)
class StoredModel:
    """A model that was found in a store.

    Attributes:
        store: The store.
        name: The model's full name.
        manifest: Its manifest.
    """

    store: Path
    name: ModelName
    manifest: Path

    @property
    def layers(self) -> list[_Layer]:
        """Returns the layers of the manifest.

        Raises:
            CheckpointError: If it is damaged or can't be read.
        """
        return _read_layers(self.manifest)

    def read(self, layer: _Layer, most: int) -> bytes:
        """Returns the content of a small blob.

        Raises:
            CheckpointError: If it is missing, has more bytes than ``most``, or can't be
                read.
        """
        blob = _find_blob(self.store, layer.digest)
        if blob is None:
            raise CheckpointError(
                f"{PREFIX}{self.name} lacks its blob {layer.digest}; pull the model "
                "again"
            )
        try:
            with blob.open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            raise _unreadable(blob, error) from error
        if len(content) > most:
            raise CheckpointError(
                f"{blob} is the {layer.kind} of {self.name}, and has more than {most} "
                "bytes; pull the model again"
            )
        return content


def find_blob(name: str) -> Path:
    """Returns the file with a model's weights, in the store.

    Args:
        name: The model's name, with or without ``ollama:`` in front.

    Raises:
        MllamaError: If there is no store, no such model, or it can't be served.
    """
    stored = open_stored(name)
    return _model_blob(stored.store, stored.name, stored.layers)


def open_stored(name: str) -> StoredModel:
    """Returns a model of a store.

    Args:
        name: The model's name, with or without ``ollama:`` in front.

    Raises:
        MllamaError: If there is no store, or no such model.
    """
    wanted = parse_name(name.removeprefix(PREFIX))
    names: set[str] = set()
    searched: list[Path] = []
    unreadable: list[_UnreadableError] = []
    for store in store_directories():
        try:
            if not _exists(store / "manifests"):
                continue
            manifest = _find_manifest(store, wanted)
        except _UnreadableError as error:
            unreadable.append(error)
            continue
        if manifest is not None:
            return StoredModel(store, wanted, manifest)
        searched.append(store)
        names |= {str(found) for found, _ in _models(store)}
    if searched:
        raise MllamaError(
            f"{searched[0]} has no model {wanted}; it has "
            f"{listed(sorted(names), _MAX_LISTED_NAMES) or 'no model'}; pull it with "
            "Ollama 0.7 to 0.29"
        )
    if unreadable:
        raise unreadable[0]
    places = " or ".join(str(store) for store in store_directories())
    raise MllamaError(
        f"there is no Ollama store at {places}; set {STORE_VARIABLE} to the directory "
        "that contains manifests and blobs"
    )


def store_directories() -> list[Path]:
    """Returns the directories that may be a store: ``$OLLAMA_MODELS``, or the user's
    and the service's."""
    chosen = os.environ.get(STORE_VARIABLE, "").strip().strip("\"'")
    if chosen:
        return [Path(chosen)]
    return [Path.home() / ".ollama" / "models", SERVICE_STORE]


def _find_manifest(store: Path, name: ModelName) -> Path | None:
    """Returns a model's manifest; Ollama ignores upper and lower case."""
    path = store.joinpath("manifests", *name.parts)
    if _exists(path):
        return path
    lowered = tuple(part.lower() for part in name.parts)
    for found, manifest in _models(store):
        if tuple(part.lower() for part in found.parts) == lowered:
            return manifest
    return None


def _models(store: Path) -> Iterator[tuple[ModelName, Path]]:
    """Yields every model of a store, with its manifest."""
    root = store / "manifests"
    try:
        for manifest in sorted(root.glob("*/*/*/*")):
            if manifest.is_file():
                yield ModelName(*manifest.relative_to(root).parts), manifest
    except OSError as error:
        raise _unreadable(root, error) from error


def _read_layers(path: Path) -> list[_Layer]:
    """Returns the layers of a manifest."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if len(content) > _MAX_MANIFEST_BYTES:
            content = b""
        return TypeAdapter(_Manifest).validate_json(content).layers
    except ValidationError:
        raise CheckpointError(
            f"{path} is not a manifest of Ollama's; pull the model again"
        ) from None


def _model_blob(store: Path, name: ModelName, layers: Sequence[_Layer]) -> Path:
    """Returns the blob with the weights, after checking that it is complete."""
    adapters = [layer for layer in layers if layer.kind == "adapter"]
    models = [layer for layer in layers if layer.kind == "model"]
    if any(layer.kind == "projector" for layer in layers):
        raise CheckpointError(f"{PREFIX}{name} is in {OLD_LAYOUT}")
    if adapters:
        raise CheckpointError(
            f"{PREFIX}{name} has an adapter ({adapters[0].digest[:19]}...), which "
            "can't be merged into quantized weights; serve the model that it was made "
            "for"
        )
    if len(models) != 1:
        raise CheckpointError(
            f"{PREFIX}{name} has {len(models)} GGUF files of a model instead of one"
        )
    (layer,) = models
    blob = _find_blob(store, layer.digest)
    if blob is None:
        raise CheckpointError(
            f"{PREFIX}{name} lacks its blob {layer.digest}; pull the model again"
        )
    size = blob.stat().st_size
    if size != layer.size:
        raise CheckpointError(
            f"{blob} has {size} bytes, but the manifest of {name} says {layer.size}; "
            "pull the model again"
        )
    if not os.access(blob, os.R_OK):
        raise _unreadable(blob, PermissionError(13, "Permission denied"))
    return blob


def _find_blob(store: Path, digest: str) -> Path | None:
    """Returns a blob's file; early versions of Ollama named it with a colon."""
    digits = digest[len("sha256:") :]
    for name in (f"sha256-{digits}", f"sha256:{digits}"):
        path = store / "blobs" / name
        if _exists(path):
            return path
    return None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _unreadable(path: Path, error: OSError) -> _UnreadableError:
    return _UnreadableError(
        f"{path} can't be read: {error.strerror or error}; run as a user who may read "
        "Ollama's store"
    )
