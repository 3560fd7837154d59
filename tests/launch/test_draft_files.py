"""A draft model that can't guess for the model is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from mllama.errors import MllamaError
from mllama.launch.draft_files import resolve_draft_files
from mllama.launch.model_files import ModelFiles
from mllama.max_model.draft.settings import DraftSettings
from tests.max_model.draft.loading import model_files
from tests.reference.checkpoints import checkpoint
from tests.reference.llama import TOKENIZER, write_llama, write_llama_gguf


@pytest.fixture(scope="module")
def target() -> ModelFiles:
    return model_files()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"), seed=1)


@pytest.fixture
def copied(llama: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(llama, tmp_path / "draft"))


def resolve(path: Path | str, target: ModelFiles) -> ModelFiles:
    return resolve_draft_files(str(path), target, device_type="cpu")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def message(path: Path | str, target: ModelFiles) -> str:
    with pytest.raises(MllamaError) as error:
        resolve(path, target)
    text = str(error.value)
    assert text.startswith(f"--draft-model-path {path}: ")
    assert "\n" not in text
    return text


def test_a_directory_is_found(llama: Path, target: ModelFiles) -> None:
    files = resolve(llama, target)
    assert files.encoding.name == "float32"
    assert files.weight_path == (llama / "model.safetensors",)
    tensors = load_file(llama / "model.safetensors").values()
    assert files.weights_bytes == sum(tensor.nbytes for tensor in tensors)
    settings = files.draft_settings
    assert (
        DraftSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    )
    assert settings.weights_bytes == files.weights_bytes


def test_a_gguf_file_needs_no_other_file(
    llama: Path, target: ModelFiles, tmp_path: Path
) -> None:
    file = write_llama_gguf(llama, tmp_path / "draft.gguf")
    files = resolve(file, target)
    assert files.draft_settings.directory is None
    found, expected = (
        files.config.text_config,
        resolve(llama, target).config.text_config,
    )
    for name in ("vocab_size", "head_dim", "num_hidden_layers", "rope_theta"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.rope_scaling == expected.rope_scaling


def test_a_missing_path_is_refused(target: ModelFiles, tmp_path: Path) -> None:
    assert "neither a directory, a GGUF file, nor a repository" in message(
        tmp_path / "nothing", target
    )
    assert "has no config.json" in message(tmp_path, target)


def test_a_multimodal_model_is_refused(target: ModelFiles) -> None:
    assert (
        "'MllamaForConditionalGeneration', which sees pictures; use a text-only "
        "LlamaForCausalLM"
    ) in message(checkpoint(), target)


def test_another_model_is_refused(copied: Path, target: ModelFiles) -> None:
    edit(
        copied / "config.json",
        lambda config: config.update(architectures=["Qwen2ForCausalLM"]),
    )
    assert "is 'Qwen2ForCausalLM'; use a text-only" in message(copied, target)


@pytest.mark.parametrize("name", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_is_refused(
    copied: Path, target: ModelFiles, name: str
) -> None:
    edit(copied / "config.json", lambda config: config.update({name: True}))
    assert f"{name} must be False" in message(copied, target)


def test_another_size_of_the_vocabulary_is_refused(
    target: ModelFiles, tmp_path: Path
) -> None:
    small = write_llama(tmp_path / "small", seed=1, vocab_size=512)
    assert "its vocabulary has 512 tokens, and the model's 768" in message(
        small, target
    )


def test_another_tokenizer_is_refused(copied: Path, target: ModelFiles) -> None:
    def swap(tokenizer: Any) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["Q"], vocabulary["R"] = vocabulary["R"], vocabulary["Q"]

    edit(copied / TOKENIZER, swap)
    assert "its tokenizer is another one: token" in message(copied, target)


def test_another_tokenizer_in_a_gguf_file_is_refused(
    copied: Path, target: ModelFiles, tmp_path: Path
) -> None:
    def rename(tokenizer: Any) -> None:
        tokenizer["added_tokens"][0]["content"] = "<|another|>"

    edit(copied / TOKENIZER, rename)
    file = write_llama_gguf(copied, tmp_path / "draft.gguf")
    assert "'<|another|>', and the model's" in message(file, target)


def test_a_missing_tokenizer_is_refused(copied: Path, target: ModelFiles) -> None:
    (copied / TOKENIZER).unlink()
    assert "has no tokenizer.json" in message(copied, target)
    (copied / TOKENIZER).write_text("{}")
    assert "can't read" in message(copied, target)


def test_missing_weights_are_refused(copied: Path, target: ModelFiles) -> None:
    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights)
    assert "lacks the tensor language_model.layers.1.mlp.up_proj.weight" in message(
        copied, target
    )
    weights.unlink()
    assert "has no model.safetensors" in message(copied, target)


def test_weights_of_another_shape_are_refused(copied: Path, target: ModelFiles) -> None:
    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, weights)
    assert "they belong to different models" in message(copied, target)


def test_a_gguf_file_of_another_architecture_is_refused(
    llama: Path, target: ModelFiles, tmp_path: Path
) -> None:
    file = write_llama_gguf(llama, tmp_path / "other.gguf", architecture="mllama")
    assert "of the architecture 'mllama'; use a text-only Llama" in message(
        file, target
    )


def test_a_gguf_file_without_text_is_refused(
    target: ModelFiles, tmp_path: Path
) -> None:
    file = tmp_path / "empty.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "it has no text weights" in message(file, target)
