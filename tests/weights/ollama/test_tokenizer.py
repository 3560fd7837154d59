"""The tokenizer of an Ollama file encodes text like the checkpoint's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.weights.ollama.small_files import unpack_small_files
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_keys import tokenizer_keys
from tests.weights.ollama.ollama_writer import (
    write_ollama_gguf,
)

Keys = dict[str, Any]

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


def source_config() -> MllamaConfig:
    return MllamaConfig.from_path(checkpoint())


@pytest.mark.parametrize("source", ["checkpoint", "demo"])
def test_texts_encode_and_decode_like_the_checkpoints(
    tmp_path: Path, source: str
) -> None:
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


def test_random_texts_encode_like_the_checkpoints(written: Path) -> None:
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


def test_text_never_encodes_to_filler_tokens(tmp_path: Path) -> None:
    """Ollama's converter made them user-defined, so they would match in any text."""
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


def test_an_unlisted_image_token_gets_its_usual_id(
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


def test_a_single_end_token_implies_all_of_metas(tmp_path: Path) -> None:
    def one(keys: Keys) -> None:
        del keys["tokenizer.ggml.eos_token_ids"]

    path = write_ollama_gguf(checkpoint(), tmp_path / "model.gguf", change=one)
    config = MllamaConfig.from_path(unpack_small_files(path))
    assert config.text_config.eos_token_id == source_config().text_config.eos_token_id
