"""GGUF files are written, read back, and checked without trusting them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mllama.config import MllamaConfig
from mllama.errors import CheckpointError
from mllama.weights.checkpoint import Checkpoint
from mllama.weights.gguf import checkpoint as gguf_checkpoint
from mllama.weights.gguf.checkpoint import (
    check_tensors,
    encoding_reason,
    main_encoding,
    open_gguf,
    read_tensors,
)
from mllama.weights.gguf.file import GgufFile
from mllama.weights.gguf.names import stored_tensors
from mllama.weights.gguf.tensor_encoding import (
    PlannedTensor,
    encode_in_parts,
    planned_tensors,
)
from mllama.weights.gguf.writing import write_gguf, write_tensors
from mllama.weights.names import expected_tensors
from mllama.weights.ollama.small_files import unpack_small_files
from tests.kernels.ggml_blocks import ggml_quantize


@pytest.fixture(scope="module")
def written(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    seen: list[tuple[int, int]] = []
    write_gguf(source, path, "q4_k", lambda _, done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    return path


def unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the permutation of query and key rows by llama.cpp's converters."""
    width = rows.shape[0] // heads
    return (
        rows.reshape(heads, width // 2, 2, *rows.shape[1:])
        .swapaxes(1, 2)
        .reshape(rows.shape)
    )


def test_the_gguf_package_reads_our_values(source: Checkpoint, written: Path) -> None:
    """The gguf package's reader, and the documented transforms undone by hand."""
    tensors = {t.name: t for t in gguf.GGUFReader(written).tensors}
    text, vision = source.config.text_config, source.config.vision_config

    def values(name: str) -> np.ndarray:
        tensor = tensors[name]
        return dequantize(tensor.data, tensor.tensor_type)

    def ours(name: str) -> np.ndarray:
        return source.tensors[name].floats()

    def near(found: np.ndarray, name: str, tolerance: float) -> None:
        wanted = ours(name)
        error = np.sqrt(((found.reshape(wanted.shape) - wanted) ** 2).mean())
        assert error <= tolerance * np.sqrt((wanted**2).mean()), name

    cross = text.cross_attention_layers[0]
    own = next(i for i in range(text.num_hidden_layers) if i != cross)
    layer = f"language_model.layers.{own}"
    near(values(f"blk.{own}.attn_v.weight"), f"{layer}.self_attn.v_proj.weight", 0.1)
    for ours_name, theirs, heads in (
        (
            f"{layer}.self_attn.q_proj.weight",
            f"blk.{own}.attn_q.weight",
            text.num_attention_heads,
        ),
        (
            f"{layer}.self_attn.k_proj.weight",
            f"blk.{own}.attn_k.weight",
            text.num_key_value_heads,
        ),
        (
            f"language_model.layers.{cross}.cross_attn.q_proj.weight",
            f"blk.{cross}.cross_attn_q_proj.weight",
            text.num_attention_heads,
        ),
    ):
        near(unpermuted(values(theirs), heads), ours_name, 0.1)
        with pytest.raises(AssertionError):
            near(values(theirs), ours_name, 0.1)
    near(
        unpermuted(values("v.blk.0.attn_k.weight"), vision.attention_heads),
        "vision_model.transformer.layers.0.self_attn.k_proj.weight",
        1e-3,
    )
    near(values("v.patch_embd.weight"), "vision_model.patch_embedding.weight", 1e-3)
    near(values("output.weight"), "lm_head.weight", 0.02)
    near(
        values(f"blk.{cross}.cross_attn_attn_gate"),
        f"language_model.layers.{cross}.cross_attn_attn_gate",
        0,
    )
    gate = ours("vision_model.gated_positional_embedding.gate")
    np.testing.assert_allclose(values("v.position_embd.gate"), 1 - np.tanh(gate))
    np.testing.assert_allclose(values("v.tile_position_embd.gate"), np.tanh(gate))
    gate = ours("vision_model.global_transformer.layers.0.gate_attn")
    np.testing.assert_allclose(values("v.global.blk.0.attn_gate"), np.tanh(gate))


def test_every_tensor_survives_a_round_trip(source: Checkpoint, written: Path) -> None:
    file = open_gguf(written)
    check_tensors(file, source.config)
    assert main_encoding(file) == "q4_k"
    seen = set()
    for name, matrix in read_tensors(file, source.config):
        seen.add(name)
        wanted = source.tensors[name].floats()
        values = matrix.values
        if matrix.format is not None:
            values = dequantize(values, gguf.GGMLQuantizationType[matrix.format])
        error = np.abs(values - wanted).mean()
        tolerance = {None: 1e-3, "Q6_K": 0.03, "Q4_K": 0.1}[matrix.format]
        assert error <= tolerance * np.abs(wanted).mean() + 1e-6, name
    assert seen == set(expected_tensors(source.config))


def test_small_files_survive_a_round_trip(
    source: Checkpoint,
    written: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLLAMA_CACHE", str(tmp_path))
    unpacked = unpack_small_files(written)
    names = {file.name for file in unpacked.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    for name in names:
        assert (unpacked / name).read_text() == (source.path / name).read_text()
    assert MllamaConfig.from_path(unpacked) == source.config
    assert unpack_small_files(written) == unpacked


def test_formats_without_a_kernel_are_converted_to_q6_k(
    source: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files may use q8_0 or q5_k; ggml quantizes them here."""
    layer = "language_model.layers.0.self_attn"
    kinds = {f"{layer}.q_proj.weight": Kind.Q8_0, f"{layer}.o_proj.weight": Kind.Q5_K}

    def encoded(tensor: PlannedTensor) -> Iterable[np.ndarray]:
        if tensor.name not in kinds:
            return encode_in_parts(tensor, source.tensors[tensor.name])
        floats = tensor.stored.to_ollama_layout(source.tensors[tensor.name].floats())
        return [ggml_quantize(floats, tensor.kind)]

    plan = [
        replace(tensor, kind=kinds.get(tensor.name, tensor.kind))
        for tensor in planned_tensors(source.config, "q4_k")
    ]
    path = tmp_path / "model.gguf"
    write_tensors(path, source.path, source.config, plan, encoded, lambda *_: None)
    monkeypatch.setattr(gguf_checkpoint, "_BYTES_AT_ONCE", 5000)  # Several parts.
    with caplog.at_level("INFO", "mllama"):
        found = dict(read_tensors(open_gguf(path), source.config))
    for name in kinds:
        assert found[name].format == "Q6_K"
        wanted = source.tensors[name].floats()
        error = np.abs(dequantize(found[name].values, Kind.Q6_K) - wanted).mean()
        assert error < 0.05 * np.abs(wanted).mean()
    for kind in ("q8_0", "q5_k"):
        assert f"converted 1 tensors from {kind}" in caplog.text


@pytest.mark.parametrize(
    ("kinds", "encoding", "reason"),
    [
        ([Kind.Q4_K, Kind.Q4_K, Kind.Q6_K], "q4_k", "as in the file"),
        ([Kind.Q8_0, Kind.Q4_K], "q6_k", "the file's q8_0 has no kernel"),
        ([Kind.Q8_0, Kind.Q6_K, Kind.Q6_K], "q6_k", "as in the file"),
    ],
)
def test_the_encoding_is_that_of_most_of_the_file(
    kinds: list[Kind], encoding: str, reason: str
) -> None:
    tensors = {
        f"blk.{number}.attn_q.weight": SimpleNamespace(kind=kind, nbytes=100)
        for number, kind in enumerate(kinds)
    }
    file: Any = SimpleNamespace(tensors=tensors)
    assert main_encoding(file) == encoding
    assert encoding_reason(file) == reason


def test_every_tensor_has_a_name_of_its_own_in_the_file(source: Checkpoint) -> None:
    stored = stored_tensors(source.config)
    assert set(stored) == set(expected_tensors(source.config))
    assert len({place.name for place in stored.values()}) == len(stored)


def _cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


def _magic(content: bytearray) -> None:
    content[:4] = b"GGML"


def _version(content: bytearray) -> None:
    content[4] = 1


def _count(content: bytearray) -> None:
    content[8:16] = (2**60).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_cut, "truncated"),
        (_magic, "not a GGUF file"),
        (_version, "version 1"),
        (_count, "claims"),
    ],
)
def test_damaged_files_are_refused(
    written: Path,
    tmp_path: Path,
    damage: Callable[[bytearray], None],
    complaint: str,
) -> None:
    content = bytearray(written.read_bytes())
    damage(content)
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        GgufFile(path)


def test_random_damage_to_the_header_is_refused_or_harmless(
    written: Path, tmp_path: Path
) -> None:
    """Truncations and flipped bits: refused in one line, or harmless."""
    content = written.read_bytes()
    header = min(tensor.offset for tensor in GgufFile(written).tensors.values())
    chance = random.Random(0)
    path = tmp_path / "fuzzed.gguf"
    for _ in range(400):
        damaged = bytearray(content[: header + 4096])
        damaged += bytes(len(content) - len(damaged))
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(header)] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            del damaged[chance.randrange(header) :]
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            file = GgufFile(path)
            for name in file.tensors:
                file.raw(name)
