"""Models in Ollama's local store, found by the name that its users type.

The store is a directory of manifests, JSON files whose path is the model's name, and of
blobs, files that are named by their digest.  A manifest lists the blobs of a model by
media type.  Names, defaults and layout are Ollama's (``types/model/name.go``,
``manifest/``).  The model's blob is used where it lies.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mllama.errors import CheckpointError, MllamaError, listed, quoted
from mllama.weights.gguf.file import OLD_FORM

PREFIX: Final = "ollama:"
"""What marks a name of the store on the command line."""

STORE_VARIABLE: Final = "OLLAMA_MODELS"
"""Ollama's environment variable that moves the store."""

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")
"""Where the service that Ollama's installer sets up on Linux keeps its models."""

_DEFAULTS = ("registry.ollama.ai", "library")
_DEFAULT_TAG = "latest"
_MEDIA = "application/vnd.ollama.image."
_LARGEST_MANIFEST = 1 << 20
_MOST_NAMES = 8
"""Names that a refusal lists."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class _UnreadableError(CheckpointError):
    """A part of a store may not be read by this user."""


@dataclass(frozen=True)
class ModelName:
    """A model's full name, each part fit to be a file's name."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """The parts in the order of the manifest's path."""
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """As short as Ollama shows it."""
        if self.host != _DEFAULTS[0]:
            place = f"{self.host}/{self.namespace}/"
        else:
            place = "" if self.namespace == _DEFAULTS[1] else f"{self.namespace}/"
        return f"{place}{self.model}:{self.tag}"


def parse_name(name: str) -> ModelName:
    """Reads ``[[HOST/]NAMESPACE/]MODEL[:TAG]``.

    Raises:
        MllamaError: If a part is missing or has a character that names don't have.
    """
    path, tag = name, _DEFAULT_TAG
    if name.rfind(":") > name.rfind("/"):
        path, _, tag = name.rpartition(":")
    parts = path.split("/")
    full = [*_DEFAULTS[: max(0, 3 - len(parts))], *parts, tag]
    patterns = (_HOST, _NAMESPACE, _PART, _PART)
    if len(full) != 4 or not all(
        pattern.fullmatch(part) for pattern, part in zip(patterns, full, strict=True)
    ):
        raise MllamaError(
            f"{quoted(name)} names no model of Ollama's store; write "
            f"{PREFIX}NAME[:TAG], such as {PREFIX}llama3.2-vision"
        )
    return ModelName(*full)


def find_blob(name: str) -> Path:
    """The file with a model's weights, in the store.

    Args:
        name: The model's, with or without ``ollama:`` in front.

    Raises:
        MllamaError: If there is no store, no such model, or it can't be served.
    """
    wanted = parse_name(name.removeprefix(PREFIX))
    names: set[str] = set()
    stores, closed = [], []
    for store in store_directories():
        try:
            if not _is_there(store / "manifests"):
                continue
            manifest = _manifest(store, wanted)
        except _UnreadableError as error:
            closed.append(error)
            continue
        if manifest is not None:
            return _model_blob(store, wanted, _read_manifest(manifest))
        stores.append(store)
        names |= {str(found) for found, _ in _models(store)}
    if stores:
        raise MllamaError(
            f"{stores[0]} has no model {wanted}; it has "
            f"{listed(sorted(names), _MOST_NAMES) or 'no model'}; pull it with Ollama "
            "0.7 to 0.29"
        )
    if closed:
        raise closed[0]
    looked = " or ".join(str(store) for store in store_directories())
    raise MllamaError(
        f"there is no store of Ollama's at {looked}; set {STORE_VARIABLE} to the "
        "directory that holds manifests and blobs"
    )


def store_directories() -> list[Path]:
    """Where a store may be: ``$OLLAMA_MODELS``, or the user's and the service's."""
    chosen = os.environ.get(STORE_VARIABLE, "").strip().strip("\"'")
    if chosen:
        return [Path(chosen)]
    return [Path.home() / ".ollama" / "models", SERVICE_STORE]


def _manifest(store: Path, name: ModelName) -> Path | None:
    """The model's manifest; upper and lower case are the same to Ollama."""
    path = store.joinpath("manifests", *name.parts)
    if _is_there(path):
        return path
    folded = tuple(part.lower() for part in name.parts)
    for found, manifest in _models(store):
        if tuple(part.lower() for part in found.parts) == folded:
            return manifest
    return None


def _models(store: Path) -> Iterator[tuple[ModelName, Path]]:
    """Every model of a store, with its manifest."""
    root = store / "manifests"
    try:
        for manifest in sorted(root.glob("*/*/*/*")):
            if manifest.is_file():
                yield ModelName(*manifest.relative_to(root).parts), manifest
    except OSError as error:
        raise _unreadable(root, error) from error


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    """The layers of a manifest, each with media type, digest and size."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_MANIFEST + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if len(content) > _LARGEST_MANIFEST:
            raise ValueError
        layers = json.loads(content)["layers"]
        if not all(
            isinstance(layer["mediaType"], str)
            and isinstance(layer["digest"], str)
            and _DIGEST.fullmatch(layer["digest"])
            and isinstance(layer["size"], int)
            for layer in layers
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no manifest of Ollama's; pull the model again"
        ) from error
    return list(layers)


def _model_blob(store: Path, name: ModelName, layers: list[dict[str, Any]]) -> Path:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        kinds.setdefault(layer["mediaType"].removeprefix(_MEDIA), []).append(layer)
    if "projector" in kinds:
        raise CheckpointError(f"{PREFIX}{name} is {OLD_FORM}")
    if "adapter" in kinds:
        raise CheckpointError(
            f"{PREFIX}{name} has an adapter ({kinds['adapter'][0]['digest'][:19]}...), "
            "which can't be used with its blocks; serve the model that it was made for"
        )
    models = kinds.get("model", [])
    if len(models) != 1:
        raise CheckpointError(
            f"{PREFIX}{name} has {len(models)} GGUF files of a model, not one"
        )
    (layer,) = models
    blob = _blob(store, layer["digest"])
    if blob is None:
        raise CheckpointError(
            f"{PREFIX}{name} lacks its blob {layer['digest']}; pull the model again"
        )
    size = blob.stat().st_size
    if size != layer["size"]:
        raise CheckpointError(
            f"{blob} has {size} bytes, but the manifest of {name} says "
            f"{layer['size']}; pull the model again"
        )
    if not os.access(blob, os.R_OK):
        raise _unreadable(blob, PermissionError(13, "Permission denied"))
    return blob


def _blob(store: Path, digest: str) -> Path | None:
    """A blob's file; early versions of Ollama wrote the digest with its colon."""
    digits = digest[len("sha256:") :]
    for spelling in (f"sha256-{digits}", f"sha256:{digits}"):
        path = store / "blobs" / spelling
        if _is_there(path):
            return path
    return None


def _is_there(path: Path) -> bool:
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
