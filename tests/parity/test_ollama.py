"""A GGUF file from Ollama equals the safetensors that it was converted from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from tests.parity.pipeline import STEPS, Pipeline
from tests.reference.cases import case
from tests.reference.checkpoints import checkpoint
from tests.reference.compare import assert_close, assert_same_tokens
from tests.reference.oracle import Reference, reference
from tests.weights.ollama.ollama_writer import write_ollama_gguf

CASES = ("four_tiles", "text_between_images", "image_per_turn")
"""Conversations with an image and no system message.

Others begin with a system block, in which Ollama's template has another date."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("ollama")
    blob = write_ollama_gguf(checkpoint(), folder / "sha256-0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLAMA_CACHE", str(folder / "cache"))
        return resolve_model_files(str(blob), device_type="cpu")


@pytest.fixture(scope="module")
def pipeline(files: ModelFiles) -> Pipeline:
    return Pipeline(
        Path(files.model),
        weight_path=list(files.weight_path),
        quantization_encoding=files.encoding.max_name,
        max_batch_size=4,
    )


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(checkpoint())


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_equal_those_of_its_source(
    pipeline: Pipeline, oracle: Reference, name: str
) -> None:
    tile = int(pipeline.model.arch_config.model.vision_config.image_size)
    sample = case(name, tile)
    prompt = oracle.prompt(sample.messages)
    tokens = pipeline.context(sample).tokens.all.tolist()
    assert tokens == prompt.token_ids.tolist()
    (answer,) = pipeline.decode([sample])
    expected = oracle.decode(sample.messages, STEPS)
    # The file stores the matrices in float16.
    assert_close(np.stack(answer.logits), expected.logits, what=name)
    assert_same_tokens(
        answer.token_ids, expected.token_ids, what=name, logits=expected.logits
    )
