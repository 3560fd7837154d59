"""A checkpoint's own code runs only if it is needed and trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllama.errors import CheckpointError
from mllama.weights.remote_code import check_remote_code, code_files

OWN = {"AutoTokenizer": [None, "tokens.OwnTokenizer"]}
STANDARD = "PreTrainedTokenizerFast"


def write(directory: Path, name: str, **content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokens.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("auto_map", [OWN, list(OWN["AutoTokenizer"])])
@pytest.mark.parametrize("kind", [{}, {"tokenizer_class": "OwnTokenizer"}])
def test_a_custom_tokenizer_runs_only_if_trusted(
    checkpoint: Path, kind: dict[str, str], auto_map: Any
) -> None:
    write(checkpoint, "tokenizer_config.json", auto_map=auto_map, **kind)
    with pytest.raises(CheckpointError, match=r"'tokens\.OwnTokenizer', whose code"):
        check_remote_code(checkpoint, trusted=False)
    check_remote_code(checkpoint, trusted=True)


def test_a_standard_tokenizer_needs_no_code(checkpoint: Path) -> None:
    write(checkpoint, "tokenizer_config.json", auto_map=OWN, tokenizer_class=STANDARD)
    check_remote_code(checkpoint, trusted=False)
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        check_remote_code(checkpoint, trusted=False)


def test_trusted_code_must_exist(checkpoint: Path) -> None:
    (checkpoint / "tokens.py").unlink()
    write(checkpoint, "tokenizer_config.json", auto_map=OWN)
    with pytest.raises(CheckpointError, match=r"lacks tokens\.py"):
        check_remote_code(checkpoint, trusted=True)
    elsewhere = {"AutoTokenizer": [None, "owner/name--tokens.OwnTokenizer"]}
    write(checkpoint, "tokenizer_config.json", auto_map=elsewhere)
    check_remote_code(checkpoint, trusted=True)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_a_custom_image_processor_is_refused(
    checkpoint: Path, inner: bool, trusted: bool
) -> None:
    own = {
        "image_processor_type": "OwnProcessor",
        "auto_map": {"AutoImageProcessor": "images.OwnProcessor"},
    }
    name = "processor_config.json" if inner else "preprocessor_config.json"
    write(checkpoint, name, **({"image_processor": own} if inner else own))
    with pytest.raises(CheckpointError, match="'OwnProcessor', whose code"):
        check_remote_code(checkpoint, trusted=trusted)
    own["image_processor_type"] = "MllamaImageProcessorFast"
    write(checkpoint, name, **({"image_processor": own} if inner else own))
    check_remote_code(checkpoint, trusted=trusted)


def test_code_files_are_code_and_vocabularies() -> None:
    names = ["a.py", "b/c.py", "tokenizer.model", "x.tiktoken", "pytorch_model.bin"]
    assert code_files(names) == ["a.py", "tokenizer.model", "x.tiktoken"]
