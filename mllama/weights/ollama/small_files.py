"""Writes a GGUF file's configuration, tokenizer and chat template into the cache.

Files of ``mllama quantize`` contain these small files.  For Ollama's files they are
derived once from ggml's keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mllama.errors import CheckpointError
from mllama.utils.atomic_file import write_small_file
from mllama.utils.cache_dir import cache_directory, cache_unwritable
from mllama.version import __version__
from mllama.weights.gguf.checkpoint import open_gguf
from mllama.weights.gguf.file import GgufFile
from mllama.weights.gguf.writing import SMALL_FILES, SOURCE_PREFIX
from mllama.weights.ollama.ggml_config import (
    ROPE_FACTORS,
    derived_config,
    derived_image_processor,
)

_META_FORMAT = Path(__file__).with_name("meta_format.jinja")
"""The chat template for files without one."""

DERIVED_FILES: Final = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def unpack_small_files(path: Path) -> Path:
    """Returns a directory with a file's configuration, tokenizer and chat template.

    Raises:
        CheckpointError: If the file has neither them nor the keys to derive them, or
            the cache can't be written.
    """
    file = open_gguf(path)
    contained = {
        name: file.metadata[SOURCE_PREFIX + name]
        for name in SMALL_FILES
        if SOURCE_PREFIX + name in file.metadata
    }
    if "config.json" in contained and "tokenizer.json" in contained:
        return _unpack(path, contained)
    try:
        directory = cache_directory(f"gguf/{_digest(file)}")
        if not all((directory / name).is_file() for name in DERIVED_FILES):
            _write(directory, derived_files(file))
    except OSError as error:
        raise cache_unwritable(error) from error
    return directory


def derived_files(file: GgufFile) -> dict[str, str]:
    """Returns the files that a Hugging Face directory has besides weights, by name.

    Raises:
        CheckpointError: If a key is missing, or keys and tensors contradict each other.
    """
    # Slow to import, and files of `mllama quantize` don't need it.
    from mllama.weights.ollama.ggml_tokenizer import (
        generation_config,
        to_json,
        tokenizer_config,
        tokenizer_json,
    )
    from mllama.weights.ollama.ggml_vocabulary import read_vocabulary

    vocabulary = read_vocabulary(file)
    config = derived_config(
        file,
        image_token_id=vocabulary.image_token_id,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_ids=vocabulary.eos_token_ids,
        pad_token_id=vocabulary.pad_token_id,
    )
    context = config["text_config"]["max_position_embeddings"]
    return {
        "config.json": to_json(config),
        "generation_config.json": to_json(generation_config(vocabulary)),
        "preprocessor_config.json": to_json(derived_image_processor(config)),
        "tokenizer.json": tokenizer_json(file, vocabulary),
        "tokenizer_config.json": to_json(tokenizer_config(vocabulary, context)),
        "chat_template.jinja": _chat_template(file),
    }


def _chat_template(file: GgufFile) -> str:
    """Returns the file's own template if it supports images, else Meta's format.

    Ollama stores its own templates, in Go's template language, next to the file; they
    are not read.
    """
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and "<|image|>" in template:
        return template
    return _META_FORMAT.read_text(encoding="utf-8")


def _digest(file: GgufFile) -> str:
    """Returns a digest of everything that the derived files depend on."""
    digest = hashlib.sha256(f"{__version__}\0".encode())
    digest.update(_META_FORMAT.read_bytes())
    digest.update(file.header)
    if ROPE_FACTORS in file.tensors:
        digest.update(file.raw(ROPE_FACTORS).tobytes())
    return digest.hexdigest()[:32]


def _unpack(path: Path, contained: Mapping[str, object]) -> Path:
    files = {}
    digest = hashlib.sha256()
    for name, content in contained.items():
        if not isinstance(content, str):
            raise CheckpointError(f"{path}: {SOURCE_PREFIX}{name} is not a string")
        digest.update(f"{name}\0{content}\0".encode())
        files[name] = content
    try:
        directory = cache_directory(f"gguf/{digest.hexdigest()[:32]}")
        _write(directory, files)
    except OSError as error:
        raise cache_unwritable(error) from error
    return directory


def _write(directory: Path, files: Mapping[str, str]) -> None:
    """Writes the files that are missing or differ, each atomically."""
    for name, content in files.items():
        target, encoded = directory / name, content.encode()
        if target.is_file() and target.read_bytes() == encoded:
            continue
        write_small_file(target, encoded)
