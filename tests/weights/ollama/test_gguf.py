"""A file of Ollama's stands alone, and stands for the checkpoint that it came from."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
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
    tokenizer_keys,
    write_ollama_gguf,
)

Keys = dict[str, Any]
Tensors = dict[str, np.ndarray]

MIXED = (Kind.Q4_K, Kind.Q6_K, Kind.Q8_0, Kind.Q5_K, Kind.BF16)

TEXTS = (
    "What is in this picture?",
    "  two  spaces,\n\n\nlines \t and tabs  ",
    "it's WE'LL don't 'tis",
    "1 12 123 1234 12345678 3.14159",
    "naïve Ünïcödé ŁÓDŹ кириллица",
    "日本語のテキスト 한국어 العربية",
    "🙂👩‍👩‍👧‍👦🇳🇴 emoji",
    "a​b\u00a0c\u3000d",
    "\x00\x7f\x1b\r\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>hi<|eot_id|>",
    "<|image| > <|imag e|><|python_tag|><|eom_id|>",
    "def f(x):\n    return {x: [y for y in x if y != '']}\n",
    "",
)


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
    """Another type for each matrix of the text side."""
    kinds: dict[str, Kind] = {}
    return write_ollama_gguf(
        checkpoint(),
        folder / "mixed.gguf",
        lambda name: kinds.setdefault(name, MIXED[len(kinds) % len(MIXED)]),
    )


def source_config() -> MllamaConfig:
    return MllamaConfig.from_path(checkpoint())


def test_the_configuration_is_the_sources_field_by_field(written: Path) -> None:
    folder = unpack_small_files(written)
    config = MllamaConfig.from_path(folder)
    assert config.dtype == "bfloat16"
    # transformers takes large vocabularies for Mistral's if no version is named.
    assert json.loads((folder / "config.json").read_text())["transformers_version"]
    assert dataclasses.replace(config, dtype="float32") == source_config()


def test_every_tensor_is_the_sources(written: Path) -> None:
    """Permutations undone, gates as they were, and nothing left out."""
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


def test_what_is_permuted_and_what_goes_through_tanh_is_not_the_source(
    written: Path,
) -> None:
    """Else the test above would prove nothing."""
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


def test_mixed_types_stand_for_the_sources_values(mixed: Path) -> None:
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


def test_the_writers_q5_k_is_what_another_reader_reads() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    error = np.abs(dequantize(q5_k(rows), Kind.Q5_K) - rows)
    assert error.mean() < 0.04


def test_raw_gates_of_ollama_0_7_0_are_taken_as_they_are(tmp_path: Path) -> None:
    def raw(tensors: Tensors) -> None:
        for name in tensors:
            if name.startswith("v.global.blk.") and name.endswith("gate"):
                tensors[name] = np.full(1, 1.5, np.float32)

    path = write_ollama_gguf(checkpoint(), tmp_path / "raw.gguf", tensors=raw)
    read = dict(read_tensors(open_gguf(path), source_config()))
    for part in ("attn", "ffn"):
        gate = read[f"vision_model.global_transformer.layers.0.gate_{part}"]
        assert gate.values == 1.5


@pytest.mark.parametrize("source", ["checkpoint", "demo"])
def test_texts_become_the_sources_tokens(tmp_path: Path, source: str) -> None:
    origin = checkpoint() if source == "checkpoint" else MODEL_PATH
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "model.gguf",
        change=lambda keys: keys.update(tokenizer_keys(origin)),
    )
    found = AutoTokenizer.from_pretrained(unpack_small_files(path))
    wanted = AutoTokenizer.from_pretrained(origin)
    assert len(found) == len(wanted)
    for text in TEXTS:
        ids = wanted(text)["input_ids"]
        assert found(text)["input_ids"] == ids, text
        for skips in (True, False):
            assert found.decode(ids, skip_special_tokens=skips) == wanted.decode(
                ids, skip_special_tokens=skips
            ), text
    for kind in ("bos", "eos", "pad"):
        assert getattr(found, f"{kind}_token_id") == getattr(wanted, f"{kind}_token_id")
    assert set(found.all_special_ids) <= set(wanted.added_tokens_decoder)


def test_random_texts_become_the_sources_tokens(written: Path) -> None:
    found = Tokenizer.from_file(str(unpack_small_files(written) / "tokenizer.json"))
    wanted = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(
            chr(chance.choice((chance.randrange(32, 127), chance.randrange(0xD7FF))))
            for _ in range(40)
        )
        assert found.encode(text).ids == wanted.encode(text).ids, text


def test_a_tokenizer_that_adds_no_bos_adds_none(tmp_path: Path) -> None:
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "model.gguf",
        change=lambda keys: keys.update({"tokenizer.ggml.add_bos_token": False}),
    )
    found = Tokenizer.from_file(str(unpack_small_files(path) / "tokenizer.json"))
    wanted = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    assert found.encode("a red square").ids == wanted.encode("a red square").ids[1:]


def test_words_that_fill_the_vocabulary_never_stand_for_text(tmp_path: Path) -> None:
    """Ollama's converter made them user-defined, to be cut out of any text."""
    filled: list[int] = []

    def fill(keys: Keys) -> None:
        tokens = keys["tokenizer.ggml.tokens"]
        filled.append(tokens.index("<|reserved_special_token_0|>"))
        tokens[filled[0]] = "[PAD0]"
        keys["tokenizer.ggml.token_type"][filled[0]] = 4

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", change=fill)
    found = Tokenizer.from_file(str(unpack_small_files(path) / "tokenizer.json"))
    assert filled[0] not in found.encode("[PAD0] [PAD0]").ids
    assert found.decode(found.encode("[PAD0]").ids) == "[PAD0]"


def test_a_list_that_ends_before_the_image_token_gives_it_its_usual_id(
    tmp_path: Path,
) -> None:
    def cut(keys: Keys) -> None:
        for name in ("tokens", "scores", "token_type"):
            keys[f"tokenizer.ggml.{name}"].pop()

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", change=cut)
    folder = unpack_small_files(path)
    config = MllamaConfig.from_path(folder)
    assert config.image_token_index == source_config().image_token_index
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert found.token_to_id("<|image|>") == config.image_token_index


def test_a_count_that_includes_the_image_token_is_understood(tmp_path: Path) -> None:
    path = write_ollama_gguf(
        checkpoint(),
        tmp_path / "model.gguf",
        change=lambda keys: keys.update({"mllama.vocab_size": 769}),
    )
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.vocab_size == source_config().text_config.vocab_size


def test_one_end_token_means_all_of_metas(tmp_path: Path) -> None:
    def one(keys: Keys) -> None:
        del keys["tokenizer.ggml.eos_token_ids"]

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", change=one)
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.eos_token_id == source_config().text_config.eos_token_id


def test_pictures_become_the_sources_tiles(written: Path) -> None:
    vision = source_config().vision_config
    found = ImageProcessor.from_pretrained(unpack_small_files(written), vision)
    wanted = ImageProcessor.from_pretrained(checkpoint(), vision)
    for size in ((50, 40), (300, 90), (70, 200), (400, 390), (1, 1)):
        image = picture("a", *size)
        ours, theirs = found(image), wanted(image)
        assert ours.hash == theirs.hash
        np.testing.assert_array_equal(ours.pixel_values, theirs.pixel_values)


def test_a_template_in_the_file_is_used_if_it_shows_images(tmp_path: Path) -> None:
    for template, is_used in (("{{ '<|image|>' }}", True), ("{{ messages }}", False)):
        path = write_ollama_gguf(
            checkpoint(),
            tmp_path / "model.gguf",
            change=lambda keys, t=template: keys.update({"tokenizer.chat_template": t}),
        )
        found = (unpack_small_files(path) / "chat_template.jinja").read_text()
        assert (found == template) is is_used


def test_without_factors_nothing_is_scaled(tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        del tensors["rope_freqs.weight"]

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", tensors=drop)
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.rope_scaling is None


def test_the_files_are_derived_once(
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


def test_other_factors_are_another_model(tmp_path: Path, written: Path) -> None:
    """They lie beyond the header, by which the derived files are found again."""

    def twice(tensors: Tensors) -> None:
        factors = tensors["rope_freqs.weight"].astype(np.float64)
        stays = (1 / factors - 1 / 8) / (1 - 1 / 8)
        tensors["rope_freqs.weight"] = 1 / ((1 - stays) / 16 + stays)

    path = write_ollama_gguf(checkpoint(), tmp_path / "other.gguf", tensors=twice)
    assert open_gguf(path).header == open_gguf(written).header
    found = [MllamaConfig.from_path(unpack_small_files(p)) for p in (written, path)]
    scalings = [config.text_config.rope_scaling for config in found]
    assert [s.factor for s in scalings if s is not None] == [8, 16]


def test_a_cache_that_can_not_be_written_is_named(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="MLLAMA_CACHE"):
        unpack_small_files(written)
