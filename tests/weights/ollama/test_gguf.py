"""A file of Ollama's reads like the checkpoint that it was made from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.images.preprocess import ImageProcessor
from mllama.weights.checkpoint import open_checkpoint
from mllama.weights.gguf.checkpoint import (
    check_tensors,
    main_encoding,
    open_gguf,
    read_tensors,
)
from mllama.weights.names import expected_tensors
from mllama.weights.ollama import small_files
from mllama.weights.ollama.small_files import unpack_small_files
from tests.reference.cases import picture
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import (
    ollama_name,
    q5_k,
    write_ollama_gguf,
)

Keys = dict[str, Any]
Tensors = dict[str, np.ndarray]

MIXED = (Kind.Q4_K, Kind.Q6_K, Kind.Q8_0, Kind.Q5_K, Kind.BF16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ollama")


@pytest.fixture(scope="module")
def written(folder: Path) -> Path:
    return write_ollama_gguf(checkpoint(), folder / "f16.gguf")


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    """A file with different formats for the matrices of the text side."""
    kinds: dict[str, Kind] = {}
    return write_ollama_gguf(
        checkpoint(),
        folder / "mixed.gguf",
        lambda name: kinds.setdefault(name, MIXED[len(kinds) % len(MIXED)]),
    )


def source_config() -> MllamaConfig:
    return MllamaConfig.from_path(checkpoint())


def test_the_derived_config_equals_the_checkpoints(written: Path) -> None:
    folder = unpack_small_files(written)
    config = MllamaConfig.from_path(folder)
    assert config.dtype == "bfloat16"
    # transformers takes large vocabularies for Mistral's if no version is named.
    assert json.loads((folder / "config.json").read_text())["transformers_version"]
    assert dataclasses.replace(config, dtype="float32") == source_config()


def test_every_tensor_equals_the_checkpoints(written: Path) -> None:
    """Permutations and tanh are undone, and no tensor is missing."""
    config = MllamaConfig.from_path(unpack_small_files(written))
    file, source = open_gguf(written), open_checkpoint(checkpoint())
    check_tensors(file, config)
    assert main_encoding(file) == "float32"
    seen = set()
    for name, matrix in read_tensors(file, config):
        seen.add(name)
        assert matrix.format is None
        wanted = source.tensors[name].floats()
        np.testing.assert_allclose(
            matrix.values, wanted, rtol=6e-4, atol=1e-6, err_msg=name
        )
    assert seen == set(expected_tensors(source.config))


def test_permuted_rows_and_gates_differ_from_the_checkpoints_in_the_file(
    written: Path,
) -> None:
    """Otherwise the test above would prove nothing."""
    file, source = open_gguf(written), open_checkpoint(checkpoint())
    text = source.config.text_config
    cross = text.cross_attention_layers[0]
    own = next(
        i for i in range(text.num_hidden_layers) if i not in text.cross_attention_layers
    )
    for name in (
        f"language_model.layers.{own}.self_attn.q_proj.weight",
        f"language_model.layers.{own}.self_attn.k_proj.weight",
        f"language_model.layers.{cross}.cross_attn.q_proj.weight",
        f"language_model.layers.{cross}.cross_attn.k_proj.weight",
        "vision_model.transformer.layers.0.self_attn.q_proj.weight",
        "vision_model.transformer.layers.0.self_attn.k_proj.weight",
        "vision_model.global_transformer.layers.0.gate_attn",
        "vision_model.global_transformer.layers.0.gate_ffn",
        "vision_model.pre_tile_positional_embedding.gate",
    ):
        published = name.replace("language_model.", "language_model.model.")
        stored = np.asarray(file.raw(ollama_name(published)), np.float32)
        wanted = source.tensors[name].floats()
        assert not np.allclose(stored.reshape(wanted.shape), wanted, rtol=1e-2), name


def test_mixed_formats_approximate_the_checkpoints_values(mixed: Path) -> None:
    config = source_config()
    file, source = open_gguf(mixed), open_checkpoint(checkpoint())
    assert {tensor.kind for tensor in file.tensors.values()} == {
        *MIXED,
        Kind.F16,
        Kind.F32,
    }
    check_tensors(file, config)
    formats = set()
    for name, matrix in read_tensors(file, config):
        values = matrix.values
        formats.add(matrix.format)
        if matrix.format is not None:
            values = dequantize(values, Kind[matrix.format])
        wanted = source.tensors[name].floats()
        error = np.sqrt(((values - wanted) ** 2).mean())
        tolerance = {None: 0.06, "Q6_K": 0.06, "Q4_K": 0.12}[matrix.format]
        assert error <= tolerance * np.sqrt((wanted**2).mean()) + 1e-6, name
    assert formats == {None, "Q4_K", "Q6_K"}


def test_the_gguf_package_reads_the_writers_q5_k() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    error = np.abs(dequantize(q5_k(rows), Kind.Q5_K) - rows)
    assert error.mean() < 0.04


def test_raw_gates_of_ollama_0_7_0_are_recognized(tmp_path: Path) -> None:
    def raw(tensors: Tensors) -> None:
        for name in tensors:
            if name.startswith("v.global.blk.") and name.endswith("gate"):
                tensors[name] = np.full(1, 1.5, np.float32)

    path = write_ollama_gguf(checkpoint(), tmp_path / "raw.gguf", tensors=raw)
    read = dict(read_tensors(open_gguf(path), source_config()))
    for part in ("attn", "ffn"):
        gate = read[f"vision_model.global_transformer.layers.0.gate_{part}"]
        assert gate.values == 1.5


def test_a_vocabulary_size_may_count_the_image_token(tmp_path: Path) -> None:
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "model.gguf",
        change=lambda keys: keys.update({"mllama.vocab_size": 769}),
    )
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.vocab_size == source_config().text_config.vocab_size


def test_images_are_preprocessed_like_the_checkpoints(written: Path) -> None:
    vision = source_config().vision_config
    found = ImageProcessor.from_pretrained(unpack_small_files(written), vision)
    wanted = ImageProcessor.from_pretrained(checkpoint(), vision)
    for size in ((50, 40), (300, 90), (70, 200), (400, 390), (1, 1)):
        image = picture("a", *size)
        ours, theirs = found(image), wanted(image)
        assert ours.hash == theirs.hash
        np.testing.assert_array_equal(ours.pixel_values, theirs.pixel_values)


def test_a_chat_template_in_the_file_is_used_if_it_supports_images(
    tmp_path: Path,
) -> None:
    for template, is_used in (("{{ '<|image|>' }}", True), ("{{ messages }}", False)):
        path = write_ollama_gguf(
            checkpoint(),
            tmp_path / "model.gguf",
            change=lambda keys, t=template: keys.update({"tokenizer.chat_template": t}),
        )
        found = (unpack_small_files(path) / "chat_template.jinja").read_text()
        assert (found == template) is is_used


def test_without_factors_rope_is_not_scaled(tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        del tensors["rope_freqs.weight"]

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", tensors=drop)
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.rope_scaling is None


def test_small_files_are_derived_once(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpack_small_files(written)
    assert not list(folder.glob("*.part"))

    def twice(_: object) -> None:
        raise AssertionError("derived again")

    monkeypatch.setattr(small_files, "derived_files", twice)
    assert unpack_small_files(written) == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(AssertionError, match="derived again"):
        unpack_small_files(written)


def test_other_rope_factors_get_other_small_files(
    tmp_path: Path, written: Path
) -> None:
    """The factors are outside the header, from which the cache's key is made."""

    def twice(tensors: Tensors) -> None:
        factors = tensors["rope_freqs.weight"].astype(np.float64)
        stays = (1 / factors - 1 / 8) / (1 - 1 / 8)
        tensors["rope_freqs.weight"] = 1 / ((1 - stays) / 16 + stays)

    path = write_ollama_gguf(checkpoint(), tmp_path / "other.gguf", tensors=twice)
    assert open_gguf(path).header == open_gguf(written).header
    found = [MllamaConfig.from_path(unpack_small_files(p)) for p in (written, path)]
    scalings = [config.text_config.rope_scaling for config in found]
    assert [s.factor for s in scalings if s is not None] == [8, 16]


def test_an_unwritable_cache_is_named(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="MLLAMA_CACHE"):
        unpack_small_files(written)
