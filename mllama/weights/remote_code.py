"""Python code that a checkpoint brings along, which runs only if the user trusts it.

Files of a checkpoint name classes of their own in ``auto_map``, as transformers writes
it.  Of these the tokenizer's can matter here; the configuration and the image processor
are read as data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mllama.errors import CheckpointError, quoted

_VOCABULARIES: Final = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
"""What a tokenizer of a repository's own may read."""

_VOCABULARY_SUFFIXES: Final = (".tiktoken",)

_IMAGE_PROCESSORS: Final = ("processor_config.json", "preprocessor_config.json")


def code_files(names: Iterable[str]) -> list[str]:
    """Of a repository's files, its code and what that may read."""
    return [
        name
        for name in names
        if "/" not in name
        and (name in _VOCABULARIES or name.endswith((".py", *_VOCABULARY_SUFFIXES)))
    ]


def check_remote_code(directory: Path, *, trusted: bool) -> None:
    """Refuses code that would be needed and may not run, or isn't there.

    A tokenizer that names its own class beside one of transformers', and has a
    ``tokenizer.json``, is one that works without it.

    Args:
        directory: The checkpoint's small files.
        trusted: Whether its code may run.

    Raises:
        CheckpointError: If so.
    """
    for name in _IMAGE_PROCESSORS:
        _check_image_processor(directory / name)
    path = directory / "tokenizer_config.json"
    settings = _read(path)
    reference = _reference(settings.get("auto_map"), "AutoTokenizer")
    if reference is None:
        return
    if trusted:
        _check_is_there(path, reference)
    elif not (
        (directory / "tokenizer.json").is_file()
        and _is_of_transformers(settings.get("tokenizer_class"))
    ):
        raise CheckpointError(
            f"{directory} has a tokenizer of its own, {quoted(reference)}, whose code "
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
            f"{path} names an image processor of its own, {quoted(kind)}, whose code "
            "is not run here even if it is trusted; with image_processor_type "
            "MllamaImageProcessor its settings are used with Mllama's"
        )


def _check_is_there(path: Path, reference: str) -> None:
    """Checks that the directory holds the code; ``REPOSITORY--`` is another's."""
    file = f"{reference.split('.', 1)[0]}.py"
    if "--" not in reference and not (path.parent / file).is_file():
        raise CheckpointError(
            f"{path.parent} lacks {file}, which {path.name} names: it is not complete"
        )


def _reference(auto_map: Any, kind: str) -> str | None:
    """The class that ``auto_map`` names for an auto class: ``MODULE.CLASS``."""
    found = auto_map.get(kind) if isinstance(auto_map, Mapping) else auto_map
    if isinstance(found, (list, tuple)):
        # A slow tokenizer and a fast one, of which transformers prefers the latter.
        names = [name for name in found if isinstance(name, str)]
        found = names[-1] if names else None
    return found if isinstance(found, str) else None


def _is_of_transformers(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    base = name.removesuffix("Fast")
    return any(tokenizer_class_from_name(each) for each in (name, base, f"{base}Fast"))


def _read(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; whoever uses what can't be read complains about it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, Mapping) else {}
