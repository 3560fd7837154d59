"""Custom Python code of a checkpoint, which runs only if the user trusts it.

A checkpoint's files name its custom classes in ``auto_map``, as transformers writes it.
Only a tokenizer's class can be used here; the configuration and the image processor are
read as data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mllama.errors import CheckpointError, quoted

_VOCABULARIES: Final = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
"""Files that a custom tokenizer may read."""

_VOCABULARY_SUFFIXES: Final = (".tiktoken",)

_IMAGE_PROCESSORS: Final = ("processor_config.json", "preprocessor_config.json")


def code_files(names: Iterable[str]) -> list[str]:
    """Returns the names of a repository's code files and of the files they may read."""
    return [
        name
        for name in names
        if "/" not in name
        and (name in _VOCABULARIES or name.endswith((".py", *_VOCABULARY_SUFFIXES)))
    ]


def check_remote_code(directory: Path, *, trusted: bool) -> None:
    """Checks that code which the checkpoint needs is trusted and present.

    A tokenizer with a custom class needs no code if it also names a class of
    transformers and has a ``tokenizer.json``.

    Args:
        directory: The directory with the checkpoint's small files.
        trusted: True if the checkpoint's code may run.

    Raises:
        CheckpointError: If needed code isn't trusted or is missing, or the image
            processor needs code, which never runs here.
    """
    for name in _IMAGE_PROCESSORS:
        _check_image_processor(directory / name)
    path = directory / "tokenizer_config.json"
    settings = _read(path)
    reference = _reference(settings.get("auto_map"), "AutoTokenizer")
    if reference is None:
        return
    if trusted:
        _check_code_exists(path, reference)
    elif not (
        (directory / "tokenizer.json").is_file()
        and _is_transformers_class(settings.get("tokenizer_class"))
    ):
        raise CheckpointError(
            f"{directory} has a custom tokenizer, {quoted(reference)}, whose code "
            "runs only with --trust-remote-code; read that code first"
        )


def _check_image_processor(path: Path) -> None:
    settings = _read(path)
    inner = settings.get("image_processor")
    kind = (inner if isinstance(inner, Mapping) else settings).get(
        "image_processor_type"
    )
    maps = (settings, inner if isinstance(inner, Mapping) else {})
    names = [_reference(each.get("auto_map"), "AutoImageProcessor") for each in maps]
    if any(names) and not str(kind).startswith("MllamaImageProcessor"):
        raise CheckpointError(
            f"{path} names a custom image processor, {quoted(kind)}, whose code "
            "never runs here, even if it is trusted; set image_processor_type to "
            "MllamaImageProcessor to use its settings with Mllama's processor"
        )


def _check_code_exists(path: Path, reference: str) -> None:
    """Checks that the directory has the code, unless ``REPOSITORY--`` names another."""
    file = f"{reference.split('.', 1)[0]}.py"
    if "--" not in reference and not (path.parent / file).is_file():
        raise CheckpointError(
            f"{path.parent} lacks {file}, which {path.name} names; it is incomplete"
        )


def _reference(auto_map: Any, kind: str) -> str | None:
    """Returns the class that ``auto_map`` names for an auto class: ``MODULE.CLASS``."""
    found = auto_map.get(kind) if isinstance(auto_map, Mapping) else auto_map
    if isinstance(found, (list, tuple)):
        # A slow and a fast tokenizer; transformers prefers the fast one.
        names = [name for name in found if isinstance(name, str)]
        found = names[-1] if names else None
    return found if isinstance(found, str) else None


def _is_transformers_class(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    base = name.removesuffix("Fast")
    return any(tokenizer_class_from_name(each) for each in (name, base, f"{base}Fast"))


def _read(path: Path) -> Mapping[str, Any]:
    """Returns the object in a JSON file, or an empty one if it can't be read.

    The code that needs the file reports the error.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}
