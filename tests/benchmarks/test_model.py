"""Byte counts of a file's tensors, the file for llama.cpp, and the prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from PIL import Image

from benchmarks.compare.byte_counts import (
    Tensor,
    attention_bytes,
    read_per_token,
    tensors_of,
)
from benchmarks.compare.model import write_text_layers
from benchmarks.compare.prompts import SIDES, Prompts
from mllama.config import MllamaConfig
from mllama.images.preprocess import ImageProcessor
from tests.reference.checkpoints import checkpoint


def test_a_token_reads_text_layers_and_head_only() -> None:
    tensors = [
        Tensor("token_embd.weight", 1, 10),
        Tensor("blk.0.attn_q.weight", 2, 20),
        Tensor("blk.1.cross_attn_q_proj.weight", 4, 40),
        Tensor("blk.1.cross_attn_k_proj.weight", 8, 80),
        Tensor("blk.1.cross_attn_v_proj.weight", 16, 160),
        Tensor("output.weight", 32, 320),
        Tensor("output_norm.weight", 64, 640),
        Tensor("v.blk.0.attn_q.weight", 128, 1280),
        Tensor("mm.0.weight", 256, 2560),
    ]
    read = read_per_token(tensors)
    assert (read.parameters, read.nbytes) == (2 + 4 + 32 + 64, 20 + 40 + 320 + 640)


def test_attention_bytes_count_keys_and_values() -> None:
    # An image of four tiles in one layer of 11B, in float32.
    assert attention_bytes(6404, 1, 8, 128, 4) == 6404 * 8 * 128 * 4 * 2


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A file in the format of ``mllama quantize``, with one GGUF block per row."""
    path = tmp_path / "small.gguf"
    writer = GGUFWriter(path, "mllama")
    for key, value in (
        ("vocab_size", 3),
        ("block_count", 3),
        ("context_length", 64),
        ("embedding_length", 256),
        ("feed_forward_length", 256),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 128),
    ):
        writer.add_uint32(f"mllama.{key}", value)
    writer.add_float32("mllama.rope.freq_base", 500000.0)
    writer.add_float32("mllama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("mllama.attention.cross_attention_layers", [1])
    generator = np.random.default_rng(0)
    for name, rows in (
        ("token_embd.weight", 4),
        ("blk.0.attn_q.weight", 2),
        ("blk.1.cross_attn_q_proj.weight", 2),
        ("blk.2.attn_q.weight", 2),
        ("output.weight", 3),
    ):
        blocks = generator.integers(0, 256, (rows, 144), np.uint8)
        writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q4_K)
    writer.add_tensor("output_norm.weight", np.ones(256, np.float32))
    writer.add_tensor("v.class_embd", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_file_for_llama_cpp_has_the_same_blocks_without_cross_attention(
    small_file: Path,
) -> None:
    target = small_file.with_name("text.gguf")
    write_text_layers(small_file, target)
    ours = {t.name: t for t in GGUFReader(small_file).tensors}
    reader = GGUFReader(target)
    theirs = {t.name: t for t in reader.tensors}
    assert set(theirs) == {
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_q.weight",
        "output.weight",
        "output_norm.weight",
    }
    renamed = theirs["blk.1.attn_q.weight"]
    assert renamed.tensor_type is GGMLQuantizationType.Q4_K
    np.testing.assert_array_equal(renamed.data, ours["blk.2.attn_q.weight"].data)
    assert theirs["token_embd.weight"].data.shape[0] == 3
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.block_count"].contents() == 2
    assert sum(t.nbytes for t in tensors_of(target)) == sum(
        int(t.n_bytes) for t in theirs.values()
    )


def test_questions_have_the_requested_length_and_differ(tmp_path: Path) -> None:
    prompts = Prompts(checkpoint("tiny"), tmp_path)
    for tokens, images in ((176, 1), (60, 0), (64, 3)):
        one, other = (prompts.question(tokens, images) for _ in range(2))
        assert one != other
        assert prompts.length(one, images) == prompts.length(other, images) == tokens
    with pytest.raises(ValueError, match="at least"):
        prompts.question(2)


def test_pictures_fill_the_requested_number_of_tiles(tmp_path: Path) -> None:
    config = MllamaConfig.from_dict(
        {
            "model_type": "mllama",
            "text_config": {"num_hidden_layers": 2, "cross_attention_layers": [1]},
            "vision_config": {"image_size": 560, "vision_output_dim": 7680},
        }
    ).vision_config
    processor = ImageProcessor({}, config)
    prompts = Prompts(checkpoint("tiny"), tmp_path)
    for tiles in SIDES:
        assert processor(Image.open(prompts.picture(tiles))).num_tiles == tiles
