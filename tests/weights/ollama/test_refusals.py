"""Inconsistent Ollama files are refused in one line."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError, MllamaError
from mllama.weights.gguf.checkpoint import check_tensors, open_gguf
from mllama.weights.ollama.small_files import derived_files, unpack_small_files
from tests.reference.checkpoints import checkpoint
from tests.weights.ollama.ollama_writer import write_ollama_gguf

Keys = dict[str, Any]
Tensors = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ollama")
    return write_ollama_gguf(checkpoint(), folder / "f16.gguf")


def key(name: str, value: Any) -> Callable[[Keys], None]:
    def change(keys: Keys) -> None:
        if value is None:
            del keys[name]
        else:
            keys[name] = value

    return change


def token(index: int, text: str) -> Callable[[Keys], None]:
    def change(keys: Keys) -> None:
        keys["tokenizer.ggml.tokens"][index] = text

    return change


def shortened(keys: Keys) -> None:
    for name in ("tokens", "scores", "token_type"):
        del keys[f"tokenizer.ggml.{name}"][700:]


def lengthened(keys: Keys) -> None:
    for name, more in (("tokens", "x"), ("scores", 0.0), ("token_type", 1)):
        values = keys[f"tokenizer.ggml.{name}"]
        values += [f"{more}{i}" if name == "tokens" else more for i in range(20)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (key("general.architecture", "llama"), "architecture 'llama'"),
        (key("mllama.block_count", None), "lacks the key mllama.block_count"),
        (key("mllama.block_count", "five"), "block_count must be a valid integer"),
        (
            key("mllama.block_count", 0),
            "block_count must be greater than or equal",
        ),
        (key("mllama.block_count", True), "block_count must be a valid integer"),
        (key("mllama.block_count", 4.0), "block_count must be a valid integer"),
        (key("mllama.block_count", 5000), "contradict"),
        (key("mllama.attention.head_count", 3), "attention heads are 85 wide"),
        (key("mllama.attention.cross_attention_layers", [9]), "contradict each other"),
        (key("mllama.attention.cross_attention_layers", 3), "must be a valid list"),
        (key("mllama.rope.dimension_count", 32), "dimension_count is 32"),
        (key("mllama.rope.freq_base", -1.0), "freq_base must be greater than 0"),
        (key("mllama.rope.freq_base", float("nan")), "freq_base must be"),
        (key("mllama.rope.freq_base", float("inf")), "freq_base must be"),
        (key("mllama.rope.freq_base", "5e5"), "freq_base must be a valid number"),
        (key("mllama.rope.freq_base", 10000.0), "rope_freqs.weight can't be used"),
        (key("mllama.rope.scaling.type", "yarn"), "'yarn'"),
        (key("mllama.vision.max_num_tiles", 65), "max_num_tiles must be"),
        (key("mllama.vocab_size", 700), "mllama.vocab_size is 700"),
        (key("mllama.vocab_size", 777), "mllama.vocab_size is 777"),
        (shortened, "lists 700 tokens, which contradicts the embedding"),
        (lengthened, "lists 789 tokens, which contradicts the embedding"),
        (token(4, "$"), r"has '\$' twice"),
        (token(0, "\u20ac"), "doesn't join two tokens|lacks 1 of the 256 bytes"),
        (token(-1, "<|picture|>"), r"no <\|image\|>"),
        (token(-2, ""), "special token ''"),
        (key("tokenizer.ggml.model", "llama"), "kind 'llama'"),
        (key("tokenizer.ggml.pre", "qwen2"), "'qwen2'"),
        (key("tokenizer.ggml.add_eos_token", True), "add_eos_token"),
        (key("tokenizer.ggml.token_type", [1]), "token_type is of 1 tokens"),
        (key("tokenizer.ggml.token_type", [1] * 769), r"no special token <\|begin"),
        (key("tokenizer.ggml.merges", ["a b c"]), "the merge 'a b c'"),
        (key("tokenizer.ggml.eos_token_ids", [5000]), r"eos_token_ids \[5000\]"),
        (key("tokenizer.ggml.bos_token_id", 769), "bos_token_id must be"),
    ],
)
def test_wrong_or_contradictory_keys_are_named(
    tmp_path: Path, change: Callable[[Keys], None], complaint: str
) -> None:
    path = write_ollama_gguf(checkpoint(), tmp_path / "bad.gguf", change=change)
    with pytest.raises(CheckpointError, match=complaint) as refusal:
        unpack_small_files(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    left = tmp_path / "cache"
    assert not any(found.is_file() for found in left.rglob("*"))


def without(prefix: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.startswith(prefix)]:
            del tensors[name]

    return change


def factors(values: list[float]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors["rope_freqs.weight"] = np.array(values, np.float32)

    return change


def rows(count: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors["token_embd.weight"] = tensors["token_embd.weight"][:count]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without("v."), "has only the text side, the old form of two files"),
        (without("blk."), "has only the vision side, the old form of two files"),
        (without("token_embd"), "lacks the matrix token_embd.weight"),
        (rows(768), "has 768 rows, but a vocabulary of 768 needs 776"),
        (factors([1.0] * 31 + [float("nan")]), "rope_freqs.weight can't be used"),
        (factors([1.0, 8.0]), "rope_freqs.weight must be 32 numbers"),
        (factors([2.0, 1.0] * 16), "not the factors of a llama3 scaling"),
    ],
)
def test_tensors_that_contradict_the_keys_are_named(
    tmp_path: Path, change: Callable[[Tensors], None], complaint: str
) -> None:
    path = write_ollama_gguf(checkpoint(), tmp_path / "bad.gguf", tensors=change)
    with pytest.raises(CheckpointError, match=complaint) as refusal:
        unpack_small_files(path)
    assert "\n" not in str(refusal.value)


def test_an_unreadable_format_is_named(written: Path) -> None:
    file = open_gguf(written)
    name = "blk.0.ffn_up.weight"
    tensor = dataclasses.replace(file.tensors[name], kind=Kind.Q8_K)
    file.tensors = {**file.tensors, name: tensor}
    with pytest.raises(CheckpointError, match="in q8_k, which can't be read"):
        check_tensors(file, MllamaConfig.from_path(checkpoint()))


def test_random_damage_is_refused_or_harmless(written: Path, tmp_path: Path) -> None:
    """Bits flipped in keys and vocabulary, and truncations: refused, or harmless."""
    content = written.read_bytes()
    file = open_gguf(written)
    header, size = len(file.header), len(content)
    # Half of the flips hit what stands before the vocabulary.
    keys = content.index(b"tokenizer.ggml.tokens")
    chance = random.Random(0)
    path = tmp_path / "fuzzed.gguf"
    refusals = []
    passed = 0
    for _ in range(500):
        damaged = bytearray(content[:header])
        for _ in range(chance.randint(1, 3)):
            reach = chance.choice((keys, header))
            damaged[chance.randrange(reach)] ^= 1 << chance.randrange(8)
        cut = chance.randrange(header) if chance.random() < 0.1 else None
        with path.open("wb") as target:
            target.write(damaged[:cut])
            if cut is None:
                factors_end = file.tensors["rope_freqs.weight"].offset + 4096
                target.write(content[header:factors_end])
                target.truncate(size)
        try:
            opened = open_gguf(path)
            files = derived_files(opened)
            check_tensors(
                opened, MllamaConfig.from_dict(json.loads(files["config.json"]))
            )
            Tokenizer.from_str(files["tokenizer.json"]).encode("a red square")
            passed += 1
        except MllamaError as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert len(refusals) > 100
    assert passed > 20
